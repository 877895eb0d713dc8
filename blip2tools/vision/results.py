"""What the engine found, as typed results with the reasons to doubt them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from blip2tools.engine.requests import Extract, Ranking, TextScore, Utterance
from blip2tools.pictures.records import Listing
from blip2tools.schemas import (
    MAX_OUTPUT,
    Alternative,
    AnswerResult,
    CaptionResult,
    Choice,
    CompareResult,
    FileError,
    ImageEmbeddings,
    ImageFile,
    ImageInfo,
    ListResult,
    Match,
    MatchResult,
    MultimodalEmbeddings,
    SurveyResult,
    TextEmbeddings,
    TextMatch,
    Tile,
    UnreadableFile,
    plain,
)
from blip2tools.vision.styles import Score

LOW = 0.5  # below this, a confidence or the caption's own match is worth a warning

NO_MATCHER = "there is no image-text matcher"

UNREAD = "the words were too many for the model: the oldest turns, or their beginning, were left out"


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


def caption(context: Context, captions: Sequence[Described], *, abstain_below: float) -> CaptionResult:
    """Captions, best first, with their own match where there is a matcher."""
    first = captions[0]
    abstained = first.spoken.confidence < abstain_below
    doubts = [*_unsure(abstained, abstain_below), *_doubts_of(context, first)]
    return CaptionResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *doubts],
        text=first.text,
        confidence=first.spoken.confidence,
        match=_match_or_none(first.score),
        abstained=abstained,
        alternatives=[
            Alternative(text=one.text, confidence=one.spoken.confidence, match=_match_or_none(one.score))
            for one in captions[1:]
        ],
    )


def answer(context: Context, spoken: Utterance, *, abstain_below: float) -> AnswerResult:
    """An answer in the model's own words."""
    text = clean(spoken.text)
    abstained = spoken.confidence < abstain_below
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *_unsure(abstained, abstain_below), *_doubts("answer", text, spoken)],
        answer=text,
        confidence=spoken.confidence,
        choices=None,
        abstained=abstained,
    )


def choice(context: Context, texts: Sequence[str], ranking: Ranking, *, abstain_below: float) -> AnswerResult:
    """The offered answers, best first."""
    ranked = [Choice(text=text, probability=share) for text, share in _best_first(texts, ranking.shares)]
    best = ranked[0]
    abstained = best.probability < abstain_below
    doubts = _unsure(abstained, abstain_below)
    doubts += [_low("answer", best.probability)] if best.probability < LOW else []
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *doubts, *([UNREAD] if ranking.unread else [])],
        answer=best.text,
        confidence=best.probability,
        choices=ranked,
        abstained=abstained,
    )


def match(context: Context, texts: Sequence[str], scores: Sequence[TextScore], by: Score = "itm") -> MatchResult:
    """Every text with its scores, best fitting first, by what `Score` says."""
    cut = [text for text, score in zip(texts, scores, strict=True) if score.truncated]
    order = sorted(zip(texts, scores, strict=True), key=lambda pair: _ORDERS[by](pair[1]), reverse=True)
    return MatchResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*context.warnings, *(f"only the first words were read of: {text[:60]}" for text in cut)],
        matches=[TextMatch(text=text, probability=score.probability, cosine=score.cosine) for text, score in order],
    )


@dataclass(frozen=True, slots=True)
class Described:
    """One caption of one picture or part, and its scores where there is a matcher."""

    spoken: Utterance
    score: TextScore | None

    @property
    def text(self) -> str:
        """The caption as it may leave."""
        return clean(self.spoken.text)


def doubted(captions: Sequence[Described]) -> bool:
    """Whether the matcher doubts any of these captions."""
    return any(caption.score is not None and caption.score.probability < LOW for caption in captions)


def best_first(told: Sequence[Described], tried: Sequence[Described]) -> list[Described]:
    """The search's captions that the matcher does not doubt, then all others in the order of their match, each text once.

    To let the match decide between captions that it finds to fit made captions worse, not better, where that could be
    counted (see BENCHMARKS.md): it serves as a veto.
    """
    kept = [caption for caption in told if not doubted([caption])]
    others = {caption.text: caption for caption in (*tried, *told) if caption.text and caption.score is not None}
    for caption in kept:
        others.pop(caption.text, None)
    return kept + sorted(others.values(), key=_fit, reverse=True)


def _fit(caption: Described) -> tuple[float, float]:
    return (caption.score.probability, caption.score.logit) if caption.score else (0.0, 0.0)


def survey(
    context: Context, overall: Described, boxes: Sequence[list[float]], parts: Sequence[Described]
) -> SurveyResult:
    """A map in words; doubts about tiles are told in one line for each kind."""
    warnings = [*context.warnings, *_doubts_of(context, overall)]
    kinds: dict[str, list[str]] = {}
    for box, part in zip(boxes, parts, strict=True):
        for kind in _kinds_of_doubt(part):
            kinds.setdefault(kind, []).append(str([round(edge, 3) for edge in box]))
    warnings += [f"{kind}: tiles {', '.join(tiles)}" for kind, tiles in kinds.items()]
    return SurveyResult(
        image=context.image,
        region=None,
        model=context.model,
        warnings=warnings,
        overall=overall.text,
        confidence=overall.spoken.confidence,
        match=_match_or_none(overall.score),
        tiles=[
            Tile(box=box, caption=part.text, confidence=part.spoken.confidence, match=_match_or_none(part.score))
            for box, part in zip(boxes, parts, strict=True)
        ],
    )


