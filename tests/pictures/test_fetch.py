"""The guarded GET against real servers on the loopback, and every address that must not be reached."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from blip2tools.errors import VisionError
from blip2tools.pictures import fetch as module
from blip2tools.pictures.fetch import fetch, is_public
from blip2tools.settings import Settings

SETTINGS = Settings(allow_urls=True, max_image_bytes=100_000)
BODY = b"\x89PNG\r\n\x1a\n" + b"x" * 500

Reply = Callable[[socket.socket, bytes], None]
Authority = Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]]


def answer(head: str, body: bytes = b"") -> Reply:
    """A server's part: `head` and `body`, then the connection closes."""

    def reply(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)

    return reply


def ok(body: bytes = BODY, *headers: str) -> Reply:
    return answer("\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]), body)


def redirect(location: str | None, status: int = 302) -> Reply:
    where = [] if location is None else [f"Location: {location}"]
    return answer("\n".join([f"HTTP/1.1 {status} Found", "Content-Length: 0", *where]))


class Server:
    """Answers each connection with the next of its replies (the last one for ever) and remembers the requests."""

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None) -> None:
        self._replies = list(replies)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.closed_by_client = threading.Event()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(20)
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            plain = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with plain:
                request = b""
                while b"\r\n\r\n" not in request:
                    part = plain.recv(65_536)
                    if not part:
                        return
                    request += part
                self.requests.append(request)
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                try:
                    reply(plain, request)
                except OSError:
                    self.closed_by_client.set()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *self._threads):
            thread.join(10)


