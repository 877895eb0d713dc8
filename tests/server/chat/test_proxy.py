"""Through the proxy a model that cannot see is told what it was shown, may look again, and gets all else as it was sent."""

import functools
import gzip
import json
import re
import socket
import zlib
from urllib.parse import urlsplit

import anthropic
import httpx2
import openai
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.blind_upstream import Heard, Said, chunk
from benchmarks.chat_sight import chance_of, proxy_in_thread, run_chats
from benchmarks.sight import GAMES
from blip2tools import Vision
from blip2tools.errors import InvalidInputError
from blip2tools.server.chat.upstream import Upstream
from blip2tools.settings import Settings
from blip2tools.toolset import TOOLS
from tests.conftest import handle_of
from tests.server.chat.conftest import shown, uri
from tests.support.http_process import TOKEN

PATHS = {"completions": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
WAYS = [(protocol, stream) for protocol in PATHS for stream in (False, True)]
WORDS = re.compile(r"\[image img_[0-9a-f]{16}: [^\[\]]+, confidence [01]\.\d\d\]")
WEATHER = {
    "completions": {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    "responses": {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False},
    "messages": {"name": "weather", "input_schema": {"type": "object"}},
}


def body_of(protocol, content, *, stream=False, more=()):
    """A request with one message of a user, and what follows it."""
    if protocol == "responses":
        return {"model": "m", "input": [{"role": "user", "content": content}, *more], "stream": stream}
    body = {"model": "m", "messages": [{"role": "user", "content": content}, *more], "stream": stream}
    return {**body, "max_tokens": 99} if protocol == "messages" else body


def asked(protocol, text, *paths):
    kind = "input_text" if protocol == "responses" else "text"
    return [{"type": kind, "text": text}, *(shown(path, protocol) for path in paths)]


@functools.cache
def client_of(url, kind):
    """An official client: one for all, since each costs 50 ms."""
    address = url if kind is anthropic.Anthropic else f"{url}/v1"
    return kind(base_url=address, api_key="none", max_retries=0, timeout=100)


@pytest.fixture(scope="module", autouse=True)
def clients_are_closed(url):
    yield
    for kind in (openai.OpenAI, anthropic.Anthropic):
        client_of(url, kind).close()


def answered(url, protocol, body):
    """The answer by the official client: its text, its calls as (id, name, arguments), and how it ended."""
    if protocol == "messages":
        client = client_of(url, anthropic.Anthropic)
        call = {name: value for name, value in body.items() if name != "stream"}
        if body["stream"]:
            with client.messages.stream(**call) as events:
                said = events.get_final_message()
        else:
            said = client.messages.create(**call)
        text = "\n\n".join(block.text for block in said.content if block.type == "text")
        calls = [(block.id, block.name, block.input) for block in said.content if block.type == "tool_use"]
        return text, calls, said.stop_reason
    client = client_of(url, openai.OpenAI)
    if protocol == "responses":
        call = {name: value for name, value in body.items() if name != "stream"}
        if body["stream"]:
            with client.responses.stream(**call) as events:
                said = events.get_final_response()
        else:
            said = client.responses.create(**call)
        calls = [
            (one.call_id, one.name, json.loads(one.arguments)) for one in said.output if one.type == "function_call"
        ]
        texts = [part.text for one in said.output if one.type == "message" for part in one.content]
        return "\n\n".join(texts), calls, said.status
    if not body["stream"]:
        choice = client.chat.completions.create(**body).choices[0]
        calls = choice.message.tool_calls or []
        found = [(one.id, one.function.name, json.loads(one.function.arguments)) for one in calls]
        return choice.message.content or "", found, choice.finish_reason
    with client.chat.completions.stream(**{name: value for name, value in body.items() if name != "stream"}) as events:
        choice = events.get_final_completion().choices[0]
    calls = choice.message.tool_calls or []
    found = [(one.id, one.function.name, json.loads(one.function.arguments)) for one in calls]
    return choice.message.content or "", found, choice.finish_reason


def handles_in(heard):
    return list(dict.fromkeys(re.findall(r"img_[0-9a-f]{16}", heard.raw.decode())))


# ---- sight ----


@pytest.mark.slow
def test_a_blind_model_wins_the_sight_test():
    kinds = GAMES[:4]
    ways = [("completions", True), ("messages", True), ("responses", False)]
    found = run_chats(seed=3, games=2, kinds=kinds, ways=ways)
    chance, band = chance_of(3, 2, kinds)
    for way, (score, swapped, leaked) in found.items():
        assert score >= 0.9, way
        assert abs(swapped - chance) <= band, way
        assert leaked == 0


@pytest.mark.parametrize(("protocol", "stream"), WAYS)
def test_it_reads_what_it_was_shown_and_may_look_again(url, upstream, pictures, protocol, stream):
    def script(heard):
        if heard.talk[-1][0] == "result":
            return Said(f"I see: {heard.talk[-1][1][1].splitlines()[0]}")
        return Said("Let me look. ", [("caption_image", {"image": handles_in(heard)[0]})])

    upstream.script = script
    text, calls, end = answered(
        url, protocol, body_of(protocol, asked(protocol, "Well?", pictures[0].path), stream=stream)
    )
    assert text.startswith("Let me look.")
    assert text.endswith(f"I see: caption: {pictures[0].caption}")
    assert (calls, end) == ([], {"completions": "stop", "responses": "completed", "messages": "end_turn"}[protocol])
    first, second = upstream.heard[-2:]
    told = next(said for kind, said in first.talk if kind == "user")
    assert told.startswith("Well?\n[image img_")
    assert WORDS.search(told)
    assert pictures[0].caption in told
    assert handle_of(pictures[0].path.read_bytes()) in told
    # No folder is open: there is nothing to list, and what is offered takes pictures.
    assert {"caption_image", "ask_image", "match_image_text", "survey_image", "compare_images"} <= set(first.tools)
    assert not {"list_images", "search_images", "vision_status"} & set(first.tools)
    assert second.talk[: len(first.talk)] == first.talk
    assert first.talk[0] == second.talk[0]


def test_the_same_words_every_turn(http, upstream, pictures):
    upstream.script = lambda heard: Said("ok")
    first = body_of("completions", asked("completions", "one", *(drawn.path for drawn in pictures[:3])))
    http.post(PATHS["completions"], json=first)
    more = [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "two"}]
    http.post(PATHS["completions"], json={**first, "messages": [*first["messages"], *more]})
    before, after = (json.loads(heard.raw) for heard in upstream.heard[-2:])
    assert after["messages"][0] == before["messages"][0]
    assert after["tools"] == before["tools"]
    assert len(WORDS.findall(before["messages"][0]["content"])) == 3


def test_pictures_in_tool_results_and_in_the_midst_of_text(http, upstream, pictures):
    upstream.script = lambda heard: Said("ok")
    words = uri(pictures[1].path)
    bodies = {
        "completions": [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "shot", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": [shown(pictures[0].path)]},
            {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"file": words, "n": 1})},
            {"role": "tool", "tool_call_id": "c1", "content": json.dumps(
                [{"type": "image", "mimeType": "image/png", "data": words.partition(",")[2]}])},
        ],
        "responses": [
            {"type": "function_call", "call_id": "c1", "name": "shot", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": [shown(pictures[0].path, "responses")]},
            {"type": "computer_call_output", "call_id": "c2", "output": {
                "type": "computer_screenshot", "image_url": words}},
            {"type": "image_generation_call", "id": "i1", "status": "completed", "result": words.partition(",")[2]},
        ],
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "shot", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [
                {"type": "text", "text": "done"}, shown(pictures[0].path, "messages"), shown(pictures[1].path, "messages")]}]},
        ],
    }  # fmt: skip
    for protocol, more in bodies.items():
        assert http.post(PATHS[protocol], json=body_of(protocol, "look", more=more)).status_code == 200
        raw = upstream.heard[-1].raw.decode()
        assert len(WORDS.findall(raw)) == {"completions": 3, "responses": 3, "messages": 2}[protocol]
        assert handle_of(pictures[0].path.read_bytes()) in raw
        assert handle_of(pictures[1].path.read_bytes()) in raw
    told = json.loads(upstream.heard[-3].raw)["messages"][3]["content"]
    assert json.loads(told)["n"] == 1, "what was JSON still is"


