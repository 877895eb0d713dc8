"""Scene → its one caption, and the phrases that captions, questions and statements share.

    one thing       a large red circle at the top left of a white background
    two things      a small blue star above a large pink ring on a striped background
    three things    a small red cross, a large blue star and a small pink heart on a gray background
    more            a red cross, a blue star, a pink sign saying B and a pink heart on a textured background

Two things are described by the main direction between them, more of them from left to right. Above three the sizes are left
out, so that a caption stays within 30 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from blip2tools.demo.world import Color, Direction, Place, Scene, Shape, Size, Thing

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five")
PLURALS: Final[dict[Shape, str]] = {shape: shape + ("es" if shape == "cross" else "s") for shape in get_args(Shape)}
DIRECTION_WORDS: Final[dict[Direction, str]] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}


SIZED_THINGS: Final = 3  # the most things whose sizes a caption gives


def phrase(
    *, size: Size | None = None, color: Color | None = None, shape: Shape | None = None, character: str | None = None
) -> str:
    """The known traits of a thing, with an article: `a large red circle`, `a blue object`, `an orange sign saying 7`."""
    words = " ".join(word for word in (size, color, shape or "object") if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}{f' saying {character}' if character else ''}"


def full_phrase(thing: Thing, *, sized: bool = True) -> str:
    """A thing with its size, if wanted, its colour and shape, and what it says."""
    return phrase(size=thing.size if sized else None, color=thing.color, shape=thing.shape, character=thing.character)


def place_phrase(place: Place) -> str:
    """`in the center`, `at the top left`."""
    return f"{'in' if place == 'center' else 'at'} the {place}"


def enumeration(phrases: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last


def caption(scene: Scene) -> str:
    """The one caption of a scene."""
    sized = len(scene.things) <= SIZED_THINGS
    phrases = [full_phrase(thing, sized=sized) for thing in scene.things]
    background = f"a {scene.background.name} background"
    match scene.things:
        case (only,) if only.place:
            return f"{phrases[0]} {place_phrase(only.place)} of {background}"
        case (first, second) if direction := first.direction_from(second):
            return f"{phrases[0]} {DIRECTION_WORDS[direction]} {phrases[1]} on {background}"
        case _:
            return f"{enumeration(phrases)} on {background}"
