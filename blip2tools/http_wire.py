"""What goes wrong between an HTTP client and the application: bodies that are refused, and words of libraries."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress

from python_multipart.multipart import parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE_S = 5.0  # for the rest of a body that is refused
SILENCE_S = 0.5
MAX_PARTS = 9  # of a form
MAX_PART_HEAD = 8192  # bytes of a part's headers


async def let_finish(receive: Receive, size: int) -> None:
    """Throw away up to `size` bytes of a body: closed on a client that is sending, the line would lose the answer too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while size > 0:
                message = await asyncio.wait_for(receive(), SILENCE_S)
                size -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def files_of_form(body: bytes, content_type: str) -> list[memoryview]:
    """The files of a form (RFC 7578), as views of its bytes: to parse it as a stream would hold a picture three times.

    Raises:
        ValueError: it is malformed, or has more parts than a picture's form needs.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    # RFC 2046, 5.1.1: a boundary begins a line and ends it, or is followed by two hyphens where the form ends.
    line = re.compile(rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(\r\n|--)")
    view = memoryview(body)
    files: list[memoryview] = []
    begun = line.search(body) if boundary else None
    for _ in range(MAX_PARTS):
        if begun is None:
            break
        if begun[1] == b"--":
            return files
        head = body.find(b"\r\n\r\n", begun.start(1), begun.end() + MAX_PART_HEAD)
        ended = line.search(body, head + 4)
        if head < 0 or ended is None:
            break
        for field in body[begun.end() : head].split(b"\r\n"):
            name, _, value = field.partition(b":")
            if name.strip().lower() == b"content-disposition" and b"filename" in parse_options_header(value)[1]:
                files.append(view[head + 4 : ended.start()])
        begun = ended
    raise ValueError("not a form, or a long one")


class PlainErrors:
    """Wraps the application: where the SDK refuses a body as no message, it quotes its parser, and the parser the body.

    The answer keeps its status and code, and says it in fixed words; so do what it says about sessions.
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
        return "invalid_input: The message is not one of the protocol (JSON-RPC 2.0)."
    if said == "Too many open sessions":
        return "busy: As many sessions as may be open are all in use; try again in a few seconds."
    if said == "Session not found":
        return "not_found: That session has ended or never was; begin a new one with initialize."
    return None
