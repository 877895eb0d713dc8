"""How far a long call is, told to whoever listens: loading, parts of a picture.

The listener belongs to the call, not to the verb: tasks that a call starts inherit it, other calls never hear it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

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
