"""Typed results from the engine's answers, with the reasons to doubt them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from blip2tools.checkpoints.confidence import lowered
from blip2tools.engine.requests import Extract, Ranking, TextScore, Utterance
from blip2tools.errors import VisionError
from blip2tools.pictures.records import Listing
from blip2tools.schemas import (
    MAX_OUTPUT,
    Alternative,
    AnswerResult,
    AnswersResult,
    CaptionResult,
    Choice,
    CompareResult,
    Failure,
    ImageEmbeddings,
    ImageFile,
    ImageInfo,
    ListResult,
    Match,
    MatchResult,
    MultimodalEmbeddings,
    PictureAnswer,
    PictureFailure,
    SurveyResult,
    TextEmbeddings,
    TextMatch,
    Tile,
    UnreadableFile,
    plain,
)
from blip2tools.vision.doubts import Doubt
from blip2tools.vision.keywords import label_of
from blip2tools.vision.premises.topic import NO_PICTURE
from blip2tools.vision.styles import Score
from blip2tools.vision.surveying import Map, Part

MAX_SOURCE = 300  # characters of a name in a list of failures: a data URI would be far longer

LOW = 0.5  # below this, a confidence or the caption's own match is worth a warning

NONE_OF_THESE = "none of the choices seems to fit: the model itself would give none of these answers"

NAMELESS = "what the caption names is not there, the part may be empty or hold less than a whole thing"

NO_MATCHER = "there is no image-text matcher"

UNREAD = "the text was too long for the model: the oldest turns, or its beginning, were left out"


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of every result about one picture besides its answer.

    Attributes:
        image: the picture.
        region: the part of it that was looked at.
        model: which answered.
        warnings: about the picture.
        drop: by how much the log-odds of an answer fall, as the model does not know such pictures; not where the picture shows
            what its question takes for granted.
    """

    image: ImageInfo
    region: list[float] | None
    model: str
    warnings: tuple[str, ...]
    drop: float = 0.0


def clean(text: str) -> str:
    """The model's words for a result: bounded, and made safe, since what is read from a picture is untrusted."""
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


def answer(context: Context, spoken: Utterance, doubt: Doubt, *, abstain_below: float) -> AnswerResult:
    """An answer in the model's own words, and what its question takes for granted."""
    text = clean(spoken.text)
    confidence = lowered(spoken.confidence, 0.0 if doubt.holds else context.drop) * doubt.factor
    abstained = confidence < abstain_below
    own = _doubts("answer", text, spoken, quiet=doubt.fails)
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*_untrue(doubt), *context.warnings, *_unsure(abstained, abstain_below), *own],
        answer=text,
        confidence=confidence,
        choices=None,
        premise=doubt.premise,
        abstained=abstained,
    )


def choice(
    context: Context,
    texts: Sequence[str],
    ranking: Ranking,
    doubt: Doubt,
    misfit: float | None,
    *,
    abstain_below: float,
) -> AnswerResult:
    """The offered answers, best first.

    Args:
        context: what every result says.
        texts: the answers.
        ranking: of them.
        doubt: what the question takes for granted.
        misfit: the factor by which the confidence is lowered because none fits; None where one does, or if unknown.
        abstain_below: the confidence from which an answer counts.
    """
    ranked = [Choice(text=text, probability=share) for text, share in _best_first(texts, ranking.shares)]
    best = ranked[0]
    confidence = lowered(best.probability, 0.0 if doubt.holds else context.drop) * doubt.factor
    confidence *= 1.0 if misfit is None else misfit
    abstained = confidence < abstain_below
    doubts = _unsure(abstained, abstain_below)
    doubts += [] if misfit is None else [NONE_OF_THESE]
    doubts += [_low("answer", best.probability)] if best.probability < LOW else []
    return AnswerResult(
        image=context.image,
        region=context.region,
        model=context.model,
        warnings=[*_untrue(doubt), *context.warnings, *doubts, *([UNREAD] if ranking.unread else [])],
        answer=best.text,
        confidence=confidence,
        choices=ranked,
        premise=doubt.premise,
        abstained=abstained,
    )


def answers(given: Sequence[object], outcomes: Sequence[AnswerResult | VisionError], model: str) -> AnswersResult:
    """One question about several pictures.

    Args:
        given: the caller's references to the pictures.
        outcomes: an answer, or why there is none, for each of them.
        model: which answered.

    Raises:
        VisionError: none was answered, all for the same reason; the first error is raised.
    """
    told = [one for one in outcomes if isinstance(one, AnswerResult)]
    failed = [one for one in outcomes if isinstance(one, VisionError)]
    if failed and not told and len({str(one) for one in failed}) == 1:
        raise failed[0]
    return AnswersResult(
        images=[one.image for one in told],
        region=told[0].region if told else None,
        model=told[0].model if told else model,
        warnings=_of_several([one.warnings if isinstance(one, AnswerResult) else None for one in outcomes]),
        answers=[_of_one(name, one) for name, one in zip(given, outcomes, strict=True)],
    )


def _of_one(name: object, outcome: AnswerResult | VisionError) -> PictureAnswer | PictureFailure:
    if isinstance(outcome, AnswerResult):
        return PictureAnswer(
            image=outcome.image, answer=outcome.answer, confidence=outcome.confidence, premise=outcome.premise
        )
    named = name if isinstance(name, str) else os.fsdecode(name) if isinstance(name, os.PathLike) else label_of(name)
    source = clean(named)
    return PictureFailure(source=source[:MAX_SOURCE], error=Failure(code=outcome.code, message=outcome.message))


