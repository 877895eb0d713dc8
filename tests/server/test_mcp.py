"""The MCP server as clients see it: a real process on standard input and output, and the SDK's own client."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import INVALID_REQUEST, PARSE_ERROR, jsonrpc_message_adapter
from pydantic import ValidationError

from blip2tools.pictures.reading.reader import is_installed
from blip2tools.server import stdio
from blip2tools.server.mcp import ERROR_CODE_KEY, build_server
from blip2tools.toolset import TOOLS
from tests.schemas.test_schemas import REFUSED
from tests.support import family_models


@pytest.fixture(scope="module")
def server(folder):
    from tests.conftest import StdioServer

    running = StdioServer("--model", "demo", "--allow-dir", str(folder))
    running.initialize()
    yield running
    assert running.end() == 0


def text_of(result):
    assert [block["type"] for block in result["content"]] == ["text"]
    return result["content"][0]["text"]


def test_caption(server, picture):
    result = server.call("caption_image", image=picture.path.name)
    assert not result.get("isError", False)
    said = result["structuredContent"]
    assert said["text"] == picture.caption
    assert said["confidence"] > 0.9
    assert said["match"]["probability"] > 0.9
    assert said["image"]["source"] == picture.path.name
    assert (said["image"]["width"], said["image"]["height"]) == (224, 224)
    assert said["model"] == "demo"
    assert any("shapes" in warning for warning in said["warnings"])
    text = text_of(result)
    assert picture.caption in text
    assert said["image"]["handle"] in text


def test_one_question_about_several_pictures(server, pictures):
    names = [drawn.path.name for drawn in pictures[:2]]
    question = f"what color is the {pictures[0].scene.things[0].shape}?"
    result = server.call("ask_image", images=[*names, "none.png"], question=question)
    first, _, lost = result["structuredContent"]["answers"]
    alone = server.call("ask_image", image=names[0], question=question)["structuredContent"]
    assert (first["answer"], first["premise"]) == (alone["answer"], alone["premise"])
    assert first["premise"]["holds"] is True
    assert lost["error"]["code"] == "not_found"
    assert "picture 3: not_found: " in text_of(result)


def test_every_result_fits_its_output_schema(server, picture):
    import jsonschema

    calls = {
        "caption_image": {"image": picture.path.name, "num_captions": 2, "region": [0, 0, 1, 0.9]},
        "ask_image": {"image": picture.path.name, "question": "how many objects are there?", "choices": ["one", "two"]},
        "match_image_text": {"image": picture.path.name, "texts": [picture.caption, "a purple star"]},
        "survey_image": {"image": picture.path.name, "rows": 1},
        "compare_images": {"images": [picture.path.name, "latest"]},
        "list_images": {"limit": 2},
        "search_images": {"query": picture.caption, "limit": 2},
        "vision_status": {},
    }
    if is_installed():
        calls["read_text"] = {"image": picture.path.name}
    listed = {tool["name"]: tool for tool in server.request("tools/list")["result"]["tools"]}
    assert set(calls) == set(listed)
    for name, arguments in calls.items():
        jsonschema.validate(arguments, listed[name]["inputSchema"])
        result = server.call(name, **arguments)
        jsonschema.validate(result["structuredContent"], listed[name]["outputSchema"])


def test_the_list_names_all_that_a_client_needs(server):
    listed = server.request("tools/list")["result"]["tools"]
    assert [tool["name"] for tool in listed] == [spec.name for spec in TOOLS]
    for tool in listed:
        assert tool["title"]
        assert tool["inputSchema"]["additionalProperties"] is False
        assert "$ref" not in json.dumps(tool)
        assert tool["annotations"]["readOnlyHint"] is True
        assert tool["annotations"]["destructiveHint"] is False
        assert tool["annotations"]["openWorldHint"] is False
        for argument in tool["inputSchema"]["properties"].values():
            assert argument["description"]


def test_a_handle_serves_in_later_calls(server, picture):
    handle = server.call("caption_image", image=picture.path.name)["structuredContent"]["image"]["handle"]
    again = server.call("ask_image", image=handle, question="how many objects are there?")
    assert again["structuredContent"]["answer"] == "one"
    assert handle in server.call("vision_status")["structuredContent"]["handles"]


CASES = [
    (name, case)
    for name, model in [(spec.name, spec.arguments) for spec in TOOLS]
    for case in REFUSED
    if case[0] is model and "Unicode" not in case[2]  # JSON cannot carry a lone surrogate
]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[case[2][:40] for _, case in CASES])
def test_bad_arguments_are_refused_by_name(server, name, case):
    _, arguments, sentence = case
    result = server.request("tools/call", name=name, arguments=arguments)["result"]
    assert result["isError"] is True
    assert result.get("structuredContent") is None
    assert result["_meta"][ERROR_CODE_KEY] == "invalid_input"
    assert text_of(result).startswith("invalid_input: ")
    assert sentence in text_of(result)


def test_unknown_tool(server):
    result = server.call("see_everything")
    assert result["isError"] is True
    assert "caption_image" in text_of(result)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("/etc/passwd", "not_allowed"),
        ("../secret.png", "not_allowed"),
        ("nothing-here.png", "not_found"),
        ("img_0000000000000000", "not_found"),
        ("http://127.0.0.1/x.png", "not_allowed"),
        ("data:image/png;base64,AAAA", "unsupported_image"),
        ("data:image/png;base64,@", "invalid_input"),
    ],
)
def test_bad_pictures_are_errors_and_the_next_call_works(server, picture, image, code):
    result = server.call("caption_image", image=image)
    assert result["isError"] is True
    assert result["_meta"][ERROR_CODE_KEY] == code
    healthy = server.call("caption_image", image=picture.path.name)
    assert healthy["structuredContent"]["text"] == picture.caption


def test_every_byte_on_standard_output_is_protocol(start_server, folder, picture, tmp_path):
    """A library that prints while it is imported, native writes, warnings, and prints at exit: none reaches the wire."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys, os\n"
        "class Noise:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'PIL.Image'):\n"
        "            print('importing', name, flush=True); os.write(1, b'raw bytes\\n')\n"
        "if 'serve' in sys.argv:\n"
        "    sys.meta_path.insert(0, Noise())\n"
        "    atexit.register(lambda: (print('bye', flush=True), os.write(1, b'raw bye\\n')))\n"
    )
    server = start_server(
        "--model", "demo", "--allow-dir", str(folder), env={"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    )
    server.initialize()
    for spec in TOOLS:
        arguments = {"image": picture.path.name, "question": "what shape is it?", "texts": ["a red circle"]}
        server.call(
            spec.name, **{name: value for name, value in arguments.items() if name in spec.arguments.model_fields}
        )
    assert server.end() == 0
    assert len(server.raw) == server.asked >= 1 + len(TOOLS)
    for line in server.raw:
        assert json.loads(line)["jsonrpc"] == "2.0"
    assert "importing torch" in server.log


NUMBERS = [b"1", b"true", b"null", b"1.0", b"1.5", b"1e400", b"NaN", b"Infinity", b"-0", b"1" * 30, b"1" * 20_000]
STRINGS = [b'"a"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\xff"', b"[]", b"{}"]


@pytest.mark.parametrize(
    "line",
    [
        *(b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % number for number in NUMBERS + STRINGS),
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":NaN,"b":1e999,"c":' + b"9" * 6000 + b"}}",
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"m"}}',
        b'{"jsonrpc":2.0,"id":1,"method":"x"}',
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
        b'{"jsonrpc":"2.0","method":"n"} x',
        b"null",
        b"\0",
    ],
    ids=lambda line: line[:60].decode("ascii", "backslashreplace"),
)
def test_a_line_is_judged_as_by_the_sdk_itself(line):
    """It is parsed first and judged afterwards, to hold a picture's megabytes once; the verdict must be the same."""
    try:
        wanted = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        wanted = error.errors(include_url=False, include_input=False)[0]["type"]
    found = stdio._message(line + b"\n", 2**20)
    if isinstance(wanted, str):
        assert found.error.code == (PARSE_ERROR if wanted == "json_invalid" else INVALID_REQUEST)
    else:
        assert repr(found.message) == repr(wanted)


