"""Whether a text fits a picture: by the matching head and, for a relation of two things, by the captioner as well."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.requests import ChoiceRequest, Fit, FitRequest, Question, Ranking, Request, Sight, TextScore
from blip2tools.vision.doubts import YES_NO
from blip2tools.vision.premises import judging, related, words


class Relations:
    """Judges texts that name a relation of two things.

    Args:
        rule: how the loaded checkpoint's scores are read.
        ask: puts a request to the engine, within a deadline.
    """

    def __init__(self, rule: Callable[[], Premises], ask: Callable[[Request, float], Awaitable[Any]]) -> None:
        self._rule = rule
        self._ask = ask

    async def fits(self, sight: Sight, text: str, score: TextScore, until: float) -> tuple[bool, float]:
        """Whether a text fits, and the probability: the matching head's, or the captioner's of a relation if that is lower.

        Args:
            sight: the picture.
            text: what is said of it.
            score: of the two, by the matcher.
            until: the deadline.
        """
        rule, probability = self._rule(), score.probability
        if _odds(probability) < rule.holds:
            return False, probability
        for statement in related(text):
            if not {statement.thing.split()[-1], statement.other.split()[-1]}.isdisjoint(words.GENERIC):
                continue  # which object is meant, the captioner cannot know
            odds = await self._yes(sight, judging.question(statement), until)
            seen: bool | None = True
            if rule.relations is None:  # a published matcher's own verdict counts as much
                fit, *others = await self._ask(
                    FitRequest(sight, (statement.plain, *judging.alternatives(statement, rule))), until
                )
                seen = judging.verdict(statement, fit, others, rule)
            if judging.agreed(statement, seen, odds, rule) is False:
                return False, min(probability, Fit(odds).probability)
        return True, probability

    async def _yes(self, sight: Sight, question: str, until: float) -> float:
        """The captioner's log-odds of yes against no."""
        ranking: Ranking = await self._ask(ChoiceRequest(sight, Question(question, (), None), YES_NO), until)
        yes, no = (max(share, 1e-9) for share in ranking.shares)
        return math.log(yes / no)


def _odds(probability: float) -> float:
    bounded = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(bounded / (1 - bounded))
