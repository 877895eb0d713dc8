"""`python -m training.premises.measure`: how well the demo detects false premises, misfitting choices and empty tiles.

Every row is counted on fresh scenes of a seed that was used for nothing else, half of each world, drawn at 224 pixels and asked
through `Vision` as any caller would. Rows with a bar say whether it holds; the exit status is 1 where one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from blip2tools.cli.evaluate.reliability import auroc, calibration_error
from blip2tools.demo.draw import draw
from blip2tools.demo.questions import Question, sample_questions
from blip2tools.demo.words import phrase
from blip2tools.demo.world import COLORS, STUDY, WIDE, Scene, Thing, sample_scene
from blip2tools.engine.requests import AnswerRequest
from blip2tools.engine.requests import Question as AskedQuestion
from blip2tools.model.options import Generation
from blip2tools.schemas import AnswerResult, Tile
from blip2tools.vision import Vision
from blip2tools.vision.premises import named
from training.premises import reliability
from training.premises.forms import Asked, Kind, ask

SEED: Final = 20261127
SCENES: Final = 1200
AT_ONCE: Final = 32
ABOUT: Final[tuple[Kind, ...]] = ("thing", "color", "pair")


@dataclass(frozen=True, slots=True)
class Put:
    """A question about a picture."""

    image: Image.Image
    question: Asked


@dataclass(frozen=True, slots=True)
class Bar:
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
    with Vision.load(model="demo", matcher="demo", num_beams=1) as vision:
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


def premises(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
    """Questions about what is there and what is not; denied predicates; existence and number."""
    made: list[Put] = []
    for place, (scene, image, chance) in enumerate(scenes(seed, number, "premises")):
        made += [Put(image, _one(scene, ABOUT[place % 3], chance, true=true)) for true in (False, True)]
    false, true = _warned(vision, made)
    yield Bar("a thing, colour or pair that is not there: warned", _share(false), len(false), least=0.99)
    yield Bar("... that is there: not warned", 1 - _share(true), len(true), least=0.99)
    kinds: tuple[tuple[Kind, str], ...] = (("denied", "denied predicates"), ("asked", "existence and number"))
    for kind, name in kinds:
        drawn = (
            (ask(scene, kind, chance, true=True), image) for scene, image, chance in scenes(seed, number // 2, kind)
        )
        _, found = _warned(vision, [Put(image, question) for question, image in drawn if question is not None])
        yield Bar(f"{name}: not warned", 1 - _share(found), len(found), least=0.99)


def relations(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
    """How two things lie, where that tells which one is meant."""
    made: list[Put] = []
    for scene, image, chance in scenes(seed, number // 2, "relations"):
        drawn = [ask(scene, "relation", chance, true=true) for true in (False, True)]
        made += [Put(image, question) for question in drawn if question is not None]
    false, true = _warned(vision, made)
    yield Bar("relations that are not so: warned", _share(false), len(false), least=0.95)
    yield Bar("... that are so: not warned", 1 - _share(true), len(true), least=0.97)


def choices(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
    """Offered answers with the right one among them, and without."""
    none: list[bool] = []
    some: list[bool] = []
    for scene, image, chance in scenes(seed, number // 2, "choices"):
        question = _open(scene, chance)
        if question is None:
            continue
        others = _wrong(question, scene, chance)
        for found, offered in ((none, others), (some, [*others[1:], question.answer])):
            chance.shuffle(offered)
            told = vision.ask(image, question.text, choices=offered).warnings
            found.append(any("none of the choices" in warning for warning in told))
    yield Bar("no right choice: told", _share(none), len(none), least=0.95)
    yield Bar("a right choice among them: not told", 1 - _share(some), len(some), least=0.97)


def survey(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
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
    yield Bar("tiles that name a thing not in them, without a warning", _share(wrong), len(wrong), most=0.03)
    yield Bar("tiles that name a thing less than half of which is in them, without a warning", _share(less), len(less))
    yield Bar("tiles of whole things only: named, rightly", sum(named_whole) / max(1, sum(whole)), sum(whole))


def confidence(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
    """How far the confidence of answers can be trusted: by what they are about, and where a third of the premises are false."""
    told: dict[str, list[reliability.Told]] = {
        kind: reliability.of(vision, kind, seed, number // 4) for kind in reliability.KINDS
    }
    mixed = told["false premises"] + told["harder pictures"][: 2 * len(told["false premises"])]
    told["a third false premises"] = mixed
    for kind, answers in told.items():
        sure, right = [one.confidence for one in answers], [float(one.right) for one in answers]
        bars = (0.05, 0.95) if answers is mixed else (None, None)
        yield Bar(f"ECE: {kind}", calibration_error(sure, right), len(sure), most=bars[0])
        area = auroc(sure, right)
        if area is not None:
            yield Bar(f"AUROC: {kind}", area, len(sure), least=bars[1])


def cost(vision: Vision, seed: int, number: int) -> Iterator[Bar]:
    """Processor time of the same question with what it presupposes judged, against without, about pictures that were seen."""
    ratios: dict[str, list[float]] = {"new": [], "old": []}
    for scene, image, _ in scenes(seed, max(8, number // 30), "cost"):
        thing = scene.things[0]
        vision.ask(image, "how many objects are there?")
        times: dict[str, list[float]] = {"bare": [], "new": [], "old": []}
        for turn in range(6):
            for kind, found in times.items():
                text = f"what size is the {thing.color} {thing.shape} of turn {turn} {kind}?"
                # The matcher has not seen a text with a new number in it; what is judged is as long as in earnest.
                new, old = (f"a {thing.color} {thing.shape} {turn}",), (f"a {thing.color} {thing.shape}",)
                found.append(_timed(vision, image, text, {"bare": (), "new": new, "old": old}[kind]))
        for kind, found in ratios.items():
            found.append(statistics.median(times[kind]) / statistics.median(times["bare"]))
    fresh = statistics.median(ratios["new"])
    yield Bar("cost of premises that are new for the picture", fresh, len(ratios["new"]), most=1.15)
    yield Bar("cost of premises judged before", statistics.median(ratios["old"]), len(ratios["old"]), most=1.15)


PARTS: Final[dict[str, Callable[[Vision, int, int], Iterator[Bar]]]] = {
    "premises": premises,
    "relations": relations,
    "choices": choices,
    "survey": survey,
    "confidence": confidence,
    "cost": cost,
}


def _warned(vision: Vision, made: Sequence[Put]) -> tuple[list[bool], list[bool]]:
    """Which questions are warned of: those with a false premise, and the others; asked side by side, as by many callers."""

    async def every(some: Sequence[Put]) -> list[AnswerResult]:
        return await asyncio.gather(*(vision.aask(one.image, one.question.text) for one in some))

    found: dict[bool, list[bool]] = {False: [], True: []}
    for first in range(0, len(made), AT_ONCE):
        some = made[first : first + AT_ONCE]
        for one, result in zip(some, vision.run(every(some)), strict=True):
            found[one.question.true].append(warned(result))
    return found[False], found[True]


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


def _timed(vision: Vision, image: Image.Image, question: str, statements: tuple[str, ...]) -> float:
    """Processor time, all threads, of one answer of five beams."""
    verbs, deadline = vision._verbs, time.monotonic() + 60

    async def answered() -> None:
        seen = await verbs._look(image, None, deadline)
        asked = AnswerRequest(seen.sight, AskedQuestion(question, (), None), Generation(num_beams=5), statements)
        await verbs._ask_engine(asked, deadline)

    start = time.process_time()
    vision.run(answered())
    return time.process_time() - start


if __name__ == "__main__":
    main()
