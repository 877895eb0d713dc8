"""Reasons to doubt an answer: a picture outside the model's world, and false premises of the question."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.protocol import Engine
from blip2tools.engine.requests import ChoiceRequest, Fit, FitRequest, Question, Ranking, Request, Sight
from blip2tools.schemas import Premise
from blip2tools.vision.premises import Reading, Statement, is_about_no_picture, judging, read
from blip2tools.vision.premises.topic import NO_PICTURE, SHARE_ABOUT_PICTURES

YES_NO: Final = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Asked:
    """The premises of a question, by its words, and the statements that the matcher checks."""

    reading: Reading
    elsewhere: bool  # whether the question does not seem to be about the picture

    @classmethod
    @lru_cache(maxsize=256)  # the same is often asked about many pictures
    def of(cls, question: str) -> Asked:
        """The reading of a question."""
        return cls(read(question), is_about_no_picture(question))

    @property
    def judged(self) -> tuple[Statement, ...]:
        """Those statements that are judged, in order."""
        return self.reading.statements[: judging.MOST]

    @property
    def statements(self) -> tuple[str, ...]:
        """Texts for the matcher: of those statements that no other implies. Where a red star is, a star is."""
        return tuple(one.plain for one in self.judged if not any(other.implies(one) for other in self.judged))


@dataclass(frozen=True, slots=True)
class Doubt:
    """A premise, and the factor by which it lowers the answer's confidence: 1 unless it fails."""

    premise: Premise | None
    factor: float = 1.0

    @property
    def fails(self) -> bool:
        """Whether the premise is false."""
        return self.premise is not None and self.premise.holds is False

    @property
    def holds(self) -> bool:
        """Whether there is a premise, and it is true."""
        return self.premise is not None and self.premise.holds is True


class Doubts:
    """Judges the premises of questions.

    Args:
        engine: tells how to read the checkpoint's scores.
        ask: sends it a request, with a deadline.
    """

    def __init__(self, engine: Engine, ask: Callable[[Request, float], Awaitable[Any]]) -> None:
        self._engine = engine
        self._ask = ask

    @property
    def rule(self) -> Premises:
        """How the loaded checkpoint's scores are read."""
        return self._engine.status().premises

    async def about(self, sight: Sight, asked: Asked, fits: tuple[Fit, ...] | None, deadline: float) -> Doubt:
        """The first premise that fails, else the first one; no premise where nothing is taken for granted.

        Args:
            sight: what was looked at.
            asked: what the question takes for granted.
            fits: of its statements; None without a matcher.
            deadline: of the call.
        """
        found = await self._first(sight, asked, fits, deadline)
        if asked.elsewhere and not (found is not None and found.premise is not None and found.premise.holds):
            premise = Premise(text=NO_PICTURE, probability=SHARE_ABOUT_PICTURES, holds=False)
            return Doubt(premise, SHARE_ABOUT_PICTURES)
        return found or Doubt(None)

    async def _first(self, sight: Sight, asked: Asked, fits: tuple[Fit, ...] | None, deadline: float) -> Doubt | None:
        if not asked.judged:
            pronoun = asked.reading.pronoun
            return Doubt(Premise(text=pronoun, probability=None, holds=None)) if pronoun else None
        if fits is None:
            return Doubt(Premise(text=asked.judged[0].text, probability=None, holds=None))
        first: Doubt | None = None
        rule = self.rule
        every = await self._every(sight, asked, dict(zip(asked.statements, fits, strict=True)), rule, deadline)
        for statement, fit in zip(asked.judged, every, strict=True):
            doubt = await self._judge(sight, statement, fit, rule, deadline)
            if doubt.fails:
                return doubt
            first = first or doubt
        return first

    async def _every(
        self, sight: Sight, asked: Asked, known: dict[str, Fit], rule: Premises, deadline: float
    ) -> list[Fit]:
        """The fit of each judged statement. One that is implied by one that holds is at least as probable, and has its fit."""
        for one in asked.judged:
            implying = [known[other.plain] for other in asked.judged if other.implies(one)]
            if best := [fit for fit in implying if judging.holds(fit, rule)]:
                known.setdefault(one.plain, best[0])
        missing = tuple(dict.fromkeys(one.plain for one in asked.judged if one.plain not in known))
        if missing:
            found = await self._ask(FitRequest(sight, missing), deadline)
            known |= dict(zip(missing, found, strict=True))
        return [known[one.plain] for one in asked.judged]

    async def _judge(self, sight: Sight, statement: Statement, fit: Fit, rule: Premises, deadline: float) -> Doubt:
        odds = fit.odds
        seen: bool | None = True
        if not judging.holds(fit, rule):
            others = await self._ask(FitRequest(sight, judging.alternatives(statement, rule)), deadline)
            seen = judging.verdict(statement, fit, others, rule)
        if statement.kind == "relation" and not fit.unread:
            odds = await self._yes(sight, statement, deadline)
            seen = judging.agreed(statement, seen, odds, rule)
        known = math.isfinite(odds)
        premise = Premise(
            text=statement.text, probability=Fit(odds).probability if known else None, holds=seen if known else None
        )
        return Doubt(premise, rule.factor(odds) if premise.holds is False else 1.0)

    async def _yes(self, sight: Sight, statement: Statement, deadline: float) -> float:
        """The captioner's log-odds that two things are related in this way."""
        asked = Question(judging.question(statement), (), None)
        ranking: Ranking = await self._ask(ChoiceRequest(sight, asked, YES_NO), deadline)
        yes, no = (max(share, 1e-9) for share in ranking.shares)
        return math.log(yes / no)