class World:
    """A network in which every public name leads to servers on the loopback, and that counts its questions."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.asked: list[str] = []
        self.names: dict[str, Sequence[str]] = {}

    def serve(self, *replies: Reply, tls: ssl.SSLContext | None = None) -> Server:
        self.servers.append(Server(*replies, tls=tls))
        return self.servers[-1]

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.names.get(host, ["127.0.0.1"])

    def judge(self, address: module.Address) -> bool:
        return str(address) == "127.0.0.1" or is_public(address)

    def get(self, url: str, settings: Settings = SETTINGS, **options: object) -> bytes:
        ports = (80, 443, *(server.port for server in self.servers))
        given = {"resolve": self.resolve, "judge": self.judge, "ports": ports, **options}
        return fetch(url, settings, **given)

    def url(self, path: str = "/cat.png", host: str = "pictures.example", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.servers[0].port}{path}"

    def refused(
        self, url: str, code: str | tuple[str, ...], settings: Settings = SETTINGS, **options: object
    ) -> VisionError:
        with pytest.raises(VisionError) as caught:
            self.get(url, settings, **options)
        error = caught.value
        assert error.code in ((code,) if isinstance(code, str) else code)
        assert error.message[0].isupper()
        assert error.message.endswith(".")
        assert not any(foreign in error.message for foreign in ("0x", "Errno", "/site-packages/", "127.0.0.1", "\n"))
        return error


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for server in world.servers:
        server.close()


class TestAnswers:
    def test_a_picture(self, world: World) -> None:
        server = world.serve(ok())
        assert world.get(world.url("/a b.png?size=1#fragment".replace(" ", "%20"))) == BODY
        request = server.requests[0].decode()
        assert request.startswith("GET /a%20b.png?size=1 HTTP/1.1\r\n")
        assert f"Host: pictures.example:{server.port}\r\n" in request
        assert "Accept-Encoding: identity\r\n" in request
        assert "image/png" in request
        assert "image/tiff" not in request

    def test_U16_nothing_of_the_environment_or_of_the_user_is_sent(
        self, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        server = world.serve(ok(BODY, "Set-Cookie: session=1"))
        (tmp_path / "netrc").write_text("machine pictures.example login me password secret")
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("HOME", str(tmp_path))
        assert world.get(world.url()) == world.get(world.url()) == BODY
        for request in server.requests:
            assert b"cookie" not in request.lower()
            assert b"authorization" not in request.lower()
            assert b"referer" not in request.lower()

    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param(
                answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"4\r\nabcd\r\n0\r\n\r\n"), id="chunked"
            ),
            pytest.param(answer("HTTP/1.1 200 OK\nConnection: close", b"abcd"), id="until-close"),
            pytest.param(answer("HTTP/1.0 200 OK", b"abcd"), id="http-1.0"),
            pytest.param(ok(b"abcd", "Content-Encoding: identity"), id="identity"),
            pytest.param(answer("HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\nContent-Length: 4", b"abcd"), id="hints"),
            pytest.param(answer("HTTP/1.1 200 OK\nContent-Length: 4", b"abcdef"), id="U13-more-than-said"),
        ],
    )
    def test_ways_to_send_a_body(self, world: World, reply: Reply) -> None:
        world.serve(reply)
        assert world.get(world.url()) == b"abcd"

    @pytest.mark.parametrize(
        ("reply", "code"),
        [
            pytest.param(answer("HTTP/1.1 200 OK\nContent-Length: 0"), "fetch_failed", id="U15-empty"),
            *(
                pytest.param(
                    answer(f"HTTP/1.1 {status} X\nContent-Length: 6", b"secret"), "fetch_failed", id=f"U15-{status}"
                )
                for status in (201, 206, 400, 401, 403, 404, 407, 410, 418, 429, 500, 503, 999)
            ),
            pytest.param(answer("HTTP/1.1 204 No Content"), "fetch_failed", id="U15-204"),
            pytest.param(answer("HTTP/1.1 304 Not Modified"), "fetch_failed", id="U15-304"),
            pytest.param(
                answer("HTTP/1.1 101 Switching\nUpgrade: x\nConnection: upgrade"), "fetch_failed", id="U15-101"
            ),
            pytest.param(ok(BODY, "Content-Encoding: gzip"), "fetch_failed", id="U14-gzip"),
            pytest.param(ok(BODY, "Content-Encoding: br"), "fetch_failed", id="U14-br"),
            pytest.param(ok(BODY, "Content-Encoding: zstd"), "fetch_failed", id="U14-zstd"),
            pytest.param(ok(BODY, "Content-Encoding: identity, gzip"), "fetch_failed", id="U14-double"),
            pytest.param(
                answer("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked"), "fetch_failed", id="U14-transfer"
            ),
            pytest.param(answer("HTTP/1.1 200 OK\nContent-Length: 99999999"), "too_large", id="U13-says-large"),
            pytest.param(
                answer("HTTP/1.1 200 OK\nContent-Length: " + "9" * 5000), "fetch_failed", id="U13-says-absurd"
            ),
            pytest.param(answer("HTTP/1.1 200 OK\nContent-Length: 50", b"abcd"), "fetch_failed", id="U13-short"),
            pytest.param(
                answer("HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5", b"abcd"), "fetch_failed", id="U13-two"
            ),
            pytest.param(answer("HTTP/1.1 200 OK\nContent-Length: -4", b"abcd"), "fetch_failed", id="U13-negative"),
            pytest.param(
                answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n"),
                "fetch_failed",
                id="U13-chunked-garbage",
            ),
            pytest.param(answer("HTTP/1.1 200 OK", b"x" * 100_001), "too_large", id="U13-no-length"),
            pytest.param(answer("HTTP/1.1 200 OK\nX: " + "y" * 200_000), "fetch_failed", id="U17-huge-header"),
            pytest.param(
                answer("HTTP/1.1 200 OK\n" + "X: y\n" * 10_000 + "Z: z"), "fetch_failed", id="U17-10000-headers"
            ),
            pytest.param(answer("HTTP/1.1 200 OK\nX: a\x01b\x00c"), "fetch_failed", id="U17-control-bytes"),
            pytest.param(answer("garbage"), "fetch_failed", id="U17-no-http"),
            pytest.param(lambda *_: None, "fetch_failed", id="no-answer"),
        ],
    )
    def test_not_the_answer_of_a_picture(self, world: World, reply: Reply, code: str) -> None:
        world.serve(reply, ok())
        error = world.refused(world.url(), code)
        assert "secret" not in error.message
        assert world.get(world.url()) == BODY, "the next fetch must work"

    def test_exactly_the_limit(self, world: World) -> None:
        world.serve(answer("HTTP/1.1 200 OK", b"x" * 100_000))
        assert len(world.get(world.url())) == 100_000

    def test_U13_an_endless_body_is_left(self, world: World) -> None:
        def endless(connection: socket.socket, _: bytes) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65_536)

        server = world.serve(endless)
        world.refused(world.url(), "too_large")
        assert server.closed_by_client.wait(10)

    def test_U14_a_bomb_is_not_read(self, world: World) -> None:
        bomb = zlib.compress(b"\0" * 10_000_000)
        world.serve(ok(bomb, "Content-Encoding: deflate"))
        world.refused(world.url(), "fetch_failed")

    def test_no_server(self, world: World) -> None:
        world.serve(ok())
        with socket.socket() as unused:  # holds a port and does not listen
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            world.refused(f"http://pictures.example:{port}/", "fetch_failed", ports=(port,))

    def test_switched_off(self, world: World) -> None:
        world.refused("http://pictures.example/", "not_allowed", Settings())
        assert world.asked == []


class TestTime:
    @pytest.mark.parametrize("part", ["head", "body", "hints"])
    def test_U12_a_byte_at_a_time_ends_at_the_total_deadline(self, world: World, part: str) -> None:
        begins = {
            "head": b"HTTP/1.1 200 OK\r\nX: ",
            "body": b"HTTP/1.1 200 OK\r\n\r\n",
            "hints": b"",
        }

        def drip(connection: socket.socket, _: bytes) -> None:
            connection.sendall(begins[part])
            while True:
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" if part == "hints" else b"x")
                time.sleep(0.05)

        server = world.serve(drip)
        began = time.perf_counter()
        world.refused(world.url(), "timeout", total_s=0.7)
        assert time.perf_counter() - began < 5
        assert server.closed_by_client.wait(10)

    def test_U12_silence_ends_at_the_read_limit(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "READ_S", 0.3)
        world.serve(lambda connection, _: connection.recv(1))  # until the client has gone
        world.refused(world.url(), "timeout")

    def test_U12_a_silent_handshake(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "CONNECT_S", 0.3)
        world.serve(ok())  # speaks no TLS and waits for a request that never comes
        began = time.perf_counter()
        world.refused(world.url(scheme="https"), ("timeout", "fetch_failed"))
        assert time.perf_counter() - began < 5

    def test_names_have_a_deadline_too(self, world: World) -> None:
        told = threading.Event()

        def slow(_: str, __: int) -> list[str]:
            told.wait(60)
            return []

        world.refused("http://pictures.example/", "timeout", resolve=slow, total_s=0.2)
        told.set()

    def test_no_time_at_all(self, world: World) -> None:
        world.refused("http://pictures.example/", "timeout", total_s=0.0)
        world.refused("http://8.8.8.8/", "timeout", total_s=0.0)

    def test_redirects_share_the_deadline(self, world: World) -> None:
        def slow(connection: socket.socket, request: bytes) -> None:
            time.sleep(0.3)
            redirect("/again")(connection, request)

        world.serve(slow)
        world.refused(world.url(), "timeout", total_s=0.5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Makes a server's context and a client's that trusts it, for a host name and a validity."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("tls")

    def make(host: str, days: int = 1) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = folder / f"{host}{days}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = certificate.public_bytes(serialization.Encoding.PEM)
        pem.write_bytes(private + public)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(pem)
        return server, ssl.create_default_context(cadata=public.decode())

    return make


class TestTls:
    def test_the_certificate_is_the_names_not_the_addresss(self, world: World, authority: Authority) -> None:
        server_tls, trusting = authority("pictures.example")
        names: list[str | None] = []
        server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
        world.serve(ok(), tls=server_tls)
        assert world.get(world.url(scheme="https"), tls=trusting) == BODY
        assert names == ["pictures.example"]

    @pytest.mark.parametrize(
        ("host", "days", "trusted"),
        [("other.example", 1, True), ("pictures.example", -1, True), ("pictures.example", 1, False)],
        ids=["U15-wrong-name", "U15-expired", "U15-unknown-authority"],
    )
    def test_bad_certificates(
        self,
        world: World,
        authority: Authority,
        host: str,
        days: int,
        trusted: bool,
    ) -> None:
        server_tls, trusting = authority(host, days)
        server = world.serve(ok(), tls=server_tls)
        world.refused(world.url(scheme="https"), "fetch_failed", tls=trusting if trusted else None)
        assert server.requests == []


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_each_status(self, world: World, status: int) -> None:
        server = world.serve(redirect("/real.png", status), ok())
        assert world.get(world.url()) == BODY
        assert server.requests[1].startswith(b"GET /real.png ")

    @pytest.mark.parametrize(
        "location", ["other.png", "./other.png", "../cat/other.png", "?x=1", "//pictures.example:{port}/x"]
    )
    def test_U9_relative(self, world: World, location: str) -> None:
        server = world.serve(ok())
        server._replies.insert(0, redirect(location.format(port=server.port)))
        assert world.get(world.url("/cat/cat.png")) == BODY

    def test_U9_three_are_followed_and_four_are_not(self, world: World) -> None:
        world.serve(redirect("/1"), redirect("/2"), redirect("/3"), ok())
        assert world.get(world.url()) == BODY
        assert world.asked == ["pictures.example"] * 4, "every hop is resolved and judged, once"
        loop = World()
        server = loop.serve(redirect("/loop"))
        try:
            loop.refused(loop.url(), "fetch_failed")
        finally:
            server.close()
        assert len(server.requests) == 4

    @pytest.mark.parametrize(
        ("location", "code"),
        [
            pytest.param("http://private.example/x", "not_allowed", id="U9-private-name"),
            pytest.param("http://10.0.0.1/x", "not_allowed", id="U9-private-address"),
            pytest.param("http://169.254.169.254/latest/meta-data", "not_allowed", id="U9-metadata"),
            pytest.param("http://[::1]/", "not_allowed", id="U9-loopback6"),
            pytest.param("//10.0.0.1/x", "not_allowed", id="U9-protocol-relative"),
            pytest.param("http://2130706433/", "not_allowed", id="U9-number"),
            pytest.param("file:///etc/passwd", "not_allowed", id="U9-file"),
            pytest.param("ftp://pictures.example/x", "not_allowed", id="U9-ftp"),
            pytest.param("javascript:alert(1)", "not_allowed", id="U9-javascript"),
            pytest.param("data:text/html,x", "not_allowed", id="U9-data"),
            pytest.param("http://pictures.example:22/", "not_allowed", id="U9-port"),
            pytest.param("http://me:secret@pictures.example/", "fetch_failed", id="U9-userinfo"),
            pytest.param("http://good\\@10.0.0.1/", "fetch_failed", id="U9-backslash"),
            pytest.param("/\\10.0.0.1/", "fetch_failed", id="U9-backslash-path"),
            pytest.param("http://a b/", "fetch_failed", id="U9-space"),
            pytest.param("http://[::1/", "fetch_failed", id="U9-bracket"),
            pytest.param("/\xff", "fetch_failed", id="U9-no-utf8"),
            pytest.param("/" + "x" * 9000, "fetch_failed", id="U9-long"),
            pytest.param(None, "fetch_failed", id="U9-no-location"),
        ],
    )
    def test_where_a_redirect_may_not_lead(self, world: World, location: str | None, code: str) -> None:
        world.names["private.example"] = ["10.1.2.3"]
        server = world.serve(redirect(location), ok())
        world.refused(world.url(), code)
        assert len(server.requests) == 1

    def test_U9_between_schemes(self, world: World) -> None:
        world.serve(ok())
        first = world.serve(redirect(world.url("/two")))
        assert world.get(f"http://pictures.example:{first.port}/one") == BODY

    def test_U11_the_host_list_holds_at_every_hop(self, world: World) -> None:
        server = world.serve(ok())
        server._replies.insert(0, redirect(f"http://elsewhere.example:{server.port}/"))
        world.refused(world.url(), "not_allowed", SETTINGS.model_copy(update={"url_hosts": ("pictures.example",)}))
        assert len(server.requests) == 1


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            *("http://127.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://x.localhost/", "http://0.0.0.0/"),
            *("http://[::]/", "http://[::1]/", "http://127.255.255.254/", "http://127.0.0.1./"),
        ],
        ids=lambda url: f"U2-{url}",
    )
    def test_U2_this_machine(self, url: str) -> None:
        World().refused(url, "not_allowed", judge=None, resolve=lambda *_: ["127.0.0.1"])

    @pytest.mark.parametrize(
        "address",
        [
            *(
                "10.0.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "169.254.1.1",
                "100.64.0.1",
                "100.127.255.255",
            ),
            *("192.0.0.1", "192.0.0.8", "198.18.0.1", "198.19.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
            *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "0.1.2.3", "192.88.99.1"),
            *("fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "100::1"),
            *("5f00::1", "4000::1", "::2", "2001:2::1", "2001:10::1"),
        ],
        ids=lambda address: f"U3-{address}",
    )
    def test_U3_not_global(self, address: str) -> None:
        assert not is_public(ipaddress.ip_address(address))
        literal = f"[{address}]" if ":" in address else address
        World().refused(f"http://{literal}/", "not_allowed", judge=None)
        World().refused("http://name.example/", "not_allowed", judge=None, resolve=lambda *_: [address])

    @pytest.mark.parametrize(
        "host",
        [
            *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "0", "127.0.0.1.", "0x"),
            *(
                "134744072",
                "8.8.2056",
                "010.8.8.8",
                "256.1.1.1",
                "1.2.3.4.5",
                "example.0x1",
                "１２７.０.０.１",
                "①②⑦.⓪.⓪.①",
            ),
            *("127。0。0。1", "ｌocalhost", "ⓛocalhost"),
        ],
        ids=lambda host: f"U4-{host}",
    )
    def test_U4_unusual_numbers_and_letters(self, host: str) -> None:
        world = World()
        world.refused(f"http://{host}/", "not_allowed", judge=None)
        assert world.asked == []

    @pytest.mark.parametrize(
        ("address", "public"),
        [
            ("::ffff:127.0.0.1", False),
            ("::ffff:10.0.0.1", False),
            ("::ffff:169.254.169.254", False),
            ("::ffff:8.8.8.8", True),
            ("::127.0.0.1", False),
            ("::8.8.8.8", False),
            ("2002:7f00:1::1", False),
            ("2002:808:808::1", False),
            ("64:ff9b::7f00:1", False),
            ("64:ff9b::a00:1", False),
            ("64:ff9b::808:808", True),
            ("64:ff9b:1::7f00:1", False),
            ("64:ff9b:1::808:808", False),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
            ("2606:4700::5efe:10.0.0.1", False),
            ("2606:4700::200:5efe:8.8.8.8", False),
            ("fe80::5efe:8.8.8.8", False),
            ("fd00::1", False),
            ("2606:4700:4700::1111", True),
            ("2a00:1450:4001:82b::200e", True),
            ("8.8.8.8", True),
            ("93.184.215.14", True),
        ],
        ids=lambda value: f"U5-{value}",
    )
    def test_U5_addresses_inside_addresses(self, address: str, public: bool) -> None:
        assert is_public(ipaddress.ip_address(address)) is public

    @pytest.mark.parametrize("url", ["http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[2606:4700::1%1]/"])
    def test_U5_zones(self, url: str) -> None:
        World().refused(url, "not_allowed")

    @pytest.mark.parametrize(
        "address",
        [
            *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254", "64:ff9b::a83f:8110", "::ffff:168.63.129.16"),
        ],
        ids=lambda address: f"U6-{address}",
    )
    def test_U6_metadata_whatever_the_judge_says(self, address: str) -> None:
        literal = f"[{address}]" if ":" in address else address
        World().refused(f"http://{literal}/", "not_allowed", judge=lambda _: True)
        World().refused("http://name.example/", "not_allowed", judge=lambda _: True, resolve=lambda *_: [address])

    @pytest.mark.parametrize(
        "host", ["metadata.google.internal", "METADATA.google.internal.", "metadata", "printer.local", "x.home.arpa"]
    )
    def test_U6_names_that_are_never_public(self, host: str) -> None:
        world = World()
        world.refused(f"http://{host}/", "not_allowed", judge=lambda _: True)
        assert world.asked == []

    @pytest.mark.parametrize("answers", [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::1"]])
    def test_U7_one_private_answer_is_enough(self, world: World, answers: list[str]) -> None:
        server = world.serve(ok())
        world.names["pictures.example"] = answers
        world.refused(world.url(), "not_allowed")
        assert server.requests == []

    def test_U8_one_resolution_and_the_judged_address(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.serve(ok())
        asked: list[str] = []
        connected: list[object] = []
        real = socket.create_connection

        def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

        def record(address: tuple[str, int], *rest: object, **options: object) -> socket.socket:
            connected.append(address[0])
            return real(address, *rest, **options)

        monkeypatch.setattr(socket, "create_connection", record)
        assert world.get(world.url(), resolve=rebinding) == BODY
        assert asked == ["pictures.example"]
        assert connected == ["127.0.0.1"]

    def test_the_next_address_is_tried(self, world: World) -> None:
        world.serve(ok())
        world.names["pictures.example"] = ["127.0.0.9", "127.0.0.1"]
        assert world.get(world.url(), judge=lambda _: True) == BODY

    def test_many_dead_addresses_are_not_all_tried(self, world: World) -> None:
        world.serve(ok())
        world.names["pictures.example"] = [f"127.0.1.{number}" for number in range(1, 200)] + ["127.0.0.1"]
        world.refused(world.url(), "fetch_failed", judge=lambda _: True)

    @pytest.mark.parametrize(
        "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
    )
    def test_unknown_names(self, world: World, error: Exception) -> None:
        def fail(*_: object) -> list[str]:
            raise error

        world.refused("http://nowhere.example/", "fetch_failed", resolve=fail)

    def test_names_without_addresses(self, world: World) -> None:
        world.refused("http://nowhere.example/", "fetch_failed", resolve=lambda *_: [])

    def test_the_systems_resolver(self) -> None:
        assert "127.0.0.1" in module.system_resolver("127.0.0.1", 80)


class TestParsing:
    @pytest.mark.parametrize(
        ("url", "code"),
        [
            pytest.param("ftp://example.com/x", "not_allowed", id="U1-ftp"),
            pytest.param("gopher://example.com/x", "not_allowed", id="U1-gopher"),
            pytest.param("javascript:alert(1)", "not_allowed", id="U1-javascript"),
            pytest.param("jar:http://example.com!/x", "not_allowed", id="U1-jar"),
            pytest.param("s3://bucket/x", "not_allowed", id="U1-s3"),
            pytest.param("//example.com/x", "invalid_input", id="U1-no-scheme"),
            pytest.param("http:/example.com", "invalid_input", id="U1-one-slash"),
            pytest.param("http:example.com", "invalid_input", id="U1-no-slash"),
            pytest.param("http://", "invalid_input", id="U1-empty"),
            pytest.param("http:///x", "invalid_input", id="U1-empty-host"),
            pytest.param("http://:80/", "invalid_input", id="U1-only-port"),
            pytest.param("http://./", "invalid_input", id="U1-dot"),
            pytest.param("http://?x", "invalid_input", id="U1-only-query"),
            pytest.param("http://good\\@evil.example/", "invalid_input", id="U10-backslash"),
            pytest.param("http://good@evil.example/", "invalid_input", id="U10-userinfo"),
            pytest.param("http://a:b@evil.example/", "invalid_input", id="U10-password"),
            pytest.param("http://@evil.example/", "invalid_input", id="U10-empty-userinfo"),
            pytest.param("http://good.example#@evil.example/", "fetch_failed", id="U10-fragment-is-no-host"),
            pytest.param("http://good\t.example/", "invalid_input", id="U10-tab"),
            pytest.param("http://good.example/\n", "invalid_input", id="U10-newline"),
            pytest.param("http://good.example/\0", "invalid_input", id="U10-nul"),
            pytest.param(" http://good.example/", "invalid_input", id="U10-space"),
            pytest.param("http://good.example/\u202e", "invalid_input", id="U10-direction"),
            pytest.param("http://good.example/\ud800", "invalid_input", id="U10-surrogate"),
            pytest.param("http://goo\u200dd.example/", "invalid_input", id="U10-joiner"),
            pytest.param("http://\u2665\u2665.example/", "invalid_input", id="U10-idna-symbol"),
            pytest.param("http://" + "ü" * 80 + ".example/", "invalid_input", id="U10-idna-long"),
            pytest.param("http://" + "a" * 64 + ".example/", "invalid_input", id="U10-label-long"),
            pytest.param("http://" + "a." * 130 + "example/", "invalid_input", id="U10-name-long"),
            pytest.param("http://a..example/", "invalid_input", id="U10-empty-label"),
            pytest.param("http://-a.example/", "invalid_input", id="U10-hyphen"),
            pytest.param("http://a%2eexample/", "invalid_input", id="U10-percent"),
            pytest.param("http://a,b.example/", "invalid_input", id="U10-comma"),
            pytest.param("http://[::1", "invalid_input", id="U10-bracket"),
            pytest.param("http://[::1]x/", "invalid_input", id="U10-after-bracket"),
            pytest.param("http://[zz::1]/", "invalid_input", id="U10-no-ipv6"),
            pytest.param("http://[v1.x]/", "invalid_input", id="U10-ipvfuture"),
            pytest.param("http://::1/", "invalid_input", id="U10-bare-ipv6"),
            pytest.param("http://good.example:0/", "not_allowed", id="U10-port-0"),
            pytest.param("http://good.example:22/", "not_allowed", id="U10-port-22"),
            pytest.param("http://good.example:8080/", "not_allowed", id="U10-port-8080"),
            pytest.param("http://good.example:99999/", "not_allowed", id="U10-port-99999"),
            pytest.param("http://good.example:999999/", "invalid_input", id="U10-port-long"),
            pytest.param("http://good.example:-80/", "invalid_input", id="U10-port-negative"),
            pytest.param("http://good.example:٨٠/", "invalid_input", id="U10-port-digits"),
            pytest.param("http://good.example:8x/", "invalid_input", id="U10-port-letters"),
            pytest.param("http://good.example/" + "x" * 9000, "invalid_input", id="U10-long"),
        ],
    )
    def test_refused(self, url: str, code: str) -> None:
        world = World()

        def nobody(host: str, _: int) -> list[str]:
            assert host == "good.example"
            return []

        world.refused(url, code, resolve=nobody)

    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("http://Example.COM/", "example.com", 80),
            ("https://example.com", "example.com", 443),
            ("https://example.com:443/?x=@y", "example.com", 443),
            ("http://example.com.:80/", "example.com", 80),
            ("HTTP://example.com:/", "example.com", 80),
            ("http://müller.example/", "xn--mller-kva.example", 80),
            ("http://my_host.example/a:b@c", "my_host.example", 80),
            ("http://example.com/?u=http://127.0.0.1/", "example.com", 80),
        ],
    )
    def test_read(self, url: str, host: str, port: int) -> None:
        asked: list[tuple[str, int]] = []

        def nobody(name: str, number: int) -> list[str]:
            asked.append((name, number))
            return []

        World().refused(url, "fetch_failed", resolve=nobody)
        assert asked == [(host, port)]

    def test_ipv6_literals(self) -> None:
        judged: list[module.Address] = []
        World().refused("http://[2606:4700:0:0::1111]/", "not_allowed", judge=lambda a: bool(judged.append(a)))
        assert judged == [ipaddress.ip_address("2606:4700::1111")]

    @pytest.mark.parametrize(
        ("url", "allowed"),
        [
            ("http://cdn.example.com/", True),
            ("http://CDN.Example.COM./", True),
            ("http://müller.example/", True),
            ("http://xn--mller-kva.example/", True),
            ("http://cdn.example.com.evil.tld/", False),
            ("http://evilcdn.example.com/", False),
            ("http://example.com/", False),
            ("http://x.cdn.example.com/", False),
            ("http://8.8.8.8/", False),
        ],
        ids=lambda value: f"U11-{value}",
    )
    def test_U11_exact_hosts(self, url: str, allowed: bool) -> None:
        settings = Settings(allow_urls=True, url_hosts=("CDN.example.com.", "Müller.example"))
        World().refused(url, "fetch_failed" if allowed else "not_allowed", settings, resolve=lambda *_: [])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="/proc")
def test_no_socket_is_left_open(world: World) -> None:
    world.serve(ok(), answer("HTTP/1.1 404 X"), ok(BODY, "Content-Encoding: gzip"), answer("garbage"), ok())
    with contextlib.suppress(VisionError):
        world.get(world.url())
    ours = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(12):
        with contextlib.suppress(VisionError):
            world.get(world.url())
    deadline = time.monotonic() + 5
    while len(list(Path("/proc/self/fd").iterdir())) > ours and time.monotonic() < deadline:
        time.sleep(0.05)  # the server's own ends close in their threads
    assert len(list(Path("/proc/self/fd").iterdir())) <= ours
