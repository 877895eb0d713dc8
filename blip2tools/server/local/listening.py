"""The side of a server: answers the commands of its own user with the model that it has loaded.

Only a picture's bytes come in, never a path: what a command may read, it reads itself. The calls wait in the same line as those
of other clients. Nothing of what was said is logged or kept, and no handle of these pictures is known to the server's clients.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from blip2tools import checkpoints
from blip2tools.call import CALLER
from blip2tools.checkpoints.plan import Plan
from blip2tools.errors import to_vision_error
from blip2tools.schemas import ImageResult
from blip2tools.server.local import place
from blip2tools.vision import Vision

MAX_CONNECTIONS: Final = 32
MAX_HELD: Final = 2**26  # bytes of pictures in work at once, beside one that is larger alone
HEAD_S: Final = 5.0  # for a question to come
BODY_S: Final = 30.0  # for a picture to come
AGAIN_S: Final = 5.0  # between two looks whether a model that is being downloaded is there
CLOSE_S: Final = 2.0

# The verbs that may be asked for, and their options; all else is the same for both, by the socket's name.
OPTIONS: Final = {
    "caption": {"prompt", "style", "region", "num_captions"},
    "ask": {"question", "choices", "region"},
    "match": {"texts", "region"},
    "survey": {"rows", "columns"},
    "read": {"region"},
}

logger = logging.getLogger(__name__)


@contextmanager
def lent(vision: Vision) -> Iterator[Listening]:
    """Let commands use these eyes while the block runs, where the system and the settings allow it."""
    listening = Listening(vision)
    listening.start()
    try:
        yield listening
    finally:
        listening.close()


class Listening:
    """A socket for commands, in a thread of its own.

    Args:
        vision: answers; it is not closed.
    """

    def __init__(self, vision: Vision) -> None:
        self._vision = vision
        self._eyes = vision.for_commands()
        self._plan: Plan | None = None
        self._name: str | None = None
        self._path: Path | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._connections = 0
        self._held = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="blip2tools-local", daemon=True)

    def start(self) -> None:
        """Begin to listen, without waiting for it."""
        if self._vision.settings.use_server and place.supported():
            self._thread.start()

    def close(self) -> None:
        """Remove the socket and cut what is under way."""
        self.remove()
        if not self._thread.is_alive():
            return
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has just ended by itself
                loop.call_soon_threadsafe(self._cancel_all, loop)
        self._thread.join(CLOSE_S)

    def remove(self) -> None:
        """Remove the socket, for a process that is about to end. May be called twice."""
        with self._lock:
            self._closed = True
            if self._path is not None:
                with suppress(OSError):
                    self._path.unlink()
                self._path = None

    @staticmethod
    def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a server without this is whole
            logger.debug("commands cannot use this server: %s", type(error).__name__)
        finally:
            self.remove()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        settings = self._vision.settings
        while (name := place.name_of(settings, plan := checkpoints.locate(settings))) is None:
            await asyncio.sleep(AGAIN_S)
        self._plan = plan
        self._name = name
        listener = self._bound(name)
        if listener is None:
            return
        with listener:
            server = await asyncio.start_unix_server(self._welcome, sock=listener)
            async with server:
                await server.serve_forever()

    def _bound(self, name: str) -> socket.socket | None:
        folder = place.folder_to_listen_in(self._vision.settings)
        if folder is None:
            return None
        place.remove_stale(folder)
        path = folder / f"{name}.{os.getpid()}"
        if not place.fits(path):
            return None
        listener = socket.socket(socket.AF_UNIX)
        try:
            with self._lock:
                if self._closed:
                    raise OSError
                path.unlink(missing_ok=True)  # of a process that had this number before
                listener.bind(str(path))
                self._path = path
            path.chmod(0o600)  # before anybody can connect: it does not listen yet
        except OSError:
            listener.close()
            return None
        return listener

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, ValueError, TimeoutError):
            pass  # it has gone, or is no command of ours: it learns no more
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not place.is_own_peer(writer.get_extra_info("socket")):
            return
        async with asyncio.timeout(HEAD_S):
            head = await place.read_message(reader, place.MAX_HEAD)
        asked = self._asked(head)
        if asked is None or not self._has_room(asked[2]) or not await asyncio.to_thread(self._is_same):
            writer.write(place.framed({"go": False}))
            await writer.drain()
            return
        verb, options, size = asked
        self._held += size
        try:
            writer.write(place.framed({"go": True, "pid": os.getpid()}))
            async with asyncio.timeout(BODY_S):
                data = await reader.readexactly(size)
            CALLER.set(secrets.token_hex(8))
            answer = await self._unless_left(reader, verb(data, **options))
            if answer is not None:
                writer.write(place.framed(answer))
                await writer.drain()
        finally:
            self._held -= size

    async def _unless_left(self, reader: asyncio.StreamReader, work: Awaitable[ImageResult]) -> dict[str, Any] | None:
        """What a verb says; nothing, and no more work, where the command has gone."""
        asked = asyncio.ensure_future(work)
        left = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((asked, left), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return None
            result = asked.result()
        except Exception as error:  # noqa: BLE001 - the command is told of every failure in our words
            failed = to_vision_error(error)
            return {"error": {"code": failed.code, "message": failed.message}}
        finally:
            for task in (asked, left):
                task.cancel()
            await asyncio.gather(asked, left, return_exceptions=True)
        return {"result": result.model_dump(mode="json"), "of_all": list(self._vision.notes)}

    def _asked(self, head: dict[str, Any]) -> tuple[Callable[..., Awaitable[ImageResult]], dict[str, Any], int] | None:
        """The verb, its options and the size of the picture that a command asks with, if it may ask that."""
        name, options, size = (head.get(part) for part in ("verb", "options", "bytes"))
        if not (isinstance(name, str) and name in OPTIONS and isinstance(options, dict) and type(size) is int):
            return None
        if not options.keys() <= OPTIONS[name] or not 0 < size <= self._vision.settings.max_image_bytes:
            return None
        return getattr(self._eyes, f"a{name}"), options, size

    def _has_room(self, size: int) -> bool:
        return self._connections <= MAX_CONNECTIONS and (not self._held or self._held + size <= MAX_HELD)

    def _is_same(self) -> bool:
        """Whether the model is there, is the one that the name says, and its files are still those."""
        if self._plan is None or not self._vision.has_loaded(self._plan):
            return False
        with suppress(OSError):
            return place.name_of(self._vision.settings, self._plan) == self._name
        return False
