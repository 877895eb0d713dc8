"""What ends work in a thread early: nobody waits for it any more. A thread cannot be cancelled as a task can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from blip2tools.errors import CancelledError

logger = logging.getLogger(__name__)


class Stop:
    """Whether a piece of work is still wanted. Work in steps asks; work that waits hangs on it what ends its wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], object]] = []
        self._set = False

    def is_set(self) -> bool:
        """Whether nobody waits any more."""
        return self._set

    def check(self) -> None:
        """A step's beginning.

        Raises:
            CancelledError: nobody waits any more.
        """
        if self._set:
            raise CancelledError("Nobody waits for this any more.")

    def set(self) -> None:
        """Nobody waits any more: end every wait that hangs on this."""
        with self._lock:
            self._set = True
            for end in self._ends:
                try:
                    end()
                except Exception:
                    logger.exception("a wait could not be ended")

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """While the block runs, `end` is what ends its wait. It is called in another thread, must not block, and never
        after the block."""
        with self._lock:
            if self._set:
                end()
            self._ends.append(end)
        try:
            yield
        finally:
            with self._lock:
                self._ends.remove(end)


STOP: ContextVar[Stop] = ContextVar("blip2tools_stop", default=Stop())  # noqa: B039  the default is never set
"""Of the work that this thread does."""
