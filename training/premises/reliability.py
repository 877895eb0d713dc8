"""Answers off the happy path, with their confidence and whether they are right: by kind, and as a diagram.

`python -m training.premises.reliability --output FILE.svg` draws, for each kind, the share that is right against the confidence.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from PIL import Image

from blip2tools.cli.evaluate.mixture import FOR_ANSWERS, mixture
from blip2tools.cli.evaluate.reliability import auroc, bins, calibration_error
from blip2tools.demo.draw import draw
from blip2tools.demo.world import WIDE, Thing, sample_scene
from blip2tools.vision import Vision
from training.examination.strange import STRANGE
from training.premises.forms import ask

Kind = Literal["harder pictures", "false premises", "crops", "pictures of something else"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SEED: Final = 20261127
_SIDE: Final = 180


@dataclass(frozen=True, slots=True)
class Put:
    """A question about a picture or a part of it, and its only right answer; None where no answer is right."""

    image: Image.Image
    question: str
    truth: str | None
    region: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """One answer's confidence, and whether it is right."""

    confidence: float
    right: bool


def of(vision: Vision, kind: Kind, seed: int, number: int) -> list[Told]:
    """Answers of one kind; see `questions`."""
    told = []
    for one in questions(kind, seed, number):
        result = vision.ask(one.image, one.question, region=one.region)
        told.append(Told(result.confidence, result.answer == one.truth))
    return told


def questions(kind: Kind, seed: int, number: int) -> Iterator[Put]:
    """Questions of one kind.

    Args:
        kind: harder pictures are turned or noisy; crops are cut to one thing with some room around it, in which others may
            lie; of pictures of something else (see `examination.strange`) no answer is right, and none to a question with a
            false premise.
        seed: of all that is drawn.
        number: of pictures; of harder ones there are twice as many.
    """
    for place, sample in enumerate(mixture(seed, 2 * number if kind == "harder pictures" else number, FOR_ANSWERS)):
        chance = random.Random(f"reliability/{kind}/{seed}/{place}")
        match kind:
            case "harder pictures":
                yield Put(sample.image, sample.question.text, sample.question.answer)
            case "false premises":
                while (asked := ask(sample.scene, ("thing", "color", "pair")[place % 3], chance, true=False)) is None:
                    pass
                yield Put(sample.image, asked.text, None)
            case "crops":
                yield _crop(chance)
            case "pictures of something else":
                yield Put(tuple(STRANGE.values())[place % len(STRANGE)](chance), sample.question.text, None)


def _crop(chance: random.Random) -> Put:
    """A crop around one thing, and a question that has one answer there: other things may be in it, or parts of them."""
    while True:
        scene = sample_scene(chance, world=WIDE)
        thing = chance.choice(scene.things)
        region = _around(thing, chance)
        others = [one for one in scene.things if one is not thing and _reaches(one, region)]
        asked = [(f"what color is the {thing.shape}?", thing.color), ("what shape is it?", thing.shape)]
        if not any(one.shape == thing.shape for one in others):
            name, truth = chance.choice(asked[:1] if others else asked)
            return Put(draw(scene), name, truth, region)


def _reaches(thing: Thing, region: Sequence[float]) -> bool:
    left, top, right, bottom = region
    across = left < thing.x + thing.radius and thing.x - thing.radius < right
    return across and top < thing.y + thing.radius and thing.y - thing.radius < bottom


def _around(thing: Thing, chance: random.Random) -> list[float]:
    """A region that holds a thing, as wide as twice to four times the thing where the picture has the room."""
    reach = thing.radius * chance.uniform(2, 4)
    edges = (thing.x - reach, thing.y - reach, thing.x + reach, thing.y + reach)
    return [min(1.0, max(0.0, edge)) for edge in edges]


def diagram(told: dict[str, Sequence[Told]]) -> str:
    """An SVG with a panel for each kind: bars are the share that was right, the diagonal is perfect calibration."""
    width = len(told) * (_SIDE + 50) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_SIDE + 90}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{_SIDE + 90}" fill="white"/>',
    ]
    for number, (kind, answers) in enumerate(told.items()):
        parts += _panel(50 + number * (_SIDE + 50), kind, answers)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: int, kind: str, answers: Sequence[Told]) -> list[str]:
    sure, right = [one.confidence for one in answers], [float(one.right) for one in answers]
    top, area = 40, auroc(sure, right)
    facts = f"ECE {calibration_error(sure, right):.3f}" + ("" if area is None else f", AUROC {area:.3f}")
    parts = [
        f'<text x="{x}" y="{top - 22}" font-weight="bold">{kind} ({len(answers)})</text>',
        f'<text x="{x}" y="{top - 7}" fill="#555">{facts}</text>',
        f'<rect x="{x}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#999"/>',
        f'<line x1="{x}" y1="{top + _SIDE}" x2="{x + _SIDE}" y2="{top}" stroke="#999" stroke-dasharray="4"/>',
        f'<text x="{x}" y="{top + _SIDE + 16}">0</text>',
        f'<text x="{x + _SIDE}" y="{top + _SIDE + 16}" text-anchor="end">1</text>',
        f'<text x="{x + _SIDE / 2}" y="{top + _SIDE + 32}" text-anchor="middle">confidence</text>',
    ]
    for one in bins(sure, right):
        place = x + one.confidence * _SIDE
        size = 2 + 8 * (one.number / len(answers)) ** 0.5
        parts.append(
            f'<circle cx="{place:.1f}" cy="{top + (1 - one.right) * _SIDE:.1f}" r="{size:.1f}" fill="#2d50d7"/>'
        )
    return parts


def main() -> None:
    """Draw the diagram."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    with Vision.load(model="demo", matcher="demo", num_beams=1) as vision:
        told: dict[str, Sequence[Told]] = {kind: of(vision, kind, chosen.seed, chosen.pictures) for kind in KINDS}
    chosen.output.write_text(diagram(told), encoding="utf-8")


if __name__ == "__main__":
    main()
