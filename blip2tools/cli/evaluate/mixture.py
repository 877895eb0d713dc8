"""Pictures of the world that are harder than those the demo model learnt from, to count errors on.

In thirds: as drawn; turned as a whole, some by more than the model has seen; with noise. A picture is a pure function of
(seed, number).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from PIL import Image

from blip2tools.demo.draw import draw
from blip2tools.demo.questions import Question, sample_questions
from blip2tools.demo.words import caption
from blip2tools.demo.world import WIDE, Scene, sample_scene, turned

Trouble = Literal["as drawn", "turned", "noisy"]
TROUBLES: Final[tuple[Trouble, ...]] = get_args(Trouble)


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degrees of difficulty: bounds of the turn, degrees to either side, and of the noise's standard deviation, levels of 255."""

    turn: tuple[float, float]
    noise: tuple[float, float]


FOR_CAPTIONS: Final = Degrees(turn=(12, 24), noise=(20, 60))
FOR_ANSWERS: Final = Degrees(turn=(16, 30), noise=(40, 100))  # short answers survive more


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture, what is true of it, and what was done to it."""

    image: Image.Image
    caption: str
    question: Question
    trouble: Trouble
    scene: Scene  # as the picture shows it


def mixture(seed: int, number: int, degrees: Degrees) -> Iterator[Sample]:
    """Pictures of a seed, from the wide world, each with one question. More pictures only add to the end."""
    for place in range(number):
        chance = random.Random(f"mixture/{seed}/{place}")
        trouble = TROUBLES[place % len(TROUBLES)]
        image, scene = _turned(degrees, chance) if trouble == "turned" else _upright(chance)
        if trouble == "noisy":
            image = _noisy(image, degrees, chance)
        questions: list[Question] = []
        while not questions:
            questions = sample_questions(scene, 1, chance)
        yield Sample(image, caption(scene), questions[0], trouble, scene)


def _upright(chance: random.Random) -> tuple[Image.Image, Scene]:
    scene = sample_scene(chance, world=WIDE)
    return draw(scene), scene


def _turned(degrees: Degrees, chance: random.Random) -> tuple[Image.Image, Scene]:
    """A picture turned as a whole, and the scene as it then shows it: what is above in the one need not be in the other."""
    while True:
        image, scene = _upright(chance)
        angle = chance.uniform(*degrees.turn) * chance.choice((-1, 1))
        shown = turned(scene, angle)
        if shown:
            corner = image.getpixel((2, 2))
            return image.rotate(-angle, Image.Resampling.BICUBIC, fillcolor=corner), shown


def _noisy(image: Image.Image, degrees: Degrees, chance: random.Random) -> Image.Image:
    generator = np.random.default_rng(chance.getrandbits(32))
    levels = np.asarray(image, dtype=np.float64)
    levels = levels + generator.normal(0, chance.uniform(*degrees.noise), levels.shape)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
