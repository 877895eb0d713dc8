"""The same hostile inputs over HTTP, where the server is shared: codes, statuses, memory, and what each client learns."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from urllib.parse import urlsplit

import httpx2
import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.errors import ERROR_CODES
from tests.pictures.test_decoder import encoded
from tests.safety.test_paths import REFUSED as PATHS
from tests.safety.test_text import REFUSED as TEXTS
from tests.server.http.test_app import mcp_client
from tests.support.face import MIB, Processes, foreign_text
from tests.support.http_process import HttpProcess, HttpThread

ROUTES = {"caption_image": "/api/caption", "ask_image": "/api/ask", "match_image_text": "/api/match"}


@pytest.fixture(scope="module")
def http(jail):
    running = HttpProcess("--model", "demo", "--allow-dir", str(jail), "--rate-limit", "0")
    running.processes = Processes(running.process.pid)
    with running.client() as client:
        running.open = client
        yield running
    assert running.end() == 0
    assert "Traceback" not in running.log


def refused(http, path, picture, codes, *, given=(), **body):
    before = http.processes.resident()
    http.processes.begin_peak()
    answer = http.open.post(path, **body)
    grown = http.processes.peak() - before
    said = answer.json()
    assert set(said) == {"code", "message"}
    assert said["code"] in ERROR_CODES
    assert said["code"] in codes
    assert 400 <= answer.status_code < 500 or said["code"] in ("busy", "timeout")
    assert not foreign_text(said["message"], given=given), said
    assert grown < 50 * MIB
    healthy = http.open.post("/api/caption", json={"image": "good.png"})
    assert healthy.json()["text"] == picture.caption
    return said


@pytest.mark.parametrize(("reference", "code"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS])
def test_paths(http, jail, picture, reference, code):
    reference = reference.format(world=jail.parent, jail=jail)
    if "\ud800" in reference:
        pytest.skip("the client cannot encode it; test_bodies sends it as bytes")
    said = refused(http, "/api/caption", picture, [code], given=[reference, reference[1:]], json={"image": reference})
    shown = said["message"].replace(reference, "")
    assert str(jail.parent) not in shown, "over a network only the last part of a folder is named"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [row[1:] for row in TEXTS if row[1] in ROUTES],
    ids=[row[0] for row in TEXTS if row[1] in ROUTES],
)
def test_texts(http, picture, tool, arguments):
    body = json.dumps({"image": "good.png", **arguments}).encode()
    refused(
        *(http, ROUTES[tool], picture, ["invalid_input"]),
        given=arguments,
        content=body,
        headers={"Content-Type": "application/json"},
    )


BODIES = [
    ("I2-junk", "/images", b"\0" * (20 * MIB), "unsupported_image"),
    ("I1-text", "/images", b"secret words " * 100_000, "unsupported_image"),
    ("I10-half", "/images", b"\x89PNG\r\n\x1a\n" + bytes(20 * MIB - 100), "corrupt_image"),
    ("S2-large", "/images", b"\0" * (22 * MIB), "too_large"),
    ("D3-data", "/api/caption", b'{"image":"data:image/png;base64,' + b"A" * (11 * MIB) + b'"}', "too_large"),
    ("D3-body", "/api/caption", b'{"image":"data:image/png;base64,' + b"A" * (20 * MIB) + b'"}', "too_large"),
    ("Q2-surrogate", "/api/caption", b'{"image":"\\ud800.png"}', "invalid_input"),
    ("Q6-deep", "/api/caption", b'{"image":' + b"[" * 90_000 + b"]" * 90_000 + b"}", "invalid_input"),
    ("Q7-parts", "/api/caption", b'{"image":[' + b"[]," * (3 * MIB) + b"0]}", "invalid_input"),
    ("Q7-mcp", "/mcp", b'{"image":[' + b"{}," * (3 * MIB) + b"0]}", "invalid_input"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize(("path", "body", "code"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_bodies(http, picture, path, body, code):
    kind = "image/png" if path == "/images" else "application/json"
    refused(http, path, picture, [code], content=body, headers={"Content-Type": kind})


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_I10_what_was_refused_is_let_go(http, picture):
    """An error's traceback leads to the body that caused it; neither may wait for a collection of garbage."""
    half = {name: body for name, _, body, _ in BODIES}["I10-half"]
    # An allocator keeps room for a body of each of the two lengths, in the server and in each decoder: the first fill it.
    warm = 4
    for number in range(12):
        before = http.processes.resident()
        if number == warm:
            first = before
        http.processes.begin_peak()
        pieces = (half[start : start + MIB] for start in range(0, len(half), MIB))  # of a length that is not announced
        answer = http.open.post(
            "/images", content=pieces if number % 2 else half, headers={"Content-Type": "image/png"}
        )
        assert answer.json()["code"] == "corrupt_image"
        assert http.processes.peak() - before < 50 * MIB
    assert http.processes.resident() - first < 80 * MIB, "eight bodies of 20 MiB were not let go"
    assert http.open.post("/api/caption", json={"image": "good.png"}).json()["text"] == picture.caption


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_I10_half_a_picture_in_a_form(http, picture):
    half = {name: body for name, _, body, _ in BODIES}["I10-half"]
    refused(http, "/images", picture, ["corrupt_image"], files={"image": ("half.png", half[:-1000])})


