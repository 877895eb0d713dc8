"""The HTTP server as its clients and its attackers meet it: a real process on loopback, and real clients."""

import asyncio
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from blip2tools import Vision
from blip2tools.errors import ERROR_CODES, InvalidInputError, TooLargeError
from blip2tools.server.http.app import body_limits, build_app
from blip2tools.server.http.connections import Connection
from blip2tools.server.http.failures import STATUS
from blip2tools.server.http.guard import Guard, Rules
from blip2tools.server.http.metrics import Metric, render
from blip2tools.server.http.rate import RATE_KEYS, RateLimit
from blip2tools.server.http.serve import Listener
from blip2tools.server.mcp import ERROR_CODE_KEY
from blip2tools.settings import Settings
from tests.conftest import run_cli
from tests.support.http_process import TOKEN, HttpProcess, HttpThread, memory_peak

ERAS = ("legacy", "2026-07-28")
JSON = {"Content-Type": "application/json"}
COMPLETED, CANCELLED = (f'blip2tools_requests_total{{end="{end}"}}' for end in ("completed", "cancelled"))
RUNNING, WAITING = "blip2tools_requests_running", "blip2tools_requests_waiting"
# Enough work for a demo model that a call is still under way when something happens to it.
LONG = ("--num-beams", "8", "--min-new-tokens", "128", "--max-new-tokens", "128", "--keep-answers", "0")


MIB = 2**20


@pytest.fixture(scope="module")
def server(folder):
    running = HttpProcess(
        "--model", "demo", "--allow-dir", str(folder), "--max-image-bytes", str(MIB), ready=False, fresh=True
    )
    with running.client() as client:
        running.early = client.get("/readyz")
    running.wait_until_ready()
    yield running
    assert running.end(signal.SIGTERM) == 0
    assert "Traceback" not in running.log
    assert running.stdout == b""


@pytest.fixture(scope="module")
def locked(folder):
    running = HttpProcess("--model", "demo", "--allow-dir", str(folder), env={"BLIP2TOOLS_TOKEN": TOKEN})
    yield running
    assert running.end(signal.SIGINT) == 0
    assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def slow(folder):
    running = HttpProcess("--model", "demo", "--allow-dir", str(folder), *LONG)
    yield running
    running.kill()
    assert "Traceback" not in running.log


@pytest.fixture
def start(folder):
    """Starts servers in this process, to test settings and not the model; ends them."""
    started = []

    def run(*, host="127.0.0.1", page=True, **settings):
        vision = Vision.load(model="demo", allowed_dirs=(folder,), preload=False, **settings)
        started.append((HttpThread(vision, host=host, page=page), vision))
        return started[-1][0]

    yield run
    for one, vision in started:
        one.end()
        vision.close()


@pytest.fixture(scope="module")
def routes(vision):
    """Every path of the application, so that a new route cannot be forgotten."""
    app = build_app(vision)._app
    found = [route.path for route in app._app._app.routes]
    assert {"/mcp", "/images", "/healthz", "/readyz", "/metrics", "/", "/api/caption"} <= set(found)
    return found


