"""An upstream that fails in every way, and clients that go: each ends as its protocol says, and nothing is left behind."""

import asyncio
import contextlib
import gc
import json
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anthropic
import httpx2
import openai
import psutil
import pytest

from benchmarks.blind_upstream import Said, chunk, named, sse
from benchmarks.chat_sight import proxy_in_thread
from blip2tools import Vision
from tests.server.chat.conftest import shown
from tests.server.chat.test_proxy import PATHS, asked, body_of, handles_in

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def eventually(check, timeout=60):
    until = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < until
        time.sleep(0.05)


def writes(*pieces, end=True):
    """A script whose answer is these bytes, then the end of the line."""

    async def raw(writer):
        writer.write(b"".join(pieces))
        if not end:
            await writer.drain()
            await asyncio.sleep(60)

    return lambda heard: Said(raw=raw)


def delta(content=None, calls=None, reason=None):
    found = {"content": content} if content else {}
    found |= {"tool_calls": calls} if calls else {}
    return chunk(sse({"id": "c", "created": 1, "choices": [{"index": 0, "delta": found, "finish_reason": reason}]}))


def call_of(handle, arguments=None):
    arguments = json.dumps({"image": handle}) if arguments is None else arguments
    return [{"index": 0, "id": "k", "type": "function", "function": {"name": "caption_image", "arguments": arguments}}]


@pytest.fixture(params=["words", "pictures"])
def body(request, pictures):
    """A request with a picture in it, and one without."""
    paths = [pictures[0].path] if request.param == "pictures" else []
    return body_of("completions", asked("completions", "?", *paths), stream=True)


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 302])
def test_errors_of_the_upstream_pass_as_they_are(http, upstream, pictures, protocol, status):
    said = {"error": {"message": "no tool for this", "code": 7}, "odd": [1.50]}
    raw = json.dumps(said, indent=3).encode()
    headers = {"retry-after": "17", "x-ratelimit-remaining": "0", "location": "/elsewhere"}
    upstream.script = lambda heard: Said(status=status, json=raw, headers=headers)
    for paths in ([], [pictures[0].path]):
        answer = http.post(PATHS[protocol], json=body_of(protocol, asked(protocol, "?", *paths)))
        assert (answer.status_code, answer.content) == (status, raw)
        assert answer.headers["retry-after"] == "17"
        assert answer.headers["x-ratelimit-remaining"] == "0"


@pytest.mark.parametrize(
    "answer",
    [b'{"error": {"message": "quota"}}', b"<html>Sign in</html>", b"", b"[]", b'{"choices": []}', b'{"choices"'],
)
def test_what_is_no_answer_passes_as_it_is(http, upstream, body, answer):
    upstream.script = lambda heard: Said(json=answer)
    got = http.post(PATHS["completions"], json=body)
    assert (got.status_code, got.content) == (200, answer)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"220 smtp ready\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 1000,
    ],
)
@pytest.mark.parametrize("protocol", PATHS)
def test_an_upstream_that_breaks_off_before_it_answers(http, upstream, pictures, protocol, wire):
    upstream.script = writes(wire)
    for paths in ([], [pictures[0].path]):
        got = http.post(PATHS[protocol], json=body_of(protocol, asked(protocol, "?", *paths)))
        assert got.status_code == 502
        assert got.json()["error"]["message"].startswith("fetch_failed: The upstream")
    upstream.script = lambda heard: Said("well again")
    assert "well again" in http.post(PATHS[protocol], json=body_of(protocol, "?")).text


CUTS = {
    "in a text": [delta("one "), delta("two")],
    "in a call": [delta("one "), delta(calls=call_of("img", '{"ima'))],
    "after a whole call": [delta("one "), delta(calls=call_of("img_0123456789abcdef"))],
    "in its last event": [
        delta("one "),
        delta(calls=call_of("img_0123456789abcdef")),
        delta(reason="tool_calls")[:-20],
    ],
    "after its last event": [delta("one "), delta(calls=call_of("img_0123456789abcdef")), delta(reason="tool_calls")],
}


@pytest.mark.parametrize("where", CUTS)
def test_a_stream_that_is_cut_raises_in_the_client_and_runs_nothing(url, http, upstream, body, where):
    upstream.script = writes(HEAD, *CUTS[where])
    before = len(upstream.heard)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        stream = client.chat.completions.create(**body)
        with pytest.raises(openai.APIError, match="fetch_failed: The upstream server cut its answer short"):
            for _ in stream:
                pass
    assert len(upstream.heard) - before == 1
    raw = http.post(PATHS["completions"], json=body).text
    for line in raw.split("\n\n")[:-1]:
        json.loads(line.removeprefix("data: "))  # every event is whole


