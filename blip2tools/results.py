"""What the engine found, as typed results with the reasons to doubt them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from blip2tools.engine import EngineStatus, TextScore, Utterance
from blip2tools.schemas import (
    MAX_OUTPUT,
    Alternative,
    AnswerResult,
    CacheStatus,
    CaptionResult,
    Choice,
    ImageInfo,
    Match,
    MatchResult,
    QueueStatus,
    TextMatch,
    plain,
)

LOW = 0.5  # below this, a confidence or the caption's own match is worth a warning

CANNOT = [
    "read text (no OCR)",
    "count reliably above three or four",
    "identify people",
    "understand languages other than English",
    "see more detail than a square of a few hundred pixels: pass a region to zoom in",
]


@dataclass(frozen=True, slots=True)
class Context:
    """What every result about one picture says besides its answer."""

    image: ImageInfo
    region: list[float] | None
    model: str
    warnings: tuple[str, ...]


def clean(text: str) -> str:
    """Words of the model as they may leave: read from a picture, so untrusted, and bounded."""
    return plain(text)[:MAX_OUTPUT]


def caption(context: Context, spoken: Sequence[Utterance], scores: Sequence[TextScore] | None) -> CaptionResult:
    """Captions, likeliest first, with their own match where there is a matcher."""
    texts = [clean(one.text) for one in spoken]
    matches = [None] * len(texts) if scores is None else [_match(score) for score in scores]
    doubts = _doubts("caption", texts[0], spoken[0])
    if matches[0] is not None and matches[0].probability < LOW:
        doubts.append(f"the matcher doubts this caption (probability {matches[0].probability:.2f})")
    return CaptionResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *doubts],
        text=texts[0],
        confidence=spoken[0].confidence,
        match=matches[0],
        alternatives=[
            Alternative(text=text, confidence=one.confidence, match=match)
            for text, one, match in list(zip(texts, spoken, matches, strict=True))[1:]
        ],
    )


def answer(context: Context, spoken: Utterance) -> AnswerResult:
    """An answer in the model's own words."""
    text = clean(spoken.text)
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *_doubts("answer", text, spoken)],
        answer=text,
        confidence=spoken.confidence,
        choices=None,
    )


def choice(context: Context, texts: Sequence[str], shares: Sequence[float]) -> AnswerResult:
    """The offered answers, best first."""
    ranked = [Choice(text=text, probability=share) for text, share in _best_first(texts, shares)]
    best = ranked[0]
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *([_low("answer", best.probability)] if best.probability < LOW else [])],
        answer=best.text,
        confidence=best.probability,
        choices=ranked,
    )


def match(context: Context, texts: Sequence[str], scores: Sequence[TextScore]) -> MatchResult:
    """Every text with its scores, best fitting first."""
    cut = [text for text, score in zip(texts, scores, strict=True) if score.truncated]
    # Saturated probabilities tie at 1.0; the cosine then decides.
    order = [(score.probability, score.cosine) for score in scores]
    return MatchResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *(f"only the first words were read of: {text[:60]}" for text in cut)],
        matches=[
            TextMatch(text=text, probability=probability, cosine=cosine)
            for text, (probability, cosine) in _best_first(texts, order)
        ],
    )


def queue(status: EngineStatus) -> QueueStatus:
    """The engine's counts."""
    return QueueStatus(
        waiting=status.waiting,
        running=status.running,
        limit=status.limit,
        completed=status.completed,
        failed=status.failed,
        cancelled=status.cancelled,
    )


def cache(status: EngineStatus) -> CacheStatus:
    """The feature cache's counts."""
    use = status.cache
    return CacheStatus(
        features=use.entries,
        bytes_used=use.bytes_used,
        bytes_limit=use.bytes_limit,
        hits=use.hits,
        misses=use.misses,
    )


S = TypeVar("S", float, tuple[float, float])


def _best_first(texts: Sequence[str], scores: Sequence[S]) -> list[tuple[str, S]]:
    return sorted(zip(texts, scores, strict=True), key=lambda pair: pair[1], reverse=True)


def _match(score: TextScore) -> Match:
    return Match(probability=score.probability, cosine=score.cosine)


def _doubts(what: str, text: str, spoken: Utterance) -> list[str]:
    if not text:
        return [f"the model gave an empty {what}; rephrase, or look at a region"]
    doubts = [_low(what, spoken.confidence)] if spoken.confidence < LOW else []
    return [*doubts, f"the {what} was cut at the length limit"] if spoken.finish == "length" else doubts


def _low(what: str, confidence: float) -> str:
    return f"low confidence ({confidence:.2f}): treat this {what} as a guess"
