"""The one layer that every HTTP request but `/healthz` passes: names, token, rate, size, and one line of log.

The SDK's own checks cover its own route alone, so none of them is relied on. Whatever is refused here never reaches a
route, and no route is reached past here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import ipaddress
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blip2tools.call import CALLER
from blip2tools.errors import to_vision_error
from blip2tools.schemas import has_too_many_parts
from blip2tools.server.http.bodies import let_finish
from blip2tools.server.http.exchange import ErrorForm, Exchange, Refusal
from blip2tools.server.http.page.document import Page
from blip2tools.server.http.rate import RateLimit

logger = logging.getLogger(__name__)

HEALTH = "/healthz"  # says only "ok", to anyone
PROBES = (HEALTH, "/readyz", "/metrics")  # asked every few seconds: they would flood the log
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
BODY_PATIENCE_S = 30.0  # for the next piece of a body
MAX_UNREAD = 2**20  # bytes of an unwanted body that are still read, so that its sender gets the answer
BODIES_AT_ONCE = 8  # bodies of the largest size that may be in memory together
DEPARTURE = "blip2tools.departure"  # key in an ASGI scope

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>.+)")
_PORTS = {"http": "80", "https": "443"}


class Departure:
    """Whether a request's client has disconnected, and what to stop then."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._scopes: set[anyio.CancelScope] = set()

    def tell(self) -> None:
        """Note that the client has disconnected."""
        self._event.set()
        for scope in self._scopes:
            scope.cancel()

    async def wait(self) -> None:
        """Wait until the client has disconnected."""
        await self._event.wait()

    @contextmanager
    def cancels(self) -> Iterator[anyio.CancelScope]:
        """Cancel the block when the client disconnects; then the scope's `cancelled_caught` is true."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self._event.is_set():
                    scope.cancel()
                yield scope
            finally:
                self._scopes.discard(scope)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for requests.

    Attributes:
        names: host names and addresses by which this server may be called, lower case.
        any_address: whether any literal address is allowed too, since the server listens on all of the machine's.
        token: the secret, or None where none is needed.
        rate_limit: requests a minute for each token and address; 0 is no limit.
        body_limits: largest body by path; other paths take none.
        json_paths: where the body is JSON.
        origins: of pages of other sites that may call this server.
        sign_in: what a browser gets with the 401 at `/`, so that its user can enter the token.
        forms: how errors are said, by path; elsewhere as `{"code": ..., "message": ...}`.
    """

    names: Collection[str]
    any_address: bool = False
    token: str | None = None
    rate_limit: int = 0
    body_limits: Mapping[str, int] = field(default_factory=dict)
    json_paths: Collection[str] = ()
    origins: Collection[str] = ()
    sign_in: Page | None = None
    forms: Mapping[str, ErrorForm] = field(default_factory=dict)


