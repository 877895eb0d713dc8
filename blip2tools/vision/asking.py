"""Questions: an answer, or the offered answers in order, with the reasons to doubt them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from blip2tools.checkpoints.confidence import UNFAMILIAR
from blip2tools.engine.protocol import Engine
from blip2tools.engine.requests import AnswerRequest, ChoiceRequest, Question, Ranking, Request, Sight, Utterance
from blip2tools.model.options import Generation
from blip2tools.schemas import AnswerResult
from blip2tools.vision import results, written
from blip2tools.vision.doubts import Asked, Doubt, Doubts
from blip2tools.vision.looking import Seen

ARTICLES: Final = ("the", "a", "an")


@dataclass(frozen=True, slots=True)
class Query:
    """A question, and how to answer it.

    Attributes:
        question: the question with the turns before it.
        choices: the offered answers, each once; empty for one in the model's own words.
        generation: the generation options.
        abstain_below: the confidence from which an answer counts.
    """

    question: Question
    choices: tuple[str, ...]
    generation: Generation
    abstain_below: float


class Asking:
    """Asks about pictures that were looked at.

    Args:
        engine: tells how to read the checkpoint's scores.
        ask: sends it a request, with a deadline.
        doubting: makes the context of a result, with warnings about the picture itself.
    """

    def __init__(
        self,
        engine: Engine,
        ask: Callable[[Request, float], Awaitable[Any]],
        doubting: Callable[[Seen, None, float], Awaitable[results.Context]],
    ) -> None:
        self._engine = engine
        self._ask = ask
        self._doubting = doubting
        self._doubts = Doubts(engine, ask)

    async def answer(self, seen: Seen, query: Query, deadline: float) -> AnswerResult:
        """The answer to a question about what was seen."""
        asked = Asked.of(query.question.text)
        found = await (self._choose if query.choices else self._say)(seen, query, asked, deadline)
        if not written.is_asked(query.question.text):
            return found
        small_world = self._engine.status().familiar is not None and UNFAMILIAR not in found.warnings
        return written.told(found, small_world=small_world)

    async def _say(self, seen: Seen, query: Query, asked: Asked, deadline: float) -> AnswerResult:
        request = AnswerRequest(seen.sight, query.question, query.generation, asked.statements)
        spoken: Utterance = await self._ask(request, deadline)
        doubt = await self._doubts.about(seen.sight, asked, spoken.fits, deadline)
        context = await self._doubting(seen, None, deadline)
        return results.answer(context, spoken, doubt, abstain_below=query.abstain_below)

    async def _choose(self, seen: Seen, query: Query, asked: Asked, deadline: float) -> AnswerResult:
        request = ChoiceRequest(seen.sight, query.question, query.choices, asked.statements)
        ranking: Ranking = await self._ask(request, deadline)
        doubt: Doubt = await self._doubts.about(seen.sight, asked, ranking.fits, deadline)
        misfit = await self._misfit(seen.sight, query, ranking, deadline)
        context = await self._doubting(seen, None, deadline)
        return results.choice(context, query.choices, ranking, doubt, misfit, abstain_below=query.abstain_below)

    async def _misfit(self, sight: Sight, query: Query, ranking: Ranking, deadline: float) -> float | None:
        """The factor by which the confidence is lowered because no choice fits; None where one does, or if unknown.

        The probabilities of the choices always sum to 1. Whether one fits shows in what the model would say freely: if that
        is hardly ever one of them, with or without an article, none fits.
        """
        rule = self._doubts.rule
        if rule.said is None or ranking.said >= rule.said:
            return None
        others = _otherwise(query.choices)
        if others:
            again: Ranking = await self._ask(ChoiceRequest(sight, query.question, others), deadline)
            if again.said >= rule.said:
                return None
        return rule.none


def _otherwise(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices with an article where they have none, and without one where they have it."""
    others: list[str] = []
    for choice in choices:
        first, _, rest = choice.partition(" ")
        others += [rest] if first.lower() in ARTICLES and rest else [f"the {choice}", f"a {choice}", f"an {choice}"]
    return tuple(dict.fromkeys(other for other in others if other not in choices))
