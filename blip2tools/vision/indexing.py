"""Indexing of a folder: new pictures are looked at, many at once, and written as they come."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools import call
from blip2tools.call import CALLER
from blip2tools.engine.requests import FeatureRequest, MatcherFacts, MatcherRequest, Request, Sight
from blip2tools.errors import BusyError, ErrorCode, ModelUnavailableError, VisionError, error_of
from blip2tools.pictures.pools import Pools
from blip2tools.pictures.sources import Sources
from blip2tools.schemas import Failure, IndexResult, UnindexedFile
from blip2tools.settings import Settings
from blip2tools.vision.looking import Looking

if TYPE_CHECKING:
    from blip2tools.index.library import Library
    from blip2tools.index.writing import Changes, Looked, Writer

AT_ONCE: Final = 16  # pictures in progress: enough to fill batches, few enough for memory and for other callers
WRITTEN: Final = 128  # pictures in one transaction, which costs as much as looking at one small picture
WRITTEN_S: Final = 2.0  # what a kill may cost at most
_PATIENCE: Final = 5  # tries of a picture while the queue is full

# Errors that end the work, since every picture would cause them; and errors that may pass.
_ENDING: Final[frozenset[ErrorCode]] = frozenset(("cancelled", "model_unavailable"))
_PASSING: Final[frozenset[ErrorCode]] = frozenset(("busy", "timeout", "out_of_memory", "internal"))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """The parts of a `Vision` that indexing and searching use.

    Attributes:
        settings: limits, and where files may be kept.
        looking: decodes pictures.
        pools: threads for files.
        ask: puts a request to the engine, within a deadline on `time.monotonic()`'s clock.
        ready: waits for the model, however long it takes to load.
        is_loaded: whether it is.
        library: the indexes.
    """

    settings: Settings
    looking: Looking
    pools: Pools
    ask: Callable[[Request, float], Awaitable[Any]]
    ready: Callable[[], Awaitable[object]]
    is_loaded: Callable[[], bool]
    library: Library

    def deadline(self) -> float:
        """The deadline of one picture."""
        return time.monotonic() + self.settings.deadline_s


def rules_of(settings: Settings) -> str:
    """The settings that decide which pictures can be read."""
    return repr((sorted(settings.formats), settings.max_image_bytes, settings.max_pixels, settings.max_side))


async def index(means: Means, sources: Sources, folder: str, *, rebuild: bool = False) -> IndexResult:
    """See `Vision.index`."""
    turn = CALLER.set(secrets.token_hex(8))  # a long job takes turns with single calls
    begun = time.monotonic()
    try:
        (root,) = await means.pools.folders.run(lambda: sources.searched(folder))
        writer = await means.pools.folders.run(lambda: means.library.writer(root, rules_of(means.settings)))
        try:
            return await _Indexing(means, sources, root, writer).run(begun, rebuild=rebuild)
        finally:
            writer.close()
    finally:
        CALLER.reset(turn)


class _Indexing:
    """One run over one folder."""

    def __init__(self, means: Means, sources: Sources, root: Path, writer: Writer) -> None:
        self._means = means
        self._sources = sources
        self._root = root
        self._writer = writer
        self._waiting: list[Looked] = []
        self._found: set[bytes] = set()
        self._under_way: dict[bytes, asyncio.Event] = {}
        self._written = time.monotonic()
        self._done = self._known = self._failed = 0

    async def run(self, begun: float, *, rebuild: bool) -> IndexResult:
        from blip2tools.index.walk import Walk

        writer, pools = self._writer, self._means.pools
        if rebuild:
            await pools.folders.run(writer.clear)
        await call.tell("looking through the folder", 0)
        walk = Walk(self._root, self._sources.allows, self._sources.is_inside)
        changes = await pools.folders.run(lambda: writer.changes(walk))
        if changes.new or writer.made is None:
            await self._look_at(changes)
        elif self._means.is_loaded():
            writer.check((await self._matcher()).fingerprint)
        await pools.folders.run(lambda: writer.finish(changes.gone, lambda done, total: None))
        failed = await pools.folders.run(writer.failed)
        made = writer.made
        return IndexResult(
            folder=self._sources.shown(self._root),
            matcher="" if made is None else made.matcher,
            pictures=changes.kept + self._done - self._failed,
            added=self._done - self._known - self._failed,
            known=self._known,
            unchanged=changes.kept,
            removed=len(changes.gone),
            seconds=time.monotonic() - begun,
            unreadable=[
                UnindexedFile(
                    path=self._sources.shown(self._root / os.fsdecode(one.name)),
                    error=Failure(code=why.code, message=why.message),
                )
                for one, why in ((one, error_of(one.code or "", one.message or "")) for one in failed)
            ],
            warnings=self._unlisted(changes),
        )

    def _unlisted(self, changes: Changes) -> list[str]:
        shown = [self._sources.shown(self._root / os.fsdecode(name)) for name in changes.unlisted]
        return [f'the folder "{name}" cannot be listed: its entries in the index stay as they were' for name in shown]

    async def _look_at(self, changes: Changes) -> None:
        """Look at what is new; write it in portions."""
        await self._begin()
        gate = asyncio.Semaphore(AT_ONCE)
        total = len(changes.new)
        tasks: set[asyncio.Task[None]] = set()

        async def one(entry: Any) -> None:
            try:
                looked = await self._look(entry)
            finally:
                gate.release()
            self._done += 1
            self._failed += looked.code is not None
            self._known += looked.code is None and looked.features is None
            await call.tell("pictures", self._done, total)

        try:
            for entry in changes.new:
                await gate.acquire()
                for task in [task for task in tasks if task.done()]:
                    tasks.discard(task)
                    task.result()  # errors of every picture end the work
                tasks.add(asyncio.ensure_future(one(entry)))
                if len(self._waiting) >= WRITTEN or time.monotonic() - self._written > WRITTEN_S:
                    await self._write()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._write()  # also when it is stopped: what is done is done

    async def _begin(self) -> None:
        """Load the model, and refuse another matcher's index."""
        await self._means.ready()
        facts = await self._matcher()
        shape = (facts.tokens, facts.size)
        await self._means.pools.folders.run(lambda: self._writer.begin(facts.name, facts.fingerprint, shape))

    async def _matcher(self) -> MatcherFacts:
        facts: MatcherFacts | None = await self._means.ask(MatcherRequest(), self._means.deadline())
        if facts is None:
            raise ModelUnavailableError(
                "There is no image-text matcher for this model, which an index needs; name one with --matcher."
            )
        return facts

    async def _write(self) -> None:
        portion, self._waiting = self._waiting, []
        if portion:
            await self._means.pools.folders.run(lambda: self._writer.put(portion))
        self._written = time.monotonic()

    async def _look(self, entry: Any) -> Looked:
        """Look at one file; what is found waits to be written."""
        from blip2tools.index.writing import Looked

        path = self._root / os.fsdecode(entry.name)
        for tried in range(_PATIENCE):
            try:
                digest, look = await self._means.looking.glance(lambda: self._sources.read_found(path))
                rows = await self._features(digest, look)
                looked = Looked(entry, digest, rows)
                break
            except VisionError as error:
                if error.code in _ENDING:
                    raise
                passing = error.code in _PASSING
                looked = Looked(entry, code=error.code, message=error.message, passing=passing)
                if not isinstance(error, BusyError):
                    break
                await asyncio.sleep(2.0**tried / 10)
        # In this order: a file that shares its content with this one waits behind it.
        self._waiting.append(looked)
        if looked.digest is not None:
            self._found.add(looked.digest)
            self._under_way.pop(looked.digest, asyncio.Event()).set()
        return looked

    async def _features(self, digest: bytes, look: Callable[[], Awaitable[Sight]]) -> Any:
        """The features of a content; None where another file has brought them, or is about to."""
        if (other := self._under_way.get(digest)) is not None:
            await other.wait()
        if self._writer.is_known(digest) or digest in self._found:
            return None
        event = self._under_way.setdefault(digest, asyncio.Event())
        try:
            return await self._means.ask(FeatureRequest(await look()), self._means.deadline())
        except BaseException:
            self._under_way.pop(digest, None)
            event.set()
            raise
