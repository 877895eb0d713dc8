"""The reliability of confidences: expected calibration error, AUROC, the scaling that fits, and the diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from blip2tools.checkpoints.confidence import Scaling, confidence, log_odds
from blip2tools.engine.requests import Utterance

BINS: Final = 10
_FLOOR: Final = 1e-7
_NEWTON_STEPS: Final = 50
_NEAR: Final = 1e-10
_HOTTEST: Final = 50.0  # a confidence that says nothing, or the opposite, about what is right


@dataclass(frozen=True, slots=True)
class Judged:
    """One text and how right it was: 1 or 0, or a share of annotators between."""

    logprob: float
    tokens: int
    right: float

    @classmethod
    def of(cls, told: Utterance, right: float) -> Judged:
        """A generated text with its judgement."""
        return cls(told.logprob, told.tokens, right)

    def confidence(self, scaling: Scaling | None) -> float:
        """See `calibration.confidence`."""
        return confidence(self.logprob, self.tokens, scaling)


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts of about the same confidence."""

    number: int
    confidence: float  # mean
    right: float  # mean


def bins(confidences: Sequence[float], right: Sequence[float], number: int = BINS) -> list[Bin]:
    """Bins of equal width, the empty ones left out; a confidence of 1 is in the last."""
    members: list[list[int]] = [[] for _ in range(number)]
    for place, value in enumerate(confidences):
        members[min(number - 1, int(value * number))].append(place)
    return [
        Bin(
            len(places),
            math.fsum(confidences[place] for place in places) / len(places),
            math.fsum(right[place] for place in places) / len(places),
        )
        for places in members
        if places
    ]


def calibration_error(confidences: Sequence[float], right: Sequence[float]) -> float:
    """Expected calibration error (Naeini et al. 2015): |mean confidence - mean correctness| over 10 bins, by their sizes."""
    gaps = (one.number * abs(one.confidence - one.right) for one in bins(confidences, right))
    return math.fsum(gaps) / len(confidences)


def auroc(confidences: Sequence[float], right: Sequence[float]) -> float | None:
    """Probability that a right text has more confidence than a wrong one, ties half; None without both kinds.

    A text counts as right if more than half of it is (`Judged.right` above 0.5). Computed by ranks (Mann-Whitney).
    """
    order = sorted(range(len(confidences)), key=lambda place: confidences[place])
    rank_sum, positives, place = 0.0, sum(value > 0.5 for value in right), 0
    while place < len(order):
        end = place
        while end < len(order) and confidences[order[end]] == confidences[order[place]]:
            end += 1
        mean_rank = (place + 1 + end) / 2
        rank_sum += mean_rank * sum(right[one] > 0.5 for one in order[place:end])
        place = end
    negatives = len(order) - positives
    if not positives or not negatives:
        return None
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def cross_entropy(judged: Sequence[Judged], scaling: Scaling | None) -> float:
    """Mean negative log-likelihood, nats, of the correctness under the confidence."""

    def loss(one: Judged) -> float:
        sure = min(1 - _FLOOR, max(_FLOOR, one.confidence(scaling)))
        return -one.right * math.log(sure) - (1 - one.right) * math.log(1 - sure)

    return math.fsum(map(loss, judged)) / len(judged)


def fit(judged: Sequence[Judged]) -> Scaling:
    """The scaling with the least cross-entropy: logistic regression on the log-odds of the whole text, by Newton's method.

    A prior as strong as one text pulls towards no scaling at all, so that a few texts, or texts that are all right, have a
    finite answer.

    Raises:
        ValueError: nothing to fit.
    """
    if not judged:
        raise ValueError("there is nothing to fit a scaling to")
    import numpy as np

    odds = np.asarray([log_odds(one.logprob * one.tokens) for one in judged])
    right = np.asarray([one.right for one in judged])
    columns = np.stack([odds, np.ones_like(odds)])
    start = np.asarray([1.0, 0.0])  # slope, shift: no scaling

    def loss(point: Any) -> float:
        values = point @ columns
        losses = np.logaddexp(0, values) - right * values  # of a Bernoulli variable, from its log-odds
        return float(losses.sum() + ((point - start) ** 2).sum() / 2)

    point = start
    for _ in range(_NEWTON_STEPS):
        sure = np.exp(-np.logaddexp(0, -(point @ columns)))
        down = columns @ (sure - right) + point - start
        bend = (columns * (sure * (1 - sure))) @ columns.T + np.eye(2)
        step = np.linalg.solve(bend, down)
        while loss(point - step) > loss(point) and np.abs(step).max() > _NEAR:
            step = step / 2  # a full step may overshoot
        point = point - step
        if np.abs(step).max() <= _NEAR:
            break
    slope, shift = map(float, point)
    return Scaling(temperature=1 / max(slope, 1 / _HOTTEST), shift=shift)


