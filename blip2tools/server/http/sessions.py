"""Sessions of MCP clients that speak a revision with sessions (until 2025-11-25): idle ones end when there are too many.

Nothing makes a client end its session, and the SDK's transport refuses new ones at its limit until old ones expire after
half an hour: a loop that only sends `initialize` would lock everyone out. Here the session that has been idle longest
ends, among those of the caller with the most; its client gets a 404 and starts a new one (transports, "Session Management",
of that revision).
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blip2tools.call import CALLER

ID = b"mcp-session-id"
MAX_INITIALIZE = 2**16  # bytes of a message that may open a session: clients send their name and capabilities
TELL_S = 60.0  # between two lines in the log about it: an attack must not fill the disk

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    caller: str
    used: float = field(default_factory=time.monotonic)
    serving: int = 0
    """Requests in progress, including an open stream."""


class Sessions:
    """Wraps the application and ends sessions through its own DELETE.

    Args:
        app: what opens and serves sessions, at `path`. It must allow more than `most`: those in use are not ended.
        path: where it does.
        most: how many may be open before idle ones are ended.
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
        if scope["type"] != "http" or scope["path"] != self._path or not _has_sessions(scope):
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
        """A request without a session; it may open one."""
        message = await receive()
        if not _is_initialize(message):
            return await self._app(scope, _first(message, receive), send)
        opened: bytes | None = None

        async def watched(message: Message) -> None:
            nonlocal opened
            if message["type"] == "http.response.start" and message["status"] < 300:
                opened = dict(message["headers"]).get(ID)
            await send(message)

        await self._make_room(scope)
        self._opening += 1
        try:
            await self._app(scope, _first(message, receive), watched)
            if opened is not None:  # and not cancelled meanwhile, which would have ended it
                self._open[opened] = _Session(CALLER.get())
        finally:
            self._opening -= 1
        return None

    async def _make_room(self, scope: Scope) -> None:
        while len(self._open) + self._opening >= self._most:
            counts = Counter(session.caller for session in self._open.values())
            idle = ((name, one) for name, one in self._open.items() if not one.serving)
            name, session = min(idle, key=lambda item: (-counts[item[1].caller], item[1].used), default=(b"", None))
            if session is None:
                return  # all are in use: the application has a limit of its own
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


def _has_sessions(scope: Scope) -> bool:
    """Whether a request is of a revision with sessions, judged as the SDK does; of a later one it ignores a session's id."""
    version = _header(scope, b"mcp-protocol-version")
    return version is None or version.decode("latin-1") in HANDSHAKE_PROTOCOL_VERSIONS


def _is_initialize(message: Message) -> bool:
    body = message.get("body", b"")
    if len(body) > MAX_INITIALIZE or message.get("more_body", False):
        return False
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(request, dict) and request.get("method") == "initialize"


def _first(message: Message, receive: Receive) -> Receive:
    """A `receive` that first returns a message that has been received already."""
    messages = [message]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _header(scope: Scope, name: bytes) -> bytes | None:
    value: bytes
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


class PlainErrors:
    """Wraps the application: where the SDK refuses a body, it quotes its parser, and the parser quotes the body.

    The answer keeps its status and code but gets fixed words; so do errors about sessions.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        held: list[Message] = []

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 404, 503):
                held.append(message)
            elif held:
                await _send_plain(held.pop(), message, send)
            else:
                await send(message)

        await self._app(scope, receive, checked if scope.get("path") == self._path else send)


async def _send_plain(start: Message, body: Message, send: Send) -> None:
    data = body.get("body", b"")
    with suppress(ValueError, KeyError, TypeError):
        answer = json.loads(data)
        words = _plain(answer["error"]["message"])
        if words is not None:
            answer["error"]["message"] = words
            data = json.dumps(answer).encode()
            names = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            names += [(b"retry-after", b"5")] if start["status"] == 503 else []
            start = {**start, "headers": [*names, (b"content-length", str(len(data)).encode())]}
            body = {**body, "body": data}
    await send(start)
    await send(body)


def _plain(said: str) -> str | None:
    if said.startswith("Parse error"):
        return "invalid_input: The message is not JSON that can be read: broken, too deep, or not valid Unicode."
    if said.startswith("Validation error"):
        return "invalid_input: The message is not valid JSON-RPC 2.0."
    if said == "Too many open sessions":
        return "busy: All sessions that may be open are in use; try again in a few seconds."
    if said == "Session not found":
        return "not_found: That session has ended or never existed; start a new one with initialize."
    return None
