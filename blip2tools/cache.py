"""A byte-budgeted cache of vision features, so that a picture seen before costs the trunk nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What the cache needs to know of a value; a `torch.Tensor` has it."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A snapshot of the cache for statistics."""

    entries: int
    bytes_used: int
    bytes_limit: int
    hits: int
    misses: int


class FeatureCache(Generic[V]):
    """Least recently used first out, whenever the budget would be passed. Safe to use from several threads.

    Args:
        budget_bytes: the most that the values may hold together; a single larger value is not kept at all.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._entries: OrderedDict[Hashable, V] = OrderedDict()
        self._used = 0
        self._hits = 0
        self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """The value under `key`, now the most recently used, or None."""
        with self._lock:
            value = self._entries.get(key)
            if value is None:
                self._misses += 1
                return None
            self._entries.move_to_end(key)
            self._hits += 1
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep `value`, dropping the least recently used ones to stay within the budget."""
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self._used -= old.nbytes
            if value.nbytes > self._budget:
                return
            self._entries[key] = value
            self._used += value.nbytes
            while self._used > self._budget:
                _, dropped = self._entries.popitem(last=False)
                self._used -= dropped.nbytes

    def clear(self) -> None:
        """Drop every value; the counts of hits and misses stay."""
        with self._lock:
            self._entries.clear()
            self._used = 0

    def use(self) -> CacheUse:
        """How full the cache is, and how often it helped."""
        with self._lock:
            return CacheUse(len(self._entries), self._used, self._budget, self._hits, self._misses)
