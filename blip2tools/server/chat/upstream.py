"""The connection to the server that has the model: any that speaks the chat protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx2

from blip2tools.errors import DeadlineError, FetchFailedError, InvalidInputError, VisionError
from blip2tools.server.chat.bodies import MAX_BODY

CONNECT_S: Final = 10.0
SILENCE_S: Final = 600.0  # a long prompt on a small machine; OpenAI's own client waits as long

Headers = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1: of one connection; and what httpx2 writes itself for another body.
_OF_THE_HOP: Final = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect"),
    )
)
_KEYS: Final = frozenset((b"authorization", b"x-api-key"))


class Upstream:
    """Sends requests on.

    Args:
        url: of the server, with or without `/v1` at its end.
        key: sent instead of the client's; None to pass that on.
        keep_keys: whether a client's key may go on; not where it is this server's own token.
        silence_s: how long the upstream may be silent.

    Raises:
        InvalidInputError: no http(s) address.
    """

    def __init__(self, url: str, key: str | None, *, keep_keys: bool, silence_s: float = SILENCE_S) -> None:
        parts = urlsplit(url)
        try:
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.username or parts.query or parts.fragment:
            raise InvalidInputError(
                "The upstream must be an address such as http://127.0.0.1:8080, without a user, query or fragment."
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._keep_keys = keep_keys
        self._silence_s = silence_s
        self._http: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes | None
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request; the answer's body is still to be read.

        Raises:
            FetchFailedError: the upstream cannot be reached, or goes away.
            DeadlineError: it says nothing for too long.
        """
        if self._http is None:
            self._http = httpx2.AsyncClient(
                verify=self.url.startswith("https:"),  # for http no certificates are loaded
                trust_env=False,
                timeout=httpx2.Timeout(self._silence_s, connect=CONNECT_S, pool=None),
                # Idle connections are closed before servers usually close them, since a request could be on its way by then.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0),
            )
        address = f"{self.url}{path}" + (f"?{query.decode('latin-1')}" if query else "")
        request = httpx2.Request(method, address, headers=headers, content=body)
        try:
            response = await self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise failure_of(error) from error
        try:
            yield response
        finally:
            await response.aclose()

    def headers_to(self, given: Iterable[tuple[bytes, bytes]], *, unpacked: bool) -> Headers:
        """Headers for the upstream, from the client's.

        Args:
            given: the client's.
            unpacked: whether the body's coding was taken off.
        """
        pairs = [(name.lower(), value) for name, value in given]
        named = {part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")}
        dropped = _OF_THE_HOP | named | {b"accept-encoding", b"origin"}
        if unpacked:
            dropped |= {b"content-encoding"}
        if self._key is not None or not self._keep_keys:
            dropped |= _KEYS
        kept = [pair for pair in pairs if pair[0] not in dropped]
        if self._key is not None:
            is_anthropic = any(name == b"anthropic-version" for name, _ in pairs)
            secret = self._key.encode()
            kept.append((b"x-api-key", secret) if is_anthropic else (b"authorization", b"Bearer " + secret))
        # Compressed answers could not be examined, and on loopback compression only costs time.
        return [*kept, (b"accept-encoding", b"identity")]


def headers_from(response: httpx2.Response) -> Headers:
    """Headers for the client, from the answer's; the body is unpacked."""
    pairs = [(name.lower(), value) for name, value in response.headers.raw]
    named = {part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")}
    return [pair for pair in pairs if pair[0] not in _OF_THE_HOP | named | {b"content-encoding"}]


async def whole_of(response: httpx2.Response, limit: int = MAX_BODY) -> bytes:
    """The body of an answer.

    Raises:
        FetchFailedError, DeadlineError: it does not come to its end, or not within the limit.
    """
    found = bytearray()
    try:
        async for piece in response.aiter_bytes():
            found += piece
            if len(found) > limit:
                raise FetchFailedError(f"The upstream's answer is above the limit of {limit:,} bytes.")
    except httpx2.HTTPError as error:
        raise failure_of(error) from error
    return bytes(found)


def failure_of(error: httpx2.HTTPError) -> VisionError:
    """Our own error for a failure of the connection."""
    if isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout):
        return DeadlineError("The upstream server was silent for too long.")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return FetchFailedError("The upstream server cannot be reached.")
    return FetchFailedError("The upstream server cut its answer short, or did not answer in HTTP.")