@dataclass(frozen=True, slots=True)
class Reliability:
    """The effect of a scaling, fitted on some texts, on others."""

    name: str
    scaling: Scaling
    fitted_on: int
    judged: tuple[Judged, ...]  # the others

    @property
    def right(self) -> list[float]:
        """How right each was."""
        return [one.right for one in self.judged]

    def confidences(self, *, scaled: bool) -> list[float]:
        """Confidences with the scaling, or as a checkpoint without one reports them."""
        return [one.confidence(self.scaling if scaled else None) for one in self.judged]

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The numbers for a JSON report."""
        before, after = self.confidences(scaled=False), self.confidences(scaled=True)
        return {
            "task": self.name,
            "fitted_on": self.fitted_on,
            "tested_on": len(self.judged),
            "errors": 1 - math.fsum(self.right) / len(self.judged),
            "temperature": self.scaling.temperature,
            "shift": self.scaling.shift,
            "ece_before": calibration_error(before, self.right),
            "ece_after": calibration_error(after, self.right),
            "auroc_before": auroc(before, self.right),
            "auroc_after": auroc(after, self.right),
            "cross_entropy_before": cross_entropy(self.judged, None),
            "cross_entropy_after": cross_entropy(self.judged, self.scaling),
        }


def diagram(tasks: Sequence[Reliability], caption: str) -> str:
    """A reliability diagram as SVG: share that was right over mean confidence, before and after, a panel for each task."""
    side, gap, left, top = 300, 70, 60, 40
    width = left + len(tasks) * (side + gap)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + side + 84}" '
        f'viewBox="0 0 {width} {top + side + 84}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, task in enumerate(tasks):
        x = left + number * (side + gap)
        parts += _panel(task, x, top, side)
    parts.append(f'<text x="{left}" y="{top + side + 70}" font-size="11" fill="#555">{_escaped(caption)}</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(task: Reliability, x: float, y: float, side: float) -> list[str]:
    facts = task.as_dict()
    parts = [f'<text x="{x + side / 2}" y="{y - 14}" text-anchor="middle" font-size="15">{_escaped(task.name)}</text>']
    for tick in range(0, 11, 2):
        at = side * tick / 10
        parts += [
            f'<line x1="{x + at}" y1="{y}" x2="{x + at}" y2="{y + side}" stroke="#eee"/>',
            f'<line x1="{x}" y1="{y + at}" x2="{x + side}" y2="{y + at}" stroke="#eee"/>',
            f'<text x="{x + at}" y="{y + side + 17}" text-anchor="middle" fill="#555">{tick / 10:.1f}</text>',
            f'<text x="{x - 8}" y="{y + side - at + 4}" text-anchor="end" fill="#555">{tick / 10:.1f}</text>',
        ]
    parts += [
        f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="#999"/>',
        f'<line x1="{x}" y1="{y + side}" x2="{x + side}" y2="{y}" stroke="#999" stroke-dasharray="5 4"/>',
        f'<text x="{x + side / 2}" y="{y + side + 36}" text-anchor="middle">mean confidence</text>',
    ]
    for scaled, color, word in ((False, "#c44e30", "before"), (True, "#2b6cb0", "after")):
        found = bins(task.confidences(scaled=scaled), task.right)
        dots = [(x + side * one.confidence, y + side * (1 - one.right), one.number) for one in found]
        line = " ".join(f"{across:.1f},{down:.1f}" for across, down, _ in dots)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        for across, down, count in dots:
            radius = 2.5 + 7 * math.sqrt(count / len(task.judged))
            parts.append(
                f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}" fill="{color}" fill-opacity="0.65"/>'
            )
        parts.append(
            f'<text x="{x + 12}" y="{y + (42 if scaled else 22)}" fill="{color}">'
            f"{word}: ECE {facts['ece_after' if scaled else 'ece_before']:.3f}</text>"
        )
    parts.append(
        f'<text x="{x + 12}" y="{y + 62}" fill="#555">AUROC {facts["auroc_after"]:.2f}, '
        f"T = {task.scaling.temperature:.2f}, shift {task.scaling.shift:+.2f}</text>"
        if facts["auroc_after"] is not None
        else ""
    )
    parts.append(
        f'<text x="{x - 42}" y="{y + side / 2}" transform="rotate(-90 {x - 42} {y + side / 2})" '
        'text-anchor="middle">share that was right</text>'
    )
    return parts


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