MODERN = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_from_discovery_to_the_end_of_input_while_the_model_loads(start_server, folder, picture):
    """A client that only discovers, begins in the old way, gets the tools, calls, cancels, and leaves."""
    server = start_server("--model", "demo", "--allow-dir", str(folder), fresh=True)
    loaded = Path(f"/proc/{server.process.pid}/maps")
    for _ in range(2):
        assert "2026-07-28" in server.request("server/discover", **MODERN)["result"]["supportedVersions"]
    assert server.initialize()["protocolVersion"] == "2025-06-18"
    assert "libtorch" not in loaded.read_text()  # the handshake does not wait for it
    assert len(server.request("tools/list")["result"]["tools"]) == len(TOOLS)
    until = time.monotonic() + 60
    while "libtorch" not in loaded.read_text():  # nobody has named a picture yet
        assert time.monotonic() < until
        time.sleep(0.05)
    call = {"name": "survey_image", "arguments": {"image": picture.path.name, "rows": 4, "columns": 4}}
    for number in (98, 99):
        server.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call})
    server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 98}})
    assert server.request("ping")["result"] == {}
    assert server.end(20) == 0  # at once, but on a busy machine that is a long word
    assert server.log == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_client_of_the_new_revision_after_discovery_without_early_loading(start_server, folder):
    server = start_server("--model", "demo", "--allow-dir", str(folder), env={"BLIP2TOOLS_EARLY_LOAD": "0"}, fresh=True)
    server.request("server/discover", **MODERN)
    listed = server.request("tools/list", **MODERN)["result"]
    assert len(listed["tools"]) == len(TOOLS)
    refused = server.request("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=MODERN)
    assert refused["error"]["code"] == -32022
    time.sleep(0.5)
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert server.end(20) == 0
    assert server.log == ""


def test_memory_is_judged_before_early_loading(start_server, folder, picture, tmp_path):
    family_models.save("opt-2.7b", tmp_path / "model", "today")
    room = ("--device", "spread", "--max-memory", "cpu=0.001MiB")
    server = start_server("--model", str(tmp_path / "model"), *room, "--allow-dir", str(folder))
    server.initialize()
    server.request("tools/list")
    call = {"name": "caption_image", "arguments": {"image": picture.path.name}}
    for _ in range(2):  # what early loading found, and what the next try finds
        said = server.request("tools/call", **call)["result"]
        assert said["isError"]
        assert said["content"][0]["text"].startswith("model_unavailable: model needs 0.0 GB of memory on all devices")
    status = server.request("tools/call", name="vision_status", arguments={})["result"]["structuredContent"]
    assert status["loaded"] is False
    assert server.end(20) == 0


def test_a_server_that_only_ever_discovers_ends_with_its_input(start_server, folder):
    server = start_server("--model", "demo", "--allow-dir", str(folder))
    server.request("server/discover", **MODERN)
    assert server.request("server/discover")["error"]["code"] < 0  # not of the new revision, and not yet of the old one
    assert server.initialize()["serverInfo"]["name"] == "blip2tools"
    assert server.end(20) == 0
    assert server.log == ""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(start_server, folder, number):
    server = start_server("--model", "demo", "--allow-dir", str(folder))
    server.initialize()
    server.process.send_signal(number)
    assert server.process.wait(100) == 128 + number
    server.end()
    assert "Traceback" not in server.log


def test_cancelled_requests_free_the_engine(server, picture):
    before = queue_of(server)
    for number in range(500, 510):
        arguments = {"image": picture.path.name, "region": [0, 0, 1, number / 1000]}  # each is new to the server
        server.send(
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "tools/call",
                "params": {"name": "caption_image", "arguments": arguments},
            }
        )
        server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
    assert server.call("caption_image", image=picture.path.name)["structuredContent"]["text"] == picture.caption
    while (after := queue_of(server))["waiting"] or after["running"]:
        time.sleep(0.01)
    assert after["failed"] == before["failed"]


