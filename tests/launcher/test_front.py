"""A client's first lines: answered before there is a server, byte for byte as it would, or kept for it."""

import json
import os
import subprocess
import sys
import threading
import tomllib

import pytest

from blip2tools.__version__ import __version__
from blip2tools.launcher import wire
from blip2tools.launcher.catalogue import LISTS, READER, UNKNOWN_PLACES, Catalogue, places_of
from blip2tools.launcher.environment import has_package
from blip2tools.launcher.front import Front
from blip2tools.server.mcp import largest_message
from blip2tools.settings import Settings
from tests.conftest import REPOSITORY
from tests.support import catalogue_snapshot, forked
from tests.support.catalogue_snapshot import BEGIN, META, NO_TOOL, SERVER


def test_the_catalogue_is_of_this_version():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recorded = json.loads(catalogue_snapshot.CATALOGUE.read_text(encoding="utf-8"))
    assert recorded["version"] == project["version"] == __version__
    assert recorded["torch"] in project["dependencies"]
    assert recorded["limit"] == largest_message(Settings.load({}))
    assert recorded["takes_pictures"] == catalogue_snapshot.taking_pictures()


CONVERSATIONS = {
    version: [("initialize", {**BEGIN, "protocolVersion": version}), ("ping", {}), *((name, {}) for name in LISTS)]
    for version in ("2024-11-05", "2025-11-25", "a revision to come")
}
CONVERSATIONS["2026-07-28"] = [(name, {"_meta": META}) for name in ("server/discover", *LISTS)]


def said(start, command, requests, **more):
    """The lines that a server answers, one after the other."""
    lines = []
    with start(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", **more
    ) as process:
        for number, (method, params) in enumerate(requests):
            message = {"jsonrpc": "2.0", "id": f"é{number}", "method": method, "params": params}
            process.stdin.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            process.stdin.flush()
            lines.append(process.stdout.readline())
        process.stdin.close()
        assert process.wait(60) == 0
    return lines


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_launcher_answers_byte_for_byte_like_the_server(name):
    """The launcher has no server here, and the server has no launcher. `python -m tests.support.tool_snapshot` records anew."""
    real = said(forked.start, [sys.executable, "-c", SERVER], CONVERSATIONS[name])
    launch = [sys.executable, "-I", "-S", str(REPOSITORY / "plugin" / "launch.py")]
    ours = said(subprocess.Popen, launch, CONVERSATIONS[name], env={"BLIP2TOOLS_PYTHON": "/no/such/python"})
    assert [without_reader(line).replace(places_of(()).encode(), UNKNOWN_PLACES.encode()) for line in real] == ours


def without_reader(line):
    """The plugin installs no extra for the tool that reads text, which may be here."""
    message = json.loads(line)
    assert wire.encoded(message) == line
    if "tools" in message["result"]:
        message["result"]["tools"] = [tool for tool in message["result"]["tools"] if tool["name"] != READER]
    return wire.encoded(message)


@pytest.fixture
def pipes():
    """A front over two pipes, and what it writes so far."""
    there, here = os.pipe()
    out, into = os.pipe()
    os.set_blocking(out, False)
    ended = threading.Event()
    with (
        os.fdopen(there, "rb") as source,
        os.fdopen(here, "wb", buffering=0) as client,
        os.fdopen(into, "wb", buffering=0) as sink,
    ):
        front = Front(source, sink, Catalogue(), limit=200_000, at_end=lambda waiting: ended.set())
        front.start()

        def say(*messages, end=False):
            for message in messages:
                client.write(
                    message
                    if isinstance(message, bytes)
                    else json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
                )
            if end:
                client.close()
                assert ended.wait(10)

        def answers(count):
            found = b""
            while found.count(b"\n") < count:
                try:
                    found += os.read(out, 2**20)
                except BlockingIOError:
                    threading.Event().wait(0.01)
            return [json.loads(line) for line in found.splitlines()]

        yield front, say, answers
        client.close()
    os.close(out)


def request(number, method, **params):
    return {"id": number, "method": method, "params": params}


INITIALIZE = request(0, "initialize", **BEGIN)
KEPT = {
    "a call": request(1, "tools/call", **NO_TOOL),
    "a page further on": request(1, "tools/list", cursor="x"),
    "an unknown method": request(1, "tools/lists"),
    "a second beginning": INITIALIZE,
    "discovery in the wrong era": request(1, "server/discover", _meta=META),
    "a list of the other era": request(1, "tools/list", _meta=META),
    "parameters that are none": {"id": 1, "method": "ping", "params": []},
    "an id that is none": {"id": 1.5, "method": "ping"},
    "no JSON": b"{]\n",
    "half a character": b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}\n',
    "not UTF-8": b'{"jsonrpc": "2.0", "id": "\xff", "method": "ping"}\n',
    "too deep": b"[" * 100_000 + b"\n",
    "a notification": {"method": "notifications/roots/list_changed"},
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_understood_is_left_to_the_server(pipes, name):
    front, say, answers = pipes
    say(INITIALIZE, {"method": "notifications/initialized"}, b"\n", KEPT[name], request("last", "ping"))
    assert [one["id"] for one in answers(2)] == [0, "last"]
    assert [one["method"] for one in front.replays()] == ["initialize", "notifications/initialized"]
    assert front.replays() == []
    kept = front.next_line()
    assert kept == KEPT[name] if isinstance(KEPT[name], bytes) else json.loads(kept) == {"jsonrpc": "2.0", **KEPT[name]}
    say(b"after\n", b"wards\n")
    assert [front.next_line(), front.next_line()] == [b"after\n", b"wards\n"]