def _of_several(warnings: Sequence[Sequence[str] | None]) -> list[str]:
    """The warnings of all results once, then those of each; None for a picture without a result."""
    told = [one for one in warnings if one is not None]
    common = [one for one in told[0] if all(one in others for others in told)] if told else []
    own = [
        f"picture {number}: {warning}"
        for number, one in enumerate(warnings, start=1)
        for warning in one or ()
        if warning not in common
    ]
    return list(dict.fromkeys(common)) + own


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
        """The caption, made safe for a result."""
        return clean(self.spoken.text)


def doubted(captions: Sequence[Described]) -> bool:
    """Whether the matcher doubts any of these captions."""
    return any(caption.score is not None and caption.score.probability < LOW for caption in captions)


def best_first(told: Sequence[Described], tried: Sequence[Described]) -> list[Described]:
    """The search's captions that the matcher does not doubt, then all others in the order of their match, each text once.

    The match serves only as a veto: letting it decide between captions that it finds to fit made captions worse where that
    could be counted (see BENCHMARKS.md).
    """
    kept = [caption for caption in told if not doubted([caption])]
    others = {caption.text: caption for caption in (*tried, *told) if caption.text and caption.score is not None}
    for caption in kept:
        others.pop(caption.text, None)
    return kept + sorted(others.values(), key=_fit, reverse=True)


def _fit(caption: Described) -> tuple[float, float]:
    return (caption.score.probability, caption.score.logit) if caption.score else (0.0, 0.0)


def survey(
    context: Context,
    overall: Described,
    boxes: Sequence[list[float]],
    parts: Sequence[Described],
    found: Map,
) -> SurveyResult:
    """A map in words; doubts about tiles take one line for each kind."""
    warnings = [*context.warnings, *_doubts_of(context, overall)]
    names = [str([round(edge, 3) for edge in box]) for box in boxes]
    kinds: dict[str, list[str]] = {}
    for name, part, checked in zip(names, parts, found.parts, strict=True):
        for kind in _kinds_of_doubt(part, checked):
            kinds.setdefault(kind, []).append(name)
    warnings += [f"{kind}: tiles {', '.join(tiles)}" for kind, tiles in kinds.items()]
    warnings += [
        f"{thing} lies across an edge: tiles {', '.join(names[number] for number in numbers)} show the same one"
        for thing, numbers in found.cut
    ]
    return SurveyResult(
        image=context.image,
        region=None,
        model=context.model,
        warnings=warnings,
        overall=overall.text,
        confidence=overall.spoken.confidence,
        match=_match_or_none(overall.score),
        tiles=[
            Tile(
                box=box,
                caption=part.text,
                confidence=part.spoken.confidence,
                match=_match_or_none(part.score),
                abstained=checked.nameless,
            )
            for box, part, checked in zip(boxes, parts, found.parts, strict=True)
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
    warnings = _of_several([context.warnings for context in contexts])
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
        offset: how many were skipped.
        name: the filter for their names.
    """
    warnings = list(found.warnings)
    if not found.images and not found.unreadable:
        asked = f" whose name fits '{plain(name)[:60]}'" if name else ""
        after = f" after the first {offset}" if offset else ""
        warnings.append(f"there is no picture here{asked}{after}")
        if not asked and not after:
            warnings[-1] += ": ask for one to be saved into an allowed folder; vision_status names them"
    elif found.truncated:
        warnings.append(f"more: continue with offset {offset + len(found.images) + len(found.unreadable)}")
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
                error=Failure(code=one.error.code, message=one.error.message),
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


def _kinds_of_doubt(part: Described, checked: Part) -> list[str]:
    if not part.text:
        return ["the model gave an empty caption"]
    kinds = []
    if checked.nameless or checked.strange:
        kinds.append(NAMELESS if checked.nameless else "it does not look like the world that this model knows")
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
    # The reason may be among the warnings from loading the model.
    return [] if any(NO_MATCHER in warning for warning in warnings) else [f"{NO_MATCHER} to check captions"]


def _untrue(doubt: Doubt) -> list[str]:
    """A premise that fails, in words: the first of all warnings."""
    premise = doubt.premise
    if premise is None or premise.holds is not False:
        return []
    if premise.text == NO_PICTURE:
        return ["the question does not seem to be about the picture: the answer is made up"]
    odds = "" if premise.probability is None else f" (probability {premise.probability:.2f})"
    return [f"the picture does not seem to show {premise.text}{odds}, which the question takes for granted"]


def _doubts(what: str, text: str, spoken: Utterance, *, quiet: bool = False) -> list[str]:
    if not text:
        return [f"the model gave an empty {what}; rephrase, or look at a region"]
    doubts = [_low(what, spoken.confidence)] if spoken.confidence < LOW and not quiet else []
    if spoken.unread:
        doubts.append(UNREAD)
    return [*doubts, f"the {what} was cut at the length limit"] if spoken.finish == "length" else doubts


def _unsure(abstained: bool, threshold: float) -> list[str]:
    return [f"not sure: the confidence is below {threshold:g}, do not report this as a fact"] if abstained else []


def _low(what: str, confidence: float) -> str:
    return f"low confidence ({confidence:.2f}): treat this {what} as a guess"
