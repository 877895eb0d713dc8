"""Captions and answers: how many are the truth, word for word."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image

from blip2tools.checkpoints.prompts import VQA_TEMPLATE
from blip2tools.demo.draw import draw
from blip2tools.demo.questions import Question, QuestionKind, ask, kinds_of, sample_questions
from blip2tools.demo.words import caption
from blip2tools.demo.world import COLORS, STUDY, WIDE, Scene, Style, World, sample_scene, turned
from training.examination.figures import Figure, Miss, counted, mean
from training.examination.judge import ANSWER_TEMPLATE, Judge, Words
from training.examination.outside import COLORS as OUTSIDE_COLORS
from training.examination.outside import SHAPES as OUTSIDE_SHAPES
from training.examination.outside import drawing
from training.wording import reword

_CAPTION_BARS: Final = {1: 0.985, 2: 0.985, 3: 0.97}
_MANY_BAR: Final = 0.9  # of four and five things
_STYLE_BAR: Final = 0.93
_TURN_BARS: Final = {0: None, 10: 0.95, 15: 0.9}
_CHARACTER_BAR: Final = 0.97
_HELD_OUT_LOSS: Final = 0.08


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene and its picture."""

    scene: Scene
    picture: Image.Image


def show(world: World, number: int, rng: random.Random, things: int | None = None) -> list[Shown]:
    """Fresh scenes of a world."""
    scenes = [sample_scene(rng, things, world) for _ in range(number)]
    return [Shown(scene, draw(scene)) for scene in scenes]


def study_captions(judge: Judge, number: int, rng: random.Random) -> list[Figure]:
    """Captions of one, two and three plain things."""
    return [
        _captions(judge, "study captions", f"{things} things", show(STUDY, number, rng, things), bar=bar)
        for things, bar in _CAPTION_BARS.items()
    ]


def spoilt_captions(judge: Judge, number: int, rng: random.Random) -> list[Figure]:
    """The same plain things, small, large, badly compressed, noisy and turned: how much damage a caption survives."""
    shown = show(STUDY, number, rng)
    changed = {
        "64 pixels": [Shown(one.scene, draw(one.scene, 64)) for one in shown],
        "512 pixels": [Shown(one.scene, draw(one.scene, 512)) for one in shown],
        "JPEG of quality 30": [Shown(one.scene, _stored(one.picture, 30)) for one in shown],
        "noise of 25 levels": [Shown(one.scene, _noisy(one.picture, 25, rng)) for one in shown],
        **{f"turned by {degrees} degrees": _turned(STUDY, degrees, number, rng) for degrees in (5, 10)},
    }
    return [_captions(judge, "study captions, spoilt", name, some) for name, some in changed.items()]


