"""Questions about a scene: what they presuppose is there or not, is denied or not, or is what they ask.

Each kind has its own forms; a question is a form filled with the name of a thing (`{x}`) and, in some, of another one that is
there (`{y}`). Everything is a pure function of the random numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal

from blip2tools.demo.words import DIRECTION_WORDS, PLURALS, phrase
from blip2tools.demo.world import COLORS, OPPOSITE, Direction, Scene, Thing

Kind = Literal["thing", "color", "pair", "denied", "asked", "relation"]

# About a thing, whatever it is called: 50 forms.
FORMS: Final = (
    "what size is the {x}?",
    "where is the {x}?",
    "how big is the {x}?",
    "what is the size of the {x}?",
    "is the {x} large or small?",
    "is the {x} small?",
    "where in the picture is the {x}?",
    "in which part of the picture is the {x}?",
    "what is to the left of the {x}?",
    "what is below the {x}?",
    "what object is above the {x}?",
    "what can you see to the right of the {x}?",
    "what do you see above the {x}?",
    "which is bigger, the {x} or the {y}?",
    "which is smaller, the {y} or the {x}?",
    "which one is larger, the {x} or the {y}?",
    "is the {x} bigger than the {y}?",
    "is the {x} to the left of the {y}?",
    "is the {y} above the {x}?",
    "are the {x} and the {y} the same color?",
    "do the {y} and the {x} have the same size?",
    "what shape is next to the {x}?",
    "describe the {x}",
    "tell me the size of the {x}",
    "tell me where the {x} is",
    "can you tell me what size the {x} is?",
    "how far is the {x} from the {y}?",
    "where can I find the {x}?",
    "in which corner is the {x}?",
    "what is the position of the {x}?",
    "does the {x} touch the {y}?",
    "is there anything below the {x}?",
    "how many shapes are left of the {x}?",
    "would you say the {x} is large?",
    "is it true that the {x} is small?",
    "the {x} is small, isn't it?",
    "isn't the {x} large?",
    "what's the {x}'s size?",
    "what is the {x} on?",
    "what is between the {x} and the {y}?",
    "what lies right of the {x}?",
    "is this {x} large?",
    "does the {x} look small?",
    "what is behind the {x}?",
    "in which direction is the {x} from the {y}?",
    "please describe the {x}",
    "I want to know where the {x} is",
    "could the {x} be large?",
    "what does the {x} look like?",
    "is the {x} at the top or at the bottom?",
)
# About a thing that is called by its shape alone.
COLOR_FORMS: Final = (
    "what color is the {x}?",
    "which colour is the {x}?",
    "what is the color of the {x}?",
    "the {x} is what color?",
    "is the {x} red or blue?",
    "tell me the colour of the {x}",
    "what's the {x}'s color?",
)
# About a thing that is called by its colour alone: `{c}`.
SHAPE_FORMS: Final = (
    "what shape is the {c} object?",
    "what is the {c} object?",
    "what is the {c} thing?",
    "which shape is {c}?",
    "where is the {c} shape?",
    "which object is {c}?",
    "is the {c} one large?",
)
# What is said of a thing is not so: the answer is no, and nothing is wrong with the question.
DENIED_FORMS: Final = (
    "Is the {x} {c}?",
    "Does the {x} look {c}?",
    "Isn't the {x} {c}?",
    "Is the color of the {x} {c}?",
    "Is the {x}'s colour {c}?",
    "Would you say the {x} is {c}?",
    "Is it true that the {x} is {c}?",
    "The {x} is {c}, isn't it?",
    "Is the {x} really {c}?",
    "Could the {x} be {c}?",
    "Do you think the {x} is {c}?",
    "Is the {x} painted {c}?",
    "Is the {x} a {c} one?",
    "is the {x} {c}, yes or no?",
    "Am I right that the {x} is {c}?",
    "Is this {x} {c}?",
)
# Whether something is there, and how many there are: `{a}` with its article, `{xs}` more than one.
ASKED_FORMS: Final = (
    "Is there {a}?",
    "Is there {a} in the picture?",
    "Can you see {a}?",
    "Do you see {a} anywhere?",
    "Does the picture contain {a}?",
    "Does the image show {a}?",
    "Is {a} visible?",
    "Is {a} in the picture?",
    "Can {a} be seen?",
    "Are there any {xs}?",
    "Are any {xs} in the picture?",
    "Can you see any {xs}?",
    "Do any {xs} appear?",
    "How many {xs} are there?",
    "How many {xs} are in the picture?",
    "How many {xs} can you see?",
    "how many {xs} do you see?",
    "What is the number of {xs}?",
    "Count the {xs}",
    "Tell me if there is {a}",
    "I wonder whether there is {a}",
    "Is it true that there is {a}?",
    "Is there {a}, or not?",
    "Are there more {xs} than {ys}?",
    "Is one of the shapes {a}?",
    "Would you say there is {a}?",
)
RELATION_FORMS: Final = (
    "what size is the {x} {how} the {y}?",
    "where is the {x} {how} the {y}?",
    "how big is the {x} {how} the {y}?",
    "is the {x} {how} the {y} large?",
    "describe the {x} {how} the {y}",
    "what is the size of the {x} {how} the {y}?",
    "tell me the size of the {x} {how} the {y}",
)
HOW: Final[dict[Direction, tuple[str, ...]]] = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
_SIDE_MARGIN: Final = 0.05  # things that are this level lie neither way


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a scene.

    Attributes:
        text: of the question.
        kind: what is true or false about it.
        true: whether all that it takes for granted is so.
        form: the form it was made from.
    """

    text: str
    kind: Kind
    true: bool
    form: str


