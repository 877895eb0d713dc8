"""`python -m training.premises.measure`: how well false premises, misfitting choices and empty tiles are told by the demo.

Every row is counted on fresh scenes of a seed that was used for nothing else, half of each world, drawn at 224 pixels and asked
through `Vision` as any caller would. Rows with a bar say whether it holds; the exit status is 1 where one does not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from blip2tools.cli.evaluate.mixture import FOR_ANSWERS, mixture
from blip2tools.cli.evaluate.reliability import auroc, calibration_error
from blip2tools.demo.draw import draw
from blip2tools.demo.questions import Question, sample_questions
from blip2tools.demo.words import phrase
from blip2tools.demo.world import COLORS, STUDY, WIDE, Scene, Thing, sample_scene
from blip2tools.schemas import AnswerResult, Tile
from blip2tools.vision import Vision
from blip2tools.vision.premises import named
from training.premises.forms import Asked, Kind, ask

SEED: Final = 20261127
SCENES: Final = 1200
ABOUT: Final[tuple[Kind, ...]] = ("thing", "color", "pair")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: a share of so many, and what it must be."""

    name: str
    value: float
    number: int
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bar is kept; true without one."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def line(self) -> str:
        """The row of a table."""
        bar = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""
        return f"| {self.name} | {self.value:.3f} of {self.number:,} | {bar} |{'' if self.holds else ' **missed**'}"


def main() -> None:
    """Count, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only these; may be given more than once")
    parser.add_argument("--output", type=Path, help="a file for the figures, as JSON")
    chosen = parser.parse_args()
    rows = []
    with Vision.load(model="demo", matcher="demo") as vision:
        for name in chosen.part or PARTS:
            for row in PARTS[name](vision, chosen.seed, chosen.scenes):
                rows.append(row)
                print(row.line(), flush=True)  # noqa: T201
    if chosen.output:
        facts = {
            "seed": chosen.seed,
            "scenes": chosen.scenes,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        chosen.output.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    sys.exit(0 if all(row.holds for row in rows) else 1)


def scenes(seed: int, number: int, part: str) -> Iterator[tuple[Scene, Image.Image, random.Random]]:
    """Scenes and their pictures, by turns from the study's world and the wide one. More only add to the end."""
    for place in range(number):
        chance = random.Random(f"{part}/{seed}/{place}")
        scene = sample_scene(chance, world=(STUDY, WIDE)[place % 2])
        yield scene, draw(scene), chance


def warned(result: AnswerResult) -> bool:
    """Whether a result says that a premise fails, in words too."""
    fails = result.premise is not None and result.premise.holds is False
    told = any("does not seem to show" in warning or "about the picture" in warning for warning in result.warnings)
    if fails != told:
        raise AssertionError(f"the premise and the warnings of {result!r} disagree")
    return fails


