"""Scene → true statements, and false ones that are one edit away from the truth.

A matcher that judges texts by single words sees no difference between `a red star above a blue ring` and `a blue star
above a red ring`; such pairs tell whether it looks. The nine edits, and a tenth for signs:

    color, shape, size    another word for one trait of one thing
    swap                  two things exchange one trait
    relation              left becomes right, above becomes below
    place                 another cell of the 3 × 3 grid
    background            another background
    number                another count
    addition              one thing more than there is
    character             another digit or letter on a sign

Every edit is checked against the scene: a text that happens to stay true is not a false statement.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

from blip2tools.demo.words import DIRECTION_WORDS, NUMBERS, PLURALS, SIZED_THINGS, enumeration, phrase, place_phrase
from blip2tools.demo.world import (
    CHARACTERS,
    COLORS,
    OPPOSITE,
    PLACES,
    SIZES,
    BackgroundName,
    Color,
    Direction,
    Place,
    Scene,
    Shape,
    Size,
    Thing,
    World,
)

StatementKind = Literal["caption", "summary", "one", "two", "relation", "place", "number", "background"]
Edit = Literal["color", "shape", "size", "swap", "relation", "place", "background", "number", "addition", "character"]
Value = TypeVar("Value")

_SIDE_MARGIN: Final = 0.05  # a statement about a direction is neither true nor false when the things are this level


@dataclass(frozen=True, slots=True)
class Description:
    """The part of a statement about one thing; None leaves a trait open."""

    size: Size | None = None
    color: Color | None = None
    shape: Shape | None = None
    character: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether nothing in the description contradicts this thing."""
        return (
            self.size in (None, thing.size)
            and self.color in (None, thing.color)
            and self.shape in (None, thing.shape)
            and self.character in (None, thing.character)
        )

    @property
    def text(self) -> str:
        """`a small red star`, `an orange ring`, `an object`."""
        return phrase(size=self.size, color=self.color, shape=self.shape, character=self.character)


@dataclass(frozen=True, slots=True)
class Statement:
    """Something that may be said of a scene, true or not. What is not said is None."""

    kind: StatementKind
    things: tuple[Description, ...] = ()
    relation: Direction | None = None  # of the first thing to the second
    place: Place | None = None  # of the first thing
    background: BackgroundName | None = None
    number: int | None = None  # how many fit the only description, or how many there are at all

    @property
    def text(self) -> str:
        """The statement in words."""
        match self.kind:
            case "number":
                return self._number_text()
            case "background":
                return f"a {self.background} background"
        phrases = [thing.text for thing in self.things]
        if self.place:
            said, joint = f"{phrases[0]} {place_phrase(self.place)}", "of"
        elif self.relation:
            said, joint = f"{phrases[0]} {DIRECTION_WORDS[self.relation]} {phrases[1]}", "on"
        else:
            said, joint = enumeration(phrases), "on"
        return f"{said} {joint} a {self.background} background" if self.background else said

    def _number_text(self) -> str:
        number = self.number or 0
        shape = self.things[0].shape if self.things else None
        if number == 1:
            return f"one {shape or 'object'}"
        return f"{NUMBERS[number]} {PLURALS[shape] if shape else 'objects'}"

    def truth(self, scene: Scene) -> bool | None:
        """True or false of this scene; None if that is a matter of opinion."""
        if self.kind == "number":
            return self.number == sum(all(each.fits(thing) for each in self.things) for thing in scene.things)
        if self.background not in (None, scene.background.name):
            return False
        verdicts = [
            self._arrangement_truth(things)
            for things in itertools.permutations(scene.things, len(self.things))
            if all(each.fits(thing) for each, thing in zip(self.things, things, strict=True))
        ]
        if True in verdicts:
            return True
        return None if None in verdicts else False

    def _arrangement_truth(self, things: Sequence[Thing]) -> bool | None:
        """Whether these things, which fit the descriptions, lie as the statement says."""
        if self.place:
            return None if things[0].place is None else things[0].place == self.place
        if self.relation:
            offset = things[0].offset(self.relation, things[1])
            return None if abs(offset) < _SIDE_MARGIN else offset > 0
        return True


# True statements

_KIND_WEIGHTS: Final[dict[StatementKind, float]] = {
    "caption": 4,
    "summary": 2,
    "one": 2,
    "relation": 2,
    "two": 1,
    "number": 1,
    "background": 0.5,
}
# How often a count of one shape is zero, one, two, three, in true statements and, nearly, in false ones.
_SHAPE_NUMBERS: Final = (40, 45, 13, 2)


