"""Scene → questions with their answers: 15 kinds, and one more where there are signs, most in several wordings.

    count           how many objects are there?                                       two
    count_shape     how many rings are in the picture?                                one
    count_color     how many green shapes are there?                                  zero
    color           what color is the heart?                                          pink
    shape           what is the blue object?                                          star
    size            is the ring large or small?                                       large
    exists          is there a green cross in the picture?                            no
    shape_exists    are there any hearts?                                             no
    place           where is the blue star?                                           top right
    background      what is the background like?                                      striped
    relation        is the star to the left of the ring?                              yes
    neighbor        what is below the star?                                           a pink ring
    bigger          which is smaller, the blue star or the ring?                      the blue star
    same_color      are the star and the ring the same color?                         no
    more            are there more stars than crosses?                                yes
    character       what does the red sign say?                                       7

A thing is only ever called by a name that fits nothing else in the scene, and a question whose answer would be a matter
of opinion is not asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from blip2tools.demo.words import DIRECTION_WORDS, NUMBERS, PLURALS, phrase
from blip2tools.demo.world import COLORS, DIRECTIONS, OPPOSITE, Color, Direction, Scene, Shape, Thing, World

QuestionKind = Literal[
    "count",
    "count_shape",
    "count_color",
    "color",
    "shape",
    "size",
    "exists",
    "shape_exists",
    "place",
    "background",
    "relation",
    "neighbor",
    "bigger",
    "same_color",
    "more",
    "character",
]
QUESTION_KINDS: Final[tuple[QuestionKind, ...]] = get_args(QuestionKind)[:15]  # those that need no sign
ALL_QUESTION_KINDS: Final[tuple[QuestionKind, ...]] = get_args(QuestionKind)
# How often each kind is asked: kinds that need more looking, more often.
QUESTION_WEIGHTS: Final[dict[QuestionKind, float]] = dict(
    zip(ALL_QUESTION_KINDS, (2, 2, 1.5, 3, 3, 2, 3, 1.5, 2.5, 1.5, 3, 3, 1.5, 1, 1, 3), strict=True)
)
_TextAndAnswer: TypeAlias = tuple[str, str]

_SIDE_MARGIN: Final = (
    0.06  # two things nearer than this along an axis are level: neither is clearly left of, or above, the other
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene, and its answer."""

    kind: QuestionKind
    text: str
    answer: str


def ask(scene: Scene, kind: QuestionKind, rng: random.Random) -> Question | None:
    """A random question of this kind; None if the scene, or this random draw, offers none."""
    made = _MAKERS[kind](scene, rng)
    return Question(kind, *made) if made else None


def kinds_of(world: World) -> tuple[QuestionKind, ...]:
    """The kinds of questions that can be asked in a world."""
    return ALL_QUESTION_KINDS if world.signs else QUESTION_KINDS


def sample_questions(
    scene: Scene,
    number: int,
    rng: random.Random,
    *,
    kinds: Sequence[QuestionKind] | None = None,
    weights: Mapping[QuestionKind, float] = QUESTION_WEIGHTS,
    balanced: bool = False,
) -> list[Question]:
    """Different questions about a scene, common kinds more often than rare ones.

    Args:
        scene: what the questions are about.
        number: how many questions are wanted; a simple scene may give fewer.
        rng: the source of chance.
        kinds: the only kinds that may be asked, all of the scene's world by default.
        weights: how often each kind is asked.
        balanced: whether yes and no should be the right answer about equally often.
    """
    allowed = kinds or kinds_of(scene.world)
    shares = [weights[kind] for kind in allowed]
    questions: dict[str, Question] = {}
    for _ in range(4 * number):
        question = ask(scene, rng.choices(allowed, shares)[0], rng)
        if question and balanced and question.answer in ("yes", "no"):
            question = _answered(rng.choice(("yes", "no")), scene, question, rng)
        if question:
            questions.setdefault(question.text, question)
        if len(questions) == number:
            break
    return list(questions.values())


def _answered(wanted: str, scene: Scene, question: Question, rng: random.Random) -> Question:
    """A question of the same kind with the wanted answer; the question itself if a few attempts give none."""
    for _ in range(6):
        if question.answer == wanted:
            break
        question = ask(scene, question.kind, rng) or question
    return question


# What a thing is called


