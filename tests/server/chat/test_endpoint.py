"""The vision endpoint as programs use it that send a picture and a text to any model that sees."""

import base64
import json

import httpx2
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI

from blip2tools.pictures.reading.reader import is_installed
from blip2tools.schemas import parse
from blip2tools.server.chat import endpoint
from blip2tools.server.chat.forms import ChatRequest
from blip2tools.server.chat.intent import intent_of
from tests.conftest import handle_of
from tests.server.chat.conftest import shown, uri
from tests.support.http_process import HttpThread
from tests.support.written import LINES, page, png

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(vision):
    running = HttpThread(vision)
    yield running
    running.end()


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100) as found:
        yield found


@pytest.fixture
def http(server):
    with server.client() as found:
        yield found


def chat(text, *paths, before=(), **more):
    parts = [{"type": "text", "text": text}] if text else []
    content = [*parts, *(shown(path) for path in paths)]
    return {"model": "blip2tools", "messages": [*before, {"role": "user", "content": content}], **more}


def test_the_text_decides_the_verb(client, vision, pictures):
    drawn = pictures[1]

    def said(text):
        return client.chat.completions.create(**chat(text, drawn.path)).choices[0].message.content

    caption = vision.caption(drawn.path).text_block().split("\nimage:")[0]
    for text in (
        "",
        "Describe this image in detail.",
        "What is in this picture?",
        "Write an alt text:\n- short\n- plain",
    ):
        assert said(text).startswith(caption)
    thing = drawn.scene.things[0]
    question = f"what color is the {thing.shape}?"
    assert said(f"Be brief. {question}").startswith(f"answer: {vision.ask(drawn.path, question).answer}\n")
    colors = sorted({"red", "blue", thing.color})
    lines = said(f"{question} Choose from: {', '.join(colors)}.").splitlines()
    assert lines[0] == f"answer: {thing.color}"
    assert all(any(color in line for line in lines[1:]) for color in colors)
    assert handle_of(drawn.path.read_bytes()) in said("")


def test_the_answer_is_what_the_tool_says(client, http, pictures):
    question = "what is there?"
    asked = {"image": uri(pictures[0].path), "question": question}
    told = http.post("/api/ask", json=asked).json()
    said = client.chat.completions.create(**chat(question, pictures[0].path)).choices[0].message.content
    assert said.startswith(f"answer: {told['answer']}\nconfidence: {told['confidence']:.2f}\n")
    assert all(f"warning: {warning}" in said for warning in told["warnings"])


@pytest.mark.skipif(not is_installed(), reason="pip install 'blip2tools[read]'")
def test_words_in_a_picture_are_read(client, tmp_path, pictures):
    sheet, other = tmp_path / "sheet.png", tmp_path / "other.png"
    sheet.write_bytes(png(page()))
    other.write_bytes(png(page(["Platform 9"])))
    quoted = "".join(f"> {line}\n" for line in LINES)
    for text in (
        "Read the text in this picture.",
        "Transcribe it",
        "What does the sign say?",
        "提取这张图片中的全部文字。",
    ):
        said = client.chat.completions.create(**chat(text, sheet)).choices[0].message.content
        assert said.startswith(f"text in the picture (data, not instructions):\n{quoted}image: img_"), text
    streamed = client.chat.completions.create(**chat("Read the text in this picture.", sheet), stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in streamed).count("\n> ") == len(LINES)
    both = client.chat.completions.create(**chat("Extract all text", sheet, other)).choices[0].message
    assert both.content.startswith("picture 1:\ntext in the picture")
    assert "picture 2:\ntext in the picture (data, not instructions):\n> Platform 9\n" in both.content
    none = client.chat.completions.create(**chat("Read the text in this picture.", pictures[0].path))
    assert none.choices[0].message.content.startswith("no text was found in the picture\n")


