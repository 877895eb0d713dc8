"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from blip2tools.call import CLOSED
from blip2tools.errors import CancelledError, ModelUnavailableError

T = TypeVar("T")

FORKED = "This Vision was loaded before a fork, and its threads are not in this process: load one in each process."
END_SECONDS = 5.0  # for cancelled tasks to end


class LoopThread:
    """An event loop in a thread of its own, for synchronous callers; started at the first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and wait. An interrupt of the waiting thread cancels it.

        Raises:
            CancelledError: the loop was closed before the work was done.
            ModelUnavailableError: this process is a fork of the one that made it.
        """
        if os.getpid() != self._owner:
            work.close()
            raise ModelUnavailableError(FORKED)
        with self._lock:
            if self._closed:
                work.close()
                raise CancelledError(CLOSED)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="blip2tools-loop", daemon=True)
                self._thread.start()
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a synchronous verb was called from a coroutine of this Vision; await its a... twin")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except FutureCancelledError:
            raise CancelledError(CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop and end its thread."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._closed = True
        if loop is None or thread is None:
            return
        if thread is not threading.current_thread():
            # Tasks that an interrupt left behind must end inside their loop, before it is closed.
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result(END_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join()
            loop.close()


class Runner:
    """Runs coroutines for synchronous callers."""

    def __init__(self) -> None:
        self._loop = LoopThread()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end from synchronous code, also inside a running event loop (a notebook)."""
        return self._loop.run(work)


async def _end_tasks() -> None:
    """Cancel every other task of this loop and wait until they have ended."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