def _names(scene: Scene, thing: Thing) -> list[str]:
    """Names that fit this thing alone; empty where there is another like it."""
    names = []
    if scene.number(shape=thing.shape, color=thing.color) == 1:
        names.append(f"{thing.color} {thing.shape}")
    if scene.number(shape=thing.shape) == 1:
        names += [thing.shape, thing.shape]  # twice: people prefer the shorter name
    return names


def _named_pair(scene: Scene, rng: random.Random) -> tuple[Thing, str, Thing, str] | None:
    """Two different things, each with a name."""
    if len(scene.things) < 2:
        return None
    first, second = rng.sample(scene.things, 2)
    first_names, second_names = _names(scene, first), _names(scene, second)
    if not (first_names and second_names):
        return None
    return first, rng.choice(first_names), second, rng.choice(second_names)


def _nearly(scene: Scene, thing: Thing, rng: random.Random) -> tuple[Color, Shape]:
    """The colour and shape of something like this thing, one of them changed; now and then of anything at all."""
    color, shape = thing.color, thing.shape
    shapes = scene.world.shapes
    if rng.random() < 0.5:
        color = rng.choice(COLORS)
    else:
        shape = rng.choice(shapes)
    return (rng.choice(COLORS), rng.choice(shapes)) if rng.random() < 0.2 else (color, shape)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


# The kinds


def _count(scene: Scene, rng: random.Random) -> _TextAndAnswer:
    text = rng.choice(
        ("how many objects are there?", "how many shapes are there?", "how many objects are in the picture?")
    )
    return text, NUMBERS[len(scene.things)]


def _count_shape(scene: Scene, rng: random.Random) -> _TextAndAnswer:
    shape = rng.choice((rng.choice(scene.world.shapes), rng.choice(scene.things).shape, rng.choice(scene.things).shape))
    where = rng.choice(("are there", "are in the picture"))
    return f"how many {PLURALS[shape]} {where}?", NUMBERS[scene.number(shape=shape)]


def _count_color(scene: Scene, rng: random.Random) -> _TextAndAnswer:
    color = rng.choice((rng.choice(COLORS), rng.choice(scene.things).color, rng.choice(scene.things).color))
    return f"how many {color} {rng.choice(('objects', 'shapes'))} are there?", NUMBERS[scene.number(color=color)]