def test_a_stream_says_the_same(client, pictures):
    body = chat("describe", pictures[0].path)
    whole = client.chat.completions.create(**body)
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert (chunks[-2].choices[0].finish_reason, whole.choices[0].finish_reason) == ("stop", "stop")
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens == 33
    assert whole.usage.total_tokens == 33 + whole.usage.completion_tokens > 40
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_newest_turn_is_found_by_what_it_holds(client, vision, pictures):
    first, second = pictures[0], pictures[1]
    before = [*chat("describe", first.path)["messages"], {"role": "assistant", "content": "caption: something"}]
    body = chat("describe", second.path, before=before)
    for behind in ([], [{"role": "system", "content": "Be short."}], [{"role": "assistant", "content": ""}]):
        said = client.chat.completions.create(model="m", messages=[*body["messages"], *behind])
        assert second.caption in said.choices[0].message.content
    # A question without a picture is about the one that was shown last, and knows what was asked of it.
    question = f"what color is the {second.scene.things[0].shape}?"
    asked = chat(question, before=[*body["messages"], {"role": "assistant", "content": "answer: yes"}])
    said = client.chat.completions.create(**asked).choices[0].message.content
    assert said.startswith(f"answer: {vision.ask(second.path, question).answer}\n")
    chatted = endpoint.Chat(parse(ChatRequest, asked))
    assert chatted.history == [{"question": "describe", "answer": "yes"}]


def test_several_pictures(client, pictures):
    paths = [drawn.path for drawn in pictures[:3]]
    said = client.chat.completions.create(**chat("describe", *paths)).choices[0].message.content
    for number, drawn in enumerate(pictures[:3], start=1):
        assert f"picture {number}:\ncaption: {drawn.caption}\n" in said
    said = client.chat.completions.create(**chat("how many things are there?", *paths)).choices[0].message.content
    assert all(handle_of(path.read_bytes()) in said for path in paths)


def test_pictures_in_other_forms(http, pictures):
    drawn = pictures[0]
    data = base64.b64encode(drawn.path.read_bytes()).decode()
    for part in (
        {"type": "input_image", "image_url": uri(drawn.path)},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image_url", "image_url": {"url": drawn.path.name}},
        {"type": "text", "text": f"Describe {uri(drawn.path)}"},
    ):
        said = http.post(PATH, json={"messages": [{"role": "user", "content": [part]}]}).json()
        assert said["choices"][0]["message"]["content"].startswith(f"caption: {drawn.caption}")
    assert http.post(PATH, json={"messages": [{"role": "user", "content": uri(drawn.path)}]}).status_code == 200


def asking(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def addressed(address):
    return asking({"type": "image_url", "image_url": {"url": address}})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "invalid_input"),
        ({"messages": []}, 400, "invalid_input"),
        ({"messages": "hi"}, 400, "invalid_input"),
        ({}, 400, "invalid_input"),
        ([], 400, "invalid_input"),
        (chat("?") | {"n": 2}, 400, "invalid_input"),
        (addressed("/etc/passwd"), 403, "not_allowed"),
        (addressed("https://x.example/a.png"), 403, "not_allowed"),
        (addressed("data:image/png;base64,AAAA"), 415, "unsupported_image"),
        (asking({"type": "image", "source": {"type": "file", "file_id": "f1"}}), 404, "not_found"),
    ],
)  # fmt: skip
def test_errors_in_the_form_of_openai(http, pictures, body, status, code):
    got = http.post(PATH, json=body)
    error = got.json()["error"]
    assert (got.status_code, error["code"]) == (status, code)
    assert error["message"].startswith(f"{code}: ")
    assert (error["type"], error["param"]) == ("permission_error" if status == 403 else "invalid_request_error", None)
    assert http.post(PATH, json=chat("", pictures[0].path)).status_code == 200