def true_statement(scene: Scene, rng: random.Random, kind: StatementKind | None = None) -> Statement:
    """Something true about a scene.

    Args:
        scene: what the statement is about.
        rng: the source of chance.
        kind: what sort of statement, chosen at random by default. A scene that has no such statement gives a simpler
            one: there is no `relation` with one thing, no `place` for a thing between two places.
    """
    chosen = kind or rng.choices(tuple(_KIND_WEIGHTS), tuple(_KIND_WEIGHTS.values()))[0]
    if len(scene.things) == 1 and chosen in ("relation", "two"):
        chosen = rng.choice(("one", "place"))
    match chosen:
        case "caption" | "summary":
            return _whole(scene, chosen, rng)
        case "one" | "place":
            return _one(scene, chosen, rng)
        case "two" | "relation":
            return _two(scene, chosen, rng)
        case "number":
            return _number(scene, rng)
        case "background":
            return Statement("background", background=scene.background.name)


def _whole(scene: Scene, kind: Literal["caption", "summary"], rng: random.Random) -> Statement:
    """Every thing of the scene: all of the caption, or a summary that leaves some of it out."""
    whole = kind == "caption"
    sized = len(scene.things) <= SIZED_THINGS
    things = [
        Description(thing.size if sized else None, thing.color, thing.shape, thing.character) for thing in scene.things
    ]
    background = scene.background.name if whole or rng.random() < 0.5 else None
    if not whole and rng.random() < 0.6:
        things = [replace(thing, size=None) for thing in things]
    place, relation = None, None
    if len(things) == 1 and whole:
        place = scene.things[0].place
    if len(things) == 2:
        relation = scene.things[0].direction_from(scene.things[1])
        # A caption never says "below" or "to the right of". Were that so here too, these words alone would give a
        # false text away.
        if relation and rng.random() < 0.5:
            things.reverse()
            relation = OPPOSITE[relation]
    return Statement(kind, tuple(things), relation, place, background)


def _one(scene: Scene, kind: Literal["one", "place"], rng: random.Random) -> Statement:
    if kind == "place":
        thing = rng.choice(scene.things)
        if thing.place:
            described = _partly(thing, rng)
            return Statement(kind, (described,), place=thing.place, background=_perhaps_background(scene, 0.3, rng))
    described = _partly(rng.choice(scene.things), rng)
    return Statement("one", (described,), background=_perhaps_background(scene, 0.25, rng))


def _two(scene: Scene, kind: Literal["two", "relation"], rng: random.Random) -> Statement:
    first, second = rng.sample(scene.things, 2)
    things = (_partly(first, rng), _partly(second, rng))
    relation = first.direction_from(second) if kind == "relation" else None
    return Statement(kind, things, relation, background=_perhaps_background(scene, 0.3, rng))


def _number(scene: Scene, rng: random.Random) -> Statement:
    if rng.random() < 0.5:
        return Statement("number", number=len(scene.things))
    # Left to chance "zero" would mostly be false and "one" mostly true, whatever the picture.
    wanted = rng.choices(range(len(_SHAPE_NUMBERS)), _SHAPE_NUMBERS)[0]
    counted = [shape for shape in scene.world.shapes if scene.number(shape=shape) == wanted]
    shape = rng.choice(counted or [thing.shape for thing in scene.things])
    return Statement("number", (Description(shape=shape),), number=scene.number(shape=shape))


def _partly(thing: Thing, rng: random.Random) -> Description:
    """A thing as people mention it: mostly colour and shape, sometimes more, sometimes less."""
    everything = Description(thing.size, thing.color, thing.shape, thing.character)
    if thing.character and rng.random() < 0.5:
        everything = replace(everything, character=None)
    return rng.choices(
        (
            replace(everything, size=None),
            everything,
            replace(everything, size=None, color=None),
            Description(color=thing.color),
        ),
        (4, 2, 1, 1),
    )[0]


def _perhaps_background(scene: Scene, probability: float, rng: random.Random) -> BackgroundName | None:
    return scene.background.name if rng.random() < probability else None


# False statements


def edits_of(world: World) -> tuple[Edit, ...]:
    """The edits that there are in a world."""
    return ALL_EDITS if world.signs else EDITS


