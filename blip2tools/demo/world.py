"""The world that the demo model knows: one to three flat shapes on a plain or patterned background.

A scene is what a picture shows, before it is drawn and before anything is said about it. There are 8 shapes, 8 colours,
2 sizes and 6 backgrounds, and that is all: the model has never seen anything else. Positions and lengths are fractions
of the picture's side; x grows to the right and y grows downwards.

Language must fit a scene in exactly one way, so `sample_scene` rejects every scene that people could describe
differently: a lone thing near a line of the 3 × 3 grid of places, two things on a diagonal, three things of which two
stand above each other.

Scenes are a pure function of the random numbers: the same `random.Random` gives the same scene on every machine.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

RGB: TypeAlias = tuple[int, int, int]
Shape = Literal["circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond"]
Color = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
Size = Literal["small", "large"]
BackgroundName = Literal["white", "black", "gray", "brown", "striped", "checkered"]
Place = Literal["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
Direction = Literal["left", "right", "above", "below"]

SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
COLORS: Final[tuple[Color, ...]] = get_args(Color)
SIZES: Final[tuple[Size, ...]] = get_args(Size)
BACKGROUNDS: Final[tuple[BackgroundName, ...]] = get_args(BackgroundName)
PLACES: Final[tuple[Place, ...]] = get_args(Place)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
OPPOSITE: Final[dict[Direction, Direction]] = {"left": "right", "right": "left", "above": "below", "below": "above"}

MAX_THINGS: Final = 3

PAINT: Final[dict[Color, RGB]] = {
    "red": (222, 40, 40),
    "orange": (250, 145, 30),
    "yellow": (250, 225, 60),
    "green": (40, 165, 70),
    "cyan": (50, 205, 215),
    "blue": (45, 80, 215),
    "purple": (135, 60, 175),
    "pink": (250, 130, 185),
}
GROUND: Final[dict[BackgroundName, tuple[RGB, ...]]] = {
    "white": ((245, 245, 245),),
    "black": ((18, 18, 18),),
    "gray": ((128, 128, 128),),
    "brown": ((115, 75, 45),),
    "striped": ((235, 235, 235), (185, 185, 185)),
    "checkered": ((235, 235, 235), (185, 185, 185)),
}
RADIUS: Final[dict[Size, tuple[float, float]]] = {"small": (0.10, 0.125), "large": (0.17, 0.205)}

_PLACE_MARGIN: Final = 0.035  # a centre this near to a line of the grid has no clear place
_DIRECTION_MARGIN: Final = 0.07  # the two axes must differ by this much for one direction to be clear
_ORDER_MARGIN: Final = 0.06  # three things are told from left to right only if they are this far apart
_EDGE: Final = 0.01
_GAP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape and where it lies."""

    shape: Shape
    color: Color
    size: Size
    x: float
    y: float
    radius: float
    tilt: float  # degrees, clockwise
    paint: RGB  # the colour as drawn: a shade of `color`

    @property
    def place(self) -> Place | None:
        """The cell of the 3 × 3 grid that holds the centre; None near a line between two cells."""
        column, row = _third(self.x), _third(self.y)
        return None if column is None or row is None else PLACES[3 * row + column]

    def offset(self, direction: Direction, other: Thing) -> float:
        """How far this thing lies in `direction` from `other`; negative when it lies the opposite way."""
        match direction:
            case "left":
                return other.x - self.x
            case "right":
                return self.x - other.x
            case "above":
                return other.y - self.y
            case "below":
                return self.y - other.y

    def direction_from(self, other: Thing) -> Direction | None:
        """The main direction in which this thing lies from `other`; None near a diagonal."""
        across, down = self.x - other.x, self.y - other.y
        if abs(abs(across) - abs(down)) < _DIRECTION_MARGIN:
            return None
        if abs(across) > abs(down):
            return "left" if across < 0 else "right"
        return "above" if down < 0 else "below"


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the things."""

    name: BackgroundName
    paints: tuple[RGB, ...]  # one colour, or two for a pattern
    bands: int  # stripes, or rows of squares, along one side
    phase: float  # how far stripes are shifted, in stripes
    upright: bool  # stripes run from top to bottom


@dataclass(frozen=True, slots=True)
class Scene:
    """One to three things, in the order in which a caption tells them, on a background."""

    things: tuple[Thing, ...]
    background: Background

    def number(self, *, shape: Shape | None = None, color: Color | None = None) -> int:
        """How many things have this shape and this colour; whatever is not given does not matter."""
        return sum(shape in (None, thing.shape) and color in (None, thing.color) for thing in self.things)


def sample_scene(rng: random.Random, things: int | None = None) -> Scene:
    """A random scene that language fits in exactly one way.

    Args:
        rng: the source of chance; seeded alike, it gives the same scenes.
        things: how many things the scene holds, 1 to 3; by default one of them at 20 %, two and three at 40 % each.
    """
    if things is None:
        things = rng.choices((1, 2, 3), (2, 4, 4))[0]
    if not 1 <= things <= MAX_THINGS:
        raise ValueError(f"a scene holds 1 to {MAX_THINGS} things, not {things}")
    while True:
        background = rng.choice(BACKGROUNDS)
        placed = _sample_things(things, rng)
        ordered = _in_telling_order(placed) if placed else None
        if ordered:
            return Scene(ordered, _sample_background(background, rng))


def _sample_things(number: int, rng: random.Random) -> list[Thing] | None:
    """Things that do not touch; None if one of them found no room."""
    things: list[Thing] = []
    for _ in range(number):
        thing = _sample_thing(things, rng)
        if thing is None:
            return None
        things.append(thing)
    return things


def _sample_thing(others: list[Thing], rng: random.Random) -> Thing | None:
    """One more thing beside the others; None if it found no room."""
    shape, color = rng.choice(SHAPES), rng.choice(COLORS)
    # Left to chance, two things of one shape or colour would rarely meet: little to count, little to confuse.
    if others and rng.random() < 0.3:
        relative = rng.choice(others)
        if rng.random() < 0.5:
            shape = relative.shape
        else:
            color = relative.color
    size = rng.choice(SIZES)
    radius = rng.uniform(*RADIUS[size])
    tilt = rng.uniform(-10, 10)
    paint = _shade(PAINT[color], rng, spread=16)
    for _ in range(20):
        x, y = (rng.uniform(radius + _EDGE, 1 - _EDGE - radius) for _ in range(2))
        if all(math.hypot(x - other.x, y - other.y) > radius + other.radius + _GAP for other in others):
            return Thing(shape, color, size, x, y, radius, tilt, paint)
    return None


def _in_telling_order(things: list[Thing]) -> tuple[Thing, ...] | None:
    """The order of the caption: left to right, or top to bottom for an upright pair; None if that is not clear."""
    across = tuple(sorted(things, key=lambda thing: thing.x))
    match across:
        case (only,):
            return across if only.place else None
        case (first, second):
            direction = first.direction_from(second)
            if direction in ("left", "right", None):
                return across if direction else None
            return tuple(sorted(things, key=lambda thing: thing.y))
        case _:
            gaps = [right.x - left.x for left, right in itertools.pairwise(across)]
            return across if min(gaps) >= _ORDER_MARGIN else None


def _sample_background(name: BackgroundName, rng: random.Random) -> Background:
    brightness = rng.randint(-10, 10)
    # All are mixed although one is used, so that how many random numbers a scene takes does not depend on which one.
    mixed = {
        each: tuple(_shade(paint, rng, spread=5, brightness=brightness) for paint in paints)
        for each, paints in GROUND.items()
    }
    return Background(name, mixed[name], bands=rng.randint(5, 9), phase=rng.random(), upright=rng.random() < 0.5)


def _shade(paint: RGB, rng: random.Random, *, spread: int, brightness: int = 0) -> RGB:
    """A neighbour of a colour, every channel moved by its own small step."""
    red, green, blue = (max(0, min(255, channel + brightness + rng.randint(-spread, spread))) for channel in paint)
    return red, green, blue


def _third(position: float) -> int | None:
    """Which third of a side holds this position; None near the line between two thirds."""
    if any(abs(position - line) < _PLACE_MARGIN for line in (1 / 3, 2 / 3)):
        return None
    return int(position > 1 / 3) + int(position > 2 / 3)
