"""Addresses as a hostile page would choose them, through a real server in a network of its own."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import time

import pytest

from tests.conftest import StdioServer
from tests.pictures.test_fetch import Server, answer, authority, ok, redirect
from tests.support.face import Face

__all__ = ["authority"]  # a fixture, made in the module that it serves

PUBLIC, SECOND, DEAD = "93.184.215.14", "93.184.215.15", "93.184.215.99"
TOTAL_S = 2.0
SECRET = "the words of an internal page"


def byte_by_byte(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.1)


def endless_head(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.1)


def silence(connection: socket.socket, _: bytes) -> None:
    time.sleep(TOTAL_S + 2)


def stall(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nxxxx")
    time.sleep(TOTAL_S + 2)


def endless_body(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


REPLIES = {
    "/bytes": byte_by_byte,
    "/headers": endless_head,
    "/silence": silence,
    "/stall": stall,
    "/endless": endless_body,
    "/short": answer("HTTP/1.1 200 OK\nContent-Length: 500", b"\x89PNG"),
    "/says-large": answer("HTTP/1.1 200 OK\nContent-Length: 99999999999"),
    "/negative": answer("HTTP/1.1 200 OK\nContent-Length: -1", b"abcd"),
    "/chunks": answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n"),
    "/gzip": ok(gzip.compress(b"\0" * 10_000_000), "Content-Encoding: gzip"),
    "/br": ok(b"x" * 90, "Content-Encoding: br"),
    "/twice": ok(b"x" * 90, "Content-Encoding: gzip, gzip"),
    "/html": ok(f"<html>{SECRET}</html>".encode(), "Content-Type: image/png"),
    "/json": ok(json.dumps({"secret": SECRET}).encode()),
    "/half": ok(b"\x89PNG\r\n\x1a\n" + b"x" * 40),
    "/empty": answer("HTTP/1.1 200 OK\nContent-Length: 0"),
    **{
        f"/{status}": answer(f"HTTP/1.1 {status} X\nContent-Length: 6", b"secret")
        for status in (206, 401, 404, 429, 500)
    },
    **{f"/{status}": answer(f"HTTP/1.1 {status} X") for status in (204, 304)},
    "/many-headers": answer("HTTP/1.1 200 OK\n" + "X: y\n" * 10_000 + "Z: z"),
    "/huge-header": answer("HTTP/1.1 200 OK\nX: " + "y" * 200_000),
    "/control": answer("HTTP/1.1 200 OK\nX: a\x01b\x00c"),
    "/no-http": answer("garbage"),
    "/to-loopback": redirect("http://127.0.0.1/x.png"),
    "/to-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/to-private-name": redirect("http://inside.example/x.png"),
    "/to-file": redirect("file:///etc/passwd"),
    "/to-port": redirect("http://pictures.example:8080/good.png"),
    "/to-user": redirect("http://user@pictures.example/good.png"),
    "/to-nowhere": redirect(None),
    "/to-itself": redirect("/to-itself"),
    "/to-secure": redirect("https://127.0.0.1/x.png"),
    "/to-protocol-relative": redirect("//127.0.0.1/x.png"),
    "/hop-1": redirect("hop-2"),
    "/hop-2": redirect("//pictures.example/hop-3"),
    "/hop-3": redirect("http://pictures.example/good.png"),
    "/hop-0": redirect("/hop-1"),
}

NAMES = {
    "pictures.example": [[PUBLIC]],
    "cdn.example": [[PUBLIC]],
    "inside.example": [["10.0.0.7"]],
    "both.example": [[PUBLIC, "10.0.0.7"]],
    "other-way.example": [["::1", PUBLIC]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "azure.example": [["168.63.129.16"]],
    "dead.example": [[DEAD]],
    "nobody.example": [[]],
    "rebinding.example": [[SECOND], ["127.0.0.1"]],
}


@pytest.fixture(scope="module")
def net(tmp_path_factory, jail, picture, authority):
    """A server that may fetch, in a network of a few names; `net.journal()` tells which servers it contacted."""
    good = ok(picture.path.read_bytes())

    def reply(connection: socket.socket, request: bytes) -> None:
        REPLIES.get(request.split()[1].decode("latin-1"), good)(connection, request)

    web, secure = Server(reply), Server(reply, tls=authority("pictures.example")[0])
    folder = tmp_path_factory.mktemp("net")
    world = {
        "names": NAMES,
        "doors": {f"{PUBLIC} 80": web.port, f"{SECOND} 80": web.port, f"{PUBLIC} 443": secure.port},
        "journal": str(folder / "journal"),
        "total_s": TOTAL_S,
    }
    (folder / "world.json").write_text(json.dumps(world))
    server = StdioServer(
        *("--model", "demo", "--allow-dir", str(jail), "--allow-urls", "--threads", "1", "--preload"),
        program=("tests.support.stubbed_network", str(folder / "world.json")),
        env={"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"},
    )
    server.initialize()
    face = Face(server, "good.png", picture.caption, [jail])
    face.web = web

    def journal() -> list[str]:
        lines = (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else []
        (folder / "journal").write_text("")
        return lines

    face.journal = journal
    yield face
    assert server.end() == 0
    assert "Traceback" not in server.log
    web.close()
    secure.close()
    assert secure.requests == []


BEFORE_ANY_QUESTION = [
    ("U1-ftp", "ftp://pictures.example/x", "not_allowed"),
    ("U1-gopher", "gopher://pictures.example/x", "not_allowed"),
    ("U1-javascript", "javascript:alert(1)", "not_allowed"),
    ("U1-jar", "jar:http://pictures.example!/x", "not_allowed"),
    ("U1-s3", "s3://bucket/x", "not_allowed"),
    ("U1-no-scheme", "//pictures.example/x", "not_allowed"),
    ("U1-one-slash", "http:/pictures.example/x", "invalid_input"),
    ("U1-no-host", "http:///x", "invalid_input"),
    ("U2-127", "http://127.0.0.1/", "not_allowed"),
    ("U2-localhost", "http://localhost/", "not_allowed"),
    ("U2-localhost-dot", "http://localhost./", "not_allowed"),
    ("U2-zero", "http://0.0.0.0/", "not_allowed"),
    ("U2-v6", "http://[::]/", "not_allowed"),
    ("U2-v6-loopback", "http://[::1]/", "not_allowed"),
    *(
        (f"U3-{address}", f"http://{address}/", "not_allowed")
        for address in (
            *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "192.0.0.1", "198.18.0.1"),
            *("192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        )
    ),
    ("U4-decimal", "http://2130706433/", "not_allowed"),
    ("U4-hex", "http://0x7f000001/", "not_allowed"),
    ("U4-octal", "http://0177.0.0.1/", "not_allowed"),
    ("U4-short", "http://127.1/", "not_allowed"),
    ("U4-dot", "http://127.0.0.1./", "not_allowed"),
    ("U4-full-width", "http://１２７.０.０.１/", "not_allowed"),
    ("U5-mapped", "http://[::ffff:127.0.0.1]/", "not_allowed"),
    ("U5-compatible", "http://[::127.0.0.1]/", "not_allowed"),
    ("U5-6to4", "http://[2002:7f00:1::1]/", "not_allowed"),
    ("U5-nat64", "http://[64:ff9b::7f00:1]/", "not_allowed"),
    ("U5-nat64-local", "http://[64:ff9b:1::7f00:1]/", "not_allowed"),
    ("U5-teredo", "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "not_allowed"),
    ("U5-isatap", "http://[2606:4700::5efe:10.0.0.1]/", "not_allowed"),
    ("U5-ula", "http://[fd00::1]/", "not_allowed"),
    ("U5-zone", "http://[fe80::1%25eth0]/", "not_allowed"),
    *(
        (f"U6-{host}", f"http://{host}/latest/meta-data/", "not_allowed")
        for host in (
            *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("[fd00:ec2::254]", "[fd20:ce::254]", "metadata.google.internal", "metadata"),
        )
    ),
    ("U10-backslash", "http://good\\@pictures.example/", "invalid_input"),
    ("U10-user", "http://good@pictures.example/", "invalid_input"),
    ("U10-tab", "http://pict\tures.example/", "invalid_input"),
    ("U10-newline", "http://pictures.example/\nHost: x", "invalid_input"),
    ("U10-direction", "http://pictures.example/\u202e", "invalid_input"),
    ("U10-idna", "http://" + "ü" * 80 + ".example/", "invalid_input"),
    ("U10-port-0", "http://pictures.example:0/", "not_allowed"),
    ("U10-port-22", "http://pictures.example:22/", "not_allowed"),
    ("U10-port-99999", "http://pictures.example:99999/", "not_allowed"),
    ("U10-long", "http://pictures.example/" + "x" * 9000, "invalid_input"),
]


@pytest.mark.parametrize(
    ("url", "code"), [row[1:] for row in BEFORE_ANY_QUESTION], ids=[row[0] for row in BEFORE_ANY_QUESTION]
)
def test_refused_before_any_question(net, url, code):
    net.journal()
    net.refused(code, image=url)
    assert net.journal() == []


AT_THE_NAME = [
    ("U3-by-name", "http://inside.example/", "not_allowed"),
    ("U5-by-name", "http://mapped.example/", "not_allowed"),
    ("U6-by-name", "http://azure.example/", "not_allowed"),
    ("U7-public-and-private", "http://both.example/", "not_allowed"),
    ("U7-private-and-public", "http://other-way.example/", "not_allowed"),
    ("U10-homograph", "http://рictures.example/", "fetch_failed"),
    ("U10-fragment", "http://nobody.example#@pictures.example/", "fetch_failed"),
    ("U1-unknown", "http://unknown.example/", "fetch_failed"),
]


@pytest.mark.parametrize(("url", "code"), [row[1:] for row in AT_THE_NAME], ids=[row[0] for row in AT_THE_NAME])
def test_asked_once_and_never_visited(net, url, code):
    net.journal()
    net.refused(code, image=url)
    journal = net.journal()
    assert len(journal) == 1
    assert journal[0].startswith("resolve ")


AT_THE_SERVER = [
    ("U9-loopback", "/to-loopback", "not_allowed"),
    ("U9-metadata", "/to-metadata", "not_allowed"),
    ("U9-private-name", "/to-private-name", "not_allowed"),
    ("U9-file", "/to-file", "not_allowed"),
    ("U9-port", "/to-port", "not_allowed"),
    ("U9-user", "/to-user", "fetch_failed"),
    ("U9-no-location", "/to-nowhere", "fetch_failed"),
    ("U9-loop", "/to-itself", "fetch_failed"),
    ("U9-four-hops", "/hop-0", "fetch_failed"),
    ("U9-https", "/to-secure", "not_allowed"),
    ("U9-protocol-relative", "/to-protocol-relative", "not_allowed"),
    ("U12-bytes", "/bytes", "timeout"),
    ("U12-headers", "/headers", "timeout"),
    ("U12-silence", "/silence", "timeout"),
    ("U12-stall", "/stall", "timeout"),
    ("U13-endless", "/endless", "too_large"),
    ("U13-says-large", "/says-large", "too_large"),
    ("U13-short", "/short", "fetch_failed"),
    ("U13-negative", "/negative", "fetch_failed"),
    ("U13-chunks", "/chunks", "fetch_failed"),
    ("U14-gzip", "/gzip", "fetch_failed"),
    ("U14-br", "/br", "fetch_failed"),
    ("U14-twice", "/twice", "fetch_failed"),
    *((f"U15-{status}", f"/{status}", "fetch_failed") for status in (204, 206, 304, 401, 404, 429, 500)),
    ("U15-empty", "/empty", "fetch_failed"),
    ("U15-html", "/html", "fetch_failed"),
    ("U17-many", "/many-headers", "fetch_failed"),
    ("U17-huge", "/huge-header", "fetch_failed"),
    ("U17-control", "/control", "fetch_failed"),
    ("U17-no-http", "/no-http", "fetch_failed"),
]


@pytest.mark.parametrize(("path", "code"), [row[1:] for row in AT_THE_SERVER], ids=[row[0] for row in AT_THE_SERVER])
def test_refused_at_the_server(net, path, code):
    net.journal()
    answered = net.refused(code, image=f"http://pictures.example{path}", within=TOTAL_S + 3)
    assert "secret" not in answered.text
    assert SECRET not in answered.text
    visited = {line.split()[1] for line in net.journal() if line.startswith("connect")}
    assert visited == {PUBLIC}, "only the judged address"


def test_U18_one_sentence_for_whatever_is_no_picture(net):
    said = {
        net.refused("fetch_failed", image=f"http://pictures.example/{name}").text for name in ("html", "json", "half")
    }
    assert len(said) == 1


def test_U15_a_secure_address_that_is_not(net):
    """An untrusted certificate: no request is sent."""
    net.refused("fetch_failed", image="https://pictures.example/good.png")


def test_U9_U16_a_picture_after_three_hops(net):
    net.web.requests.clear()
    found = net.works(image="http://pictures.example/hop-1")
    assert found["image"]["source"] == "http://pictures.example/hop-1"
    assert len(net.web.requests) == 4
    for request in net.web.requests:
        assert not any(word in request.lower() for word in (b"cookie", b"authorization", b"referer", b"proxy"))
        assert b"Accept-Encoding: identity" in request


def test_U8_a_second_answer_of_the_resolver_is_never_used(net):
    net.journal()
    assert net.works(image="http://rebinding.example/good.png")
    assert net.journal() == ["resolve rebinding.example", f"connect {SECOND} 80"]
    net.refused("not_allowed", image="http://rebinding.example/good.png")
    assert net.journal() == ["resolve rebinding.example"]


def test_U12_a_dead_address(net):
    net.refused("fetch_failed", image="http://dead.example/x.png", within=TOTAL_S + 3)


def test_U11_only_the_hosts_that_were_named(tmp_path, jail, start_server, picture):
    (tmp_path / "world.json").write_text(
        json.dumps({"names": {}, "doors": {}, "journal": str(tmp_path / "journal"), "total_s": TOTAL_S})
    )
    server = start_server(
        *("--model", "demo", "--allow-dir", str(jail), "--allow-urls", "--url-hosts", "cdn.example.com"),
        program=("tests.support.stubbed_network", str(tmp_path / "world.json")),
    )
    server.initialize()
    for host, code in [
        ("cdn.example.com.evil.tld", "not_allowed"),
        ("evilcdn.example.com", "not_allowed"),
        ("x.cdn.example.com", "not_allowed"),
        ("CDN.Example.com.", "fetch_failed"),
    ]:
        assert server.call("caption_image", image=f"http://{host}/x.png")["_meta"]["blip2tools/code"] == code
    assert (tmp_path / "journal").read_text().split() == ["resolve", "cdn.example.com"]


def test_switched_off_by_default(face):
    for url in ("http://pictures.example/x.png", "HTTPS://pictures.example/x.png", "http://127.0.0.1/"):
        assert "--allow-urls" in face.refused("not_allowed", image=url).text
    encoded = base64.b64encode(b"http://pictures.example/").decode()
    face.refused("unsupported_image", image=f"data:;base64,{encoded}")