def test_a_picture_that_cannot_be_read_becomes_a_note(http, upstream, folder, pictures):
    upstream.script = lambda heard: Said("ok")
    broken = uri(pictures[0].path)[:120]
    for address, code in (
        (broken, "corrupt_image|invalid_input"),
        ("https://example.com/cat.png", "not_allowed"),
        (f"file://{pictures[0].path}", "not_allowed"),
        (str(pictures[0].path), "not_allowed"),
        ("latest", "not_allowed|not_found"),
        ("img_0123456789abcdef", "not_found"),
        ("", "invalid_input"),
    ):
        content = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": address}}]
        assert http.post(PATHS["completions"], json=body_of("completions", content)).status_code == 200
        told = json.loads(upstream.heard[-1].raw)["messages"][0]["content"]
        assert re.search(rf"\[image unreadable: ({code}): ", told), told
        assert str(folder) not in told


def test_what_several_turns_looked_at_is_there_again(http, upstream, pictures):
    """The client never saw the looks; the upstream gets them back, so its cache of prompts holds."""

    def script(heard):
        if heard.talk[-1][0] == "user" and "again" not in heard.talk[-1][1]:
            return Said("", [("caption_image", {"image": handles_in(heard)[0]})])
        return Said("Seen." if heard.talk[-1][0] == "result" else "Yes.")

    upstream.script = script
    for protocol, path in PATHS.items():
        body = body_of(protocol, asked(protocol, "look", pictures[2].path))
        said = http.post(path, json=body).json()
        after = upstream.heard[-1]
        match protocol:
            case "completions":
                more = [said["choices"][0]["message"], {"role": "user", "content": "again?"}]
            case "responses":
                more = [*said["output"], {"role": "user", "content": "again?"}]
            case _:
                more = [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": "again?"}]
        key = "input" if protocol == "responses" else "messages"
        http.post(path, json={**body, key: [*body[key], *more]})
        assert upstream.heard[-1].talk == [*after.talk, ("said", "Seen."), ("user", "again?")]


# ---- both sides' tools ----


@pytest.mark.parametrize(("protocol", "stream"), WAYS)
def test_a_message_that_calls_tools_of_both_sides(url, upstream, pictures, protocol, stream):
    def script(heard):
        if heard.talk[-1][0] == "user":
            look = ("caption_image", {"image": handles_in(heard)[0]})
            return Said("Both.", [look, ("weather", {"place": "Å"}), look])
        return Said("Done.")

    upstream.script = script
    body = {**body_of(protocol, asked(protocol, "both", pictures[3].path), stream=stream), "tools": [WEATHER[protocol]]}
    text, calls, end = answered(url, protocol, body)
    assert text == "Both."
    assert [call[1:] for call in calls] == [("weather", {"place": "Å"})]
    assert end == {"completions": "tool_calls", "responses": "completed", "messages": "tool_use"}[protocol]
    number = calls[0][0]
    arguments = json.dumps(calls[0][2])
    match protocol:
        case "completions":
            call = {"id": number, "type": "function", "function": {"name": "weather", "arguments": arguments}}
            more = [
                {"role": "assistant", "content": text, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": number, "content": "rain"},
            ]
        case "responses":
            more = [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]},
                {"type": "function_call", "call_id": number, "name": "weather", "arguments": arguments},
                {"type": "function_call_output", "call_id": number, "output": "rain"},
            ]
        case _:
            use = {"type": "tool_use", "id": number, "name": "weather", "input": calls[0][2]}
            more = [
                {"role": "assistant", "content": [{"type": "text", "text": text}, use]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": number, "content": "rain"}]},
            ]
    key = "input" if protocol == "responses" else "messages"
    assert answered(url, protocol, {**body, key: [*body[key], *more]})[0] == "Done."
    talk = upstream.heard[-1].talk
    made = [said for kind, said in talk if kind == "call"]
    results = {said[0]: said[1] for kind, said in talk if kind == "result"}
    assert [name for _, name, _ in made] == ["caption_image", "weather", "caption_image"]
    assert set(results) == {number for number, _, _ in made}, "each call has its result"
    assert results[number] == "rain"
    assert sum(pictures[3].caption in one for one in results.values()) == 2


def test_a_tool_of_the_clients_own_of_the_same_name_is_meant(http, upstream, pictures):
    upstream.script = lambda heard: Said("", [("caption_image", {"image": "mine"})])
    own = {"type": "function", "function": {"name": "caption_image", "parameters": {"type": "object"}}}
    body = {**body_of("completions", asked("completions", "?", pictures[0].path)), "tools": [own]}
    calls = http.post(PATHS["completions"], json=body).json()["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"image": "mine"}']
    assert upstream.heard[-1].tools.count("caption_image") == 1
    assert "ask_image" in upstream.heard[-1].tools


@pytest.mark.parametrize("choice", ["none", {"type": "function", "function": {"name": "weather"}}])
def test_a_client_that_forces_a_tool_or_none_gets_that(http, upstream, pictures, choice):
    upstream.script = lambda heard: Said("ok")
    body = body_of("completions", asked("completions", "?", pictures[0].path))
    http.post(PATHS["completions"], json={**body, "tools": [WEATHER["completions"]], "tool_choice": choice})
    assert upstream.heard[-1].tools == ["weather"]
    assert upstream.heard[-1].body["tool_choice"] == choice


def test_a_model_without_tools_still_reads_the_captions(http, upstream, pictures):
    def script(heard):
        if heard.tools:
            return Said(status=400, json={"error": {"message": "m-old does not support tools"}})
        return Said("I read.")

    upstream.script = script
    body = {**body_of("completions", asked("completions", "?", pictures[0].path)), "model": "m-old"}
    for _ in range(2):
        assert http.post(PATHS["completions"], json=body).json()["choices"][0]["message"]["content"] == "I read."
        assert "tools" not in upstream.heard[-1].body
        assert WORDS.search(upstream.heard[-1].raw.decode())
    assert upstream.heard[-2].tools == [], "the second time it is not asked again"


@pytest.mark.parametrize(("protocol", "stream"), WAYS)
def test_looks_have_a_bound(url, upstream, pictures, protocol, stream):
    upstream.script = lambda heard: Said("Hm. ", [("caption_image", {"image": handles_in(heard)[0]})])
    before = len(upstream.heard)
    _, calls, end = answered(url, protocol, body_of(protocol, asked(protocol, "?", pictures[0].path), stream=stream))
    assert (calls, end) == ([], {"completions": "stop", "responses": "completed", "messages": "end_turn"}[protocol])
    assert len(upstream.heard) - before == 10, "eight looks, a refusal, and the end"
    assert upstream.heard[-1].talk[-1][1][1].startswith("busy: ")


@pytest.mark.parametrize(("protocol", "stream"), WAYS)
def test_a_call_cut_by_the_token_limit_is_not_run(url, upstream, pictures, protocol, stream):
    upstream.script = lambda heard: Said(
        "So", [("ask_image", {"image": handles_in(heard)[0], "question": "is"})], cut=True
    )
    before = len(upstream.heard)
    body = body_of(protocol, asked(protocol, "?", pictures[0].path), stream=stream)
    if (
        protocol != "messages" and stream
    ):  # OpenAI's helpers raise for an answer that was cut; what is on the wire counts
        with httpx2.Client(base_url=url, timeout=100, trust_env=False) as client:
            raw = client.post(PATHS[protocol], json=body).text
        assert (
            '"finish_reason": "length"' if protocol == "completions" else "event: response.incomplete"
        ) in raw.replace('":"', '": "')
        assert "ask_image" not in raw
    else:
        text, calls, end = answered(url, protocol, body)
        assert (text, calls) == ("So", [])
        assert end == {"completions": "length", "responses": "incomplete", "messages": "max_tokens"}[protocol]
    assert len(upstream.heard) - before == 1


# ---- as it is ----


@pytest.mark.parametrize(("protocol", "stream"), WAYS)
def test_a_conversation_without_pictures_passes_byte_for_byte(http, upstream, protocol, stream):
    written = b'data: {"a":  "\xc3\xa9"}\r\n\r\n: comment\n\nevent: odd\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'

    async def raw(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Odd: yes\r\nDate: then\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n" + chunk(written[:11]) + chunk(written[11:]) + b"0\r\n\r\n")

    upstream.script = (lambda heard: Said(raw=raw)) if stream else (lambda heard: Said(json=b' {"odd" :1}', status=207))
    sent = b'{"model": "m",   "messages": [{"role": "user", "content": "hi \xc3\xa9 \\ud83d"}], "temperature": 1.10}'
    headers = {"content-type": "application/json", "x-mine": "1", "authorization": "Bearer sk-mine"}
    answer = http.post(f"{PATHS[protocol]}?a=b%20c", content=sent, headers=headers)
    heard = upstream.heard[-1]
    assert heard.raw == sent
    assert heard.path == f"{PATHS[protocol]}?a=b%20c"
    assert (heard.headers["x-mine"], heard.headers["authorization"]) == ("1", "Bearer sk-mine")
    if stream:
        assert answer.content == written
        assert (answer.headers["x-odd"], answer.headers["date"]) == ("yes", "then")
    else:
        assert (answer.status_code, answer.content) == (207, b' {"odd" :1}')
        assert answer.headers["x-upstream"] == "blind"


PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("coding", PACK)
def test_compressed_bodies_are_read(http, upstream, pictures, coding):
    upstream.script = lambda heard: Said("ok")
    headers = {"content-type": "application/json", "content-encoding": coding}
    for content in ("plain", asked("completions", "?", pictures[0].path)):
        body = json.dumps(body_of("completions", content)).encode()
        assert http.post(PATHS["completions"], content=PACK[coding](body), headers=headers).status_code == 200
        assert "content-encoding" not in upstream.heard[-1].headers
    assert WORDS.search(upstream.heard[-1].raw.decode())
    bomb = PACK[coding](b" " * (65 * 2**20))
    assert http.post(PATHS["completions"], content=bomb, headers=headers).status_code == 413
    cut = PACK[coding](b'{"messages": []}' * 100)[:-5]
    assert http.post(PATHS["completions"], content=cut, headers=headers).json()["error"]["code"] == "invalid_input"
    headers["content-encoding"] = "br"
    assert http.post(PATHS["completions"], content=b"x", headers=headers).status_code == 415


def test_what_is_said_twice_or_hidden_does_not_smuggle_a_picture(http, upstream, pictures):
    upstream.script = lambda heard: Said("ok")
    block = json.dumps(body_of("completions", asked("completions", "?", pictures[0].path))["messages"])
    hidden = block.replace("image", "\\u0069mage").replace("data:", "\\u0064ata:")
    for sent in (
        f'{{"messages": {block}, "messages": []}}',
        f'{{"messages": [], "messages": {hidden}}}',
        f'{{"messages": {hidden}}}',
    ):
        http.post(PATHS["completions"], content=sent.encode(), headers={"content-type": "application/json"})
        assert b"mage_url" not in upstream.heard[-1].raw
    for path in ("/v1/completions", "/v1/embeddings", "/v1/messages/count_tokens"):
        http.post(
            path,
            json={
                "input": ["a", uri(pictures[0].path)],
                "messages": body_of("messages", [shown(pictures[0].path, "messages")])["messages"],
            },
        )
        assert len(WORDS.findall(upstream.heard[-1].raw.decode())) == 2


def test_models_take_pictures(http, upstream):
    blind = {"id": "b", "capabilities": {"image_input": {"supported": False}}}
    listed = {
        "object": "list",
        "data": [{"id": "a", "architecture": {"tokenizer": "x"}}, blind],
        "models": [{"name": "a", "capabilities": ["completion"]}],
    }
    upstream.script = lambda heard: Said(json=listed if heard.path == "/v1/models" else {"id": "a"})
    first, second = http.get("/v1/models").json()["data"]
    assert first["architecture"] == {
        "tokenizer": "x",
        "modality": "text+image->text",
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
    }
    assert second["capabilities"] == {"image_input": {"supported": True}}
    assert http.get("/v1/models").json()["models"][0]["capabilities"] == ["completion", "vision", "multimodal"]
    assert http.get("/v1/models/a").json()["input_modalities"] == ["text", "image"]


def test_guarded_like_the_rest(http, upstream):
    before = len(upstream.heard)
    assert http.post(PATHS["completions"], json={}, headers={"host": "evil.example"}).status_code == 421
    refused = http.post(PATHS["messages"], json={}, headers={"origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert http.post("/api/chat", json={}).status_code == 404
    address = urlsplit(str(http.base_url))
    for path in ("/v1/models/../../api/tags", "/v1/models/%2e%2e/%2e%2e/api/tags", "/v1/responses/..%5c..%5capi"):
        with socket.create_connection((address.hostname, address.port)) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            assert line.recv(64).startswith(b"HTTP/1.1 404 "), path
    assert (
        http.post(PATHS["completions"], content=b"[" * 9, headers={"content-type": "application/json"}).status_code
        == 200
    )
    assert http.get("/healthz").text == "ok\n"
    assert http.get("/readyz").status_code == 200
    assert "blip2tools_http_requests_total" in http.get("/metrics").text
    assert len(upstream.heard) - before == 1


def test_the_token_of_this_server_does_not_go_on(upstream, folder):
    upstream.script = lambda heard: Said("ok")
    settings = {"model": "demo", "allowed_dirs": (), "preload": False, "upstream": f"{upstream.url}/v1/"}
    with (
        Vision.load(**settings, token=TOKEN, upstream_key="sk-upstream") as vision,
        proxy_in_thread(vision) as url,
        httpx2.Client(base_url=url, trust_env=False) as client,
    ):
        body = body_of("completions", "hi")
        refused = client.post(PATHS["completions"], json=body)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert (
            client.post(PATHS["completions"], json=body, headers={"authorization": f"Bearer {TOKEN}"}).status_code
            == 200
        )
        assert upstream.heard[-1].headers["authorization"] == "Bearer sk-upstream"
        headers = {"x-api-key": TOKEN, "anthropic-version": "2023-06-01"}
        assert client.post(PATHS["messages"], json=body_of("messages", "hi"), headers=headers).status_code == 200
        assert upstream.heard[-1].headers["x-api-key"] == "sk-upstream"
        assert TOKEN not in str(upstream.heard[-1].headers)


@pytest.mark.parametrize(
    "address", ["ftp://x", "nonsense", "http://", "http://user@host", "http://host/?q=1", "http://h:0"]
)
def test_an_upstream_that_is_no_address_is_refused(address):
    with pytest.raises(InvalidInputError, match="must be an address"):
        Upstream(address, None, keep_keys=True)


# ---- the client's own calls ----

names = st.sampled_from(
    ["weather", "caption", "caption_images", "ask_image_now", "list", "survey_image2", "Caption_Image", "x"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
calls_of_clients = st.lists(
    st.tuples(names, st.dictionaries(st.text(max_size=8), values, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_clients_own_calls_survive_untouched(url, upstream, pictures, data):
    protocol, stream = data.draw(st.sampled_from(WAYS))
    theirs = data.draw(calls_of_clients)
    ours = data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from([{}, {"image": "img_0000000000000000"}])), max_size=2)
    )
    rounds = data.draw(st.integers(0, 2))
    text = data.draw(st.sampled_from(["", "Some words ", "é\n\n[image"]))
    mixed = list(theirs)
    for place, arguments in ours:
        mixed.insert(min(place, len(mixed)), ("caption_image", arguments))

    def script(heard: Heard) -> Said:
        looks = sum(kind == "result" for kind, _ in heard.talk)
        return Said(text, [("caption_image", {})]) if looks < rounds else Said(text, mixed)

    upstream.script = script
    tools = [json.loads(json.dumps(WEATHER[protocol]).replace('"weather"', json.dumps(name))) for name, _ in theirs]
    unique = list({json.dumps(tool): tool for tool in tools}.values())
    body = {**body_of(protocol, asked(protocol, "go", pictures[0].path), stream=stream), "tools": unique}
    sent = len(upstream.heard)
    _, calls, end = answered(url, protocol, body)
    assert [call[1:] for call in calls] == [(name, arguments) for name, arguments in theirs]
    assert end == {"completions": "tool_calls", "responses": "completed", "messages": "tool_use"}[protocol]
    assert len(upstream.heard) - sent == rounds + 1
    assert upstream.heard[-1].body["tools"][: len(unique)] == unique


def test_the_settings_are_in_the_catalogue():
    assert {"upstream", "upstream_key", "tool_rounds", "offer_always"} <= set(Settings.model_fields)
    assert "caption_image" in {tool.name for tool in TOOLS}
