"""Limits on connections that have not sent a request yet.

Token, rate and size are judged once the head of a request has arrived. A client that sends none, or a byte now and then, would
otherwise hold a descriptor for ever, and a few hundred such connections lock everyone out (CWE-400, "slowloris"). So a head has
a time limit, and when too many connections are open, the one nearest to its limit is closed in favour of the new one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S: Final = 10.0  # for the head of a request, from its first byte; for the first one, from the connection
_RESERVED: Final = 64  # descriptors for everything else: weights, pictures, what fetches them, the decoder's pipes
_TELL_S: Final = 60.0  # between two lines in the log about it: an attack must not fill the disk

logger = logging.getLogger(__name__)


def _descriptors() -> int:
    """How many descriptors connections may take."""
    if sys.platform == "win32":
        return 2**16
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**16 if allowed == resource.RLIM_INFINITY else max(8, allowed - _RESERVED)


MOST: Final = min(1000, _descriptors() // 2)
"""Connections that are open together."""
BACKLOG: Final = min(2048, _descriptors() // 8)
"""Connections that wait to be accepted. asyncio accepts that many at once, and does so several times before the first of
them can be closed again; when descriptors run out meanwhile, it logs a traceback for each of the rest."""


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, with limits on connections that wait for a request."""

    _told: ClassVar[float] = -_TELL_S
    _head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._limit_head()
        if len(self.connections) > MOST:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._limit_head()
        else:
            self._head_came()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._head_came()
        super().connection_lost(exc)

    def _limit_head(self) -> None:
        if self._head_limit is None:  # else the limit stands, however many bytes have come
            self._head_limit = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def _head_came(self) -> None:
        if self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    @property
    def _limit(self) -> asyncio.TimerHandle | None:
        """The timer that closes it if no request comes; None while one is served."""
        return self._head_limit or self.timeout_keep_alive_task

    def _make_room(self) -> None:
        waiting = [
            (one._limit.when(), one)
            for one in self.connections
            if isinstance(one, Connection) and one._limit is not None
        ]
        _, first = min(waiting, key=lambda pair: pair[0])  # this one waits too, so there is one
        self.connections.discard(first)  # `connection_lost` follows later, and more may come before
        first.transport.abort()
        if (now := time.monotonic()) - Connection._told >= _TELL_S:
            Connection._told = now
            logger.warning("more than %d connections: those that wait longest for a request are closed", MOST)