def falsify(
    statement: Statement, scene: Scene, rng: random.Random, edit: Edit | None = None
) -> tuple[Statement, Edit] | None:
    """A false statement that is one edit away from a true one, and the edit; None if 30 attempts gave none.

    Args:
        statement: the true statement.
        scene: what it is about.
        rng: the source of chance.
        edit: which edit to make, chosen at random by default, `color` and `shape` twice as often as the others.
    """
    edits = edits_of(scene.world)
    for _ in range(30):
        chosen = edit or rng.choices(edits, [2 if each in ("color", "shape") else 1 for each in edits])[0]
        edited = _EDITORS[chosen](statement, scene.world, rng)
        if edited is not None and edited.truth(scene) is False:
            return edited, chosen
    return None


def _another(values: Sequence[Value], current: Value, rng: random.Random) -> Value:
    return rng.choice([value for value in values if value != current])


def _edit_thing(
    statement: Statement, rng: random.Random, edit: Callable[[Description], Description | None]
) -> Statement | None:
    """The statement with one of its descriptions edited; None if it has none, or the edit does not apply to it."""
    if not statement.things:
        return None
    index = rng.randrange(len(statement.things))
    edited = edit(statement.things[index])
    if edited is None:
        return None
    return replace(statement, things=(*statement.things[:index], edited, *statement.things[index + 1 :]))


def _edit_color(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    return _edit_thing(
        statement, rng, lambda thing: replace(thing, color=_another(COLORS, thing.color, rng)) if thing.color else None
    )


def _edit_shape(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    # Nothing but a sign says anything, so that a sign that says something stays one.
    return _edit_thing(
        statement,
        rng,
        lambda thing: (
            replace(thing, shape=_another(world.shapes, thing.shape, rng))
            if thing.shape and not thing.character
            else None
        ),
    )


def _edit_size(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    return _edit_thing(
        statement, rng, lambda thing: replace(thing, size=_another(SIZES, thing.size, rng)) if thing.size else None
    )


def _edit_character(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    return _edit_thing(
        statement,
        rng,
        lambda thing: replace(thing, character=_another(CHARACTERS, thing.character, rng)) if thing.character else None,
    )


def _edit_swap(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    if len(statement.things) < 2:
        return None
    one, other = rng.sample(range(len(statement.things)), 2)
    first, second = statement.things[one], statement.things[other]
    match rng.choice(("size", "color", "shape")):
        case "size" if first.size and second.size:
            swapped = replace(first, size=second.size), replace(second, size=first.size)
        case "color" if first.color and second.color:
            swapped = replace(first, color=second.color), replace(second, color=first.color)
        case "shape" if first.shape and second.shape:
            swapped = (
                replace(first, shape=second.shape, character=second.character),
                replace(second, shape=first.shape, character=first.character),
            )
        case _:
            return None
    things = list(statement.things)
    things[one], things[other] = swapped
    return replace(statement, things=tuple(things))


def _edit_relation(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    return replace(statement, relation=OPPOSITE[statement.relation]) if statement.relation else None


def _edit_place(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    return replace(statement, place=_another(PLACES, statement.place, rng)) if statement.place else None


def _edit_background(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    if not statement.background:
        return None
    return replace(statement, background=_another(world.backgrounds, statement.background, rng))


def _edit_number(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    if statement.number is None:
        return None
    # As often as in true statements, or the words alone would tell which is which.
    often = dict(enumerate(_SHAPE_NUMBERS)) if statement.things else dict(world.numbers)
    often.pop(statement.number, None)
    return replace(statement, number=rng.choices(tuple(often), tuple(often.values()))[0])


def _edit_addition(statement: Statement, world: World, rng: random.Random) -> Statement | None:
    lists_things = statement.kind in ("caption", "summary", "one", "two") and not statement.place
    if not lists_things or len(statement.things) >= world.max_things:
        return None
    sized = statement.things[0].size is not None
    if sized and len(statement.things) >= SIZED_THINGS:  # no true statement tells the sizes of so many
        return None
    size, shape = rng.choice(SIZES) if sized else None, rng.choice(world.shapes)
    signs = shape == "sign" and (statement.kind in ("caption", "summary") or rng.random() < 0.5)
    extra = Description(size, rng.choice(COLORS), shape, rng.choice(CHARACTERS) if signs else None)
    return replace(statement, things=(*statement.things, extra), relation=None)


_EDITORS: Final[dict[Edit, Callable[[Statement, World, random.Random], Statement | None]]] = {
    "color": _edit_color,
    "shape": _edit_shape,
    "size": _edit_size,
    "swap": _edit_swap,
    "relation": _edit_relation,
    "place": _edit_place,
    "background": _edit_background,
    "number": _edit_number,
    "addition": _edit_addition,
    "character": _edit_character,
}
ALL_EDITS: Final = tuple(_EDITORS)
EDITS: Final = ALL_EDITS[:9]  # those that need no sign
