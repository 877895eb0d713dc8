"""The worlds that demo models know: flat shapes on a plain or patterned background, and more.

A scene is what a picture shows, before it is drawn and before anything is said about it. Positions and lengths are fractions
of the picture's side; x grows to the right and y grows downwards. Two worlds are named:

    STUDY   one to three filled shapes that do not touch: 8 shapes, 8 colours, 2 sizes, 6 backgrounds
    WIDE    one to five; also signs with a digit or a capital letter, four ways of drawing, backgrounds that look more like
            photographs, a little overlap, and pictures turned by up to 15 degrees

Language must fit a scene in exactly one way, so `sample_scene` rejects every scene that people could describe
differently: a lone thing near a line of the 3 × 3 grid of places, two things on a diagonal, three or more of which two
stand above each other, a thing that hardly stands out from what is behind it.

Scenes are a pure function of the random numbers: the same `random.Random` gives the same scene on every machine.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

RGB: TypeAlias = tuple[int, int, int]
Shape = Literal["circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "sign"]
Color = Literal["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
Size = Literal["small", "large"]
BackgroundName = Literal["white", "black", "gray", "brown", "striped", "checkered", "gradient", "textured"]
Style = Literal["filled", "outlined", "shaded", "hand-drawn"]
Place = Literal["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
Direction = Literal["left", "right", "above", "below"]

SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)[:8]  # the plain ones: a sign is told by what it says
COLORS: Final[tuple[Color, ...]] = get_args(Color)
SIZES: Final[tuple[Size, ...]] = get_args(Size)
BACKGROUNDS: Final[tuple[BackgroundName, ...]] = get_args(BackgroundName)[:6]  # those of one colour or of a pattern
STYLES: Final[tuple[Style, ...]] = get_args(Style)
PLACES: Final[tuple[Place, ...]] = get_args(Place)
DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
OPPOSITE: Final[dict[Direction, Direction]] = {"left": "right", "right": "left", "above": "below", "below": "above"}

CHARACTERS: Final = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which in many a font are 1 and 0
MAX_SIGNS: Final = 2  # in one scene, so that captions stay short

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
# The same colours where they are purest, as drawing programs name them.
PURE: Final[dict[Color, RGB]] = {
    "red": (255, 0, 0),
    "orange": (255, 165, 0),
    "yellow": (255, 255, 0),
    "green": (0, 128, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
}
# What photographs are full of: sky, sand, stone, leaves, wood, dusk. Two of them make a gradient or a texture.
MUTED: Final[tuple[RGB, ...]] = (
    (176, 198, 214),
    (214, 203, 178),
    (150, 150, 145),
    (112, 122, 104),
    (140, 120, 104),
    (92, 96, 110),
    (228, 226, 220),
    (60, 58, 62),
)
RADIUS: Final[dict[Size, tuple[float, float]]] = {"small": (0.10, 0.125), "large": (0.17, 0.205)}

_PLACE_MARGIN: Final = 0.035  # a centre this near to a line of the grid has no clear place
_DIRECTION_MARGIN: Final = 0.07  # the two axes must differ by this much for one direction to be clear
_ORDER_MARGIN: Final = 0.06  # three things are told from left to right only if they are this far apart
_EDGE: Final = 0.01
_GAP: Final = 0.02
_OVERLAP: Final = 0.1  # of the sum of two radii: two discs then cover at most 4 % of each other
_CONTRAST: Final = 75.0  # a thing's colour is at least so far, in RGB, from any colour behind it


@dataclass(frozen=True, slots=True)
class World:
    """The things and styles that a picture may have.

    Attributes:
        name: what the world is called.
        numbers: how many things a scene holds, and how often.
        backgrounds: what may lie behind them.
        styles: how they may be drawn; a picture has one style.
        signs: the share of things that are signs.
        crowded: the share of scenes in which things may overlap a little.
        turned: the share of pictures that are turned.
        max_turn: by how many degrees at most, either way.
        varied: whether paints and proportions vary more than by a little.
        missing: pairs of colour and shape that are kept out, to find out later whether they are understood.
    """

    name: str
    numbers: tuple[tuple[int, float], ...]
    backgrounds: tuple[BackgroundName, ...] = BACKGROUNDS
    styles: tuple[Style, ...] = ("filled",)
    signs: float = 0.0
    crowded: float = 0.0
    turned: float = 0.0
    max_turn: float = 0.0
    varied: bool = False
    missing: frozenset[tuple[Color, Shape]] = frozenset()

    @property
    def max_things(self) -> int:
        """The most things that a scene holds."""
        return max(number for number, _ in self.numbers)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes that things may have."""
        return (*SHAPES, "sign") if self.signs else SHAPES


