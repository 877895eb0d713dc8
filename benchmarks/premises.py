"""What it costs to judge what a question takes for granted: `python -m benchmarks.premises`.

The same question with what it presupposes judged, and without, in turns, about pictures that were seen before; ratios of
medians, one for each round. No answer is found kept, and no judgement where a premise is called new.

    first    the first premises of a picture that was asked about before
    new      further ones
    judged   premises that were judged before
    false    premises of things that are not there, whose alternatives are judged, too

`--size mid` is a model with random weights, large enough for its products to count and not only the calls that start them.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal, get_args
from unittest import mock

import torch

from blip2tools.cli.bench.engine import open_eyes
from blip2tools.cli.bench.random_models import MID, build
from blip2tools.demo.draw import draw
from blip2tools.demo.world import WIDE, Color, Scene, sample_scene
from blip2tools.vision import Vision
from blip2tools.vision.doubts import Asked
from blip2tools.vision.premises import Reading

Kind = Literal["first", "new", "judged", "false"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
BEAMS: Final = 5
SEED: Final = 20261127
# Which of a picture's two things a question is about, or the one that is not there, and the question.
ASKED: Final[dict[Kind, tuple[int, str]]] = {
    "first": (0, "what size is the {x}?"),
    "new": (1, "what size is the {x}?"),
    "judged": (1, "where is the {x}?"),
    "false": (2, "what size is the {x}?"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a row for each kind.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("demo", "mid"), default="demo")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pictures", type=int, default=25, help="of each round")
    parser.add_argument("--beams", type=int, default=BEAMS)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    rounds: list[dict[Kind, tuple[float, float]]] = []
    with _vision(chosen.size, chosen.beams) as vision:
        measured(vision, -1, 4)  # warms up code paths and allocators
        for number in range(chosen.rounds):
            rounds.append(measured(vision, number, chosen.pictures))
    for kind in KINDS:
        ratios = [judged / bare for judged, bare in (one[kind] for one in rounds)]
        judged, bare = (1000 * statistics.median(one[kind][place] for one in rounds) for place in (0, 1))
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        sys.stdout.write(f"{kind:8} {spread}   {bare:.2f} -> {judged:.2f} ms\n")
    return 0


def measured(vision: Vision, number: int, pictures: int) -> dict[Kind, tuple[float, float]]:
    """Median seconds of processor time of one round's questions of each kind, judged and not."""
    found: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for place in range(pictures):
        chance = random.Random(f"cost/{SEED}/{number}/{place}")
        scene = sample_scene(chance, things=2, world=WIDE)
        names = [f"{color} {shape}" for color, shape in [*_pairs(scene), chance.choice(_absent(scene))]]
        buffer = io.BytesIO()
        draw(scene).save(buffer, "PNG")
        vision.ask(buffer.getvalue(), "how many objects are there?")
        for kind, (thing, form) in ASKED.items():
            found[kind].append(_pair(vision, buffer.getvalue(), form.format(x=names[thing]), turned=place % 2 == 1))
    return {
        kind: (statistics.median(judged for judged, _ in pairs), statistics.median(bare for _, bare in pairs))
        for kind, pairs in found.items()
    }


def _pairs(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.color, thing.shape) for thing in scene.things]


def _absent(scene: Scene) -> list[tuple[str, str]]:
    """Pairs of a colour and a shape of which the scene has neither."""
    colors, shapes = ({pair[place] for pair in _pairs(scene)} for place in (0, 1))
    return [
        (color, shape)
        for color in get_args(Color)
        if color not in colors
        for shape in WIDE.shapes
        if shape not in shapes
    ]


def _pair(vision: Vision, image: bytes, question: str, *, turned: bool) -> tuple[float, float]:
    """Seconds of a question that is judged and of the same one that is not, the latter first if `turned`."""
    seconds = {}
    for judged in (not turned, turned):
        began = time.process_time()
        if judged:
            vision.ask(image, question)
        else:
            with _unjudged():
                vision.ask(image, question)
        seconds[judged] = time.process_time() - began
    return seconds[True], seconds[False]


@contextmanager
def _unjudged() -> Iterator[None]:
    """While the block runs, questions are read as if they took nothing for granted."""
    with mock.patch("blip2tools.vision.asking.Asked.of", return_value=Asked(Reading(()), elsewhere=False)):
        yield


def _vision(size: str, beams: int) -> Vision:
    if size == "mid":
        return open_eyes(build(MID, "opt"), beams)
    return Vision.load(model="demo", matcher="demo", num_beams=beams, threads=1)


if __name__ == "__main__":
    sys.exit(main())
