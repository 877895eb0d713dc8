"""Games about drawn pictures whose captions do not give the answer, or not all of it: winning takes looking.

    which         which of six pictures shows one thing above another; all six have the same caption
    difference    what is true of the first picture and not of the second; both have the same caption
    claims        which of ten statements about a picture are true
    odd           in which of five pictures two things stand the other way round
    two hops      where the thing is that is above or below another one
    sheet         how many things of one colour or shape are on a sheet of four pictures

A demo caption of three things lists them from left to right, with size and colour, and says nothing of heights and places.

Every game has options. Its answer is drawn from them before the pictures are, each as likely as the others, so that a player
who sees other pictures is right no more often than by chance. A game's text is all that a player is told.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from blip2tools.demo.draw import draw
from blip2tools.demo.statements import Edit, StatementKind, falsify, true_statement
from blip2tools.demo.words import NUMBERS, PLURALS, phrase
from blip2tools.demo.world import COLORS, PLACES, SHAPES, Direction, Scene, Thing, sample_scene

if TYPE_CHECKING:
    from PIL.Image import Image

GameKind = Literal["which", "difference", "claims", "odd", "two hops", "sheet"]
GAMES: Final[tuple[GameKind, ...]] = get_args(GameKind)

CLAIMS: Final = 10
WHICH_PICTURES: Final = 6
ODD_PICTURES: Final = 5
SHEET_ROWS: Final = 2
SIDE: Final = 224

_CLEAR: Final = 0.12  # two things differ at least so much in height wherever a game is about heights
_LIGHT: Final = 0.45  # three things whose radii add up to no more have room to change places
_ORDER: Final = 0.06  # and so much in their order from left to right, as in the captions
_GAP: Final = 0.02
_EDGE: Final = 0.01
# A claim's kind and the edits that make it false. Each edit goes both ways alike: no claim looks true by itself.
_CLAIMS: Final[tuple[tuple[StatementKind, tuple[Edit, ...]], ...]] = (
    ("relation", ("relation",)),
    ("place", ("place",)),
    ("one", ("color", "shape", "size")),
)


@dataclass(frozen=True, slots=True)
class Game:
    """One game.

    Attributes:
        kind: which game.
        text: the task with the pictures' names and the options, all that a player is told.
        pictures: by name, in the order of the text.
        answer: the right option; for claims, the numbers of the true ones.
        chance: the share of points for a guess.
    """

    kind: GameKind
    text: str
    pictures: dict[str, Image]
    answer: str
    chance: float

    def score(self, said: str) -> float:
        """The share of points for an answer: all or nothing, but each claim counts for itself."""
        if self.kind != "claims":
            return float(said.strip() == self.answer)
        told, true = set(said.split()), set(self.answer.split())
        return 1 - len(told ^ true) / CLAIMS if told <= {str(number + 1) for number in range(CLAIMS)} else 0.0


def make_game(kind: GameKind, seed: int, number: int) -> Game:
    """A game, the same for the same seed and number."""
    return _MAKERS[kind](random.Random(f"{seed}/{kind}/{number}"), f"{kind.replace(' ', '-')}-{number}")


def sample_trio(rng: random.Random, *, most: float = 1) -> Scene:
    """A random scene of three things, of three shapes and three colours.

    Args:
        rng: the source of chance.
        most: the largest sum of their radii.
    """
    while True:
        scene = sample_scene(rng, 3)
        if sum(thing.radius for thing in scene.things) <= most and all(
            len({getattr(thing, trait) for thing in scene.things}) == 3 for trait in ("shape", "color")
        ):
            return scene


def restacked(rng: random.Random, scene: Scene, fits: Callable[[Scene], bool]) -> Scene:
    """The same things, in the same order from left to right and so with the same caption, at other heights.

    Args:
        rng: the source of chance.
        scene: three things.
        fits: whether a new scene is suitable; some scene must be.
    """
    while True:
        across = sorted(rng.uniform(0, 1) for _ in scene.things)
        if min(right - left for left, right in itertools.pairwise(across)) < _ORDER:
            continue
        things = tuple(
            replace(thing, x=x, y=rng.uniform(thing.radius + _EDGE, 1 - _EDGE - thing.radius))
            for thing, x in zip(scene.things, across, strict=True)
            if thing.radius + _EDGE < x < 1 - _EDGE - thing.radius
        )
        if len(things) == len(scene.things) and fits(found := replace(scene, things=things)) and _is_possible(found):
            return found


def _is_possible(scene: Scene) -> bool:
    """Whether everything is inside the picture and nothing touches."""
    inside = all(thing.radius + _EDGE <= thing.y <= 1 - _EDGE - thing.radius for thing in scene.things)
    return inside and all(
        math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + _GAP
        for one, other in itertools.combinations(scene.things, 2)
    )


def _swapped(scene: Scene, one: int, other: int) -> Scene:
    """Two things at each other's height."""
    things = list(scene.things)
    things[one] = replace(scene.things[one], y=scene.things[other].y)
    things[other] = replace(scene.things[other], y=scene.things[one].y)
    return replace(scene, things=tuple(things))


