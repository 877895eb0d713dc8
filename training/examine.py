"""`python -m training.examine`: every figure of the demo's weights, on fresh scenes, with pictures of the worst misses.

The scenes come from a seed that was used neither to train nor to choose. Figures are printed as they come, and saved as
`figures.json` and, with pictures of what was wrong, as `misses.html`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from blip2tools.checkpoints.family import demo_folder
from blip2tools.demo.draw import draw
from blip2tools.demo.world import STUDY, WIDE, World, sample_scene
from training.examination import judged, sheet, spoken, unknown
from training.examination.figures import Figure
from training.examination.judge import Judge, checkpoints_in
from training.examination.unknown import store_threshold
from training.stages.plan import HELD_OUT

DEFAULT_SEED = 20261125
DEFAULT_SCENES = 334  # for each of one, two and three things: more than a thousand
_TIMED = 40
_CAPTION_MS, _ANSWER_MS = 60.0, 30.0


@dataclass(frozen=True, slots=True)
class Examination:
    """The options of an examination.

    Attributes:
        weights: folder with `captioner` and `matcher`; None for the package's own.
        worlds: those that the weights are meant to know.
        seed: of all scenes.
        scenes: for each number of things; questions and statements are half as many for each kind.
        held_out: the weights were trained without `HELD_OUT`, and are a captioner alone: only its results on these pairs
            are counted.
        quantize: how the weights are kept: `none`, `8bit` or `4bit`.
    """

    weights: Path | None = None
    worlds: tuple[World, ...] = (STUDY, WIDE)
    seed: int = DEFAULT_SEED
    scenes: int = DEFAULT_SCENES
    held_out: bool = False
    quantize: str = "none"


_Part = tuple[str, Callable[[random.Random], Sequence[Figure]]]


def examine(examination: Examination) -> Iterator[Figure]:
    """Every figure, as it comes."""
    judge = Judge(examination.weights, matcher=not examination.held_out, quantize=examination.quantize)
    for name, part in _held_out(judge, examination) if examination.held_out else _parts(judge, examination):
        # Each part has random numbers of its own: leaving one out changes no other.
        yield from part(random.Random(f"{examination.seed}/{name}"))


def _held_out(judge: Judge, examination: Examination) -> list[_Part]:
    missing, number = replace(WIDE, missing=HELD_OUT), 3 * examination.scenes
    return [("held out", lambda rng: spoken.held_out(judge, missing, number, rng))]


def _parts(judge: Judge, examination: Examination) -> list[_Part]:
    number, some = examination.scenes, max(2, examination.scenes // 2)
    rounds = examination.scenes // judged.AMONG
    parts: list[_Part] = [
        ("captions", lambda rng: spoken.study_captions(judge, number, rng)),
        ("spoilt captions", lambda rng: spoken.spoilt_captions(judge, some, rng)),
        ("answers", lambda rng: spoken.answers(judge, STUDY, some, rng)),
        ("forms", lambda rng: spoken.forms(judge, STUDY, some, rng)),
        ("statements", lambda rng: judged.statements(judge, STUDY, some, rng)),
        ("retrieval", lambda rng: judged.retrieval(judge, STUDY, rounds, rng)),
    ]
    if WIDE in examination.worlds:
        parts += [
            ("wide captions", lambda rng: spoken.wide_captions(judge, number, rng)),
            ("wide answers", lambda rng: spoken.answers(judge, WIDE, some, rng)),
            ("wide forms", lambda rng: spoken.forms(judge, WIDE, some, rng)),
            ("wide statements", lambda rng: judged.statements(judge, WIDE, some, rng)),
            ("wide retrieval", lambda rng: judged.retrieval(judge, WIDE, rounds, rng)),
        ]
    return [
        *parts,
        ("outside", lambda rng: [spoken.from_outside(judge, number, rng)]),
        ("unknown", lambda rng: unknown.unknown(judge, examination.worlds, judge.threshold, some, rng)),
        ("time", lambda rng: _time(judge, examination.worlds[-1], rng)),
    ]


def _time(judge: Judge, world: World, rng: random.Random) -> list[Figure]:
    pictures = [draw(sample_scene(rng, world=world)) for _ in range(_TIMED)]
    caption, answer = judge.milliseconds(pictures, "what is the background?")
    return [
        Figure("time", "caption, median", caption, at_most=_CAPTION_MS),
        Figure("time", "answer, median", answer, at_most=_ANSWER_MS),
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all is counted, whether or not the bars hold."""
    parser = argparse.ArgumentParser(prog="python -m training.examine", description=__doc__)
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="with `captioner` and `matcher` (default: the package's)"
    )
    parser.add_argument(
        "--world",
        choices=("study", "wide"),
        default="wide",
        help="the world that the weights are meant to know (default wide)",
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"of all scenes (default {DEFAULT_SEED})")
    parser.add_argument("--scenes", type=int, default=DEFAULT_SCENES, help=f"for each count (default {DEFAULT_SCENES})")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="the weights were trained with --held-out: count how well they tell the pairs that they have not seen",
    )
    parser.add_argument(
        "--fit", action="store_true", help="first fit the threshold of familiarity, and store it next to the weights"
    )
    parser.add_argument(
        "--quantize", choices=("none", "8bit", "4bit"), default="none", help="how the weights are kept (default none)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="gets figures.json and misses.html")
    arguments = parser.parse_args(words)
    if refusal := _refusal(arguments):
        parser.error(refusal)
    torch.set_num_threads(1)
    worlds = (STUDY, WIDE) if arguments.world == "wide" else (STUDY,)
    if arguments.fit:
        store_threshold(arguments.weights or demo_folder("captioner").parent, worlds)
    figures = []
    examination = Examination(
        arguments.weights, worlds, arguments.seed, arguments.scenes, arguments.held_out, arguments.quantize
    )
    for figure in examine(examination):
        figures.append(figure)
        sys.stdout.write(sheet.line(figure) + "\n")
        sys.stdout.flush()
    if arguments.output:
        _save(arguments.output, examination, figures)
    return 0


def _refusal(asked: argparse.Namespace) -> str | None:
    """The reason why the options do not fit together; `None` if they do."""
    if asked.scenes < 1:
        return "--scenes must be at least 1"
    if asked.held_out and (asked.fit or not asked.weights):
        return "--held-out is about --weights that were trained so, without a threshold to --fit"
    if not asked.weights:
        return None
    there = checkpoints_in(asked.weights)
    if asked.held_out and there != {"captioner"}:
        return f"--held-out wants a captioner alone, as `train --held-out` makes it: {asked.weights} is none"
    if not asked.held_out and len(there) < 2:
        return f"there are no captioner and matcher in {asked.weights}"
    return None


def _save(folder: Path, examination: Examination, figures: Sequence[Figure]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": examination.seed,
        "scenes": examination.scenes,
        "quantize": examination.quantize,
        "worlds": [world.name for world in examination.worlds],
        "figures": [figure.as_dict() for figure in figures],
    }
    (folder / "figures.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (folder / "figures.md").write_text(sheet.markdown(figures) + "\n", encoding="utf-8")
    title = f"What the demo's weights can do: seed {examination.seed}"
    (folder / "misses.html").write_text(sheet.page(title, figures), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
