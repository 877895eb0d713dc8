"""What goes wrong between an HTTP client and the application: bodies that are refused, and words of libraries."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE_S = 5.0  # for the rest of a body that is refused
SILENCE_S = 0.5


async def let_finish(receive: Receive, size: int) -> None:
    """Throw away up to `size` bytes of a body: closed on a client that is sending, the line would lose the answer too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while size > 0:
                message = await asyncio.wait_for(receive(), SILENCE_S)
                size -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


class PlainErrors:
    """Wraps the application: where the SDK refuses a body as no message, it quotes its parser, and the parser the body.

    The answer keeps its status and code, and says it in fixed words.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        held: list[Message] = []

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 400:
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
            start = {**start, "headers": [*names, (b"content-length", str(len(data)).encode())]}
            body = {**body, "body": data}
    await send(start)
    await send(body)


def _plain(said: str) -> str | None:
    if said.startswith("Parse error"):
        return "invalid_input: The message is not JSON that can be read: broken, too deep, or not valid Unicode."
    if said.startswith("Validation error"):
        return "invalid_input: The message is not one of the protocol (JSON-RPC 2.0)."
    return None
