"""A byte-budgeted cache of vision features, so that a picture seen before needs no pass of the trunk.

Up to two tiers: the device's own memory, and, where that is separate, main memory behind it. What no longer fits in the
first moves to the second, and comes back when it is asked for: copying features of a picture takes a small part of the
time that computing them would.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from blip2tools.engine.requests import Fit

# Of the memory for features, what the keys and values of the pictures may take that the matcher read texts about last: those of a
# picture take 8 to 13 times as much as its states, and a hundredth of the time to compute.
KEYS_SHARE: Final = 1 / 16


class Sized(Protocol):
    """A value whose size the cache can read, such as a `torch.Tensor`."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


@dataclass(frozen=True, slots=True)
class Spill(Generic[V]):
    """The second tier.

    Attributes:
        budget_bytes: the most that the values in it may hold together.
        away: copies a value to the second tier's memory.
        back: copies a value to the first tier's memory.
    """

    budget_bytes: int
    away: Callable[[V], V]
    back: Callable[[V], V]


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A snapshot of the cache for statistics: bytes and entries of each tier, and counts since the start."""

    entries: int
    bytes_used: int
    bytes_limit: int
    hits: int  # in either tier
    misses: int
    spilled_entries: int = 0
    spilled_bytes: int = 0
    spilled_limit: int = 0  # 0: there is no second tier
    returned: int = 0  # hits that came back from the second tier
    evicted: int = 0  # values that neither tier had room for

    def __add__(self, other: CacheUse) -> CacheUse:
        """That of both caches together."""
        return CacheUse(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a matcher found earlier.

    Attributes:
        keys: what texts attend to of the latest pictures, by their keys and the matcher's fingerprints.
        fits: of a picture, by its key, and a statement: the oldest first.
    """

    keys: FeatureCache[Tensor]
    fits: dict[tuple[str, str], Fit] = field(default_factory=dict)


class FeatureCache(Generic[V]):
    """A cache that evicts the least recently used value when a tier would exceed its budget. Safe to use from several threads.

    Args:
        budget_bytes: the most that the values of the first tier may hold together. A larger single value goes to the
            second tier or, where that is too small as well, is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._first: _Tier[V] = _Tier(budget_bytes)
        self._second: _Tier[V] = _Tier(0)
        self._spill: Spill[V] | None = None
        self._hits = self._misses = self._returned = self._evicted = 0
        self._lock = threading.Lock()

    def spill_to(self, spill: Spill[V] | None) -> None:
        """Put a second tier behind the first, or none. What an earlier second tier held is dropped."""
        with self._lock:
            self._spill = spill
            self._second = _Tier(spill.budget_bytes if spill else 0)

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._first or key in self._second

    def get(self, key: Hashable) -> V | None:
        """The value under `key` in the first tier's memory, now the most recently used, or None."""
        with self._lock:
            value = self._first.pop(key)
            if value is not None:
                self._first.add(key, value)
            elif self._spill is not None and (away := self._second.pop(key)) is not None:
                value = self._bring_back(key, away, self._spill)
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep `value`, and evict the least recently used ones if it needs room."""
        with self._lock:
            self._first.pop(key)
            self._second.pop(key)
            if self._first.holds(value):
                self._make_room(value)
                self._first.add(key, value)
            else:
                self._retire(key, value)

    def vacate(self) -> None:
        """Free the first tier's memory: its values go to the second tier, or are dropped where there is none."""
        with self._lock:
            while (oldest := self._first.pop_oldest()) is not None:
                self._retire(*oldest)

    def clear(self) -> None:
        """Drop every value; the counts stay."""
        with self._lock:
            self._first.clear()
            self._second.clear()

    def use(self) -> CacheUse:
        """How full the cache is, and how often it helped."""
        with self._lock:
            first, second = self._first, self._second
            return CacheUse(
                entries=len(first),
                bytes_used=first.used,
                bytes_limit=first.budget,
                hits=self._hits,
                misses=self._misses,
                spilled_entries=len(second),
                spilled_bytes=second.used,
                spilled_limit=second.budget,
                returned=self._returned,
                evicted=self._evicted,
            )

    def _bring_back(self, key: Hashable, away: V, spill: Spill[V]) -> V:
        self._returned += 1
        if not self._first.holds(away):
            self._second.add(key, away)
            return spill.back(away)
        # Make room first: a nearly full device cannot exceed the budget by one value, not even for a moment.
        self._make_room(away)
        value = spill.back(away)
        self._first.add(key, value)
        return value

    def _make_room(self, value: V) -> None:
        while not self._first.fits(value) and (oldest := self._first.pop_oldest()) is not None:
            self._retire(*oldest)

    def _retire(self, key: Hashable, value: V) -> None:
        if self._spill is None or not self._second.holds(value):
            self._evicted += 1
            return
        while not self._second.fits(value) and self._second.pop_oldest() is not None:
            self._evicted += 1
        try:
            self._second.add(key, self._spill.away(value))
        except (MemoryError, RuntimeError):  # torch raises the latter: a full cache is not a failure
            self._evicted += 1


class _Tier(Generic[V]):
    """Values in one memory, oldest first, and their total size."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def holds(self, value: V) -> bool:
        """Whether it would fit into the empty tier."""
        return value.nbytes <= self.budget

    def fits(self, value: V) -> bool:
        """Whether it fits without evicting anything."""
        return self.used + value.nbytes <= self.budget

    def add(self, key: Hashable, value: V) -> None:
        self._values[key] = value
        self.used += value.nbytes

    def pop(self, key: Hashable) -> V | None:
        value = self._values.pop(key, None)
        if value is not None:
            self.used -= value.nbytes
        return value

    def pop_oldest(self) -> tuple[Hashable, V] | None:
        if not self._values:
            return None
        key, value = self._values.popitem(last=False)
        self.used -= value.nbytes
        return key, value

    def clear(self) -> None:
        self._values.clear()
        self.used = 0