STUDY: Final = World("study", ((1, 2), (2, 4), (3, 4)))
WIDE: Final = World(
    "wide",
    ((1, 2), (2, 3), (3, 3), (4, 3), (5, 3)),
    backgrounds=get_args(BackgroundName),
    styles=STYLES,
    signs=0.2,
    crowded=0.3,
    turned=0.4,
    max_turn=15.0,
    varied=True,
)


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
    character: str | None = None  # what a sign says
    form: float = 0.0  # -1 to 1: the shape's proportions, such as how thick a ring is

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
    """The background of a scene."""

    name: BackgroundName
    paints: tuple[RGB, ...]  # one colour, or two for a pattern
    bands: int  # stripes, or rows of squares, along one side
    phase: float  # how far stripes are shifted, in stripes
    upright: bool  # stripes run from top to bottom
    turn: float = 0.0  # degrees, clockwise


@dataclass(frozen=True, slots=True)
class Scene:
    """A few things, in the order in which a caption tells them, on a background.

    Attributes:
        things: what is there, where the picture shows it.
        background: what is behind it.
        style: how all of it is drawn.
        grain: seeds what is random in drawing: a wobbling hand, a texture.
        world: which world it is from, and so which other things, colours and backgrounds there could have been.
    """

    things: tuple[Thing, ...]
    background: Background
    style: Style = "filled"
    grain: int = 0
    world: World = STUDY

    def number(self, *, shape: Shape | None = None, color: Color | None = None) -> int:
        """How many things have this shape and this colour; whatever is not given does not matter."""
        return sum(shape in (None, thing.shape) and color in (None, thing.color) for thing in self.things)


def sample_scene(rng: random.Random, things: int | None = None, world: World = STUDY) -> Scene:
    """A random scene that language fits in exactly one way.

    Args:
        rng: the source of chance; seeded alike, it gives the same scenes.
        things: how many things the scene holds; by default as often as the world says.
        world: what there can be.

    Raises:
        ValueError: so many things, or so few, do not occur in this world.
    """
    numbers = [number for number, _ in world.numbers]
    if things is None:
        things = rng.choices(numbers, [weight for _, weight in world.numbers])[0]
    if things not in numbers:
        raise ValueError(f"a scene holds {min(numbers)} to {max(numbers)} things, not {things}")
    # Chosen once: what is harder to place must not become rarer.
    style: Style = rng.choice(world.styles) if len(world.styles) > 1 else world.styles[0]
    crowded = world.crowded > 0 and rng.random() < world.crowded
    while True:
        background = rng.choice(world.backgrounds)
        placed = _sample_things(things, world, rng, crowded=crowded)
        ordered = _in_telling_order(placed) if placed else None
        if ordered is None:
            continue
        behind = _sample_background(background, world, rng)
        if background in ("gradient", "textured") and not _stands_out(ordered, behind):
            continue
        scene = Scene(ordered, behind, style, rng.getrandbits(32) if world.styles != ("filled",) else 0, world)
        if world.turned and rng.random() < world.turned:
            return turned(scene, rng.uniform(-world.max_turn, world.max_turn)) or scene
        return scene


def turned(scene: Scene, degrees: float) -> Scene | None:
    """The scene as its picture shows it when it is turned about its middle; None if another caption would then fit better.

    Args:
        scene: a scene.
        degrees: by how much, clockwise.
    """
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    things = []
    for thing in scene.things:
        across, down = thing.x - 0.5, thing.y - 0.5
        x, y = 0.5 + across * cosine - down * sine, 0.5 + across * sine + down * cosine
        if not thing.radius - _EDGE < min(x, y, 1 - x, 1 - y):
            return None
        things.append(replace(thing, x=x, y=y, tilt=thing.tilt + degrees))
    same = _in_telling_order(things) == tuple(things) and (
        things[0].place == scene.things[0].place
        if len(things) == 1
        else len(things) > 2 or things[0].direction_from(things[1]) == scene.things[0].direction_from(scene.things[1])
    )
    behind = replace(scene.background, turn=scene.background.turn + degrees)
    return replace(scene, things=tuple(things), background=behind) if same else None


