"""Exact scores. Text and picture: the largest cosine over the query tokens (ITC). Two pictures: the mean cosine of each query
token with its counterpart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from blip2tools.index.rows import Rows, Singles, Slots

_PIECE: Final = 2**19  # numbers that are converted at a time: 2 MB of float32, which stay in the processor's cache


def text_scores(rows: Rows, slots: Slots, vector: Singles) -> Singles:
    """The cosine of a text with the picture in each slot.

    Args:
        rows: the features.
        slots: which; in ascending order they are read fastest.
        vector: the text's, D numbers, of length 1.
    """
    tokens, size = rows.shape
    return _in_pieces(
        rows, slots, lambda seen: _largest(np.asarray(seen.reshape(-1, size) @ vector, np.float32), tokens)
    )


def _largest(scores: Singles, tokens: int) -> Singles:
    best_of: Singles = scores.reshape(-1, tokens).max(axis=1)
    return best_of


def picture_scores(rows: Rows, slots: Slots, features: Singles) -> Singles:
    """Likeness of the picture with these features (Q × D) and that in each slot, -1 to 1."""
    tokens, size = rows.shape
    flat = features.reshape(tokens * size) / tokens
    return _in_pieces(rows, slots, lambda seen: np.asarray(seen.reshape(-1, tokens * size) @ flat, np.float32))


def best(scores: NDArray[np.floating[Any]], count: int) -> Slots:
    """The places of the `count` largest numbers, largest first; of equal ones the first comes first."""
    if count < len(scores):
        near = np.sort(np.argpartition(-scores, count - 1)[:count])
        return near[np.argsort(-scores[near], kind="stable")]
    return np.argsort(-scores, kind="stable")


def _in_pieces(rows: Rows, slots: Slots, score: Callable[[Singles], Singles]) -> Singles:
    tokens, size = rows.shape
    step = max(1, _PIECE // (tokens * size))
    found = np.empty(len(slots), np.float32)
    for first in range(0, len(slots), step):
        found[first : first + step] = score(rows.exact(slots[first : first + step]))
    return found