def _stands(scene: Scene, upper: int, lower: int) -> bool:
    """Whether one of the things is clearly above another."""
    return scene.things[upper].direction_from(scene.things[lower]) == "above"


def _from_top(scene: Scene) -> list[int]:
    return sorted(range(len(scene.things)), key=lambda index: scene.things[index].y)


def _call(thing: Thing) -> str:
    return phrase(color=thing.color, shape=thing.shape)


def _names(prefix: str, number: int) -> list[str]:
    return [f"{prefix}-{index + 1}.png" for index in range(number)]


def _text(names: list[str], question: str, options: list[str] | None = None) -> str:
    what = "Picture" if len(names) == 1 else "Pictures"
    listed = [f"({number}) {option}" for number, option in enumerate(options or [], 1)]
    return "\n".join([f"{what}: {', '.join(names)}.", question, *listed])


# The games


def _which(rng: random.Random, prefix: str) -> Game:
    names = _names(prefix, WHICH_PICTURES)
    answer = rng.choice(names)
    trio = sample_trio(rng, most=_LIGHT)
    upper, lower = rng.sample(range(3), 2)
    pictures = {}
    for name in names:
        pair = (upper, lower) if name == answer else (lower, upper)
        pictures[name] = draw(restacked(rng, trio, lambda scene, pair=pair: _stands(scene, *pair)), SIDE)  # type: ignore[misc]
    wanted = f"{_call(trio.things[upper])} above {_call(trio.things[lower])}"
    text = _text(names, f"Which picture shows {wanted}? Answer with its name.")
    return Game("which", text, pictures, answer, 1 / WHICH_PICTURES)


def _difference(rng: random.Random, prefix: str) -> Game:
    names = _names(prefix, 2)
    pairs = list(itertools.permutations(range(3), 2))
    rng.shuffle(pairs)
    number = rng.randrange(len(pairs))
    trio = sample_trio(rng, most=_LIGHT)
    upper, lower = pairs[number]

    def clear(scene: Scene) -> bool:
        return all(abs(one.y - two.y) > _CLEAR for one, two in itertools.combinations(scene.things, 2))

    # Only two with nothing between them can change places and leave the rest as it was.
    first = restacked(
        rng,
        trio,
        lambda scene: (
            abs((order := _from_top(scene)).index(lower) - order.index(upper)) == 1
            and _stands(scene, upper, lower)
            and clear(scene)
        ),
    )
    second = _swapped(first, upper, lower)
    options = [f"the {trio.things[one].shape} is above the {trio.things[two].shape}" for one, two in pairs]
    question = "Which of these is true of the first picture and not of the second? Answer with its number."
    pictures = dict(zip(names, (draw(first, SIDE), draw(second, SIDE)), strict=True))
    return Game("difference", _text(names, question, options), pictures, str(number + 1), 1 / len(pairs))