async def test_the_sdk_client_in_every_era(vision, picture):
    for mode in ("legacy", "2026-07-28"):
        async with Client(build_server(vision), mode=mode) as client:
            tools = await client.list_tools()
            assert [tool.name for tool in tools.tools] == [spec.name for spec in TOOLS]
            result = await client.call_tool("caption_image", {"image": picture.path.name})
            assert result.structured_content["text"] == picture.caption
            bad = await client.call_tool("caption_image", {"image": picture.path.name, "num_captions": "5"})
            assert bad.is_error
            assert bad.meta[ERROR_CODE_KEY] == "invalid_input"


async def test_a_real_client_process_pair(folder, picture):
    command = StdioServerParameters(
        command=sys.executable, args=["server.py", "--model", "demo", "--allow-dir", str(folder)]
    )
    async with Client(stdio_client(command)) as client:
        result = await client.call_tool("ask_image", {"image": "latest", "question": "how many objects are there?"})
        assert result.structured_content["answer"] in ("one", "two", "three")
        assert "img_" in result.content[0].text


async def test_the_handshake_tells_what_to_do_first(vision, folder):
    async with Client(build_server(vision), mode="legacy") as client:
        assert "Start with caption_image" in client.instructions
        assert str(folder) in client.instructions
        assert len(client.instructions) < 2000
        (icon,) = client.server_info.icons
        assert icon.src.startswith("data:image/svg+xml,")
        assert len(icon.src) < 300
        for part in ("tools", "prompts", "resources", "completions"):
            assert getattr(client.server_capabilities, part) is not None


