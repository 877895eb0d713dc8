"""Sessions of MCP clients that speak a revision which has them (until 2025-11-25): there is room for the next one.

Nothing makes a client end its session, and the SDK's transport refuses new ones at its limit until old ones expire after
half an hour: a loop that only says `initialize` would lock everybody out. Here the session makes room that has not been
used for the longest time, of the caller who has most; its client is told so by a 404 and begins anew (transports,
"Session Management", of that revision).
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blip2tools.concurrency import CALLER

ID = b"mcp-session-id"
TELL_S = 60.0  # between two lines in the log about it: an attack must not fill the disk

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    caller: str
    used: float = field(default_factory=time.monotonic)
    serving: int = 0
    """Requests under way, an open stream among them."""


class Sessions:
    """Wraps the application and ends sessions through its own DELETE.

    Args:
        app: what opens and serves sessions, at `path`.
        path: where it does.
        most: how many may be open. The application must allow as many.
    """

    def __init__(self, app: ASGIApp, path: str, most: int) -> None:
        self._app = app
        self._path = path
        self._most = most
        self._open: dict[bytes, _Session] = {}
        self._opening = 0
        self._told = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
        elif (name := _header(scope, ID)) is not None:
            await self._serve(name, scope, receive, send)
        elif scope["method"] == "POST":
            await self._begin(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, name: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """A request of a session, or of one that is unknown or over."""
        gone = False

        async def watched(message: Message) -> None:
            nonlocal gone
            if message["type"] == "http.response.start":
                gone = message["status"] == 404 or (scope["method"] == "DELETE" and message["status"] < 300)
            await send(message)

        session = self._open.get(name, _Session(""))
        session.serving += 1
        try:
            await self._app(scope, receive, watched)
        finally:
            session.serving -= 1
            session.used = time.monotonic()
            if gone:
                self._open.pop(name, None)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that may open a session; of the newer revisions, which have none, it does not."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                name = dict(message["headers"]).get(ID)
                if name is not None:
                    self._open[name] = _Session(CALLER.get())
            await send(message)

        await self._make_room(scope)
        self._opening += 1
        try:
            await self._app(scope, receive, watched)
        finally:
            self._opening -= 1

    async def _make_room(self, scope: Scope) -> None:
        while len(self._open) + self._opening >= self._most:
            counts = Counter(session.caller for session in self._open.values())
            idle = ((name, one) for name, one in self._open.items() if not one.serving)
            name, session = min(idle, key=lambda item: (-counts[item[1].caller], item[1].used), default=(b"", None))
            if session is None:
                return  # all are in use: the application refuses
            del self._open[name]
            if (now := time.monotonic()) - self._told >= TELL_S:
                self._told = now
                logger.warning("%d sessions are open: those that are idle longest are ended", self._most)
            await self._end(name, scope)

    async def _end(self, name: bytes, scope: Scope) -> None:
        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def unheard(message: Message) -> None:
            pass

        headers = [(b"host", _header(scope, b"host") or b""), (ID, name)]
        await self._app({**scope, "method": "DELETE", "headers": headers}, nothing, unheard)


def _header(scope: Scope, name: bytes) -> bytes | None:
    value: bytes
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None