def _claims(rng: random.Random, prefix: str) -> Game:
    (name,) = names = _names(prefix, 1)
    truths = [number < CLAIMS // 2 for number in range(CLAIMS)]
    rng.shuffle(truths)
    scene = sample_trio(rng)
    claims: list[str] = []
    kinds = itertools.cycle(_CLAIMS)
    while len(claims) < CLAIMS:
        kind, edits = next(kinds)
        true = true_statement(scene, rng, kind)
        false = falsify(true, scene, rng, rng.choice(edits))
        # Both must be possible, or the mere presence of a claim would tell something about its truth.
        if false is None or true.truth(scene) is not True:
            continue
        claim = true.text if truths[len(claims)] else false[0].text
        if claim not in claims:
            claims.append(claim)
    answer = " ".join(str(number) for number, truth in enumerate(truths, 1) if truth)
    text = _text(names, "Which of these statements are true of the picture? Answer with their numbers.", claims)
    return Game("claims", text, {name: draw(scene, SIDE)}, answer, 0.5)


def _odd(rng: random.Random, prefix: str) -> Game:
    names = _names(prefix, ODD_PICTURES)
    answer = rng.choice(names)
    shapes = rng.sample(SHAPES, 2)
    directions: list[Direction] = ["above", "below"]
    rng.shuffle(directions)
    usual, other = directions
    pictures = {}
    for name in names:
        wanted = other if name == answer else usual
        while True:
            scene = sample_trio(rng)
            one, two = (next((thing for thing in scene.things if thing.shape == shape), None) for shape in shapes)
            if one and two and one.direction_from(two) == wanted:
                break
        pictures[name] = draw(scene, SIDE)
    question = (
        f"In all of them but one, the {shapes[0]} and the {shapes[1]} stand the same way, one above the other; in the "
        "odd one it is the other way round. Which is the odd one? Answer with its name."
    )
    return Game("odd", _text(names, question), pictures, answer, 1 / ODD_PICTURES)


def _two_hops(rng: random.Random, prefix: str) -> Game:
    (name,) = names = _names(prefix, 1)
    direction: Direction = rng.choice(("above", "below"))
    options = rng.sample(PLACES[:6] if direction == "above" else PLACES[3:], 4)  # the row at the far side has no room
    answer = rng.choice(options)
    while True:
        scene = sample_trio(rng)
        anchor = rng.choice(scene.things)
        offsets = {thing: thing.offset(direction, anchor) for thing in scene.things if thing is not anchor}
        there = [thing for thing, offset in offsets.items() if offset > 0]
        if len(there) == 1 and there[0].place == answer and min(map(abs, offsets.values())) > _CLEAR:
            break
    question = (
        f"Where in the picture is the thing that is {direction} the {anchor.shape}? "
        f"Choose from: {', '.join(options)}. Answer with the place."
    )
    return Game("two hops", _text(names, question), {name: draw(scene, SIDE)}, answer, 1 / len(options))


def _sheet(rng: random.Random, prefix: str) -> Game:
    (name,) = names = _names(prefix, 1)
    number = rng.randrange(4)
    color, shape = (rng.choice(COLORS), None) if rng.random() < 0.5 else (None, rng.choice(SHAPES))
    while True:
        scenes = [sample_scene(rng) for _ in range(SHEET_ROWS**2)]
        if sum(scene.number(color=color, shape=shape) for scene in scenes) == number:
            break
    wanted = PLURALS[shape] if shape else f"{color} shapes"
    question = (
        f"It is a sheet of {SHEET_ROWS} x {SHEET_ROWS} smaller pictures. How many {wanted} are on the whole sheet? "
        f"Choose from: {', '.join(NUMBERS[:4])}. Answer with the word."
    )
    return Game("sheet", _text(names, question), {name: _on_a_sheet(scenes)}, NUMBERS[number], 1 / 4)


def _on_a_sheet(scenes: list[Scene]) -> Image:
    from PIL import Image as Images

    sheet = Images.new("RGB", (SHEET_ROWS * SIDE, SHEET_ROWS * SIDE))
    for index, scene in enumerate(scenes):
        row, column = divmod(index, SHEET_ROWS)
        sheet.paste(draw(scene, SIDE), (column * SIDE, row * SIDE))
    return sheet


_MAKERS: Final[dict[GameKind, Callable[[random.Random, str], Game]]] = {
    "which": _which,
    "difference": _difference,
    "claims": _claims,
    "odd": _odd,
    "two hops": _two_hops,
    "sheet": _sheet,
}