@pytest.mark.parametrize(
    "first",
    [
        request(1, "initialize", **{**BEGIN, "clientInfo": {"name": "x"}}),
        request(1, "initialize", **{**BEGIN, "capabilities": None}),
        request(1, "initialize", **{**BEGIN, "protocolVersion": 20251125}),
        request(1, "ping"),
        request(1, "tools/list"),
        request(1, "tools/list", _meta={**META, "io.modelcontextprotocol/protocolVersion": "2027-01-01"}),
        b"{]\n",
    ],
    ids=str,
)
def test_after_a_doubtful_beginning_the_server_alone_answers(pipes, first):
    front, say, _ = pipes
    say(first, INITIALIZE, request(2, "tools/list"), end=True)
    assert front.replays() == []
    lines = [front.next_line() for _ in range(4)]
    assert [json.loads(line)["id"] for line in lines[1:3]] == [0, 2]
    assert lines[3] == b""


def test_a_newer_client_is_answered_and_the_server_hears_of_it(pipes):
    front, say, answers = pipes
    say(
        request(1, "server/discover", _meta=META),
        request(2, "prompts/list", _meta=META),
        request(3, "tools/list", _meta=META),
    )
    assert [one["id"] for one in answers(3)] == [1, 2, 3]
    say(INITIALIZE, end=True)  # too late, as the server will say
    assert [one["method"] for one in front.replays()] == ["prompts/list", "tools/list"]
    assert json.loads(front.next_line())["method"] == "initialize"


def test_who_waits_is_told_and_answered_at_last(pipes):
    front, say, answers = pipes
    large = {**NO_TOOL, "arguments": {"image": "x" * 100_000}}
    say(
        INITIALIZE,
        request(1, "tools/call", **NO_TOOL, _meta={"progressToken": 7}),
        request(2, "prompts/get", name="verify"),
    )
    say(request("three", "tools/call", **large), request(4, "tools/call", **{**large, "pad": "x" * 200_000}))
    first, refused = answers(2)
    assert (first["id"], refused["id"]) == (0, 4)
    assert refused["error"]["message"].startswith("too_large: The message is above the limit of 200,000 bytes")
    front.tell("soon")
    front.tell("soon")
    one, two = (each["params"] for each in answers(2))
    assert one["progressToken"] == 7
    assert 0 < one["progress"] < two["progress"] < 1e-9
    assert front.give_up(60, "busy", "Not yet.") == 0
    assert front.give_up(0, "busy", "Not yet.") == 3
    call, prompt, other = answers(3)
    assert call["result"]["content"] == [{"type": "text", "text": "busy: Not yet."}]
    assert call["result"]["_meta"]["blip2tools/code"] == "busy"
    assert call["result"]["isError"]
    assert "structuredContent" not in call["result"]
    assert prompt["error"] == {"code": -32603, "message": "busy: Not yet."}
    assert other["id"] == "three"
    say(end=True)
    assert [one["method"] for one in front.replays()] == ["initialize"]
    assert front.replays() == []
    front.tell("never")
    assert front.give_up(0, "busy", "Never.") == 0
    assert front.next_line() == b""


def test_lines_that_wait_are_bounded(pipes, monkeypatch):
    front, say, answers = pipes
    monkeypatch.setattr("blip2tools.launcher.front._MAX_KEPT", 250_000)
    say(INITIALIZE)
    answers(1)
    lines = [
        json.dumps({"jsonrpc": "2.0", **request(number, "tools/call", pad="x" * 90_000)}).encode() + b"\n"
        for number in range(20)
    ]
    writer = threading.Thread(target=say, args=lines)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive(), "more than 250 kB were taken in"
    assert front.replays()
    assert front.replays() == []
    assert [front.next_line() for _ in lines] == lines
    writer.join(10)


def test_a_client_that_reads_no_more_has_gone():
    """Its other end may stay open: a parent that died with a child holding the pipe, say."""
    there, here = os.pipe()
    out, into = os.pipe()
    os.close(out)
    waiting = []
    ended = threading.Event()

    def at_end(whether):
        waiting.append(whether)
        ended.set()

    with (
        os.fdopen(there, "rb") as source,
        os.fdopen(here, "wb", buffering=0) as client,
        os.fdopen(into, "wb", buffering=0) as sink,
    ):
        Front(source, sink, Catalogue(), limit=200_000, at_end=at_end).start()
        client.write(json.dumps({"jsonrpc": "2.0", **INITIALIZE}).encode() + b"\n")
        assert ended.wait(10)
        assert waiting == [False]


def test_a_package_is_found_without_starting_its_python(tmp_path):
    assert has_package(sys.executable, "pytest")
    assert not has_package(sys.executable, "no_such_package")
    assert not has_package(str(tmp_path / "bin" / "python"), "pytest")


def test_addresses_and_folders_are_told_where_they_are_known():
    told = Catalogue(places=places_of(["/a", "/b"]), urls=True)
    assert told.initialize(BEGIN)["instructions"].endswith("Pictures may come from these folders: /a, /b.")
    tools = {
        tool["name"]: tool["annotations"]["openWorldHint"] for tool in told.result("modern", "tools/list")["tools"]
    }
    assert tools["caption_image"]
    assert not tools["vision_status"]


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b'{"id": 7, "params": {"id": 8}', 7),
        (b'{"params": {"id": 8}, "id": "a"}', "a"),
        (b'{"params": "\\"id\\": 8", "other": 9', None),
        (b'[{"id": 8}]', None),
    ],
)
def test_the_id_of_a_line_is_certain_or_none(line, number):
    assert wire.id_of(line, line[-wire.TAIL :]) == number