@asynccontextmanager
async def mcp_client(server, mode):
    async with (
        httpx2.AsyncClient(headers=server.headers, timeout=200, trust_env=False) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def slices(count):
    """Different regions: none of the calls can be answered from a cache."""
    return [[0, 0, 1, round(0.5 + 0.4 * number / count, 4)] for number in range(count)]


def eventually(check, timeout=100):
    until = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


# ---- who ----


def test_every_route_but_health_needs_the_token(locked, routes):
    wrong = [
        {},
        {"Authorization": "Bearer " + TOKEN[:-1]},
        {"Authorization": "Bearer " + TOKEN + "x"},
        {"Authorization": TOKEN},
        {"Authorization": "Basic " + TOKEN},
        {"Authorization": b"Bearer \xff\xfe\xe9"},
        [("Authorization", "Bearer " + TOKEN), ("Authorization", "Bearer wrong")],
    ]
    with httpx2.Client(base_url=locked.url, trust_env=False) as client:
        assert client.get("/healthz").text == "ok\n"
        for path in [*routes, "/no-such-path", "/mcp/", "//", "/%2e%2e/mcp", "/healthz/", f"/metrics?token={TOKEN}"]:
            if path == "/healthz":
                continue
            for headers in wrong:
                for method in ("GET", "POST", "DELETE", "OPTIONS") if headers == {} else ("GET",):
                    answer = client.request(method, path, headers=headers)
                    assert answer.status_code == 401, (method, path, headers)
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert client.get("/metrics", headers=locked.headers).status_code == 200
        assert client.get("/metrics", headers={"authorization": "bearer " + TOKEN}).status_code == 200


def test_a_browser_without_the_token_gets_the_page_that_asks_for_it(locked):
    answer = httpx2.get(locked.url + "/", trust_env=False)
    assert answer.status_code == 401
    assert 'id="sign-in"' in answer.text
    assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("mode", ERAS)
async def test_mcp_with_a_token(locked, picture, mode):
    locked.wait_until_ready()
    async with mcp_client(locked, mode) as client:
        result = await client.call_tool("caption_image", {"image": picture.path.name})
        assert result.structured_content["text"] == picture.caption


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "",
    "[::2]",
    "127.0.0.2",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_hosts(server, routes, host):
    port = server.url.rpartition(":")[2]
    with server.client() as client:
        for path in routes:
            answer = client.get(path, headers={"Host": host.format(port=port)})
            assert answer.status_code == (200 if path == "/healthz" else 421), path


FOREIGN_ORIGINS = [
    "https://evil.example",
    "http://127.0.0.1.evil.example:{port}",
    "http://127.0.0.1:1",  # another server on this machine
    "http://127.0.0.1",
    "null",
    "file://",
    "chrome-extension://127.0.0.1:{port}",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_foreign_origins(server, routes, origin):
    port = server.url.rpartition(":")[2]
    with server.client() as client:
        for path in routes:
            for method in ("GET", "POST"):
                answer = client.request(method, path, headers={"Origin": origin.format(port=port)})
                assert (answer.status_code == 403) == (path != "/healthz"), path


def test_own_names(server):
    port = server.url.rpartition(":")[2]
    with server.client() as client:
        for name in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]", "localhost."):
            headers = {"Host": f"{name}:{port}", "Origin": f"http://localhost:{port}"}
            assert client.get("/metrics", headers=headers).status_code == 200
        # Behind a forwarded port the name counts, and the page must come from there too.
        assert client.get("/metrics", headers={"Host": "localhost:9"}).status_code == 200
        headers = {"Host": "localhost:9", "Origin": "http://localhost:9"}
        assert client.get("/metrics", headers=headers).status_code == 200


PAGE = "http://localhost:8080"
MEANT = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mcp-session-id"}


def test_a_page_of_another_site_that_the_operator_lets_in(start):
    running = start(token=TOKEN, allowed_origins=(PAGE, "https://chat.example/"))
    with running.client() as client:
        asked = client.request("OPTIONS", "/mcp", headers=MEANT)
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert asked.headers["vary"] == "Origin"
        wanted = {"authorization", "content-type", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name"}
        assert wanted <= set(asked.headers["access-control-allow-headers"].lower().split(", "))
        assert {"POST", "GET", "DELETE"} <= set(asked.headers["access-control-allow-methods"].split(", "))
        assert "access-control-allow-credentials" not in asked.headers
        assert "access-control-allow-private-network" not in asked.headers
        private = client.request("OPTIONS", "/mcp", headers={**MEANT, "Access-Control-Request-Private-Network": "true"})
        assert private.headers["access-control-allow-private-network"] == "true"
        refused = client.post("/mcp", headers={"Origin": PAGE, "Authorization": "Bearer no"}, json={})
        assert refused.status_code == 401, "a preflight needs no token, what follows it does"
        assert refused.headers["access-control-allow-origin"] == PAGE, "or the page could not read why"
        begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "page", "version": "0"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json, text/event-stream"}
        answer = client.post("/mcp", headers={**headers, "Origin": "https://chat.example"}, json=body)
        assert answer.status_code == 200
        assert answer.headers["mcp-session-id"]
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
        for origin in ("http://localhost:8081", "https://localhost:8080", "http://evil.example", "null", "*"):
            assert client.request("OPTIONS", "/mcp", headers={**MEANT, "Origin": origin}).status_code == 403
            assert client.post("/mcp", headers={**headers, "Origin": origin}, json=body).status_code == 403
        assert client.request("OPTIONS", "/mcp", headers={**MEANT, "Host": "evil.example"}).status_code == 421
        assert "access-control-allow-origin" not in client.post("/mcp", headers=headers, json=body).headers


def test_by_default_no_other_site_is_let_in(server):
    with server.client() as client:
        assert client.request("OPTIONS", "/mcp", headers=MEANT).status_code == 403


@pytest.mark.parametrize(
    "origin", ["*", "null", "http://*.example", "localhost:8080", "http://a/b", "file://", "http://u@a"]
)
def test_an_origin_is_exact(origin):
    with pytest.raises(InvalidInputError, match="allowed_origins"):
        Settings.check({"allowed_origins": [origin]})


def test_two_host_lines_are_refused(server):
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(100).split()[1] in (b"400", b"421")


def test_names_of_the_operator(start):
    running = start(host="0.0.0.0", server_names=("eyes.example",), token=TOKEN)
    assert running.url.startswith("http://localhost:")
    with running.client() as client:
        statuses = {
            host: client.get("/metrics", headers={"Host": host}).status_code
            for host in ("eyes.example", "192.0.2.7:80", "[2001:db8::1]", "other.example")
        }
    assert statuses == {"eyes.example": 200, "192.0.2.7:80": 200, "[2001:db8::1]": 200, "other.example": 421}


def test_every_answer_forbids_sniffing_and_embedding(server, routes):
    with server.client() as client:
        for path in [*routes, "/nothing"]:
            answer = client.get(path, headers={"Accept": "application/json"})
            assert answer.headers["X-Content-Type-Options"] == "nosniff", path
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


# ---- how much ----


def flood(server, path, headers, limit):
    """Send an endless body until the server answers; returns the status and how much it took."""
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    piece, sent = b"10000\r\n" + b"\0" * 2**16 + b"\r\n", 0
    with socket.create_connection(address) as raw:
        raw.settimeout(20)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
        raw.sendall(head.encode())
        answer: list[bytes] = []
        reader = threading.Thread(target=lambda: answer.append(raw.recv(200)))
        reader.start()
        try:
            while reader.is_alive() and sent < limit:
                raw.sendall(piece)
                sent += 2**16
        except OSError:  # closed at the other end, as it should be
            pass
        reader.join(20)
    return (int(answer[0].split()[1]) if answer and answer[0] else None), sent


def test_a_body_above_the_limit_is_refused_before_it_is_all_there(server):
    limits = body_limits(Settings(max_image_bytes=MIB))
    assert all(MIB < limit < 3 * MIB for limit in limits.values())
    with server.client() as client:
        for path in (*limits, "/metrics"):
            answer = client.post(path, content=b"\0" * (limits.get(path, 0) + 1), headers=JSON)
            said = answer.json()
            assert (answer.status_code, said.get("error", said)["code"]) == (413, "too_large"), path
    before = memory_peak(server.process.pid) if sys.platform == "linux" else 0
    for path in ("/images", "/mcp", "/api/caption"):
        status, sent = flood(server, path, "Content-Type: application/json\r\n", 1024 * MIB)
        assert status in (413, None)  # None: the connection was reset with the answer still unread
        assert sent < 32 * MIB, "that much fits into the buffers of the sockets"
    if sys.platform == "linux":
        assert memory_peak(server.process.pid) - before < 32 * MIB
    assert server.metrics()['blip2tools_http_requests_total{route="/images",status="413"}'] >= 2


def test_a_declared_length_is_refused_unread(server):
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address) as raw:
        raw.settimeout(20)
        raw.sendall(b"POST /images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
        assert raw.recv(100).split()[1] == b"413"


def until_refused(get):
    """The first refusal, or the last answer: while a busy machine answers slowly, room for more flows in."""
    for _ in range(60):
        if (answer := get()).status_code == 429:
            break
    return answer


def test_the_rate_limit(start):
    running = start(rate_limit=30, token=TOKEN)
    with running.client() as client:
        answers = [client.get("/api/status") for _ in range(30)]
        assert [answer.status_code for answer in answers] == [200] * 30
        refused = until_refused(lambda: client.get("/api/status"))
        assert refused.status_code == 429
        assert refused.json()["code"] == "busy"
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        assert client.get("/healthz").status_code == 200
        # Whoever guesses tokens is limited too, in a bucket apart from that of good callers.
        guesses = [client.get("/metrics", headers={"Authorization": f"Bearer {n:016}"}) for n in range(30)]
        assert [guess.status_code for guess in guesses] == [401] * 30
        guess = until_refused(lambda: client.get("/metrics", headers={"Authorization": f"Bearer {99:016}"}))
        assert guess.status_code == 429
        time.sleep(int(refused.headers["Retry-After"]))
        assert client.get("/api/status").status_code == 200


# ---- what an operator watches ----


def test_ready_when_the_model_is_loaded(server):
    assert server.early.status_code == 503
    assert server.early.json()["ready"] is False
    assert server.early.headers["Retry-After"]
    with server.client() as client:
        assert client.get("/readyz").json() == {"ready": True, "state": "ready", "model": "demo"}


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path):
    # A folder that has a configuration and no weights: the model that was named cannot come up.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    done = run_cli("serve", "--http", "--port", "0", "--model", str(tmp_path))
    assert done.returncode == 3
    assert done.stderr.startswith("model_unavailable: ")


def test_metrics(server, picture):
    before = server.metrics()
    with server.client() as client:
        assert (
            client.post("/api/caption", json={"image": picture.path.name, "region": [0, 0, 1, 0.77]}).status_code == 200
        )
        text = client.get("/metrics").text
    after = server.metrics()
    assert after[COMPLETED] > before[COMPLETED]
    assert after["blip2tools_ready"] == 1
    assert after['blip2tools_http_requests_total{route="/api/caption",status="200"}'] >= 1
    for name in {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if line[0] != "#"}:
        assert text.count(f"# TYPE {name} ") == text.count(f"# HELP {name} ") == 1


# ---- pictures and plain JSON ----


def test_upload_and_use_over_mcp(server, picture):
    data = picture.path.read_bytes()
    with server.client() as client:
        raw = client.post("/images", content=data)
        form = client.post("/images", data={"a": "b"}, files={"whatever": ("x.png", data, "image/png")})
    assert raw.status_code == form.status_code == 201
    assert raw.json() == form.json()
    assert set(raw.json()) == {"handle", "width", "height"}
    assert (raw.json()["width"], raw.json()["height"]) == (224, 224)

    async def look(mode):
        async with mcp_client(server, mode) as client:
            found = await client.call_tool("caption_image", {"image": raw.json()["handle"]})
            assert found.structured_content["text"] == picture.caption
            status = await client.call_tool("vision_status", {})
            # Nobody learns over the network what others look at, or where the folders are.
            assert status.structured_content["handles"] == []
            assert status.structured_content["limits"]["allowed_folders"] == [picture.path.parent.name]
            refused = await client.call_tool("caption_image", {"image": "/etc/passwd"})
            assert refused.meta[ERROR_CODE_KEY] == "not_allowed"
            said = " ".join([refused.content[0].text, client.instructions or ""])
            assert picture.path.parent.name in said
            listed = await client.call_tool("list_images", {})
            assert listed.structured_content["images"]
            said += " ".join([listed.content[0].text, str(listed.structured_content), str(status.structured_content)])
            said += str(await client.list_resources()) + str(await client.read_resource("blip2://status"))
            assert str(picture.path.parent) not in said
            assert raw.json()["handle"] not in said

    for mode in ERAS:
        asyncio.run(look(mode))


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "image/png", 422, "corrupt_image"),
        (b"hello, this is a text and no picture", "image/png", 415, "unsupported_image"),
        (b"\x89PNG\r\n\x1a\nbroken", "image/png", 422, "corrupt_image"),
        (b"x", "multipart/form-data", 400, "invalid_input"),
        (b"x", "multipart/form-data; boundary=q", 400, "invalid_input"),
        (
            b'--q\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--q--\r\n',
            "multipart/form-data; boundary=q",
            400,
            "invalid_input",
        ),
        (
            b'--q\r\nContent-Disposition: form-data; filename="a"\r\n\r\n' + b"-" * 100,
            "multipart/form-data; boundary=q",
            400,
            "invalid_input",
        ),
        (
            b'--q\r\nContent-Disposition: form-data; filename="a"\r\n\r\nb\r\n' * 2 + b"--q--\r\n",
            "multipart/form-data; boundary=q",
            400,
            "invalid_input",
        ),
        (b"--q\r\nX: y\r\n\r\n\r\n" * 99 + b"--q--\r\n", "multipart/form-data; boundary=q", 400, "invalid_input"),
        (
            b'--q\r\nContent-Disposition: form-data; filename="a"\r\n\r\n\r\n--qq\r\n\r\n--q--',
            "multipart/form-data; boundary=q",
            415,
            "unsupported_image",
        ),
        (b"\0" * (MIB + 1), "image/png", 413, "too_large"),
    ],
)
def test_bad_uploads(server, body, kind, status, code):
    with server.client() as client:
        answer = client.post("/images", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.json()["message"].endswith(".")


def test_a_picture_larger_than_the_store_is_no_handle(picture):
    noise = Image.frombytes("RGB", (700, 700), random.Random(1).randbytes(700 * 700 * 3))
    with Vision.load(model="demo", preload=False, store_mb=1) as eyes:
        info = eyes.keep(picture.path)
        assert (info.width, info.height) == (224, 224)
        with pytest.raises(TooLargeError, match="1 MiB"):
            eyes.keep(noise)
        assert eyes.status().handles == [info.handle]


def test_plain_json(server, picture):
    thing = picture.scene.things[0]
    with server.client() as client:
        said = client.post("/api/caption", json={"image": picture.path.name}).json()
        assert said["text"] == picture.caption
        asked = {"image": said["image"]["handle"], "question": f"what color is the {thing.shape}?"}
        alone = client.post("/api/ask", json=asked).json()
        assert (alone["answer"], alone["premise"]["holds"]) == (thing.color, True)
        several = {"images": [picture.path.name, "none.png"], "question": asked["question"]}
        first, lost = client.post("/api/ask", json=several).json()["answers"]
        assert (first["answer"], first["premise"]) == (thing.color, alone["premise"])
        assert lost["error"]["code"] == "not_found"
        texts = [picture.caption, "a purple star"]
        matched = client.post("/api/match", json={"image": picture.path.name, "texts": texts}).json()
        assert matched["matches"][0]["text"] == picture.caption
        assert client.get("/api/status").json()["loaded"] is True


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", JSON, 400, "invalid_input"),
        (b"{", JSON, 400, "invalid_input"),
        (b"[]", JSON, 400, "invalid_input"),
        (b"[" * 100_000, JSON, 400, "invalid_input"),
        (b'{"image": NaN}', JSON, 400, "invalid_input"),
        (b'{"image": "latest", "extra": 1}', JSON, 400, "invalid_input"),
        (b'{"image": "latest"}', {"Content-Type": "text/plain"}, 400, "invalid_input"),
        (b'{"image": "no-such.png"}', JSON, 404, "not_found"),
        (b'{"image": "img_0000000000000000"}', JSON, 404, "not_found"),
        (b'{"image": "/etc/passwd"}', JSON, 403, "not_allowed"),
        (b'{"image": "data:image/png;base64,AAAA"}', JSON, 415, "unsupported_image"),
    ],
)
def test_bad_json(server, body, headers, status, code):
    with server.client() as client:
        answer = client.post("/api/caption", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_unknown_paths_and_methods(server):
    with server.client() as client:
        for answer in (
            client.get("/nothing"),
            client.post("/nothing", content=b"x" * 100_000),
            client.post("/sse", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
            client.post("/mcp/more/", json={}),
            client.put("/v1/nothing", content=b"x"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            assert "/mcp, " in answer.json()["message"]
            assert "/images" in answer.json()["message"]
        wrong = client.get("/images")
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
        assert client.get("/mcp", headers={"Accept": "application/json"}).status_code < 500


def test_a_slash_behind_a_path_changes_nothing(server, pictures):
    with server.client(follow_redirects=False) as client:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
        begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        headers = {"Accept": "application/json, text/event-stream"}
        for path in ("/mcp/", "/mcp"):
            answer = client.post(path, json=begin, headers=headers)
            assert answer.status_code == 200, path
            session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
            listed = client.post(
                "/mcp/", json={"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, headers={**headers, **session}
            )
            assert "caption_image" in listed.text
        assert client.post("/images/", content=pictures[0].path.read_bytes()).status_code == 201
        assert client.get("/healthz/").status_code == 404  # what is open to anybody is so under its one name


def test_every_error_has_a_status():
    assert set(STATUS) == set(ERROR_CODES)


def test_no_page_without_ui(start):
    running = start(page=False, token=TOKEN)
    with running.client() as client:
        assert client.get("/").status_code == 404
        bare = client.get("/", headers={"Authorization": ""})
        assert (bare.status_code, bare.headers["Content-Type"]) == (401, "application/json")


# ---- the ends of calls ----


def busy(running):
    """Wait until a call has reached the decoder."""
    eventually(lambda: running.metrics()[RUNNING] > 0)


def cancelled(running, before):
    """Wait until calls have been cancelled and no other is on its way; the numbers then."""

    def settled():
        numbers = running.metrics()
        return numbers[CANCELLED] > before and numbers[RUNNING] == numbers[WAITING] == 0 and numbers

    return eventually(settled)


def test_a_client_that_goes_frees_its_row(slow, picture):
    before = slow.metrics()

    async def leave():
        async with httpx2.AsyncClient(base_url=slow.url, timeout=200, trust_env=False) as client:
            body = [{"image": picture.path.name, "region": region} for region in slices(24)]
            calls = [asyncio.ensure_future(client.post("/api/caption", json=one)) for one in body]
            await asyncio.to_thread(busy, slow)
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(leave())
    after = cancelled(slow, before[CANCELLED])
    assert after[COMPLETED] - before[COMPLETED] < 24
    with slow.client() as client:
        assert (
            client.post("/api/match", json={"image": picture.path.name, "texts": ["a red circle"]}).status_code == 200
        )


KILLED = """
import asyncio, sys
from mcp import Client

async def main(url, mode, image):
    async with Client(url, mode=mode) as client:
        for number in range(16):
            arguments = {"image": image, "region": [0, 0, 1, round(0.4 + 0.01 * number + 0.001 * len(mode), 4)]}
            asyncio.ensure_future(client.call_tool("caption_image", arguments))
        print("calling", flush=True)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("mode", ERAS)
def test_an_mcp_client_that_is_killed_frees_its_rows(slow, picture, mode):
    before = slow.metrics()[CANCELLED]
    words = [sys.executable, "-c", KILLED, f"{slow.url}/mcp", mode, picture.path.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as client:
        assert client.stdout.readline() == b"calling\n"
        busy(slow)
        client.kill()
    cancelled(slow, before)


@pytest.mark.parametrize("mode", ERAS)
async def test_mcp_cancellation_reaches_the_decoder(slow, picture, mode):
    before = slow.metrics()[CANCELLED]
    async with mcp_client(slow, mode) as client:
        regions = [[0, 0, round(0.4 + 0.01 * number + 0.001 * len(mode), 4), 1] for number in range(16)]
        calls = [
            asyncio.ensure_future(client.call_tool("caption_image", {"image": picture.path.name, "region": region}))
            for region in regions
        ]
        await asyncio.to_thread(busy, slow)
        for one in calls:
            one.cancel()
        async with asyncio.timeout(100):
            await asyncio.gather(*calls, return_exceptions=True)
        again = await client.call_tool("match_image_text", {"image": picture.path.name, "texts": ["a red circle"]})
        assert not again.is_error
    cancelled(slow, before)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_lets_calls_finish_and_ends_idle_streams(folder, picture):
    running = HttpProcess("--model", "demo", "--allow-dir", str(folder), *LONG)
    results, connected = {}, set()

    async def call(mode, number):
        async with mcp_client(running, mode) as client:
            await client.list_tools()  # else the client asks for the result's schema when the call has been answered
            connected.add(mode)
            while len(connected) < len(ERAS):
                await asyncio.sleep(0.01)
            arguments = {"image": picture.path.name, "region": [0, 0, 1, 0.5 + number / 10], "num_captions": 5}
            results[mode] = await client.call_tool("caption_image", arguments)

    async def call_and_stop():
        calls = [asyncio.ensure_future(call(mode, number)) for number, mode in enumerate(ERAS)]
        arrived = asyncio.to_thread(eventually, lambda: (now := running.metrics())[RUNNING] + now[WAITING] == len(ERAS))
        await asyncio.wait_for(arrived, 60)
        running.process.send_signal(signal.SIGTERM)
        # A client may complain that the server has gone when it says good-bye; its answer it has.
        await asyncio.gather(*calls, return_exceptions=True)

    try:
        asyncio.run(call_and_stop())
        assert running.end(None) == 0
    finally:
        running.kill()
    assert {mode: result.is_error for mode, result in results.items()} == dict.fromkeys(ERAS, False)
    assert "Traceback" not in running.log


class Request:
    """A request without a body, straight to the guard, from a client that then waits for what is sent."""

    def __init__(self, method):
        self.scope = {
            "type": "http",
            "path": "/x",
            "method": method,
            "headers": [(b"host", b"localhost")],
            "client": None,
        }
        self.sent = []
        self._asked = False

    async def receive(self):
        if self._asked:
            await asyncio.sleep(60)  # `uvicorn` has nothing more to tell until the client goes
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message):
        self.sent.append(message)

    @property
    def answer(self):
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["code"]


async def test_calls_that_outlast_the_end_are_told():
    """As uvicorn does after its grace period: the task of the request is cancelled."""

    async def endless(scope, receive, send):
        await asyncio.sleep(60)

    guard, request = Guard(endless, Rules(names=["localhost"]), routes=["/x"]), Request("GET")
    task = asyncio.ensure_future(guard(request.scope, request.receive, request.send))
    await asyncio.sleep(0.05)
    assert guard.open == 1
    task.cancel()
    await task
    assert request.answer == (503, "cancelled")
    assert guard.open == 0


async def test_who_comes_as_a_session_ends_is_told_and_nothing_is_logged_as_a_fault(caplog):
    """The error of the SDK's transport when its streams are closed between its look at the session and its write."""

    async def closing(scope, receive, send):
        writer, reader = anyio.create_memory_object_stream(1)
        reader.close()
        writer.close()
        await writer.send("a message")

    guard, request = Guard(closing, Rules(names=["localhost"]), routes=["/x"]), Request("POST")
    await guard(request.scope, request.receive, request.send)
    assert request.answer == (404, "cancelled")
    assert "internal" not in caplog.text


# ---- sessions ----

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def begun(client):
    """A session that its client does not end."""
    answer = client.post("/mcp", json=HELLO, headers=ACCEPT)
    assert answer.status_code == 200, answer.text
    return {**ACCEPT, "mcp-session-id": answer.headers["mcp-session-id"]}


def pinged(client, session):
    return client.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": "ping"}, headers=session)


@pytest.mark.skipif(sys.platform != "linux", reason="two addresses of loopback")
def test_sessions_that_nobody_ends_lock_nobody_out(start, monkeypatch, caplog):
    """The session that is ended is idle and belongs to the caller with the most, and its client gets a 404."""
    monkeypatch.setattr("blip2tools.server.http.app.MAX_SESSIONS", 6)
    running = start()
    elsewhere = httpx2.HTTPTransport(local_address="127.0.0.2")
    with running.client() as bad, running.client(transport=elsewhere) as other:
        mine = begun(other)
        with bad.stream("GET", "/mcp", headers=begun(bad)) as stream:
            assert stream.status_code == 200
            left_behind = [begun(bad) for _ in range(20)]
            also_mine = begun(other)
            assert pinged(other, mine).status_code == pinged(other, also_mine).status_code == 200
            assert not stream.is_closed
            statuses = [pinged(bad, session).status_code for session in left_behind]
            assert statuses == [404] * 17 + [200] * 3
            told = pinged(bad, left_behind[0]).json()["error"]["message"]
            assert told == "not_found: That session has ended or never existed; start a new one with initialize."
        assert other.delete("/mcp", headers=mine).status_code == 200
        assert pinged(other, mine).status_code == 404
    assert sum("sessions are open" in record.message for record in caplog.records) == 1


def test_what_opens_no_session_ends_none(start, monkeypatch):
    """Calls of a later revision, bodies that are not messages, and an unknown method under a session's id, which is a 404."""
    monkeypatch.setattr("blip2tools.server.http.app.MAX_SESSIONS", 3)
    running = start()
    modern = {**ACCEPT, "mcp-protocol-version": "2026-07-28", "mcp-method": "nothing/like/it"}
    names = {"protocolVersion": "2026-07-28", "clientInfo": {"name": "t", "version": "0"}, "clientCapabilities": {}}
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in names.items()}
    with running.client() as client:
        left_behind = [begun(client) for _ in range(3)]
        for session in left_behind:
            unknown = {"jsonrpc": "2.0", "id": 3, "method": "nothing/like/it", "params": {"_meta": meta}}
            assert client.post("/mcp", json=unknown, headers={**session, **modern}).status_code == 404
        for body in (b"{}", b"[" * 9999, b'{"method": "initialize", "x": "' + b"x" * 2**17 + b'"}', b"\xff"):
            assert client.post("/mcp", content=body, headers={**ACCEPT, **JSON}).status_code >= 400
        assert [pinged(client, session).status_code for session in left_behind] == [200] * 3
        begun(client)
        assert [pinged(client, session).status_code for session in left_behind] == [404, 200, 200]


def test_sessions_that_are_all_in_use(start, monkeypatch):
    monkeypatch.setattr("blip2tools.server.http.app.MAX_SESSIONS", 2)
    running = start()
    with ExitStack() as stack, running.client() as client:
        used = []
        for _ in range(4):
            used.append(begun(client))
            stack.enter_context(client.stream("GET", "/mcp", headers=used[-1]))
        refused = client.post("/mcp", json=HELLO, headers=ACCEPT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["error"]["message"].startswith("busy: All sessions")
        assert [pinged(client, session).status_code for session in used] == [200] * 4
        assert client.delete("/mcp", headers=used[0]).status_code == 200
        assert pinged(client, begun(client)).status_code == 200


# ---- the log, and what is refused at the start ----


def test_nothing_secret_in_the_log(locked, picture):
    running = locked
    secret_question, secret_path = "is there a zebrafish?", "/etc/hippopotamus.png"
    sessions = []

    async def use(mode):
        async with mcp_client(running, mode) as client:
            await client.call_tool("ask_image", {"image": picture.path.name, "question": secret_question})
            await client.call_tool("caption_image", {"image": secret_path})
            await client.call_tool("caption_image", {"image": 17, "zebrafish": "hippopotamus"})

    with running.client() as client:
        accept = ACCEPT
        sessions.append(begun(client)["mcp-session-id"])
        client.post("/mcp", content=b'{"hippopotamus', headers=accept | JSON)
        client.post(
            "/mcp", json={"jsonrpc": "2.0", "method": "zebrafish"}, headers={**accept, "mcp-session-id": "hippopotamus"}
        )
        client.post("/mcp", json={"jsonrpc": "2.0", "id": "zebrafish", "method": 5}, headers=accept)
        client.get(f"/hippopotamus?token={TOKEN}")
        client.get("/metrics", headers={"Host": "hippopotamus.example"})
        client.request("ZEBRAFISH", "/metrics")
        client.post("/images", content=b"zebrafish")
    for mode in ERAS:
        asyncio.run(use(mode))
    lines = len(running.lines)
    with running.client() as client:
        client.get("/last")
    eventually(lambda: "GET elsewhere 404" in "".join(running.lines[lines:]))
    for secret in (
        TOKEN,
        "zebrafish",
        "ZEBRAFISH",
        "hippopotamus",
        picture.path.name,
        picture.caption,
        "img_",
        *sessions,
    ):
        assert secret not in running.log, secret
    assert "127.0.0.1 POST /mcp 200" in running.log
    assert "127.0.0.1 GET elsewhere 404" in running.log


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_token(host):
    with pytest.raises(InvalidInputError, match="BLIP2TOOLS_TOKEN"):
        Listener(host, 0, Settings())


def test_a_listener_that_cannot_be():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port, said in [
            ("127.0.0.1", 70_000, "port"),
            ("no such name", 0, "not a name or address"),
            ("127.0.0.1", taken.getsockname()[1], "Cannot listen"),
        ]:
            with pytest.raises(InvalidInputError, match=said):
                Listener(host, port, Settings())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--http", "--host", "0.0.0.0", "--port", "0"), "BLIP2TOOLS_TOKEN"),
        (("--http", "--token", "secret"), "token"),
        (("--port", "8000"), "--http"),
        (("--token", TOKEN), "--http"),
        (("--no-ui",), "--http"),
    ],
)
def test_refused_at_the_start(words, said):
    done = run_cli("serve", "--model", "demo", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("invalid_input: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert TOKEN not in done.stderr


def test_ipv6(start):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    running = start(host="::1")
    assert running.url.startswith("http://[::1]:")
    with running.client() as client:
        assert client.get("/metrics").status_code == 200


def test_a_token_is_never_shown():
    settings = Settings.load({"BLIP2TOOLS_TOKEN": TOKEN})
    assert settings.token.get_secret_value() == TOKEN
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert TOKEN not in shown
    with pytest.raises(InvalidInputError) as refused:
        Settings.load({"BLIP2TOOLS_TOKEN": "my secret"})
    assert "my secret" not in str(refused.value) + str(refused.value.__cause__)


def test_buckets():
    now = [0.0]
    limit = RateLimit(60, clock=lambda: now[0])
    alice, bob = (True, "192.0.2.1"), (True, "192.0.2.2")
    assert [limit.wait(alice) for _ in range(60)] == [0.0] * 60
    assert limit.wait(alice) == pytest.approx(1)
    assert limit.wait(bob) == 0
    now[0] += 0.5
    assert limit.wait(alice) == pytest.approx(0.5)
    now[0] += 0.5
    assert limit.wait(alice) == 0
    now[0] += 3600
    assert [limit.wait(alice) for _ in range(61)][-1] > 0
    for number in range(2 * RATE_KEYS):
        limit.wait((False, str(number)))
    assert len(limit._buckets) <= RATE_KEYS
    assert RateLimit(0).wait(alice) == 0


def test_the_text_of_metrics():
    numbers = {
        "a_total": Metric("How many\nof \\ them.", "counter", 3),
        "b": [
            Metric("By kind.", "gauge", 0.25, {"kind": 'a "b"\\\n'}),
            Metric("By kind.", "gauge", math.inf, {"kind": "c"}),
        ],
        "none": [],
    }
    assert render(numbers).splitlines() == [
        "# HELP a_total How many\\nof \\\\ them.",
        "# TYPE a_total counter",
        "a_total 3",
        "# HELP b By kind.",
        "# TYPE b gauge",
        'b{kind="a \\"b\\"\\\\\\n"} 0.25',
        'b{kind="c"} +Inf',
    ]


# ---- many at once ----


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("calls", [240, pytest.param(2000, marks=pytest.mark.long)])
def test_64_clients_and_many_calls(pictures, folder, calls):
    """5 % cancels and 5 % bad inputs: no call is lost, each answer belongs to its own picture, no 5xx."""
    running = HttpProcess("--model", "demo", "--allow-dir", str(folder), "--rate-limit", "0")
    clients = 64
    outcomes = []

    async def one(client, number):
        drawn = pictures[number % len(pictures)]
        if number % 20 == 7:
            bad = await client.call_tool("caption_image", {"image": f"missing-{number}.png"})
            return "bad" if bad.meta[ERROR_CODE_KEY] == "not_found" else bad
        edge = round(0.9 + 0.1 * (number % 97) / 97, 4)
        arguments = {"image": drawn.path.name} if number % 3 else {"image": drawn.path.name, "region": [0, 0, 1, edge]}
        call = asyncio.ensure_future(client.call_tool("caption_image", arguments))
        if number % 20 == 13:
            await asyncio.sleep(0.001 * (number % 40))
            call.cancel()
            await asyncio.wait([call])
            return "cancelled"
        said = (await call).structured_content
        assert said["image"]["source"] == drawn.path.name
        assert "region" not in arguments or said["region"] == arguments["region"]
        return "good" if "region" in arguments or said["text"] == drawn.caption else said

    async def work(client_number):
        async with mcp_client(running, ERAS[client_number % 2]) as client:
            for number in range(client_number, calls, clients):
                outcomes.append(await one(client, number))

    async def everybody():
        await asyncio.gather(*(work(number) for number in range(clients)))

    try:
        asyncio.run(everybody())
        eventually(lambda: running.metrics()["blip2tools_requests_running"] == 0)
        numbers = running.metrics()
        assert running.end() == 0
    finally:
        running.kill()
    assert len(outcomes) == calls
    counts = {outcome: outcomes.count(outcome) for outcome in ("good", "bad", "cancelled")}
    assert counts == {"good": calls * 9 // 10, "bad": calls // 20, "cancelled": calls // 20}
    assert numbers["blip2tools_requests_waiting"] == 0
    assert numbers['blip2tools_requests_total{end="failed"}'] == 0
    assert not [name for name in numbers if 'status="5' in name and "readyz" not in name]
    assert "Traceback" not in running.log


def test_many_uploads_at_once_keep_their_handles(server, pictures):
    with ThreadPoolExecutor(16) as pool, server.client() as client:
        data = [pictures[number % len(pictures)].path.read_bytes() for number in range(64)]
        answers = list(pool.map(lambda one: client.post("/images", content=one).json()["handle"], data))
    assert len(set(answers)) == len(pictures)
    assert answers[: len(pictures)] * 10 == answers[: 10 * len(pictures)]


def test_no_answer_waits_for_an_acknowledgement(start, monkeypatch):
    """Nagle's algorithm is off: with it the body of each answer came 40 ms after its headers."""
    seen = []
    made = Connection.connection_made

    def noted(self, transport):
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", noted)
    with start().client() as client:
        assert client.get("/healthz").text == "ok\n"
    assert seen
    assert all(seen)