class Guard:
    """Wraps an ASGI application in the rules. `answered` counts answers by route and status."""

    def __init__(self, app: ASGIApp, rules: Rules, routes: Collection[str]) -> None:
        """`routes`: the paths that there are; one with a slash at its end stands for all that are below it."""
        self.answered: dict[tuple[str, int], int] = {}
        self.open = 0
        self._app = app
        self._rules = rules
        self._routes = dict.fromkeys(routes)  # in their order
        self._token = rules.token.encode() if rules.token else None
        self._rate = RateLimit(rules.rate_limit)
        self._held = 0
        self._budget = BODIES_AT_ONCE * max(rules.body_limits.values(), default=0)
        self._streams: set[Departure] = set()

    def drain(self) -> None:
        """Prepare for shutdown: close streams that would never end by themselves, let calls finish."""
        for departure in list(self._streams):
            departure.tell()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            exchange = Exchange(self._without_slash(scope), send, self._routes, self._rules.forms)
            CALLER.set(_caller(exchange))  # the engine lets clients take turns
            self.open += 1
            try:
                await self._serve(exchange, receive)
            finally:
                self.open -= 1
                key = (exchange.route, exchange.status)
                self.answered[key] = self.answered.get(key, 0) + 1
                probe = exchange.route in PROBES and exchange.status in (200, 503)
                logger.log(logging.DEBUG if probe else logging.INFO, "%s", exchange)

    def _without_slash(self, scope: Scope) -> Scope:
        """A known path without the slash that a client added at its end: after a redirect many would lose their POST."""
        path = scope["path"].rstrip("/")
        # Paths that are open to everyone are so under one name only.
        if scope["path"] in self._routes or path not in self._routes or path == HEALTH:
            return scope
        return {**scope, "path": path, "raw_path": path.encode()}

    async def _serve(self, exchange: Exchange, receive: Receive) -> None:
        try:
            refusal = None if exchange.path == HEALTH else self._judge(exchange)
            if refusal is None and exchange.is_preflight:
                await exchange.allow()
                return
            if refusal is None and exchange.route not in self._routes:
                await let_finish(receive, MAX_UNREAD)
                refusal = Refusal(
                    404, "not_found", f"There is nothing at this path; there is {', '.join(self._routes)}."
                )
            if refusal is not None:
                await exchange.refuse(refusal)
                return
            with self._body_budget() as grow:
                body = await self._body(exchange, receive, grow)
                if isinstance(body, Refusal):
                    await exchange.refuse(body)
                elif body is not None:
                    await self._pass_on(exchange, body, receive)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # The time for calls in progress at shutdown is over. The task ends here in any case, and
            # uvicorn would log a cancellation as a crash.
            await exchange.fail(Refusal(503, "cancelled", "The server is shutting down.", {"connection": "close"}))
        except anyio.ClosedResourceError:
            # The session ended while this request was entering it; to later ones the SDK itself answers 404, as the
            # specification asks for (MCP 2025-06-18, Transports, Session management).
            await exchange.fail(Refusal(404, "cancelled", "The session has ended; start a new one."))
        except Exception as error:  # noqa: BLE001 - whatever a route failed with, the client gets one sentence of ours
            failure = to_vision_error(error)
            await exchange.fail(Refusal(500, failure.code, failure.message))
        await exchange.finish()

    # ---- who ----

    def _judge(self, exchange: Exchange) -> Refusal | None:
        """The reason not to serve this request, from its headers alone."""
        hosts = exchange.headers(b"host")
        host = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None or not self._is_ours(host["name"]):
            return Refusal(
                421,
                "not_allowed",
                "This server is not called by that name; the operator can add one with --server-names.",
            )
        for origin in (origins := exchange.headers(b"origin")):
            if not self._is_same(origin, host) and origin not in self._rules.origins:
                return Refusal(403, "not_allowed", "Requests from pages of other sites are refused.")
        if len(origins) == 1 and origins[0] in self._rules.origins:
            exchange.origin = origins[0]
        # A browser asks without the token whether it may send it.
        known = self._has_token(exchange) or exchange.is_preflight
        # Counted before a wrong token is reported: guessing is limited too, separately from callers with the token.
        if wait := self._rate.wait((known, _caller(exchange))):
            seconds = max(1, round(wait + 0.5))
            limit = f"More than {self._rules.rate_limit} requests a minute"
            return Refusal(429, "busy", f"{limit}; try again in {seconds} s.", {"retry-after": str(seconds)})
        return None if known else self._ask_for_token(exchange)

    def _is_ours(self, name: str) -> bool:
        bare = name.strip("[]").rstrip(".")
        if bare in self._rules.names:
            return True
        # DNS rebinding (a page's own name that suddenly leads here) cannot forge a literal address.
        return self._rules.any_address and _is_address(bare)

    def _is_same(self, origin: str, host: re.Match[str]) -> bool:
        """Whether a page's origin is this server itself: one of its names, on the same port."""
        parts = _ORIGIN.fullmatch(origin.lower())
        theirs = _HOST.fullmatch(parts["host"]) if parts else None
        if parts is None or theirs is None or not self._is_ours(theirs["name"]):
            return False
        default = _PORTS[parts["scheme"]]
        return (theirs["port"] or default) == (host["port"] or default)

    def _has_token(self, exchange: Exchange) -> bool:
        if self._token is None:
            return True
        given = exchange.headers(b"authorization")
        scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        keys = exchange.headers(b"x-api-key")
        if not given and len(keys) == 1 and exchange.path.startswith("/v1/"):
            scheme, secret = "bearer", keys[0]  # as Anthropic's clients send it
        # Bytes, since `compare_digest` refuses text beyond ASCII; digests, since its time reveals lengths.
        good = hmac.compare_digest(_digest(secret.strip().encode("latin-1")), _digest(self._token))
        return good and scheme.lower() == "bearer"

    def _ask_for_token(self, exchange: Exchange) -> Refusal:
        challenge = 'Bearer realm="blip2tools"'  # RFC 6750, section 3
        if exchange.headers(b"authorization"):
            challenge += ', error="invalid_token"'
        headers, html = {"www-authenticate": challenge}, None
        if self._rules.sign_in is not None and exchange.path == "/" and exchange.method in ("GET", "HEAD"):
            html = self._rules.sign_in.html
            headers |= self._rules.sign_in.headers
        message = "This server needs its token, sent as 'Authorization: Bearer ...'."
        return Refusal(401, "not_allowed", message, headers, html)

    # ---- how much ----

    @contextmanager
    def _body_budget(self) -> Iterator[Callable[[int], bool]]:
        """Yield a function that adds to the bytes of all bodies in memory, unless that would be too many."""
        mine = 0

        def grow(size: int) -> bool:
            nonlocal mine
            if self._held + size > self._budget:
                return False
            mine += size
            self._held += size
            return True

        try:
            yield grow
        finally:
            self._held -= mine

    async def _body(self, exchange: Exchange, receive: Receive, grow: Callable[[int], bool]) -> bytes | Refusal | None:
        """The whole body within its limit, counted while it arrives; None if the client has disconnected."""
        limit = self._rules.body_limits.get(exchange.route, 0)
        much = f"The request's body is above the limit of {limit:,} bytes." if limit else "This path takes no body."
        too_large = Refusal(413, "too_large", much, {"connection": "close"})
        declared = exchange.headers(b"content-length")
        if declared and declared[0].isdecimal() and int(declared[0]) > limit:
            await let_finish(receive, 2 * limit)
            return too_large
        # Joining pieces, or growing a block that must move, would hold the body twice for a moment. The system gives this
        # block its memory only where it is written, so an announced size costs nothing; cut to size it is passed on as it is.
        block = io.BytesIO(bytes(min(int(declared[0]), limit) if declared and declared[0].isdecimal() else limit))
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), BODY_PATIENCE_S)
            except TimeoutError:
                return Refusal(408, "timeout", "The request's body did not arrive.", {"connection": "close"})
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size, more = size + len(piece), message.get("more_body", False)
            if size > limit:
                await let_finish(receive, 2 * limit)
                return too_large
            if not grow(len(piece)):
                return Refusal(
                    503,
                    "busy",
                    "Too many pictures are arriving at once; try again in a few seconds.",
                    {"retry-after": "2", "connection": "close"},
                )
            block.write(piece)
        block.truncate()
        body = block.getvalue()
        if exchange.route in self._rules.json_paths and has_too_many_parts(body):
            return Refusal(400, "invalid_input", "The request's body holds too many values.")
        return body

    # ---- on ----

    async def _pass_on(self, exchange: Exchange, body: bytes, receive: Receive) -> None:
        """Let the application answer, and tell it when the client disconnects."""
        departure = Departure()
        exchange.scope[DEPARTURE] = departure
        pending = [body]
        del body

        async def replay() -> Message:
            if pending:
                return {"type": "http.request", "body": pending.pop(), "more_body": False}
            await departure.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            exchange.gone = not exchange.complete
            departure.tell()

        if exchange.is_stream:
            self._streams.add(departure)
        watcher = asyncio.ensure_future(watch())
        try:
            await self._app(exchange.scope, replay, exchange.send)
        finally:
            self._streams.discard(departure)
            watcher.cancel()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _caller(exchange: Exchange) -> str:
    """The caller of a request: the peer's address, and for IPv6 its network, since one customer has 2**64 addresses."""
    client = exchange.scope.get("client")
    if not client:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return str(client[0])
    # On a socket for both, an IPv4 peer is `::ffff:192.0.2.1`: the network of all of them would be one caller.
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