def _sample_things(number: int, world: World, rng: random.Random, *, crowded: bool) -> list[Thing] | None:
    """Things side by side; None if there was no room for one of them."""
    things: list[Thing] = []
    for _ in range(number):
        thing = _sample_thing(things, world, rng, crowded=crowded)
        if thing is None:
            return None
        things.append(thing)
    return things


def _sample_thing(others: list[Thing], world: World, rng: random.Random, *, crowded: bool) -> Thing | None:
    """One more thing next to the others; None if there was no room for it."""
    while True:
        shape, color = _sample_traits(others, world, rng)
        if (color, shape) not in world.missing:
            break
    size = rng.choice(SIZES)
    radius = rng.uniform(*RADIUS[size])
    tilt = rng.uniform(-10, 10)
    paint, form = PAINT[color], 0.0
    if world.varied:
        paint, form = _between(paint, PURE[color], rng.random()), rng.uniform(-1, 1)
    paint = _shade(paint, rng, spread=16)
    character = rng.choice(CHARACTERS) if shape == "sign" else None
    for _ in range(20):
        x, y = (rng.uniform(radius + _EDGE, 1 - _EDGE - radius) for _ in range(2))
        if all(_apart(x, y, radius, other, crowded=crowded) for other in others):
            return Thing(shape, color, size, x, y, radius, tilt, paint, character, form)
    return None


def _sample_traits(others: list[Thing], world: World, rng: random.Random) -> tuple[Shape, Color]:
    shape, color = rng.choice(SHAPES), rng.choice(COLORS)
    # Left to chance, two things would rarely share a shape or colour: there would be little to count or confuse.
    if others and rng.random() < 0.3:
        relative = rng.choice(others)
        if rng.random() < 0.5:
            shape = relative.shape
        else:
            color = relative.color
    if world.signs and rng.random() < world.signs:
        shape = "sign"
    if shape == "sign" and sum(other.shape == "sign" for other in others) == MAX_SIGNS:
        shape = rng.choice(SHAPES)
    return shape, color


def _apart(x: float, y: float, radius: float, other: Thing, *, crowded: bool) -> bool:
    reach = radius + other.radius
    return math.hypot(x - other.x, y - other.y) > (reach * (1 - _OVERLAP) if crowded else reach + _GAP)


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


def _sample_background(name: BackgroundName, world: World, rng: random.Random) -> Background:
    brightness = rng.randint(-10, 10)
    # All are mixed although one is used, so that how many random numbers a scene takes does not depend on which one.
    mixed = {
        each: tuple(_shade(paint, rng, spread=5, brightness=brightness) for paint in paints)
        for each, paints in GROUND.items()
    }
    if world.varied:
        grays = _shade((rng.randint(90, 185),) * 3, rng, spread=4)
        pair = tuple(_shade(paint, rng, spread=12, brightness=brightness) for paint in rng.sample(MUTED, 2))
        mixed |= {"gray": (grays,), "gradient": pair, "textured": pair}
    return Background(name, mixed[name], bands=rng.randint(5, 9), phase=rng.random(), upright=rng.random() < 0.5)


def _stands_out(things: tuple[Thing, ...], background: Background) -> bool:
    """Whether every thing differs clearly from all colours between the background's two."""
    first, second = background.paints
    steps = [tuple(one + (two - one) * step / 4 for one, two in zip(first, second, strict=True)) for step in range(5)]
    return all(math.dist(thing.paint, step) >= _CONTRAST for thing in things for step in steps)


def _between(one: RGB, other: RGB, share: float) -> RGB:
    red, green, blue = (round(start + (end - start) * share) for start, end in zip(one, other, strict=True))
    return red, green, blue


def _shade(paint: RGB, rng: random.Random, *, spread: int, brightness: int = 0) -> RGB:
    """A neighbour of a colour, every channel moved by its own small step."""
    red, green, blue = (max(0, min(255, channel + brightness + rng.randint(-spread, spread))) for channel in paint)
    return red, green, blue


def _third(position: float) -> int | None:
    """Which third of a side holds this position; None near the line between two thirds."""
    if any(abs(position - line) < _PLACE_MARGIN for line in (1 / 3, 2 / 3)):
        return None
    return int(position > 1 / 3) + int(position > 2 / 3)
