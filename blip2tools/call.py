"""The call being answered: its client, whether its result is still wanted, and its progress.

All three belong to the call, not to the verb: tasks and threads that a call starts inherit them; other calls never see them.
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
"""The client that made this call. A server for several clients sets it, and the engine serves clients in turn."""


Listener: TypeAlias = Callable[[str, float, float | None], Awaitable[None]]
"""Receives a description of the work, the amount done, and the total where it is known."""

PULSE_S = 0.5  # between progress reports of a call that waits for the model to load

_listener: ContextVar[Listener | None] = ContextVar("blip2tools_progress", default=None)


@contextmanager
def heard_by(listener: Listener | None) -> Iterator[None]:
    """Report the progress of calls made inside this block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


async def tell(what: str, done: float, total: float | None = None) -> None:
    """Report this call's progress. Costs nothing without a listener."""
    listener = _listener.get()
    if listener is not None:
        await listener(what, done, total)


async def wait(work: asyncio.Future[Any], state: Callable[[], str], patience: float) -> None:
    """Wait at most `patience` seconds for `work` and report `state()` meanwhile; the fraction reported stays below 1."""
    if _listener.get() is None:
        await asyncio.wait([work], timeout=patience)
        return
    started = time.monotonic()
    while not work.done() and (waited := time.monotonic() - started) < patience:
        await tell(state(), waited / patience)
        await asyncio.wait([work], timeout=min(PULSE_S, patience - waited))


logger = logging.getLogger(__name__)


class Stop:
    """Whether work is still wanted. Work in steps checks it; work that blocks registers a callback that unblocks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], object]] = []
        self._set = False

    def is_set(self) -> bool:
        """Whether the work has been cancelled."""
        return self._set

    def check(self) -> None:
        """Check before a step that the work is still wanted.

        Raises:
            CancelledError: the work has been cancelled.
        """
        if self._set:
            raise CancelledError("No caller is waiting for this any more.")

    def set(self) -> None:
        """Cancel the work: call every registered callback."""
        with self._lock:
            self._set = True
            for end in self._ends:
                try:
                    end()
                except Exception:
                    logger.exception("a wait could not be ended")

    @contextmanager
    def ending(self, end: Callable[[], object]) -> Iterator[None]:
        """Register `end` to unblock the code inside this block. It is called in another thread, must not block, and is
        never called after the block."""
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
"""The `Stop` of this thread's work."""