def _color(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    candidates = [thing for thing in scene.things if scene.number(shape=thing.shape) == 1]
    if not candidates:
        return None
    thing = rng.choice(candidates)
    start = rng.choice(("what color is", "what color is", "what is the color of", "which color is"))
    return f"{start} the {thing.shape}?", thing.color


def _shape(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    candidates = [thing for thing in scene.things if scene.number(color=thing.color) == 1]
    if not candidates:
        return None
    thing = rng.choice(candidates)
    noun = rng.choice(("object", "shape"))
    text = rng.choice(
        (
            f"what shape is the {thing.color} object?",
            f"what is the {thing.color} {noun}?",
            f"which shape is {thing.color}?",
        )
    )
    return text, thing.shape


def _size(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    thing = rng.choice(scene.things)
    names = _names(scene, thing)
    if not names:
        return None
    name = rng.choice(names)
    text = rng.choice((f"what size is the {name}?", f"is the {name} small or large?", f"is the {name} large or small?"))
    return text, thing.size


def _exists(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    thing = rng.choice(scene.things)
    present = rng.random() < 0.5
    color, shape = thing.color, thing.shape
    if not present:
        absent = (_nearly(scene, thing, rng) for _ in range(20))
        possible = (pair for pair in absent if pair not in scene.world.missing)
        found = next((pair for pair in possible if not scene.number(color=pair[0], shape=pair[1])), None)
        if found is None:
            return None
        color, shape = found
    what = phrase(color=color, shape=shape)
    text = rng.choice(
        (f"is there {what}?", f"is there {what} in the picture?", f"does the picture contain {what}?"),
    )
    return text, _yes(present)


def _shape_exists(scene: Scene, rng: random.Random) -> _TextAndAnswer:
    shape = rng.choice(scene.things).shape if rng.random() < 0.5 else rng.choice(scene.world.shapes)
    text = rng.choice(
        (f"is there a {shape}?", f"is there a {shape} in the picture?", f"are there any {PLURALS[shape]}?")
    )
    return text, _yes(scene.number(shape=shape) > 0)


def _place(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    candidates = [(thing.place, names) for thing in scene.things if thing.place and (names := _names(scene, thing))]
    if not candidates:
        return None
    place, names = rng.choice(candidates)
    return f"{rng.choice(('where is', 'where in the picture is'))} the {rng.choice(names)}?", place


def _background(scene: Scene, rng: random.Random) -> _TextAndAnswer:
    text = rng.choice(
        (
            "what color is the background?",
            "what is the background?",
            "what kind of background is there?",
            "what is the background like?",
        )
    )
    return text, scene.background.name


def _relation(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    pair = _named_pair(scene, rng)
    if pair is None:
        return None
    first, first_name, second, second_name = pair
    true_direction = first.direction_from(second)
    if true_direction is None:
        return None
    asked: Direction = true_direction
    if rng.random() >= 0.5:
        asked = rng.choice((OPPOSITE[asked], OPPOSITE[asked], rng.choice(DIRECTIONS)))
    offset = first.offset(asked, second)
    if abs(offset) < _SIDE_MARGIN:
        return None
    return f"is the {first_name} {DIRECTION_WORDS[asked]} the {second_name}?", _yes(offset > 0)


def _neighbor(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    anchor = rng.choice(scene.things)
    names = _names(scene, anchor)
    if len(scene.things) < 2 or not names:
        return None
    direction = rng.choice(DIRECTIONS)
    others = [(other, other.offset(direction, anchor)) for other in scene.things if other is not anchor]
    if any(abs(offset) < _SIDE_MARGIN for _, offset in others):
        return None
    found = [other for other, offset in others if offset > 0]
    # "nothing" would be the answer far too often, so most of those questions are dropped.
    if len(found) > 1 or (not found and rng.random() < 0.6):
        return None
    text = f"{rng.choice(('what is', 'what object is'))} {DIRECTION_WORDS[direction]} the {rng.choice(names)}?"
    return text, phrase(color=found[0].color, shape=found[0].shape) if found else "nothing"


def _bigger(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    pair = _named_pair(scene, rng)
    if pair is None:
        return None
    first, first_name, second, second_name = pair
    if first.size == second.size:
        return None
    large, small = (first_name, second_name) if first.size == "large" else (second_name, first_name)
    comparative, answer = rng.choice((("bigger", large), ("larger", large), ("smaller", small)))
    return f"which is {comparative}, the {first_name} or the {second_name}?", f"the {answer}"


def _same_color(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    if len(scene.things) < 2:
        return None
    first, second = rng.sample(scene.things, 2)
    if any(scene.number(shape=thing.shape) > 1 for thing in (first, second)):
        return None
    return f"are the {first.shape} and the {second.shape} the same color?", _yes(first.color == second.color)


def _more(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    if len(scene.things) < 2:
        return None
    others = scene.world.shapes + tuple(thing.shape for thing in scene.things) * 4
    shapes = [rng.choice(scene.things).shape, rng.choice(others)]
    if shapes[0] == shapes[1]:
        return None
    rng.shuffle(shapes)
    many, few = shapes
    text = f"are there more {PLURALS[many]} than {PLURALS[few]}?"
    return text, _yes(scene.number(shape=many) > scene.number(shape=few))


def _character(scene: Scene, rng: random.Random) -> _TextAndAnswer | None:
    signs = [thing for thing in scene.things if thing.character and _names(scene, thing)]
    if not signs:
        return None
    sign = rng.choice(signs)
    name = rng.choice(_names(scene, sign))
    noun = "digit" if sign.character and sign.character.isdigit() else "letter"
    text = rng.choice((f"what does the {name} say?", f"which {noun} is on the {name}?", f"what is on the {name}?"))
    return text, sign.character or ""


_MAKERS: Final[dict[QuestionKind, Callable[[Scene, random.Random], _TextAndAnswer | None]]] = {
    "count": _count,
    "count_shape": _count_shape,
    "count_color": _count_color,
    "color": _color,
    "shape": _shape,
    "size": _size,
    "exists": _exists,
    "shape_exists": _shape_exists,
    "place": _place,
    "background": _background,
    "relation": _relation,
    "neighbor": _neighbor,
    "bigger": _bigger,
    "same_color": _same_color,
    "more": _more,
    "character": _character,
}
