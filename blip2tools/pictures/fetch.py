"""Guarded HTTP GET: a public picture by its address, and nothing else that an address could reach.

An address comes from a model that may have read it on a hostile page, so it must not lead into the network around this
machine (server-side request forgery). It is parsed once; its name is resolved once; every answer must be public; the
connection goes to exactly the addresses that were judged; and each redirect starts over. The guards end at the address:
what a public host does with a request is beyond them. A cancelled fetch ends at once: see `call.Stop`.
"""

from __future__ import annotations

import queue
import re
import socket
import ssl
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore2
import httpx2

from blip2tools.call import STOP
from blip2tools.errors import (
    BusyError,
    DeadlineError,
    FetchFailedError,
    InvalidInputError,
    NotAllowedError,
    TooLargeError,
)
from blip2tools.settings import Settings

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Resolves host name and port to every address of the host, as text; raises `OSError` when there is none."""
Judge = Callable[[Address], bool]
"""Whether an address may be connected to."""

CONNECT_S = 3.0
READ_S = 5.0
TOTAL_S = 15.0
PORTS = (80, 443)
MAX_REDIRECTS = 3
MAX_URL = 8192
MAX_HEADERS = 256
MAX_RESOLVING = 32  # concurrent lookups: a resolver that waits for a silent server cannot be stopped
MAX_ADDRESSES = 4  # tried in turn; a name with hundreds of dead addresses must not cost hundreds of connection attempts

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_ADDRESS = re.compile(
    r"https?://(?P<host>\[[^\[\]]*\]|[^\[\]:/?#]*)(?::(?P<port>[0-9]{0,5}))?(?:[/?#].*)?", re.IGNORECASE
)
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63})*")
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")

# Names that never mean a public host: RFC 6761 (localhost), RFC 6762 (local), RFC 8375 (home.arpa), and internal by
# ICANN's resolution of 2024.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa", ".localdomain")
_PRIVATE_NAMES = frozenset({"metadata", "metadata.goog", "instance-data"})

# Cloud metadata services hand out credentials. They are refused whatever the judge says; one has a public address.
_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)
# `is_global` differs between Python releases; what their tables miss or once missed (RFC 6890, RFC 7526) is here.
_NEVER_V4 = tuple(IPv4Network(text) for text in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4"))
_NEVER_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo (RFC 4380) and other protocol assignments
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 (RFC 3056) carries any IPv4 address, a private one too
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")

_resolving = threading.BoundedSemaphore(MAX_RESOLVING)

_SWITCHED_OFF = "Fetching http(s) pictures is switched off."
_PRIVATE = "That address leads to a private or reserved network, which is never fetched; use a public picture address."
_TOO_LATE = "The picture did not arrive in time; try again later or use another address."
_UNREACHABLE = (
    "The picture could not be fetched: its server cannot be reached or drops the connection; check the address."
)


def fetch(
    url: str,
    settings: Settings,
    *,
    resolve: Resolve | None = None,
    judge: Judge | None = None,
    ports: Collection[int] = PORTS,
    tls: ssl.SSLContext | None = None,
    total_s: float = TOTAL_S,
) -> bytes:
    """The body behind an http(s) address, at most `settings.max_image_bytes`; whether it is a picture is not judged.

    Args:
        url: the address as the caller wrote it.
        settings: `allow_urls` must be on; `url_hosts`, if given, applies at every hop.
        resolve: for tests; the system's resolver by default.
        judge: for tests; `is_public` by default. Metadata services are refused whatever it says.
        ports: the ports that may be connected to.
        tls: the context for https; by default the system's authorities, verified.
        total_s: seconds for everything: names, connections, redirects and the body.

    Raises:
        InvalidInputError: a malformed or ambiguous address.
        NotAllowedError: a scheme, port, host or network that may not be fetched from, at any hop.
        FetchFailedError: no answer, or not one that can be a picture.
        TooLargeError: a longer body than may be read.
        DeadlineError: out of time.
        BusyError: too many names are being looked up.
    """
    if not settings.allow_urls:
        raise NotAllowedError(_SWITCHED_OFF)
    visit = _Visit(
        settings, resolve or system_resolver, judge or is_public, ports, tls, _Clock(time.monotonic() + total_s)
    )
    target = visit.parse(url)
    for _ in range(MAX_REDIRECTS + 1):
        answer = visit.get(target, visit.addresses(target))
        if isinstance(answer, bytes):
            return answer
        target = visit.follow(target, answer)
    raise FetchFailedError(
        f"The address redirects more than {MAX_REDIRECTS} times; use the address of the picture itself."
    )


def system_resolver(host: str, port: int) -> list[str]:
    """Every address the system knows for a host name."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, judged by what it must be rather than by a list of bad ones.

    Forms that carry an IPv4 address inside an IPv6 one are a way around such a judgement. The two that a resolver may
    legitimately return (mapped, and NAT64 as DNS64 synthesises it) are judged by the address inside; 6to4, Teredo, ISATAP,
    compatible addresses and local NAT64 prefixes belong to no public picture host and are refused.
    """
    if isinstance(address, IPv6Address):
        if address in _NAT64 or address in _MAPPED:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        # ISATAP (RFC 5214): the interface identifier is 0000:5efe or 0200:5efe and an IPv4 address, under any prefix.
        isatap = (int(address) >> 32) & 0xFDFFFFFF == 0x00005EFE
        return (
            address in _UNICAST_V6 and not isatap and address.is_global and not any(address in net for net in _NEVER_V6)
        )
    return address.is_global and not address.is_multicast and not any(address in net for net in _NEVER_V4)


@dataclass(frozen=True, slots=True)
class _Clock:
    end: float

    def left(self, at_most: float | None) -> float:
        """Seconds that the next step may take."""
        STOP.get().check()
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise httpcore2.ReadTimeout
        return seconds if at_most is None else min(seconds, at_most)


@dataclass(frozen=True, slots=True)
class _Target:
    url: httpx2.URL
    host: str
    """ASCII, lower case, without brackets or a trailing dot."""
    port: int


@dataclass(frozen=True, slots=True)
class _Visit:
    """One call of `fetch`: its rules, and the steps of a hop."""

    settings: Settings
    resolve: Resolve
    judge: Judge
    ports: Collection[int]
    tls: ssl.SSLContext | None
    clock: _Clock

    def parse(self, text: str) -> _Target:
        """Parse an address. Whatever two parsers could read differently is refused (CVE-2026-24779)."""
        if len(text) > MAX_URL:
            raise InvalidInputError(f"The address is longer than {MAX_URL:,} characters.")
        if "\\" in text or not text.isprintable() or any(char.isspace() for char in text):
            raise InvalidInputError(
                "The address holds a space, a backslash or a control character; percent-encode it (%20)."
            )
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() not in ("http", "https"):
            raise NotAllowedError("Only http and https addresses are fetched.")
        authority = re.match(r"[^:]*://([^/?#]*)", text)
        if authority and "@" in authority[1]:
            raise InvalidInputError("The address holds a user name or password ('@' before the host); leave it out.")
        if authority and unicodedata.normalize("NFKC", authority[1]) != unicodedata.normalize("NFC", authority[1]):
            raise NotAllowedError("The host is written in look-alike characters; use its plain name.")
        match = _ADDRESS.fullmatch(text)
        if not match or not match["host"]:
            raise InvalidInputError(
                "That is not a complete address; it must look like https://example.com/picture.jpg."
            )
        try:
            host = self._host(match["host"])
            url = httpx2.URL(text).copy_with(host=host, fragment=None)
        except (httpx2.InvalidURL, ValueError) as error:
            raise InvalidInputError("The host of the address is not a valid name.") from error
        port = int(match["port"] or (443 if url.scheme == "https" else 80))
        if port not in self.ports:
            raise NotAllowedError(f"Pictures are fetched from the ports {', '.join(map(str, self.ports))} only.")
        if self.settings.url_hosts and not {host, _unicode(host)} & set(self.settings.url_hosts):
            raise NotAllowedError("That host is not among the hosts that pictures may be fetched from.")
        return _Target(url, host, port)

    def _host(self, text: str) -> str:
        """The host in its one canonical form; numbers that only some resolvers read as an address are refused."""
        if text.startswith("["):
            if "%" in text:
                raise NotAllowedError(_PRIVATE)
            try:
                return str(IPv6Address(text[1:-1]))
            except ValueError as error:
                raise InvalidInputError("The host of the address is not a valid IPv6 address.") from error
        name = text.lower().removesuffix(".")
        if _NUMERIC_END.fullmatch(name):
            try:
                return str(IPv4Address(name))
            except ValueError as error:
                # 2130706433, 0177.0.0.1, 0x7f.1 and 127.1 are 127.0.0.1 to a C library.
                raise NotAllowedError("The host is a number in an unusual form; use its name or a.b.c.d.") from error
        name = httpx2.URL(scheme="https", host=name).raw_host.decode("ascii")
        if not _NAME.fullmatch(name):
            raise InvalidInputError("The host of the address is not a valid name.")
        if name in _PRIVATE_NAMES or f".{name}".endswith(_PRIVATE_SUFFIXES):
            raise NotAllowedError(_PRIVATE)
        return name

    def addresses(self, target: _Target) -> list[Address]:
        """Every address of the host, all of them judged: one private answer among public ones is an attack."""
        try:
            found: list[Address] = [ip_address(target.host)]
        except ValueError:
            found = [ip_address(text) for text in self._resolve(target)]
        if not found:
            raise FetchFailedError(_UNREACHABLE)
        for address in found:
            if not self.judge(address) or address in _METADATA or _inside(address) in _METADATA:
                raise NotAllowedError(_PRIVATE)
        return found[:MAX_ADDRESSES]

    def _resolve(self, target: _Target) -> Sequence[str]:
        """Resolve with a deadline, which the system's resolver lacks: past it, the thread runs on and its result is dropped."""
        answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()
        stopped = TimeoutError()

        def ask() -> None:
            try:
                answers.put(self.resolve(target.host, target.port))
            except Exception as error:  # noqa: BLE001  handed to the caller below
                answers.put(error)
            finally:
                _resolving.release()

        if not _resolving.acquire(blocking=False):
            raise BusyError("Too many addresses are being looked up; try again later.")
        try:
            threading.Thread(target=ask, name="blip2tools-resolve", daemon=True).start()
        except RuntimeError as error:
            _resolving.release()
            raise BusyError("The system cannot start another thread; try again later.") from error
        try:
            with STOP.get().ending(lambda: answers.put(stopped)):
                answer = answers.get(timeout=self.clock.left(None))
        except (queue.Empty, httpcore2.TimeoutException) as error:
            raise DeadlineError(_TOO_LATE) from error
        if isinstance(answer, Exception):
            raise FetchFailedError(_UNREACHABLE) from answer
        return answer

    def get(self, target: _Target, addresses: Sequence[Address]) -> bytes | str:
        """The body, or the address that the server redirects to."""
        formats = ", ".join(f"image/{name.lower()}" for name in self.settings.formats)
        headers = [
            ("Host", target.url.netloc.decode("ascii")),
            ("User-Agent", "blip2tools"),
            ("Accept", f"{formats}, */*;q=0.1"),  # a server that negotiates must not pick an unsupported format
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        url = httpcore2.URL(
            scheme=target.url.raw_scheme, host=target.host, port=target.port, target=target.url.raw_path
        )
        limits = {"timeout": {"connect": CONNECT_S, "read": READ_S, "write": READ_S, "pool": READ_S}}
        # The pool, not a client above it: there are no cookies, credentials, proxies or redirects to switch off.
        secure = target.url.scheme == "https"
        pool = httpcore2.ConnectionPool(
            ssl_context=(self.tls or httpx2.create_ssl_context(trust_env=False)) if secure else None,
            network_backend=_PinnedBackend(addresses, self.clock),
        )
        try:
            with pool, pool.stream("GET", url, headers=headers, extensions=limits) as response:
                return self._read(response)
        except httpcore2.TimeoutException as error:
            raise DeadlineError(_TOO_LATE) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise FetchFailedError(_UNREACHABLE) from error

    def _read(self, response: httpcore2.Response) -> bytes | str:
        """The body of a plain 200; anything else is judged by its head and left unread."""
        if len(response.headers) > MAX_HEADERS:
            raise FetchFailedError(_UNREACHABLE)
        headers = {name.lower(): value for name, value in reversed(response.headers)}
        if response.status in (301, 302, 303, 307, 308) and b"location" in headers:
            try:
                return headers[b"location"].decode()
            except UnicodeDecodeError as error:
                raise FetchFailedError("The address redirects to one that is not valid.") from error
        if response.status != 200:
            raise FetchFailedError(
                f"The server answered with status {response.status} instead of a picture; check the address."
            )
        # A compressed body is small on the wire and any size in memory, so it was not asked for and is not accepted.
        if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
            raise FetchFailedError(
                "The server sends the picture compressed, which is not accepted; use another address."
            )
        limit = self.settings.max_image_bytes
        too_large = TooLargeError(
            f"The picture at that address is above the limit of {limit:,} bytes; use a smaller one."
        )
        length = headers.get(b"content-length", b"0")
        if int(length) > limit:
            raise too_large
        body = bytearray()
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        if not body:
            raise FetchFailedError("The server sent an empty answer; check the address.")
        return bytes(body)

    def follow(self, target: _Target, location: str) -> _Target:
        """The next hop, read and judged like the first."""
        try:
            if "\\" in location or not location.isprintable():
                raise InvalidInputError(location)
            return self.parse(str(target.url.join(location)))
        except (InvalidInputError, httpx2.InvalidURL, ValueError) as error:
            raise FetchFailedError("The address redirects to one that is not valid.") from error


class _PinnedBackend(httpcore2.NetworkBackend):
    """Connects to judged addresses only, whatever the URL's host: a second lookup could answer otherwise (rebinding).

    The URL keeps its host, so the Host header, SNI and the certificate check are those of the name.
    """

    def __init__(self, addresses: Sequence[Address], clock: _Clock) -> None:
        self._addresses = addresses
        self._clock = clock
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = httpcore2.ConnectError()
        for address in self._addresses:
            try:
                stream = self._sockets.connect_tcp(
                    str(address), port, self._clock.left(timeout), local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _TimedStream(stream, self._clock)
        raise failure


class _TimedStream(httpcore2.NetworkStream):
    """A connection on which no wait outlasts the clock: a byte a second would never trip a read timeout."""

    def __init__(self, stream: httpcore2.NetworkStream, clock: _Clock) -> None:
        self._stream = stream
        self._clock = clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with STOP.get().ending(self._shut):
            return self._stream.read(max_bytes, self._clock.left(timeout))

    def _shut(self) -> None:
        # Closing would not wake a thread that reads.
        with suppress(OSError):
            self.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._clock.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, self._clock.left(timeout)), self._clock
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _inside(address: Address) -> Address:
    """The IPv4 address inside a mapped or NAT64 one, else the address itself."""
    if isinstance(address, IPv6Address) and (address in _NAT64 or address in _MAPPED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _unicode(host: str) -> str:
    """A name as people write it, for comparison with the list of allowed hosts."""
    return httpx2.URL(scheme="https", host=host).host