def test_Q2_S2_mcp_lines_that_cannot_be_parsed(http):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    for body in (
        b"{",
        b"[]",
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        b'{"jsonrpc":"2.0","id":1' + b"0" * 5000 + b"}",
    ):
        answer = http.open.post("/mcp", content=body, headers=headers)
        assert 400 <= answer.status_code < 500
        assert set(answer.json()) == {"jsonrpc", "id", "error"}
        assert answer.json()["error"]["code"] in (-32700, -32600, -32602)
        assert not foreign_text(answer.json()["error"]["message"])


@pytest.mark.skipif(os.name != "posix", reason="names that Windows does not allow")
async def test_P17_listed_names_lead_back(tmp_path):
    """Over HTTP folders are named by their last part alone: two may share it, and a file may be called like an address."""
    names = ["a/pics/x.png", "b/pics/x.png", "b/pics/@2x.png", "b/pics/http:z.png", "b/pics/~/x.png"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (20 + number, 9))))
    folders = (tmp_path / "a" / "pics", tmp_path / "b" / "pics")
    with Vision.load(model="demo", preload=False, allowed_dirs=folders) as vision:
        server = HttpThread(vision)
        try:
            async with mcp_client(server, "2026-07-28") as client:
                listed = (await client.call_tool("list_images", {})).structured_content["images"]
                assert len(listed) == len(names)
                for one in listed:
                    told = await client.call_tool("caption_image", {"image": one["path"]})
                    assert told.structured_content["image"]["width"] == one["width"], one
        finally:
            server.end()


@pytest.mark.skipif(os.name != "posix", reason="a limit on descriptors")
def test_S11_connections_that_ask_for_nothing_lock_nobody_out(jail, picture):
    """More of them than the process may have descriptors: without a limit none was left for other clients."""
    few = ("sh", "-c", 'ulimit -n 128; exec "$@"', "-")
    running = HttpProcess("--model", "demo", "--allow-dir", str(jail), prefix=few)
    where = urlsplit(running.url)
    try:
        with contextlib.ExitStack() as stack, running.client() as client:
            for number in range(150):
                silent = stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=200))
                if number % 2:
                    silent.sendall(b"POST /api/caption HTTP/1.1\r\nHost: ")
            answer = client.post("/api/caption", json={"image": "good.png"})
            assert answer.json()["text"] == picture.caption
            assert _closed_while_dripping(silent), "a head that never ends keeps its connection"
            assert client.get("/healthz").status_code == 200
        assert running.end() == 0
    finally:
        running.kill()
    assert "Traceback" not in running.log
    assert len(running.lines) < 50, "an attack must not fill the log"
    assert "those that wait longest for a request are closed" in running.log


@pytest.mark.skipif(sys.platform != "linux", reason="needs two addresses of loopback, and memory of processes")
def test_S12_one_callers_slow_pictures_hold_up_nobody_else(http, picture):
    """Five JPEGs of 16 megapixels in 95 scans each, 70 kB, from one address; another client asks from another."""
    before = http.processes.resident()
    where = urlsplit(http.url)
    bodies = [many_scans((4000, 4000), 100 + number) for number in range(5)]
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(http.client(transport=httpx2.HTTPTransport(local_address="127.0.0.2")))
        handle = other.post("/api/caption", json={"image": "good.png"}).json()["image"]["handle"]
        slow = [
            stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=200)) for _ in range(5)
        ]
        for body, one in zip(bodies, slow, strict=True):
            head = f"POST /images HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: image/jpeg\r\n"
            one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until = time.monotonic() + 100
        while http.processes.resident() - before < 30 * MIB:
            assert time.monotonic() < until, "nothing is decoded"
            time.sleep(0.02)

        kept = other.post("/api/caption", json={"image": handle})
        assert not answered(slow)
        fresh = other.post(
            "/images", content=encoded(Image.new("RGB", (61, 47))), headers={"content-type": "image/png"}
        )
        assert len(answered(slow)) <= 3, "somebody else's picture came after all that were in line before it"
    assert (kept.json()["text"], fresh.json()["width"]) == (picture.caption, 61)


def many_scans(size, shade):
    """A progressive JPEG whose last scan comes again and again, each as dear to decode as the picture."""
    data = encoded(Image.new("L", size, shade), "JPEG", progressive=True, quality=50)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (95 - data.count(b"\xff\xda")) + data[-2:]


def answered(connections):
    return select.select(connections, [], [], 0)[0]


def _closed_while_dripping(connection, seconds=60):
    """Whether the other side ends a connection although a byte of a head comes every second."""
    connection.settimeout(1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection.sendall(b"x")
            if connection.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False