def test_a_stream_that_ends_too_early_says_so(http, upstream, pictures):
    """Of a body that only the end of the connection delimits, nobody can tell that it was cut but by what it lacks."""
    upstream.script = writes(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", sse({"choices": [{"delta": {"content": "x"}}]})
    )
    body = body_of("completions", asked("completions", "?", pictures[0].path), stream=True)
    assert '"code":"fetch_failed"' in http.post(PATHS["completions"], json=body).text


@pytest.mark.parametrize("protocol", ["messages", "responses"])
def test_cut_streams_of_the_other_protocols(url, upstream, pictures, protocol):
    start = {"message": {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m", "stop_reason": None,
                         "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}  # fmt: skip
    if protocol == "messages":
        use = {"type": "tool_use", "id": "t", "name": "caption_image", "input": {}}
        events = [named("message_start", start), named("content_block_start", {"index": 0, "content_block": use})]
    else:
        response = {"id": "r", "object": "response", "status": "in_progress", "output": []}
        item = {"type": "function_call", "id": "f", "call_id": "c", "name": "caption_image", "arguments": ""}
        events = [
            named("response.created", {"sequence_number": 0, "response": response}),
            named("response.output_item.added", {"sequence_number": 1, "output_index": 0, "item": item}),
        ]
    upstream.script = writes(HEAD, *map(chunk, events))
    for paths in ([], [pictures[0].path]):
        body = body_of(protocol, asked(protocol, "?", *paths))
        call = {name: value for name, value in body.items() if name != "stream"}
        if protocol == "messages":
            with (
                anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
                pytest.raises(anthropic.APIError, match="cut its answer short"),
                client.messages.stream(**call) as stream,
            ):
                stream.get_final_message()
        else:
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
                found = [event for event in client.responses.create(**call, stream=True) if event.type == "error"]
            assert "cut its answer short" in found[0].message


def test_an_error_in_a_stream_passes_and_runs_nothing(http, upstream, body):
    error = chunk(sse({"error": {"message": "overloaded", "code": 529}}))
    upstream.script = writes(HEAD, delta("a"), delta(calls=call_of("img_0123456789abcdef")), error, b"0\r\n\r\n")
    before = len(upstream.heard)
    got = http.post(PATHS["completions"], json=body).text
    assert got.endswith(sse({"error": {"message": "overloaded", "code": 529}}).decode())
    assert len(upstream.heard) - before == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_fails_between_two_looks(http, upstream, pictures, stream):
    def script(heard):
        if heard.talk[-1][0] == "result":
            return Said(status=429, json={"error": {"message": "slow down", "type": "rate", "code": "x"}})
        return Said("Look", [("caption_image", {"image": handles_in(heard)[0]})])

    upstream.script = script
    got = http.post(
        PATHS["completions"], json=body_of("completions", asked("completions", "?", pictures[0].path), stream=stream)
    )
    assert "slow down" in got.text
    assert got.status_code == (200 if stream else 429)


def test_a_slow_upstream_is_left(http, upstream, pictures):
    for wire in (b"", HEAD + delta("one")):
        upstream.script = writes(wire, end=False)
        for paths in ([], [pictures[0].path]):
            got = http.post(
                PATHS["completions"], json=body_of("completions", asked("completions", "?", *paths), stream=True)
            )
            assert got.status_code == (200 if wire else 504)
            assert "timeout: The upstream server was silent for too long." in got.text


@pytest.mark.parametrize("what", ["event", "call", "body"])
def test_an_endless_answer_is_left(http, upstream, pictures, what):
    async def endless(writer):
        if what == "body":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        else:
            writer.write(HEAD)
        piece = b"x" * 2**20
        if what == "call":
            piece = delta(calls=call_of("", "x" * 2**16))
        elif what == "event":
            piece = chunk(piece)
        while True:
            writer.write(piece)
            await writer.drain()

    upstream.script = lambda heard: Said(raw=endless)
    before = psutil.Process().memory_info().rss
    body = body_of("completions", asked("completions", "?", pictures[0].path), stream=True)
    got = http.post(PATHS["completions"], json=body)
    assert got.status_code == (502 if what == "body" else 200)
    assert "fetch_failed" in got.text
    assert psutil.Process().memory_info().rss - before < 400 * 2**20
    eventually(lambda: upstream.open <= 2)


def test_nobody_is_there(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Vision.load(model="demo", allowed_dirs=(), preload=False, upstream=f"http://127.0.0.1:{port}") as vision,
        proxy_in_thread(vision) as url,
    ):
        got = httpx2.post(f"{url}/v1/messages", json=body_of("messages", "hi"), trust_env=False)
        assert (got.status_code, got.json()["type"], got.json()["error"]["type"]) == (502, "error", "api_error")
        assert httpx2.get(f"{url}/v1/models", trust_env=False).status_code == 502


def test_a_client_that_goes_ends_the_upstreams_work(url, upstream, body):
    cut = threading.Event()

    async def endless(writer):
        writer.write(HEAD)
        try:
            while True:
                writer.write(delta("word "))
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            cut.set()

    upstream.script = lambda heard: Said(raw=endless)
    with (
        httpx2.Client(trust_env=False) as client,
        client.stream("POST", f"{url}{PATHS['completions']}", json=body) as got,
    ):
        next(got.iter_bytes())
    assert cut.wait(30)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_while_a_look_is_taken(url, upstream, eyes, pictures, stream):
    looked = threading.Event()

    def script(heard):
        looked.set()
        return Said("", [("survey_image", {"image": handles_in(heard)[0], "rows": 4, "columns": 4})])

    upstream.script = script
    body = json.dumps(body_of("completions", asked("completions", "?", pictures[4].path), stream=stream)).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(
            f"POST {PATHS['completions']} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert looked.wait(60)
    eventually(lambda: not eyes.status().queue.running and not eyes.status().queue.waiting)


def test_nothing_is_left_behind(url, http, upstream, pictures):
    """After a hundred failures there are no more tasks, sockets or threads than before, and the next conversation is fine."""
    process = psutil.Process()
    body = body_of("completions", asked("completions", "?", pictures[0].path), stream=True)
    scripts = [
        writes(b""),
        writes(HEAD, delta("a")),
        writes(HEAD, delta(calls=call_of("img_0123456789abcdef", "{"))),
        lambda heard: Said(status=500, json={"error": {"message": "x"}}),
        lambda heard: Said("ok"),
    ]

    def burst(count):
        for number in range(count):
            upstream.script = scripts[number % len(scripts)]
            with contextlib.suppress(httpx2.HTTPError):
                http.post(PATHS["completions"], json=body)
        upstream.script = lambda heard: Said("fine")
        assert "fine" in http.post(PATHS["completions"], json=body).text
        gc.collect()
        eventually(lambda: upstream.open <= 2)

    burst(20)
    handles, threads = process.num_fds(), process.num_threads()
    burst(100)
    eventually(lambda: process.num_fds() <= handles + 2 and process.num_threads() <= threads + 1)


def converse(url, number, pictures, turns=3):
    """One conversation about one picture and no other; what went wrong in it."""
    chance = random.Random(number)
    drawn = chance.choice(pictures)
    mark = f"conversation {number}"
    stream = number % 2 == 0
    messages = [{"role": "user", "content": [{"type": "text", "text": mark}, shown(drawn.path)]}]
    with httpx2.Client(base_url=url, timeout=250, trust_env=False) as client:
        for turn in range(turns):
            body = {"model": "m", "messages": messages, "stream": stream}
            got = client.post(PATHS["completions"], json=body)
            if stream:
                chunks = [json.loads(line[6:]) for line in got.text.split("\n\n") if line.startswith("data: {")]
                said = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)
            else:
                said = got.json()["choices"][0]["message"]["content"]
            if said != f"{mark}, turn {turn}: caption: {drawn.caption}":
                return f"{mark}: {said}"
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"turn {turn + 1}"}]
    return ""


def mirror(heard):
    """Looks once a turn, and says whose conversation it is and what it has seen in all turns."""
    mark = re.search(r"conversation \d+", heard.talk[0][1])[0]
    turn = sum(kind == "user" for kind, _ in heard.talk) - 1
    results = [said[1] for kind, said in heard.talk if kind == "result"]
    if len(results) <= turn:
        return Said("", [("caption_image", {"image": handles_in(heard)[0]})])
    if len({said.splitlines()[0] for said in results}) != 1 or len(results) != turn + 1:
        return Said(f"{mark}: mixed up")
    return Said(f"{mark}, turn {turn}: {results[-1].splitlines()[0]}")


def test_conversations_side_by_side_are_not_mixed_up(url, upstream, pictures):
    upstream.script = mirror
    with ThreadPoolExecutor(32) as pool:
        assert not list(filter(None, pool.map(lambda number: converse(url, number, pictures), range(64))))
