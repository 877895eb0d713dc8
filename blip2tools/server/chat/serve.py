"""The process around the proxy."""

from __future__ import annotations

import logging
from typing import Final

import uvicorn

from blip2tools.errors import InvalidInputError
from blip2tools.server.chat.bodies import MAX_BODY
from blip2tools.server.chat.protocols import dialect_of
from blip2tools.server.chat.proxy import CHATS, OTHERS, PREFIXES, ROUTES, Proxy
from blip2tools.server.chat.upstream import SILENCE_S, Upstream
from blip2tools.server.http.app import http_metrics
from blip2tools.server.http.guard import LOOPBACK_NAMES, Guard, Rules
from blip2tools.server.http.serve import Listener, run_until_told, server_of
from blip2tools.vision import Vision

DEFAULT_PORT: Final = 8766

logger = logging.getLogger(__name__)


def serve_proxy(vision: Vision, listener: Listener) -> None:
    """Serve chat programs until SIGINT or SIGTERM; then `vision` is closed."""
    server = build_proxy_server(vision, listener)
    settings = vision.settings
    logger.info("adding vision to %s: point chat programs at %s/v1", settings.upstream, listener.url)
    folders = ", ".join(map(str, vision.allowed_folders)) or "none"
    logger.info(
        "folders open to the model: %s; %s", folders, "a token is needed" if settings.token else "no token is needed"
    )
    run_until_told(server, vision, listener)


def build_proxy_server(vision: Vision, listener: Listener, *, silence_s: float = SILENCE_S) -> uvicorn.Server:
    """The server, to be run with the listener's socket; it does not close `vision`.

    Args:
        silence_s: how long the upstream may be silent.

    Raises:
        InvalidInputError: the settings name no upstream, or no address of one.
    """
    settings = vision.settings
    if settings.upstream is None:
        raise InvalidInputError("No upstream is set; name one with --upstream.")
    upstream = Upstream(
        settings.upstream,
        settings.upstream_key.get_secret_value() if settings.upstream_key else None,
        keep_keys=settings.token is None,
        silence_s=silence_s,
    )
    proxy = Proxy(vision, upstream, rounds=settings.tool_rounds, always=settings.offer_always)
    chats = (*CHATS, *OTHERS, *PREFIXES)
    guard = Guard(
        proxy,
        Rules(
            names=frozenset({*LOOPBACK_NAMES, *settings.server_names, listener.host.lower()}),
            any_address=listener.any_address,
            token=settings.token.get_secret_value() if settings.token else None,
            rate_limit=settings.rate_limit,
            body_limits=dict.fromkeys(chats, MAX_BODY),
            forms={path: dialect_of(path).error for path in (*chats, "/v1/models")},
        ),
        routes=[*ROUTES, *PREFIXES],
    )
    proxy.http_metrics = lambda: http_metrics(guard)
    return server_of(guard, date_header=False)