def _stored(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def _noisy(picture: Image.Image, levels: float, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, levels, (picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def wide_captions(judge: Judge, number: int, rng: random.Random) -> list[Figure]:
    """Captions in the wide world: by the number of things, the style, how far it is turned, and what signs say."""
    section = "wide captions"
    figures = [
        _captions(
            judge, section, f"{things} things", show(WIDE, number, rng, things), bar=_MANY_BAR if things > 3 else None
        )
        for things, _ in WIDE.numbers
    ]
    for style in WIDE.styles:
        shown = show(replace(WIDE, styles=(style,)), number, rng)
        new = style != "filled"
        figures.append(_captions(judge, section, _drawn(style), shown, bar=_STYLE_BAR if new else None))
    upright = replace(WIDE, turned=0.0)
    for degrees, bar in _TURN_BARS.items():
        figures.append(
            _captions(judge, section, f"turned by {degrees} degrees", _turned(upright, degrees, number, rng), bar=bar)
        )
    figures.append(_characters(judge, number, rng))
    return figures


def _drawn(style: Style) -> str:
    return f"drawn {style}"


def _turned(world: World, degrees: int, number: int, rng: random.Random) -> list[Shown]:
    """Whole pictures turned one way or the other, the corners filled with what is in a corner; captions stay true."""
    shown: list[Shown] = []
    while len(shown) < number:
        scene = sample_scene(rng, world=world)
        way = rng.choice((-degrees, degrees))
        if turned(scene, way) is not None:
            picture = draw(scene)
            corner = picture.getpixel((2, 2))
            shown.append(Shown(scene, picture.rotate(-way, Image.Resampling.BICUBIC, fillcolor=corner)))
    return shown


def _captions(judge: Judge, section: str, name: str, shown: Sequence[Shown], *, bar: float | None = None) -> Figure:
    said = judge.captions([one.picture for one in shown])
    right = [words.text == caption(one.scene) for words, one in zip(said, shown, strict=True)]
    return counted(section, name, right, bar=bar, misses=_wrong(shown, said))


def _wrong(shown: Sequence[Shown], said: Sequence[Words]) -> Iterator[Miss]:
    """The wrong captions, the surest first."""
    for words, one in sorted(zip(said, shown, strict=True), key=lambda pair: -pair[0].logprob):
        if words.text != caption(one.scene):
            yield Miss(one.picture, "caption", words.text, caption(one.scene))


def _characters(judge: Judge, number: int, rng: random.Random) -> Figure:
    """Answers about the characters of signs, in scenes with one sign."""
    shown, asked = _about(replace(WIDE, signs=0.5), "character", number, rng)
    return _answers(judge, "wide captions", "digits and letters", shown, asked, bar=_CHARACTER_BAR)


def answers(judge: Judge, world: World, number: int, rng: random.Random) -> list[Figure]:
    """Every kind of question, and the mean of them."""
    section, study = f"{world.name} answers", world.name == STUDY.name
    figures = []
    for kind in kinds_of(world):
        shown, asked = _about(world, kind, number, rng)
        figures.append(_answers(judge, section, kind, shown, asked, bar=0.96 if study else None))
    return [*figures, mean(section, "mean", figures, bar=0.99 if study else 0.95)]


def forms(judge: Judge, world: World, number: int, rng: random.Random) -> list[Figure]:
    """The same questions in the other template, put otherwise, after other turns, with choices; captions after a prompt."""
    section = f"{world.name} forms"
    shown = show(world, number, rng)
    pairs = [(one, questions) for one in shown if len(questions := sample_questions(one.scene, 3, rng)) == 3]
    shown = [one for one, _ in pairs]
    asked = [questions[-1] for _, questions in pairs]
    turns = [[(one.text, one.answer) for one in questions[:-1]] for _, questions in pairs]
    other = [replace(question, text=reword(question.text, rng)) for question in asked]
    figures = [
        _answers(judge, section, "Answer:", shown, asked),
        _answers(judge, section, "Short answer:", shown, asked, template=VQA_TEMPLATE),
        _answers(judge, section, "put otherwise", shown, other),
        _answers(judge, section, "after two other turns", shown, asked, history=turns),
    ]
    places = [_about(world, "color", 1, rng) for _ in range(max(1, number // 4))]
    right = [judge.choose(one.picture, question.text, COLORS) == question.answer for (one,), (question,) in places]
    figures.append(counted(section, "choices", right))
    for prompt in ("a photo of", "a picture of"):
        said = judge.captions([one.picture for one in shown], prompt)
        right = [words.text == caption(one.scene) for words, one in zip(said, shown, strict=True)]
        figures.append(counted(section, f"caption after {prompt!r}", right))
    return figures


def held_out(judge: Judge, missing: World, number: int, rng: random.Random) -> list[Figure]:
    """Single things with pairs of colour and shape that were never seen, next to those that were: captions and answers.

    Args:
        judge: weights that were trained without the pairs.
        missing: the world that they were trained on.
        number: of pictures.
        rng: the source of chance.
    """
    everything = replace(missing, missing=frozenset(), numbers=((1, 1.0),), signs=0.0)
    groups: dict[bool, list[Shown]] = {False: [], True: []}
    while min(map(len, groups.values())) < number:
        scene = sample_scene(rng, world=everything)
        thing = scene.things[0]
        group = groups[(thing.color, thing.shape) in missing.missing]
        if len(group) < number:
            group.append(Shown(scene, draw(scene)))
    names = {False: "pairs that were seen", True: "pairs that were not"}
    kinds: tuple[QuestionKind, ...] = ("color", "shape")
    figures: list[Figure] = []
    bars: dict[str, float | None] = dict.fromkeys(("captions", *kinds))
    for unseen, shown in groups.items():
        found = {"captions": _captions(judge, "held out", f"captions, {names[unseen]}", shown, bar=bars["captions"])}
        for kind in kinds:
            asked = [_asked(one.scene, kind, rng) for one in shown]
            found[kind] = _answers(judge, "held out", f"{kind}, {names[unseen]}", shown, asked, bar=bars[kind])
        bars = {name: figure.value - _HELD_OUT_LOSS for name, figure in found.items()}
        figures += found.values()
    return figures


def _asked(scene: Scene, kind: QuestionKind, rng: random.Random) -> Question:
    """A question that any scene of one thing has."""
    while (question := ask(scene, kind, rng)) is None:
        pass
    return question


def from_outside(judge: Judge, number: int, rng: random.Random) -> Figure:
    """Drawings that share no code with the world: colour and shape of every thing right, from left to right."""
    drawn = [drawing(rng) for _ in range(number)]
    said = judge.captions([one.picture for one in drawn])
    pattern = re.compile(rf"\b({'|'.join(OUTSIDE_COLORS)}) ({'|'.join(OUTSIDE_SHAPES)})\b")
    found = [tuple(pattern.findall(words.text)) for words in said]
    # Two things one above the other are told from the top, so the order of the caption does not count.
    right = [sorted(one) == sorted(two.things) for one, two in zip(found, drawn, strict=True)]
    misses = (
        Miss(two.picture, "colours and shapes", words.text, " and ".join(map(" ".join, two.things)))
        for words, two, good in zip(said, drawn, right, strict=True)
        if not good
    )
    return counted("from outside", "colour and shape", right, bar=0.97, misses=misses)


def _about(world: World, kind: QuestionKind, number: int, rng: random.Random) -> tuple[list[Shown], list[Question]]:
    shown: list[Shown] = []
    asked: list[Question] = []
    while len(asked) < number:
        scene = sample_scene(rng, world=world)
        question = ask(scene, kind, rng)
        if question:
            asked.append(question)
            shown.append(Shown(scene, draw(scene)))
    return shown, asked


def _answers(
    judge: Judge,
    section: str,
    name: str,
    shown: Sequence[Shown],
    asked: Sequence[Question],
    *,
    template: str = ANSWER_TEMPLATE,
    history: Sequence[Sequence[tuple[str, str]]] | None = None,
    bar: float | None = None,
) -> Figure:
    said = judge.answers([one.picture for one in shown], [question.text for question in asked], template, history)
    right = [words.text == question.answer for words, question in zip(said, asked, strict=True)]
    misses = (
        Miss(one.picture, question.text, words.text, question.answer)
        for words, one, question, good in zip(said, shown, asked, right, strict=True)
        if not good
    )
    return counted(section, name, right, bar=bar, misses=misses)
