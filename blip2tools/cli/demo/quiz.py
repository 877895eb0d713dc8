"""Pictures with the questions about them: a small examination, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from blip2tools.demo.questions import QUESTION_KINDS, Question, QuestionKind, sample_questions
from blip2tools.demo.statements import EDITS, Edit, falsify, true_statement
from blip2tools.demo.words import caption
from blip2tools.demo.world import BACKGROUNDS, COLORS, PLACES, SHAPES, Scene, sample_scene

OPEN_QUESTIONS: Final = 2
CHOICES: Final = 4
FALSE_CLAIMS: Final = 3

# Questions whose answers form a closed family, from which the wrong choices come.
_FAMILIES: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "color": COLORS,
    "shape": SHAPES,
    "place": PLACES,
    "background": BACKGROUNDS,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement about a picture."""

    text: str
    edit: Edit | None  # what was changed to make it false; None for the true one


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One picture's scene and the questions about it."""

    scene: Scene
    caption: str
    questions: tuple[Question, ...]
    choice_question: Question
    choices: tuple[str, ...]  # shuffled; one of them answers `choice_question`
    claims: tuple[Claim, ...]  # shuffled; one of them is true


def make_quiz(seed: int, pictures: int) -> list[Exhibit]:
    """The exhibits of a seed. More pictures only add to the end of the list."""
    return [_make_exhibit(random.Random(f"{seed}/{number}")) for number in range(pictures)]


def _make_exhibit(rng: random.Random) -> Exhibit:
    scene = sample_scene(rng)
    choice_question = _question(scene, tuple(_FAMILIES), rng)
    questions: list[Question] = []
    for _ in range(OPEN_QUESTIONS):
        asked = {question.kind for question in (choice_question, *questions)}
        questions.append(_question(scene, tuple(kind for kind in QUESTION_KINDS if kind not in asked), rng))
    return Exhibit(
        scene=scene,
        caption=caption(scene),
        questions=tuple(questions),
        choice_question=choice_question,
        choices=_choices(choice_question, rng),
        claims=_claims(scene, rng),
    )


def _question(scene: Scene, kinds: tuple[QuestionKind, ...], rng: random.Random) -> Question:
    """A question of one of these kinds, which must include one that every scene can answer, such as `background`."""
    while not (questions := sample_questions(scene, 1, rng, kinds=kinds)):
        pass
    return questions[0]


def _choices(question: Question, rng: random.Random) -> tuple[str, ...]:
    wrong = [answer for answer in _FAMILIES[question.kind] if answer != question.answer]
    choices = [question.answer, *rng.sample(wrong, CHOICES - 1)]
    rng.shuffle(choices)
    return tuple(choices)


def _claims(scene: Scene, rng: random.Random) -> tuple[Claim, ...]:
    """A true claim among false ones, each of which changes something else."""
    while True:
        truth = true_statement(scene, rng)
        attempts = (falsify(truth, scene, rng, edit) for edit in rng.sample(EDITS, len(EDITS)))
        false = {statement.text: edit for statement, edit in filter(None, attempts)}
        if len(false) >= FALSE_CLAIMS:
            claims = [Claim(truth.text, None), *(Claim(*pair) for pair in list(false.items())[:FALSE_CLAIMS])]
            rng.shuffle(claims)
            return tuple(claims)
