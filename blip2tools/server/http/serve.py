"""The process around the application: where it listens, and how it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

import uvicorn
from sse_starlette.sse import AppStatus

from blip2tools.errors import InvalidInputError
from blip2tools.server.http.app import body_limits, build_app
from blip2tools.server.http.connections import BACKLOG, Connection
from blip2tools.server.http.guard import Guard
from blip2tools.settings import Settings, variable
from blip2tools.vision import Vision

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765
GRACE_S = 10  # for calls in progress when the server is told to end
KEEP_ALIVE_S = 30  # an idle connection: longer than an agent thinks between two calls, most of the time

logger = logging.getLogger(__name__)


class Listener:
    """A bound socket: an address that is taken, or that needs a token, is refused before a model is loaded.

    Args:
        host: a name or address of this machine.
        port: 0 takes a free one.
        settings: whether there is a token.

    Raises:
        InvalidInputError: not an address of this machine, taken, or open to others without a token.
    """

    def __init__(self, host: str, port: int, settings: Settings) -> None:
        if not 0 <= port <= 65_535:
            raise InvalidInputError("The port must be a number from 0 to 65535.")
        self.host = host
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise InvalidInputError(f"'{host}' is not a name or address to listen on.") from error
        # Judged by the address and not by the name: a hosts file decides where a name leads.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        where = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if not where.is_loopback and settings.token is None:
            raise InvalidInputError(
                f"'{host}' can be reached from other machines, which needs a token: set {variable('token')} (or --token), "
                "for example to what `openssl rand -hex 32` prints."
            )
        self.any_address = where.is_unspecified
        # With the protocol's number: only then asyncio turns Nagle's algorithm off, which holds back the body of each answer
        # until the client has acknowledged its headers, 40 ms later.
        self.socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(address)
            # From here on clients can connect: they wait until the application is up instead of being refused.
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            raise InvalidInputError(
                f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}."
            ) from error

    @property
    def url(self) -> str:
        """The address for a browser on this machine."""
        name = "localhost" if self.any_address else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


def serve_http(vision: Vision, listener: Listener, *, page: bool = True) -> None:
    """Serve many clients until SIGINT or SIGTERM; then `vision` is closed.

    Calls in progress get up to 10 seconds to finish; a second SIGINT ends at once.

    Args:
        listener: where; its socket is closed at the end.
        page: serve the page at `/`.
    """
    settings = vision.settings
    server = build_http_server(vision, listener, page=page)
    logger.info("serving MCP at %s/mcp%s", listener.url, f" and a page at {listener.url}/" if page else "")
    logger.info(
        "bodies up to %s bytes to /mcp; %s; %s",
        f"{body_limits(settings)['/mcp']:,}",
        "a token is needed" if settings.token else "no token is needed",
        f"{settings.rate_limit} requests a minute for each client" if settings.rate_limit else "no rate limit",
    )
    if listener.any_address:
        names = ", ".join(settings.server_names) or "none; --server-names adds some"
        logger.info("other machines reach it by an address of this one, or by one of these names: %s", names)
    run_until_told(server, vision, listener)


def run_until_told(server: uvicorn.Server, vision: Vision, listener: Listener) -> None:
    """Serve until SIGINT or SIGTERM; then `vision` is closed."""
    _quiet_libraries()
    with _signals_end_quietly():
        try:
            server.run(sockets=[listener.socket])
        finally:
            vision.close()


def build_http_server(vision: Vision, listener: Listener, *, page: bool = True) -> uvicorn.Server:
    """The server, to be run with the listener's socket; it does not close `vision`."""
    # At a signal sse-starlette would cut every stream, also that of a call which is about to be answered.
    AppStatus.enable_automatic_graceful_drain = False
    guard = build_app(vision, names=[listener.host], any_address=listener.any_address, page=page)
    return server_of(guard)


def server_of(guard: Guard, *, date_header: bool = True) -> uvicorn.Server:
    """The server of an application; `date_header` where answers do not come with the date of another server."""
    config = uvicorn.Config(
        guard,
        http=Connection,
        backlog=BACKLOG,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would log queries, and lacks size and time
        proxy_headers=False,  # or a local client could choose its own address, and so escape the rate limit
        server_header=False,
        date_header=date_header,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return _Server(config, guard)


class _Server(uvicorn.Server):
    """uvicorn, which makes the guard close endless streams before it waits for calls in progress."""

    def __init__(self, config: uvicorn.Config, guard: Guard) -> None:
        super().__init__(config)
        self._guard = guard

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, close streams, wait for calls."""
        self._guard.drain()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Ignore the signal that uvicorn raises again after handling it: it would end the process before it has cleaned up."""

    def ignore(number: int, frame: FrameType | None) -> None:
        return None

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet_libraries() -> None:
    """Keep foreign lines out of the log: they hold session identifiers, tool arguments and foreign text."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    for name in ("mcp", "sse_starlette", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
