"""The stages of an answer, for a batch of requests at once. Used by the engine's worker thread alone.

see    pixels ─► trunk states           distinct pictures in one pass; cached
query  states ─► image tokens           likewise; cached
speak  image tokens, prompts ─► words   one decoding for all rows
rank   image tokens, prompt, choices ─► log-probabilities
match  states, texts ─► ITM and ITC     keys and values of a picture once for all its texts
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch

from blip2tools.checkpoints.confidence import confidence
from blip2tools.checkpoints.prompts import RETRIEVAL_TOKENS
from blip2tools.engine.cache import FeatureCache, Kept
from blip2tools.engine.fits import MATCH_TOKENS, Fits, Matching, chunks, overflow
from blip2tools.engine.line import ANSWER_TOKENS, CAPTION_TOKENS, Work
from blip2tools.engine.metrics import Metrics
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    ChoiceRequest,
    Extract,
    ExtractRequest,
    FeatureRequest,
    Fit,
    FitRequest,
    MatcherFacts,
    MatcherRequest,
    MatchRequest,
    Question,
    Ranking,
    Sight,
    TextFeatureRequest,
    TextScore,
    Utterance,
)
from blip2tools.errors import InvalidInputError, VisionError
from blip2tools.model import Asked, cosine
from blip2tools.model.options import Generation, GenerationOptions, Spoken

if TYPE_CHECKING:
    from torch import Tensor

    from blip2tools.checkpoints import Loaded
    from blip2tools.checkpoints.confidence import Scaling
    from blip2tools.checkpoints.prompts import MatcherText, Prompt
    from blip2tools.model import Captioner, Matcher, Pixels, Trunk

# Patches in one pass on a CPU: four pictures of the published size. More overflow its caches (16 pictures take 5 % longer each
# than 4); fewer, of a small model, leave it idle between its operations.
SEE_PATCHES = 1028
SEE_AT_ONCE = 16  # pictures in one pass elsewhere
# How often a batch admits late requests during the vision pass. Still later ones join while it decodes; but prompts that are
# read together cost half as much each.
WAITS = 2


Join = Callable[[Callable[[Work], bool]], Sequence[Work]]


class Stages:
    """A loaded model behind its cache."""

    def __init__(self, loaded: Loaded, cache: FeatureCache[Tensor], metrics: Metrics, kept: Kept | None = None) -> None:
        self._loaded = loaded
        self._cache = cache
        self._metrics = metrics
        self._kept = Kept(FeatureCache(0)) if kept is None else kept
        self._matching = Matching(loaded, self._kept)

    @property
    def _fits(self) -> Fits:
        """Made where it is used: kept here, with a method of ours, it would keep the model alive until garbage is collected."""
        return Fits(self._loaded, self._metrics, self._states, self._matching, self._kept)

    def answer(self, batch: Sequence[Work], tell: Callable[[Work, object], None], join: Join) -> list[object]:
        """The answer to each work item of one group, in order; a `VisionError` in the place of one that is refused.

        Args:
            tell: receives an answer that is ready before the others of the batch.
            join: called as `join(which items may join)` for items of the group that have arrived since; their answers
            follow those of the batch.
        """
        match batch[0].request:
            case CaptionRequest() | AnswerRequest():
                return self._speak(batch, tell, join)
            case ChoiceRequest():
                return [self._choose(cast(ChoiceRequest, work.request)) for work in batch]
            case MatchRequest() | FeatureRequest():
                return self._match(batch)
            case FitRequest():
                return list(self._fits.of([cast(FitRequest, work.request) for work in batch]))
            case TextFeatureRequest():
                return self._text_features(batch)
            case ExtractRequest():
                return [self._extract(cast(ExtractRequest, work.request)) for work in batch]
            case MatcherRequest():
                return [self._matcher()] * len(batch)
            case _:
                return [None] * len(batch)

    def _matcher(self) -> MatcherFacts | None:
        matcher, pixels = self._loaded.matcher, self._loaded.matcher_pixels
        if matcher is None or pixels is None:
            return None
        digest = hashlib.sha256(f"{pixels.key} {matcher.trunk.fingerprint} {matcher.fingerprint}".encode()).hexdigest()
        return MatcherFacts(self._loaded.matcher_name or "", digest[:16], matcher.num_queries, matcher.size)

    # ---- words ----

    def _speak(self, batch: Sequence[Work], tell: Callable[[Work, object], None], join: Join) -> list[object]:
        works = list(batch)
        tokens = self._image_tokens(works)
        for _ in range(WAITS):
            late = join(lambda work: True)
            if not late:
                break
            works += late
            tokens |= self._image_tokens([work for work in late if _speech(work).sight.key not in tokens])
        prompts: list[Prompt] = []
        answers: list[object] = []
        fits: list[tuple[Fit, ...] | None] = []

        def asked(those: Sequence[Work], tokens: dict[str, Tensor]) -> Asked:
            place = {key: number for number, key in enumerate(tokens)}
            new = [self._prompt(_speech(work)) for work in those]
            prompts.extend(new)
            fits.extend(self._fits.of([_speech(work) for work in those]))
            answers.extend([None] * len(those))
            return Asked(
                torch.cat(list(tokens.values())),
                [prompt.ids for prompt in new],
                [_longest(_speech(work)) for work in those],
                [place[_speech(work).sight.key] for work in those],
            )

        def more() -> Asked | None:
            late = join(self._may_interrupt)
            works.extend(late)
            return asked(late, self._image_tokens(late)) if late else None

        def said(row: int, texts: Sequence[Spoken]) -> None:
            self._metrics.tokens += sum(text.tokens for text in texts)
            answers[row] = self._spoken(_speech(works[row]), texts, unread=prompts[row].truncated, fits=fits[row])
            tell(works[row], answers[row])

        first, steps = asked(works, tokens), self._loaded.captioner.steps
        before = steps.count.copy()
        with self._metrics.timed("speak"):
            self._loaded.captioner.speak(
                first.image_tokens,
                first.prompts,
                self._options(_speech(works[0])),
                max_new_tokens=first.max_new_tokens,
                pictures=first.pictures,
                stop=lambda row: works[row].stopped(),
                said=said,
                more=more,
            )
        self._metrics.steps += steps.count - before
        return answers

    def _spoken(
        self,
        request: CaptionRequest | AnswerRequest,
        texts: Sequence[Spoken],
        *,
        unread: bool,
        fits: tuple[Fit, ...] | None,
    ) -> object:
        if not all(math.isfinite(text.logprob) for text in texts):
            return self._overflow(self._loaded.model)
        fitted = self._loaded.calibration
        scaling = fitted.caption if isinstance(request, CaptionRequest) else fitted.answer
        said = [self._utterance(text, unread=unread, scaling=scaling) for text in texts]
        return said if isinstance(request, CaptionRequest) else replace(said[0], fits=fits)

    def _utterance(self, spoken: Spoken, *, unread: bool, scaling: Scaling | None) -> Utterance:
        text = self._loaded.words.decode(spoken.ids)
        sure = confidence(spoken.logprob, spoken.tokens, scaling)
        return Utterance(text, spoken.logprob, spoken.finish, sure, unread, spoken.tokens)

    def _prompt(self, request: CaptionRequest | AnswerRequest) -> Prompt:
        if isinstance(request, CaptionRequest):
            words = self._loaded.words
            return words.caption(words.prompt if request.prompt is None else request.prompt)
        return self._question(request.question)

    def _question(self, question: Question) -> Prompt:
        return self._loaded.words.question(question.text, question.history, question.template)

    def _options(self, request: CaptionRequest | AnswerRequest) -> GenerationOptions:
        generation = request.generation
        count = request.count if isinstance(request, CaptionRequest) else 1
        penalty = generation.length_penalty
        given = generation.model_dump(exclude={"max_new_tokens"}) | {
            "num_beams": generation.num_beams if generation.do_sample else max(generation.num_beams, count),
            "length_penalty": self._length_penalty(request) if penalty is None else penalty,
        }
        return GenerationOptions(**given, num_return_sequences=count)

    def _length_penalty(self, request: CaptionRequest | AnswerRequest) -> float:
        # The reference's defaults (LAVIS): captions 1; answers 0 with OPT, whose beams compare by their sums, and -1 with T5,
        # which favours short ones.
        if isinstance(request, CaptionRequest):
            return 1.0
        return 0.0 if self._loaded.captioner.family == "opt" else -1.0

    def _choose(self, asked: ChoiceRequest) -> Ranking | VisionError:
        words = self._loaded.words
        candidates = [words.candidate(choice) for choice in asked.choices]
        if empty := [choice for choice, ids in zip(asked.choices, candidates, strict=True) if not ids]:
            return InvalidInputError(f"The choice '{empty[0]}' holds nothing that the model can read.")
        tokens = self._tokens([asked.sight])[0]
        prompt = self._question(asked.question)
        with self._metrics.timed("rank"):
            scores = self._loaded.captioner.rank(tokens, prompt.ids, candidates)
        if not all(math.isfinite(total) for total, _ in scores):
            return self._overflow(self._loaded.model)
        best = max(total for total, _ in scores)
        shares = [math.exp(total - best) for total, _ in scores]
        said = min(1.0, math.exp(best) * sum(shares))
        (fits,) = self._fits.of([asked])
        return Ranking(tuple(share / sum(shares) for share in shares), prompt.truncated, said, fits)

    # ---- matching ----

    def _match(self, batch: Sequence[Work]) -> list[object]:
        matcher, words, pixels = self._loaded.matcher, self._loaded.matcher_words, self._loaded.matcher_pixels
        if matcher is None or words is None or pixels is None:
            return [None] * len(batch)
        requests = [cast("MatchRequest | FeatureRequest", work.request) for work in batch]
        states = self._states(matcher.trunk, pixels, [request.sight for request in requests])
        features = self._itc(matcher, [request.sight for request in requests], states)
        answers: list[object] = [None] * len(batch)
        for place, request in enumerate(requests):
            if not _finite(features[place]):
                answers[place] = self._overflow(self._loaded.matcher_name)
            elif isinstance(request, FeatureRequest):
                answers[place] = features[place][0].tolist()
        pairs = [
            place for place, one in enumerate(requests) if isinstance(one, MatchRequest) and answers[place] is None
        ]
        texts = [_read(words, cast(MatchRequest, requests[place])) for place in pairs]
        with self._metrics.timed("match"):
            seen = [(requests[place].sight.key, states[place]) for place in pairs]
            scores = _scores(matcher, self._matching, seen, [features[place] for place in pairs], texts)
        for place, score in zip(pairs, scores, strict=True):
            sound = all(math.isfinite(one.logit) and math.isfinite(one.probability + one.cosine) for one in score)
            answers[place] = score if sound else self._overflow(self._loaded.matcher_name)
        return answers

    def _overflow(self, name: str | None) -> VisionError:
        return overflow(name, self._loaded.dtype)

    def _text_features(self, batch: Sequence[Work]) -> list[object]:
        matcher, words = self._loaded.matcher, self._loaded.matcher_words
        if matcher is None or words is None:
            return [None] * len(batch)
        requests = [cast(TextFeatureRequest, work.request) for work in batch]
        rows = matcher.text_features([prompt.ids for request in requests for prompt in _read(words, request)])
        if not _finite(rows):
            return [self._overflow(self._loaded.matcher_name)] * len(batch)
        taken = iter(rows.tolist())
        return [[next(taken) for _ in request.texts] for request in requests]

    def _extract(self, asked: ExtractRequest) -> Extract | VisionError | None:
        matcher, words, pixels = self._loaded.matcher, self._loaded.matcher_words, self._loaded.matcher_pixels
        if matcher is None or words is None or pixels is None:
            return None
        prompt = None if asked.text is None else words(asked.text, matcher.positions)  # not cut, as in the reference
        states = None if asked.sight is None else self._states(matcher.trunk, pixels, [asked.sight])[0]
        if prompt is None:
            if states is None:
                raise ValueError("neither a picture nor a text")
            hidden, projected = (part[0] for part in matcher.image_embeddings(states))
        elif states is not None:
            hidden, projected = matcher.multimodal_embeddings(states, prompt.ids), None
        else:
            hidden, projected = matcher.text_embeddings(prompt.ids)
        if not _finite(hidden) or (projected is not None and not _finite(projected)):
            return self._overflow(self._loaded.matcher_name)
        cut = prompt is not None and prompt.truncated
        return Extract(hidden.tolist(), None if projected is None else projected.tolist(), cut)

    # ---- features, cached ----

    def _states(self, trunk: Trunk, pixels: Pixels, sights: Sequence[Sight]) -> list[Tensor]:
        """Trunk states (1, 1 + P, D) of each sight."""

        def compute(missing: Sequence[Sight]) -> list[Tensor]:
            ready = [prepared(sight, pixels) for sight in missing]
            with self._metrics.timed("see"):
                return _rows(trunk.see(torch.cat(ready)))

        return self._cached(sights, trunk, (pixels.key, trunk.fingerprint), compute)

    def _may_interrupt(self, work: Work) -> bool:
        """Whether a batch that is decoding can wait for the vision pass of this item.

        On a CPU the vision pass takes as long as several tokens: the item better waits for the next batch, whose pictures
        share one pass. On a GPU it takes about as long as one token.
        """
        captioner, pixels = self._loaded.captioner, self._loaded.pixels
        kind = self._captioner_key(captioner, pixels)
        return captioner.device.type != "cpu" or (_speech(work).sight.key, *kind) in self._cache

    def _image_tokens(self, works: Sequence[Work]) -> dict[str, Tensor]:
        """Image tokens (1, Q, D) of the works' pictures by their keys."""
        sights = {_speech(work).sight.key: _speech(work).sight for work in works}
        return dict(zip(sights, self._tokens(list(sights.values())), strict=True))

    def _tokens(self, sights: Sequence[Sight]) -> list[Tensor]:
        """Image tokens (1, Q, D) of each sight."""
        captioner, pixels = self._loaded.captioner, self._loaded.pixels

        def compute(missing: Sequence[Sight]) -> list[Tensor]:
            states = torch.cat(self._states(captioner.trunk, pixels, missing))
            with self._metrics.timed("query"):
                return _rows(captioner.query(states))

        return self._cached(sights, captioner.trunk, self._captioner_key(captioner, pixels), compute)

    def _itc(self, matcher: Matcher, sights: Sequence[Sight], states: Sequence[Tensor]) -> list[Tensor]:
        """ITC features (1, Q, D) of each sight."""
        known = {sight.key: state for sight, state in zip(sights, states, strict=True)}

        def compute(missing: Sequence[Sight]) -> list[Tensor]:
            with self._metrics.timed("query"):
                return _rows(matcher.image_features(torch.cat([known[sight.key] for sight in missing])))

        return self._cached(sights, matcher.trunk, (matcher.trunk.fingerprint, matcher.fingerprint), compute)

    def _captioner_key(self, captioner: Captioner, pixels: Pixels) -> tuple[str, ...]:
        return (pixels.key, captioner.trunk.fingerprint, captioner.fingerprint)

    def _cached(
        self,
        sights: Sequence[Sight],
        trunk: Trunk,
        kind: tuple[str, ...],
        compute: Callable[[Sequence[Sight]], list[Tensor]],
    ) -> list[Tensor]:
        """One tensor per sight, from the cache or computed for all missing ones together, each picture once."""
        found: dict[str, Tensor] = {}
        missing: dict[str, Sight] = {}
        for sight in sights:
            if sight.key in found or sight.key in missing:
                continue
            value = self._cache.get((sight.key, *kind))
            if value is None:
                missing[sight.key] = sight
            else:
                found[sight.key] = value
        waiting = list(missing.values())
        at_once = max(1, SEE_PATCHES // trunk.states_shape[0]) if trunk.device.type == "cpu" else SEE_AT_ONCE
        for first in range(0, len(waiting), at_once):
            chunk = waiting[first : first + at_once]
            for sight, value in zip(chunk, compute(chunk), strict=True):
                # A slice of a batch keeps the whole batch's memory alive, which the cache would not count.
                found[sight.key] = value if len(chunk) == 1 else value.clone()
                self._cache.put((sight.key, *kind), found[sight.key])
        return [found[sight.key] for sight in sights]


def _read(words: MatcherText, asked: MatchRequest | TextFeatureRequest) -> list[Prompt]:
    limit = RETRIEVAL_TOKENS if asked.retrieval else None
    return [words(text, limit) for text in asked.texts]


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _rows(batch: Tensor) -> list[Tensor]:
    return [batch[row : row + 1] for row in range(batch.shape[0])]


def prepared(sight: Sight, pixels: Pixels) -> Tensor:
    """The sight's pixels (1, 3, S, S) for one vision tower."""
    ready = sight.pixels.get(pixels.key)
    if ready is None:
        image = sight.resized.get(pixels.target, sight.image)
        if image is None:
            raise ValueError("a sight without its image was prepared for another model")
        ready = pixels(image)
    return ready


def _speech(work: Work) -> CaptionRequest | AnswerRequest:
    return cast("CaptionRequest | AnswerRequest", work.request)


def _longest(request: CaptionRequest | AnswerRequest) -> int:
    default = CAPTION_TOKENS if isinstance(request, CaptionRequest) else ANSWER_TOKENS
    generation: Generation = request.generation
    return generation.max_new_tokens or default


def _scores(
    matcher: Matcher,
    matching: Matching,
    seen: Sequence[tuple[str, Tensor]],
    features: Sequence[Tensor],
    prompts: Sequence[Sequence[Prompt]],
) -> list[list[TextScore]]:
    """ITM and ITC of each picture's texts, from its key and trunk states; the texts of all pictures go through together."""
    flat = [prompt.ids for group in prompts for prompt in group]
    if not flat:
        return [[] for _ in prompts]
    owners = [place for place, group in enumerate(prompts) for _ in group]
    itm = matching.logits([seen[place][0] for place in owners], [seen[place][1] for place in owners], flat)
    vectors = [matcher.text_features(flat[first:last]) for first, last in chunks([*map(len, flat)], MATCH_TOKENS)]
    text_features = torch.cat(vectors)
    probabilities, logits = itm.softmax(-1)[:, 1].tolist(), itm[:, 1].tolist()
    scores: list[list[TextScore]] = []
    start = 0
    for feature, group in zip(features, prompts, strict=True):
        end = start + len(group)
        cosines = cosine(feature, text_features[start:end])[0].clamp(-1, 1).tolist()
        scores.append(
            [
                TextScore(probability, similarity, prompt.truncated, logit)
                for probability, similarity, prompt, logit in zip(
                    probabilities[start:end], cosines, group, logits[start:end], strict=True
                )
            ]
        )
        start = end
    return scores