def compare(
    contexts: Sequence[Context],
    captions: Sequence[Described],
    similarity: list[list[float]] | None,
    cross: Sequence[Sequence[TextScore | None]] | None,
) -> CompareResult:
    """Pictures side by side; `cross[j][i]` is caption i on picture j, None for a caption without words."""
    # The same facts about the model come with every picture: once is enough.
    common = [one for one in contexts[0].warnings if all(one in context.warnings for context in contexts)]
    warnings = list(dict.fromkeys(common))
    warnings += [
        f"picture {number}: {warning}"
        for number, context in enumerate(contexts, start=1)
        for warning in context.warnings
        if warning not in common
    ]
    warnings += [
        f"picture {number}: {doubt}"
        for number, caption in enumerate(captions, start=1)
        for doubt in _doubts("caption", caption.text, caption.spoken)
    ]
    if similarity is None:
        warnings += _unmatched(warnings)
    handles = [context.image.handle for context in contexts]
    if len(set(handles)) < len(handles):
        warnings.append("the same picture was given more than once")
    return CompareResult(
        images=[context.image for context in contexts],
        region=None,
        model=contexts[0].model,
        warnings=warnings,
        captions=[caption.text for caption in captions],
        confidences=[caption.spoken.confidence for caption in captions],
        similarity=similarity,
        cross_match=None
        if cross is None
        else [[0.0 if score is None else score.probability for score in row] for row in zip(*cross, strict=True)],
    )


def embeddings(context: Context | None, found: Extract) -> ImageEmbeddings | TextEmbeddings | MultimodalEmbeddings:
    """Hidden states of a picture, of a text (no context), or of both."""
    if context is None:
        return TextEmbeddings(states=found.states, projected=found.projected or [], truncated=found.truncated)
    if found.projected is None:
        return MultimodalEmbeddings(
            image=context.image, region=context.region, states=found.states, truncated=found.truncated
        )
    return ImageEmbeddings(image=context.image, region=context.region, states=found.states, projected=found.projected)


def listing(found: Listing, offset: int = 0, name: str | None = None) -> ListResult:
    """Files as a tool may name them.

    Args:
        found: the files.
        offset: how many were passed over.
        name: what they had to be called.
    """
    warnings = list(found.warnings)
    if not found.images and not found.unreadable:
        asked = f" whose name fits '{plain(name)[:60]}'" if name else ""
        after = f" after the first {offset}" if offset else ""
        warnings.append(f"there is no picture here{asked}{after}")
        if not asked and not after:
            warnings[-1] += ": ask for one to be saved into an allowed folder; vision_status names them"
    elif found.truncated:
        warnings.append(f"more: offset {offset + len(found.images) + len(found.unreadable)} goes on")
    return ListResult(
        images=[
            ImageFile(path=one.path, width=one.width, height=one.height, bytes=one.bytes, modified=one.modified)
            for one in found.images
        ],
        unreadable=[
            UnreadableFile(
                path=one.path,
                bytes=one.bytes,
                modified=one.modified,
                error=FileError(code=one.error.code, message=one.error.message),
            )
            for one in found.unreadable
        ],
        truncated=found.truncated,
        warnings=warnings,
    )


# Saturated probabilities tie at 1.0; the cosine then decides.
_ORDERS: Mapping[Score, Callable[[TextScore], tuple[float, ...]]] = {
    "itm": lambda score: (score.probability, score.cosine),
    "itc": lambda score: (score.cosine,),
    "both": lambda score: (score.ranking,),
}


def _best_first(texts: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float]]:
    return sorted(zip(texts, scores, strict=True), key=lambda pair: pair[1], reverse=True)


def _match(score: TextScore) -> Match:
    return Match(probability=score.probability, cosine=score.cosine)


def _match_or_none(score: TextScore | None) -> Match | None:
    return None if score is None else _match(score)


def _kinds_of_doubt(part: Described) -> list[str]:
    if not part.text:
        return ["the model gave an empty caption"]
    kinds = []
    if part.spoken.confidence < LOW:
        kinds.append("low confidence, treat as a guess")
    if part.score is not None and part.score.probability < LOW:
        kinds.append("the matcher doubts the caption")
    return kinds


def _doubts_of(context: Context, caption: Described) -> list[str]:
    doubts = _doubts("caption", caption.text, caption.spoken)
    if caption.score is None:
        return [*doubts, *_unmatched(context.warnings)] if caption.text else doubts
    if caption.score.probability < LOW:
        doubts.append(f"the matcher doubts this caption (probability {caption.score.probability:.2f})")
    return doubts


def _unmatched(warnings: Sequence[str]) -> list[str]:
    # Why there is none may have been said already, by whoever loaded the model.
    return [] if any(NO_MATCHER in warning for warning in warnings) else [f"{NO_MATCHER} to check captions"]


def _doubts(what: str, text: str, spoken: Utterance) -> list[str]:
    if not text:
        return [f"the model gave an empty {what}; rephrase, or look at a region"]
    doubts = [_low(what, spoken.confidence)] if spoken.confidence < LOW else []
    if spoken.unread:
        doubts.append(UNREAD)
    return [*doubts, f"the {what} was cut at the length limit"] if spoken.finish == "length" else doubts


def _unsure(abstained: bool, threshold: float) -> list[str]:
    return [f"not sure: the confidence is below {threshold:g}, do not report this as a fact"] if abstained else []


def _low(what: str, confidence: float) -> str:
    return f"low confidence ({confidence:.2f}): treat this {what} as a guess"
