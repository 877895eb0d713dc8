"""One request over HTTP and its answer: the headers that every answer has, errors in the client's form, and a line of the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from starlette.types import Message, Scope, Send

from blip2tools.errors import ErrorCode
from blip2tools.server.http.answers import Problem

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Answers must not be sniffed, embedded or stored, nor their addresses be sent to another site.
_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)

# For pages of other sites that the operator lets in (Fetch standard, 3.2: CORS protocol).
_CROSS = (
    (b"vary", b"Origin"),
    (b"access-control-expose-headers", b"Mcp-Session-Id, MCP-Protocol-Version, Retry-After, WWW-Authenticate"),
)
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Accept, Last-Event-ID, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name",
    ),
    (b"access-control-max-age", b"600"),
)
ErrorForm: TypeAlias = Callable[[int, ErrorCode, str], dict[str, Any]]
"""From a status, a code and a sentence to the JSON of an answer."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as an answer, as `{"code": ..., "message": ...}`, or as a page where a person must act."""

    status: int
    code: ErrorCode
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    html: bytes | None = None

    async def send(self, send: Send, form: ErrorForm | None = None) -> None:
        """Send it as the answer, in the `form` that the clients of a path read as an error."""
        plain = Problem(code=self.code, message=self.message)
        said = form(self.status, self.code, self.message) if form else plain.model_dump()
        body = self.html or json.dumps(said).encode()
        kind = "text/html; charset=utf-8" if self.html else "application/json"
        headers = {"content-type": kind, "content-length": str(len(body)), **self.headers}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})


class Exchange:
    """One request and the progress of its answer."""

    def __init__(
        self, scope: Scope, send: Send, routes: Collection[str], forms: Mapping[str, ErrorForm] | None = None
    ) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        # Only known paths are ever logged or counted: others may hold anything.
        below = (route for route in routes if route.endswith("/") and route != "/" and self.path.startswith(route))
        self.route = self.path if self.path in routes else next(below, "elsewhere")
        self._form = (forms or {}).get(self.route)
        self.status = 0
        self.complete = self.gone = False
        self.origin: str | None = None  # of a page of another site that may read the answer
        self._send = send
        self._bytes = 0
        self._started = time.monotonic()

    def headers(self, name: bytes) -> list[str]:
        """The values of every header of a name."""
        return [value.decode("latin-1").strip() for key, value in self.scope["headers"] if key == name]

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks for a page of another site what it may send."""
        asked = self.headers(b"access-control-request-method")
        return self.origin is not None and self.method == "OPTIONS" and bool(asked)

    async def allow(self) -> None:
        """Answer a preflight: all that a client of the protocol sends. Cookies are never asked for."""
        headers = list(_PREFLIGHT)
        if self.headers(b"access-control-request-private-network"):
            headers.append((b"access-control-allow-private-network", b"true"))
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    @property
    def is_stream(self) -> bool:
        """Whether the answer lasts as long as the client listens: in MCP, a GET until 2025-11-25, a method since."""
        return self.path == "/mcp" and (self.method == "GET" or self.headers(b"mcp-method") == ["subscriptions/listen"])

    async def send(self, message: Message) -> None:
        """Pass a piece of the answer on, with the headers that every answer has."""
        if self.complete:
            return  # the SDK answers once more when a session ends during its answer
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", [])}
            message = {
                **message,
                "headers": [
                    *message.get("headers", []),
                    *(header for header in _EVERYWHERE if header[0] not in present),
                    *([] if self.origin is None else [(b"access-control-allow-origin", self.origin.encode()), *_CROSS]),
                ],
            }
        elif message["type"] == "http.response.body":
            self._bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal, as the clients of this path read it."""
        await refusal.send(self.send, self._form)

    async def fail(self, refusal: Refusal) -> None:
        """Answer with an error if the client is still there."""
        if not self.status and not self.gone:
            with suppress(OSError):
                await self.refuse(refusal)

    async def finish(self) -> None:
        """Close an answer that was cut short, so that the connection ends in order."""
        if self.status and not self.complete and not self.gone:
            with suppress(OSError):
                await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def __str__(self) -> str:
        """The line of the log: no query, no header, no content."""
        client = self.scope.get("client") or ("-", 0)
        milliseconds = (time.monotonic() - self._started) * 1000
        outcome = "gone" if self.gone or not self.status else str(self.status)
        method = self.method if self.method in _METHODS else "-"
        return f"{client[0]} {method} {self.route} {outcome} {self._bytes} B {milliseconds:.0f} ms"