async def test_the_world_is_open_only_where_addresses_are(folder):
    from blip2tools import Vision

    for allow_urls in (False, True):
        with Vision.load(model="demo", allowed_dirs=(folder,), allow_urls=allow_urls, preload=False) as eyes:
            async with Client(build_server(eyes)) as client:
                for tool in (await client.list_tools()).tools:
                    reads_addresses = {"image", "images"} & set(tool.input_schema["properties"])
                    assert tool.annotations.open_world_hint == (allow_urls and bool(reads_addresses)), tool.name


async def test_progress_of_loading_and_of_a_survey(folder, picture):
    from blip2tools import Vision

    for mode in ("legacy", "2026-07-28"):
        heard = []

        async def listen(progress, total, message):
            heard.append((progress, total, message))  # noqa: B023  used within this turn

        with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, preload=False) as eyes:
            async with Client(build_server(eyes), mode=mode) as client:
                await client.call_tool("survey_image", {"image": picture.path.name}, progress_callback=listen)
                silent = len(heard)
                await client.call_tool("survey_image", {"image": picture.path.name})
                assert len(heard) == silent
        assert [progress for progress, *_ in heard] == sorted({progress for progress, *_ in heard})
        assert heard[0][0] < 1
        assert heard[0][1] is None
        assert heard[-5:] == [(done, 5, f"captions: {done} of 5") for done in range(1, 6)]


LONG = ("--min-new-tokens", "90", "--max-new-tokens", "90", "--threads", "1")


def queue_of(server):
    return server.call("vision_status")["structuredContent"]["queue"]


def test_a_cancelled_long_caption_stops_its_row(start_server, folder, pictures):
    """Counted in tokens, not in time: a row that stops has fewer than its maximum."""
    server = start_server("--model", "demo", "--allow-dir", str(folder), *LONG)
    server.initialize()
    server.call("caption_image", image=pictures[0].path.name, num_captions=5)
    whole = queue_of(server)
    assert whole["tokens"] >= 5 * 90
    stopped = 0
    for number, drawn in enumerate(pictures[1:], start=900):
        before = queue_of(server)
        arguments = {"image": drawn.path.name, "num_captions": 5}
        server.send(
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": "tools/call",
                "params": {"name": "caption_image", "arguments": arguments},
            }
        )
        while (now := queue_of(server))["running"] == 0 and now["completed"] == before["completed"]:
            time.sleep(0.01)
        server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
        while (after := queue_of(server))["running"] or after["waiting"]:
            time.sleep(0.01)
        assert after["failed"] == before["failed"]
        if after["cancelled"] > before["cancelled"]:
            stopped += after["tokens"] - before["tokens"] < whole["tokens"]
    assert stopped, "not one of five was stopped on its way"
    assert server.call("match_image_text", image=pictures[0].path.name, texts=["a ring"])["structuredContent"]