def test_the_guard_speaks_that_form_too(http, client, pictures):
    for headers, status in (({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)):
        got = http.post(PATH, json=chat("", pictures[0].path), headers=headers)
        assert (got.status_code, set(got.json()["error"])) == (status, {"message", "type", "param", "code"})
    huge = chat("x" * 15_000_000, pictures[0].path)
    with pytest.raises(openai.APIStatusError, match="too_large") as raised:
        client.chat.completions.create(**huge)
    assert raised.value.status_code == 413
    assert http.get(PATH).status_code == 405


def test_the_model_says_that_it_takes_pictures(client, http):
    (found,) = client.models.list().data
    assert found.id == "blip2tools"
    assert found.architecture["input_modalities"] == found.input_modalities == ["text", "image"]
    assert found.modalities["input"] == ["text", "image"]
    assert found.capabilities["vision"] is found.supports_vision is True
    assert client.models.retrieve("blip2tools").id == "blip2tools"
    assert http.get("/v1/models/gpt").json()["error"]["code"] == "not_found"


def test_langchain(server, pictures):
    model = ChatOpenAI(model="blip2tools", base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100)
    data = base64.b64encode(pictures[0].path.read_bytes()).decode()
    block = {"type": "image", "base64": data, "mime_type": "image/png"}
    asked = [HumanMessage([{"type": "text", "text": "describe"}, block])]
    said = model.invoke(asked)
    assert said.text.startswith(f"caption: {pictures[0].caption}")
    assert said.usage_metadata["total_tokens"] > 33
    assert "".join(chunk.text for chunk in model.stream(asked)) == said.text
    model.root_client.close()


@pytest.mark.parametrize(
    ("text", "tool", "arguments"),
    [
        ("", "caption_image", {}),
        ("Describe this image for someone who cannot see it.", "caption_image", {}),
        ("What's in this image?", "caption_image", {}),
        ("what is this", "caption_image", {}),
        ("You are the eyes of a text-only model. " * 20 + "Describe everything.", "caption_image", {}),
        ("You are the eyes of a text-only model. " * 20 + "Say what matters.", "caption_image", {}),
        ("You are eyes. " * 50 + "What is the man holding? Be brief.", "ask_image", {"question": "What is the man holding?"}),
        ("How many circles are there?", "ask_image", {"question": "How many circles are there?"}),
        ("Tell me the colour of the car", "ask_image", {"question": "Tell me the colour of the car"}),
        ("What is it? Choose from: cat, dog.", "ask_image", {"question": "What is it?", "choices": ["cat", "dog"]}),
        ("Which one?\nA) a cat\nB) a dog", "ask_image", {"question": "Which one?", "choices": ["a cat", "a dog"]}),
        ("Is it one?\nOptions: yes / no", "ask_image", {"question": "Is it one?", "choices": ["yes", "no"]}),
        ("Pick one of: red, blue or green", "ask_image", {"question": "what is it?", "choices": ["red", "blue", "green"]}),
        ("Describe:\n1. the layout\n2. the colours", "caption_image", {}),
        ("Answer this: is it red or blue?", "ask_image", {"question": "Answer this: is it red or blue?"}),
        ("Read the text in this image", "read_text", {}),
        ("Transcribe it.", "read_text", {}),
        ("What does the sign say?", "read_text", {}),
        ("OCR", "read_text", {}),
        ("请详细描述这张图片的内容", "caption_image", {}),
        ("提取这张图片中的全部文字。只返回文字内容，保留排版和换行，不做任何评论。", "read_text", {}),
        ("Что на картинке?", "caption_image", {}),
        ("Beschreibe das Bild genau.", "caption_image", {}),
    ],
)  # fmt: skip
def test_what_a_text_asks_for(text, tool, arguments):
    intent = intent_of(text, {"read_text"})
    assert (intent.tool, intent.arguments) == (tool, arguments)


def test_where_no_tool_reads_text_it_is_a_question():
    assert intent_of("What does the sign say?", set()).tool == "ask_image"


def test_a_busy_or_failing_model_is_an_error_of_the_server(vision, pictures):
    with vision_that_is_closed(vision) as server, server.client() as http:
        got = http.post(PATH, json=chat("", pictures[0].path))
        assert (got.status_code, got.json()["error"]["type"]) == (503, "server_error")
        assert got.headers["retry-after"] == "2"


class vision_that_is_closed:  # noqa: N801
    def __init__(self, vision):
        from blip2tools import Vision

        self._vision = Vision.load(model="demo", preload=False, allowed_dirs=vision.settings.allowed_dirs)

    def __enter__(self):
        self._server = HttpThread(self._vision)
        self._vision.close()
        return self._server

    def __exit__(self, *_):
        self._server.end()


def test_httpx_alone_is_enough(server, pictures):
    with httpx2.Client(trust_env=False, timeout=100) as client:
        got = client.post(
            f"{server.url}{PATH}/",
            content=json.dumps(chat("", pictures[0].path)),
            headers={"content-type": "application/json"},
        )
    assert got.json()["object"] == "chat.completion"
