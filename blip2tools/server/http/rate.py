"""How many requests one caller may send, over HTTP."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

RATE_KEYS = 4096  # callers remembered by the rate limit


class RateLimit:
    """A token bucket for each caller: a minute's worth at once, then as many as flow in.

    Args:
        per_minute: requests; 0 is no limit.
        clock: seconds that only go up.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = float(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[tuple[bool, str], tuple[float, float]] = OrderedDict()

    def wait(self, caller: tuple[bool, str]) -> float:
        """Count one request and return 0, or the seconds until there is room for it."""
        if not self._size:
            return 0.0
        now = self._clock()
        left, then = self._buckets.pop(caller, (self._size, now))
        left = min(self._size, left + (now - then) * self._size / 60)
        # Remembered callers are bounded: a caller with many addresses must not fill the memory.
        while len(self._buckets) >= RATE_KEYS:
            self._buckets.popitem(last=False)
        self._buckets[caller] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._size
