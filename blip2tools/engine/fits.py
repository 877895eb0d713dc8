"""How well statements fit pictures, by ITM alone: what the premises of questions are judged by; and what is kept for the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from blip2tools.engine.cache import Kept
from blip2tools.engine.metrics import Metrics
from blip2tools.engine.requests import AnswerRequest, CaptionRequest, ChoiceRequest, Fit, FitRequest, Sight
from blip2tools.errors import ModelUnavailableError

if TYPE_CHECKING:
    from torch import Tensor

    from blip2tools.checkpoints import Loaded
    from blip2tools.model import Matcher, Pixels, Trunk

MATCH_TOKENS = 4096  # query and text tokens in one pass of the matcher
KEPT = 4096  # fits of a picture and a statement, 200 bytes each


class Matching:
    """ITM of pictures and texts. Used by the engine's worker thread alone.

    Args:
        loaded: the model.
        kept: the keys and values of the latest pictures; added to.
    """

    def __init__(self, loaded: Loaded, kept: Kept) -> None:
        self._loaded = loaded
        self._kept = kept

    def logits(self, sights: Sequence[str], states: Sequence[Tensor], texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (N, 2) of N pairs.

        Args:
            sights: the key of each pair's picture.
            states: trunk states (1, 1 + P, Dv) of each pair's picture.
            texts: ids of each pair's text.
        """
        matcher = self._loaded.matcher
        if matcher is None:
            raise ValueError("there is no matcher")
        seen = dict(zip(sights, states, strict=True))
        place = {key: number for number, key in enumerate(seen)}
        found = []
        for first, last in chunks([matcher.num_queries + len(ids) for ids in texts], MATCH_TOKENS):
            if len(seen) == 1:
                found.append(matcher.match_kept(self._keys(matcher, sights[0], states[0]), texts[first:last]))
            else:
                # Keys and values of many pictures for all layers at once would take the memory of a large batch.
                those = [place[key] for key in sights[first:last]]
                found.append(matcher.match(torch.cat(list(seen.values())), texts[first:last], those))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _keys(self, matcher: Matcher, sight: str, states: Tensor) -> Tensor:
        name = (sight, matcher.trunk.fingerprint, matcher.fingerprint)
        keys = self._kept.keys.get(name)
        if keys is None:
            keys = matcher.keys(states)
            self._kept.keys.put(name, keys)
        return keys


class Fits:
    """The fits of the latest pictures and statements. Used by the engine's worker thread alone.

    Args:
        loaded: the model.
        metrics: records how long it takes.
        states: trunk states (1, 1 + P, D) of each sight.
        kept: the fits of earlier batches, the oldest first; added to.
    """

    def __init__(
        self,
        loaded: Loaded,
        metrics: Metrics,
        states: Callable[[Trunk, Pixels, Sequence[Sight]], list[Tensor]],
        matching: Matching,
        kept: Kept,
    ) -> None:
        self._loaded = loaded
        self._metrics = metrics
        self._states = states
        self._matching = matching
        self._kept = kept.fits

    def of(
        self, requests: Sequence[CaptionRequest | AnswerRequest | ChoiceRequest | FitRequest]
    ) -> list[tuple[Fit, ...] | None]:
        """How well each request's statements fit its picture, all in one pass; None for each without a matcher.

        Only what is new is computed: questions about one picture presuppose the same few things.
        """
        if self._loaded.matcher is None:
            return [None] * len(requests)
        wanted = [() if isinstance(one, CaptionRequest) else one.statements for one in requests]
        sights = {one.sight.key: one.sight for one, texts in zip(requests, wanted, strict=True) if texts}
        pairs = [[(one.sight.key, text) for text in texts] for one, texts in zip(requests, wanted, strict=True)]
        known = {pair: self._kept[pair] for group in pairs for pair in group if pair in self._kept}
        new = list(dict.fromkeys(pair for group in pairs for pair in group if pair not in known))
        if new:
            known |= self._fresh(sights, new)
        return [tuple(known[pair] for pair in group) for group in pairs]

    def _fresh(self, sights: dict[str, Sight], pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Fit]:
        matcher, words, pixels = self._loaded.matcher, self._loaded.matcher_words, self._loaded.matcher_pixels
        if matcher is None or words is None or pixels is None:
            raise ValueError("there is no matcher")
        keys = list(dict.fromkeys(key for key, _ in pairs))
        states = dict(zip(keys, self._states(matcher.trunk, pixels, [sights[key] for key in keys]), strict=True))
        read = [words.statement(text) for _, text in pairs]
        with self._metrics.timed("match"):
            logits = self._matching.logits(
                [key for key, _ in pairs], [states[key] for key, _ in pairs], [prompt.ids for prompt, _ in read]
            )
            odds = (logits[:, 1] - logits[:, 0]).tolist()
        if not all(math.isfinite(one) for one in odds):
            raise overflow(self._loaded.matcher_name, self._loaded.dtype)
        fresh = {pair: Fit(one, unread) for pair, one, (_, unread) in zip(pairs, odds, read, strict=True)}
        self._kept.update(fresh)
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return fresh


def overflow(name: str | None, dtype: str) -> ModelUnavailableError:
    """The error for results that are NaN or infinite: a text or score from them would mean nothing."""
    return ModelUnavailableError(
        f"The model {name} computes values that are NaN or infinite: its weights are damaged, or overflow in {dtype}. "
        "`blip2tools doctor` says what to do."
    )


def chunks(sizes: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Spans of neighbours whose padded size stays within the budget; at least one in each."""
    spans: list[tuple[int, int]] = []
    first, widest = 0, 0
    for place, size in enumerate(sizes):
        widest = max(widest, size)
        if place > first and widest * (place - first + 1) > budget:
            spans.append((first, place))
            first, widest = place, size
    return [*spans, (first, len(sizes))]
