"""How many calls may be inside at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from blip2tools.call import CALLER
from blip2tools.errors import BusyError


class Admission:
    """Bounds the calls inside: pictures waiting to be decoded hold memory before the engine's queue sees them.

    One of several callers may take three quarters of the places: there must be some for the others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = limit - limit // 4
        self._inside = 0
        self._of: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one call in and out.

        Raises:
            BusyError: as many as may wait are inside already.
        """
        caller = CALLER.get()
        with self._lock:
            if self._inside > self._limit:
                raise BusyError(f"{self._limit} calls are waiting already; try again in a few seconds.")
            if caller and self._of[caller] > self._share:
                raise BusyError(f"{self._share} of your calls are waiting already; try again in a few seconds.")
            self._inside += 1
            self._of[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._of[caller] -= 1
                if not self._of[caller]:
                    del self._of[caller]
