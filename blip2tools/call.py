"""The call that is being answered: whose it is, whether it is still wanted, and how far it is.

All three belong to the call, not to the verb: tasks and threads that a call starts inherit them, other calls never see them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from blip2tools.errors import CancelledError

CLOSED = "This Vision is closed."


CALLER: ContextVar[str] = ContextVar("blip2tools_caller", default="")
"""Whose calls these are: a face that serves several clients sets it, and the engine lets callers take turns."""


Listener: TypeAlias = Callable[[str, float, float | None], Awaitable[None]]
"""Hears what is being done, how much of it is done, and of how much in all, where that is known."""

PULSE_S = 0.5  # how often a call that waits for the model tells how far the loading is

_listener: ContextVar[Listener | None] = ContextVar("blip2tools_progress", default=None)


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Let `listener` hear the calls that are made inside this block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


async def tell(what: str, done: float, total: float | None = None) -> None:
    """Say how far this call is. Free when nobody listens."""
    listener = _listener.get()
    if listener is not None:
        await listener(what, done, total)


async def wait(work: asyncio.Future[Any], state: Callable[[], str], patience: float) -> None:
    """Wait at most `patience` seconds for `work`, and tell `state()` meanwhile; the share told stays below 1."""
    if _listener.get() is None:
        await asyncio.wait([work], timeout=patience)
        return
    started = time.monotonic()
    while not work.done() and (waited := time.monotonic() - started) < patience:
        await tell(state(), waited / patience)
        await asyncio.wait([work], timeout=min(PULSE_S, patience - waited))


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