def ask(scene: Scene, kind: Kind, rng: random.Random, *, true: bool) -> Asked | None:
    """A random question of a kind; None if this scene, or this random draw, offers none.

    Args:
        scene: what it is about.
        kind: `thing`, `color` and `pair` take for granted a shape, a colour, or both together; `denied` says of a thing what is
            not so, and `asked` asks whether there is one, so that both are always true; `relation` says how two things lie.
        rng: the source of chance.
        true: whether what it takes for granted is so.
    """
    match kind:
        case "thing" | "color" | "pair":
            return _about(scene, kind, rng, true=true)
        case "denied":
            return _denied(scene, rng)
        case "asked":
            return _asked(scene, rng)
        case "relation":
            return _relation(scene, rng, true=true)


def _about(scene: Scene, kind: Kind, rng: random.Random, *, true: bool) -> Asked | None:
    thing, other = rng.choice(scene.things), rng.choice(scene.things)
    color, shape = thing.color, thing.shape
    if not true:
        colors = [one for one in COLORS if not scene.number(color=one)]
        shapes = [one for one in scene.world.shapes if not scene.number(shape=one)]
        pairs = [one for one in COLORS if not scene.number(color=one, shape=shape)]
        color = rng.choice(colors if kind == "color" else pairs if kind == "pair" else COLORS)
        shape = rng.choice(shapes) if kind == "thing" else shape
    form = rng.choice({"color": SHAPE_FORMS, "pair": FORMS, "thing": (*FORMS, *COLOR_FORMS)}[kind])
    name = f"{color} {shape}" if kind == "pair" else shape
    if "{y}" in form and (other is thing or f"{other.color} {other.shape}" == name):
        return None
    return Asked(form.format(x=name, y=f"{other.color} {other.shape}", c=color), kind, true, form)


def _denied(scene: Scene, rng: random.Random) -> Asked | None:
    thing = rng.choice(scene.things)
    if scene.number(shape=thing.shape) > 1:
        return None
    form = rng.choice(DENIED_FORMS)
    color = rng.choice([one for one in COLORS if one != thing.color])
    return Asked(form.format(x=thing.shape, c=color), "denied", True, form)


def _asked(scene: Scene, rng: random.Random) -> Asked | None:
    shape = rng.choice([one for one in scene.world.shapes if not scene.number(shape=one)])
    color = rng.choice((None, *COLORS))
    plural = " ".join(word for word in (color, PLURALS[shape]) if word)
    form = rng.choice(ASKED_FORMS)
    text = form.format(a=phrase(color=color, shape=shape), xs=plural, ys=PLURALS[rng.choice(scene.things).shape])
    return Asked(text, "asked", True, form)


def _relation(scene: Scene, rng: random.Random, *, true: bool) -> Asked | None:
    if len(scene.things) < 2:
        return None
    first, second = rng.sample(scene.things, 2)
    if not (_alone(scene, first) and _alone(scene, second)):
        return None
    direction = rng.choice(tuple(DIRECTION_WORDS))
    if first.offset(direction, second) < 0:
        direction = OPPOSITE[direction]
    if first.offset(direction, second) < _SIDE_MARGIN:
        return None
    if not true:
        direction = OPPOSITE[direction]
    form = rng.choice(RELATION_FORMS)
    names = (f"{thing.color} {thing.shape}" for thing in (first, second))
    return Asked(form.format(x=next(names), y=next(names), how=rng.choice(HOW[direction])), "relation", true, form)


def _alone(scene: Scene, thing: Thing) -> bool:
    return scene.number(color=thing.color, shape=thing.shape) == 1
