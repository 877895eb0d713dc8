"""Thread pools for the slow work on pictures: files, folders, addresses and decoding have one each.

A slow address must not hold up a file, nor one caller's slow pictures another's: in each pool callers take turns, as in
the engine's queue. Cancelled work leaves the queue, or ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from blip2tools.call import CALLER, CLOSED, STOP, Stop
from blip2tools.errors import BusyError, CancelledError
from blip2tools.pictures import decoder

T = TypeVar("T")


class _Work:
    def __init__(self, caller: str, does: Callable[[], Any]) -> None:
        self.caller = caller
        self.does: Callable[[], Any] | None = does  # it holds pictures
        self.stop = Stop()
        self.future: Future[Any] = Future()

    def run(self) -> None:
        if self.does is None or not self.future.set_running_or_notify_cancel():
            return
        CALLER.set(self.caller)
        STOP.set(self.stop)
        try:
            found = self.does()
        except BaseException as error:  # noqa: BLE001  passed to the waiting caller
            # Stopped work may end with any error. Only closing the pool stops work whose caller still waits.
            self.future.set_exception(CancelledError(CLOSED) if self.stop.is_set() else error)
        else:
            self.future.set_result(found)
        finally:
            self.does = None


class Pool:
    """Threads for one kind of work.

    Args:
        name: of its threads.
        threads: how many pieces of work run at a time.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"blip2tools-{name}")
        self._lock = threading.Lock()
        self._callers: OrderedDict[str, deque[_Work]] = OrderedDict()
        self._running: set[_Work] = set()
        self._closed = False

    async def run(self, does: Callable[[], T]) -> T:
        """Run a function in a thread of this pool when it is the caller's turn. Cancelling stops it: see `call.Stop`.

        Raises:
            CancelledError: the pool was closed.
            BusyError: the system cannot start a thread.
        """
        work = self._add(does)
        try:
            found: T = await asyncio.wrap_future(work.future)
            return found
        except asyncio.CancelledError:
            self._forget(work)
            raise

    def wait(self, does: Callable[[], T]) -> T:
        """The same for a thread of another pool, which blocks meanwhile: that pool bounds what it holds.

        Raises:
            CancelledError: the pool was closed.
            BusyError: the system cannot start a thread.
        """
        work = self._add(does)
        with STOP.get().ending(lambda: self._forget(work)):
            found: T = work.future.result()
            return found

    def close(self) -> None:
        """End running and waiting work; new work is refused. May be called twice."""
        with self._lock:
            self._closed = True
            waiting = [work for works in self._callers.values() for work in works]
            running = list(self._running)
            self._callers.clear()
        for work in running:
            work.stop.set()
        for work in waiting:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(CancelledError(CLOSED))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _add(self, does: Callable[[], Any]) -> _Work:
        work = _Work(CALLER.get(), does)
        with self._lock:
            if self._closed:
                raise CancelledError(CLOSED)
            self._callers.setdefault(work.caller, deque()).append(work)
            try:
                self._threads.submit(self._next)
            except RuntimeError as error:
                self._remove(work)
                raise BusyError("The system cannot start another thread; try again later.") from error
        return work

    def _next(self) -> None:
        """Do the work whose turn it is. The pool's threads run this once for each piece of work."""
        with self._lock:
            if not self._callers:
                return  # the work that this was for has left the queue
            # Callers with work in progress come after those without.
            busy = {work.caller for work in self._running}
            caller = next((name for name in self._callers if name not in busy), next(iter(self._callers)))
            works = self._callers[caller]
            work = works.popleft()
            if works:
                self._callers.move_to_end(caller)
            else:
                del self._callers[caller]
            self._running.add(work)
        work.run()
        with self._lock:
            self._running.discard(work)

    def _forget(self, work: _Work) -> None:
        work.stop.set()
        work.future.cancel()
        with self._lock:
            self._remove(work)

    def _remove(self, work: _Work) -> None:
        """Remove it from the queue, if it is still there; called under the lock."""
        works = self._callers.get(work.caller)
        if works is not None:
            with suppress(ValueError):
                works.remove(work)
            if not works:
                del self._callers[work.caller]


class Pools:
    """The pools of one `Vision`."""

    def __init__(self) -> None:
        self.files = Pool("read", 2)
        self.folders = Pool("list", 2)
        self.addresses = Pool("fetch", 4)
        self.pictures = Pool("decode", decoder.AT_ONCE)
        self.words = Pool("words", 1)  # one process reads text

    def close(self) -> None:
        """See `Pool.close`."""
        for pool in (self.files, self.folders, self.addresses, self.pictures, self.words):
            pool.close()