def premises(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """Questions about what is there and what is not; denied predicates; existence and number."""
    false: list[bool] = []
    true: list[bool] = []
    for place, (scene, image, chance) in enumerate(scenes(seed, number, "premises")):
        false.append(warned(_asked(vision, image, _one(scene, ABOUT[place % 3], chance, true=False))))
        true.append(warned(_asked(vision, image, _one(scene, ABOUT[place % 3], chance, true=True))))
    yield Row("a thing, colour or pair that is not there: warned", _share(false), len(false), least=0.99)
    yield Row("... that is there: not warned", 1 - _share(true), len(true), least=0.99)
    asked: dict[Kind, list[bool]] = {"denied": [], "asked": []}
    for scene, image, chance in scenes(seed, number // 2, "asked"):
        for kind, found in asked.items():
            question = ask(scene, kind, chance, true=True)
            if question is not None:
                found.append(warned(_asked(vision, image, question)))
    yield Row("denied predicates: not warned", 1 - _share(asked["denied"]), len(asked["denied"]), least=0.99)
    yield Row("existence and number: not warned", 1 - _share(asked["asked"]), len(asked["asked"]), least=0.99)


def relations(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """How two things lie, where that tells which one is meant."""
    false: list[bool] = []
    true: list[bool] = []
    for scene, image, chance in scenes(seed, number, "relations"):
        for found, so in ((false, False), (true, True)):
            question = ask(scene, "relation", chance, true=so)
            if question is not None:
                found.append(warned(_asked(vision, image, question)))
    yield Row("relations that are not so: warned", _share(false), len(false), least=0.95)
    yield Row("... that are so: not warned", 1 - _share(true), len(true), least=0.97)


def choices(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """Offered answers with the right one among them, and without."""
    none: list[bool] = []
    some: list[bool] = []
    for scene, image, chance in scenes(seed, number, "choices"):
        question = _open(scene, chance)
        if question is None:
            continue
        others = _wrong(question, scene, chance)
        for found, offered in ((none, others), (some, [*others[1:], question.answer])):
            chance.shuffle(offered)
            told = vision.ask(image, question.text, choices=offered).warnings
            found.append(any("none of the choices" in warning for warning in told))
    yield Row("no right choice: told", _share(none), len(none), least=0.95)
    yield Row("a right choice among them: not told", 1 - _share(some), len(some), least=0.97)


def survey(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """Tiles, 2 x 2, that name a thing no part of which is in them, without a warning about the tile."""
    wrong: list[bool] = []
    less: list[bool] = []
    named_whole: list[bool] = []
    whole: list[bool] = []
    for scene, image, _ in scenes(seed, number // 4, "survey"):
        result = vision.survey(image)
        for tile in result.tiles:
            told = any(str([round(edge, 3) for edge in tile.box]) in warning for warning in result.warnings)
            seen = [(thing, _inside(thing, tile)) for thing in scene.things]
            wrong.append(not told and bool(_invented(tile, [thing for thing, share in seen if share > 0])))
            less.append(not told and bool(_invented(tile, [thing for thing, share in seen if share > 0.5])))
            inside = [thing for thing, share in seen if share > 0.99]
            whole.append(bool(inside) and all(share in (0, 1) for _, share in seen))
            named_whole.append(whole[-1] and not told and not _invented(tile, inside) and bool(named(tile.caption)))
    yield Row("tiles that name a thing not in them, without a warning", _share(wrong), len(wrong), most=0.03)
    yield Row("tiles that name a thing less than half of which is in them, without a warning", _share(less), len(less))
    yield Row("tiles of whole things only: named, rightly", sum(named_whole) / max(1, sum(whole)), sum(whole))


def confidence(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """Answers about harder pictures, every third with a false premise: how far their confidence can be trusted."""
    sure: list[float] = []
    right: list[float] = []
    for place, sample in enumerate(mixture(seed, number, FOR_ANSWERS)):
        chance = random.Random(f"confidence/{seed}/{place}")
        if place % 3 == 0:
            question = _one(sample.scene, ABOUT[place // 3 % 3], chance, true=False)
            result = vision.ask(sample.image, question.text)
            right.append(0.0)
        else:
            result = vision.ask(sample.image, sample.question.text)
            right.append(float(result.answer == sample.question.answer))
        sure.append(result.confidence)
    yield Row(
        "ECE over answers, a third of them to false premises", calibration_error(sure, right), len(sure), most=0.05
    )
    yield Row("AUROC of the same", auroc(sure, right) or 0.0, len(sure), least=0.95)


def cost(vision: Vision, seed: int, number: int) -> Iterator[Row]:
    """Processor time of a question with a premise against one without, about pictures that were seen, by turns."""
    ratios: list[float] = []
    known: list[float] = []
    for scene, image, chance in scenes(seed, max(8, number // 60), "cost"):
        vision.ask(image, "how many objects are there?")
        times: dict[str, list[float]] = {"bare": [], "new": [], "old": []}
        thing = chance.choice(scene.things)
        for turn in range(4):
            color = chance.choice([one for one in COLORS if one != thing.color])
            times["bare"].append(_timed(vision, image, f"how many {color} shapes are there, {turn}?"))
            times["new"].append(_timed(vision, image, f"what size is the {color} {thing.shape}, {turn}?"))
            times["old"].append(_timed(vision, image, f"what size is the {color} {thing.shape}, {turn}, now?"))
        ratios.append(statistics.median(times["new"]) / statistics.median(times["bare"]))
        known.append(statistics.median(times["old"]) / statistics.median(times["bare"]))
    yield Row("cost of a premise that is new for the picture", statistics.median(ratios), len(ratios))
    yield Row("cost of a premise that was judged before", statistics.median(known), len(known), most=1.15)


PARTS: Final[dict[str, Callable[[Vision, int, int], Iterator[Row]]]] = {
    "premises": premises,
    "relations": relations,
    "choices": choices,
    "survey": survey,
    "confidence": confidence,
    "cost": cost,
}


def _asked(vision: Vision, image: Image.Image, question: Asked) -> AnswerResult:
    return vision.ask(image, question.text)


def _one(scene: Scene, kind: Kind, chance: random.Random, *, true: bool) -> Asked:
    while (question := ask(scene, kind, chance, true=true)) is None:
        pass
    return question


def _open(scene: Scene, chance: random.Random) -> Question | None:
    """A question with more than two possible answers."""
    found = sample_questions(scene, 6, chance, kinds=("color", "shape", "place", "background", "neighbor", "count"))
    return next((one for one in found if one.answer not in ("yes", "no", "nothing")), None)


def _wrong(question: Question, scene: Scene, chance: random.Random) -> list[str]:
    """Three wrong answers of the same kind."""
    every: list[str]
    match question.kind:
        case "color":
            every = list(COLORS)
        case "shape":
            every = list(scene.world.shapes)
        case "place":
            every = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
        case "background":
            every = list(scene.world.backgrounds)
        case "count":
            every = ["one", "two", "three", "four", "five"]
        case _:
            every = [phrase(color=color, shape=shape) for color in COLORS for shape in scene.world.shapes]
    return chance.sample([one for one in every if one != question.answer], 3)


def _inside(thing: Thing, tile: Tile) -> float:
    """The share of a thing's disc that lies in a tile."""
    left, top, right, bottom = tile.box
    steps = [step / 10 for step in range(-10, 11)]
    disc = [(x, y) for x in steps for y in steps if x * x + y * y <= 1]
    spots = [(thing.x + x * thing.radius, thing.y + y * thing.radius) for x, y in disc]
    return sum(left <= x <= right and top <= y <= bottom for x, y in spots) / len(spots)


def _invented(tile: Tile, things: list[Thing]) -> list[str]:
    """The things that a tile's caption names and that are none of these."""
    known = {word for thing in things for word in _names(thing)}
    return [one.plain for one in named(tile.caption) if _without_size(one.plain) not in known]


def _names(thing: Thing) -> list[str]:
    both, shape = phrase(color=thing.color, shape=thing.shape), phrase(shape=thing.shape)
    return [both, shape, phrase(color=thing.color)]


def _without_size(text: str) -> str:
    words = [word for word in text.split()[1:] if word not in ("small", "large")]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _share(found: list[bool]) -> float:
    return sum(found) / len(found) if found else 0.0


def _timed(vision: Vision, image: Image.Image, question: str) -> float:
    start = time.process_time()
    vision.ask(image, question)
    return time.process_time() - start


if __name__ == "__main__":
    main()
