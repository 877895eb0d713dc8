"""From a matcher's log-odds to a verdict: a premise holds, fails, or is not judged.

Published matchers answer in extremes and were never calibrated (Salesforce, BLIP, issue 46): a bare threshold would call false
whatever they merely do not recognise. So a statement fails only where something near it, another colour or another thing, fits
far better. In between there is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.requests import Fit
from blip2tools.vision.premises.statements import Statement, near

MOST: Final = 8  # statements of one question that are judged: more than any realistic question has
_SURE: Final = math.log(3)  # log-odds of yes against no from which a captioner's word counts as a verdict


def holds(fit: Fit, rule: Premises) -> bool:
    """Whether a statement fits so well that nothing else needs to be looked at."""
    return not fit.unread and fit.odds >= rule.holds


def alternatives(statement: Statement, rule: Premises) -> tuple[str, ...]:
    """The statements to compare a statement with."""
    return near(statement) or tuple(other for other in rule.others if other != statement.plain)


def verdict(statement: Statement, fit: Fit, others: Sequence[Fit], rule: Premises) -> bool | None:
    """Whether a statement is true of a picture; None where that cannot be told.

    Args:
        statement: what is judged.
        fit: of it.
        others: of what is near it.
        rule: how to read them.
    """
    if not math.isfinite(fit.odds):
        return None
    if holds(fit, rule):
        return True
    best = max((other.odds for other in others if math.isfinite(other.odds)), default=-math.inf)
    beaten = best - fit.odds >= rule.margin
    if fit.unread:
        # The matcher has no word for it. Where it has words for all that there can be, and one of them fits, it is not there.
        return False if rule.known and statement.kind == "thing" and beaten and best >= rule.holds else None
    return False if fit.odds <= rule.fails and beaten else None


def question(statement: Statement) -> str:
    """A relation as the question that a captioner answers with yes or no."""
    return f"is {_the(statement.thing)} {statement.relation} {_the(statement.other)}?"


def agreed(statement: Statement, seen: bool | None, yes: float, rule: Premises) -> bool | None:
    """The verdict on a relation of two things, with the captioner's answer taken into account.

    Matchers were hardly ever trained on the same words in another order as a wrong text; captioners were on such questions.

    Args:
        statement: the relation.
        seen: the matcher's verdict.
        yes: the captioner's log-odds of yes against no.
        rule: how to read them.
    """
    if rule.relations is not None:
        return yes >= 0 if statement.relation in rule.relations else None
    said = None if abs(yes) < _SURE else yes > 0
    return seen if said is seen else None


def _the(name: str) -> str:
    article, space, rest = name.partition(" ")
    return f"the {rest}" if space and article in ("a", "an") else name if article == "the" else f"the {name}"
