"""Pictures are found anywhere in a message, and no long data that are not text reach a model."""

import base64
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from blip2tools.langchain_tools import VisionMiddleware, ingest
from blip2tools.langchain_tools.scripted import ScriptedChatModel, says
from tests.conftest import handle_of

RUN = re.compile(r"[A-Za-z0-9+/_-]{200,}|(?:[A-Za-z0-9+/_-]{40,}\s+){5,}")


def uri(data):
    return f"data:image/png;base64,{data}"


def anthropic(data):
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


# Forms of one picture, given as base64, that a model must never see.
FORMS = {
    "tool_result": lambda data: {"type": "tool_result", "tool_use_id": "t1", "content": [anthropic(data)]},
    "tool_result in tool_result": lambda data: {
        "type": "tool_result",
        "content": [{"type": "tool_result", "content": [anthropic(data)]}],
    },
    "mcp image": lambda data: {"type": "image", "data": data, "mimeType": "image/png"},
    "mcp resource": lambda data: {
        "type": "resource",
        "resource": {"uri": "file:///a.png", "mimeType": "image/png", "blob": data},
    },
    "image_generation_call": lambda data: {"type": "image_generation_call", "id": "ig_1", "result": data},
    "openai file": lambda data: {"type": "file", "file": {"filename": "a.png", "file_data": uri(data)}},
    "openai input_file": lambda data: {"type": "input_file", "filename": "a.png", "file_data": uri(data)},
    "openai input_image": lambda data: {"type": "input_image", "image_url": uri(data)},
    "openai screenshot": lambda data: {
        "type": "computer_call_output",
        "output": {"type": "computer_screenshot", "image_url": uri(data)},
    },
    "bedrock bytes": lambda data: {"image": {"format": "png", "source": {"bytes": base64.b64decode(data)}}},
    "bedrock text": lambda data: {"type": "image", "image": {"format": "png", "source": {"bytes": data}}},
    "google": lambda data: {"inline_data": {"mime_type": "image/png", "data": data}},
    "google camel": lambda data: {"inlineData": {"mimeType": "image/png", "data": data}},
    "non_standard": lambda data: {"type": "non_standard", "value": anthropic(data)},
    "list": lambda data: {"type": "tool_result", "content": [[[anthropic(data)]]]},
    "text": lambda data: {"type": "text", "text": uri(data)},
}
# The same in the midst of a text.
TEXTS = {
    "data uri": uri,
    "data uri in lines": lambda data: uri("\n".join(re.findall(".{1,76}", data))),
    "url-safe": lambda data: uri(data.translate(str.maketrans("+/", "-_"))),
    "markdown": lambda data: f"![shot]({uri(data)})",
    "json of mcp": lambda data: json.dumps([{"type": "image", "data": data, "mimeType": "image/png"}]),
    "json in lines": lambda data: json.dumps({"png": "\n".join(re.findall(".{1,76}", data))}),
    "json with slashes": lambda data: json.dumps({"png": data}).replace("/", "\\/"),
    "bare": lambda data: data,
}


def words_of(one):
    return f"[image {handle_of(one.path.read_bytes())}: {one.caption}]"


@pytest.fixture(scope="module")
def data(picture):
    return base64.b64encode(picture.path.read_bytes()).decode()


def turn(content):
    return [
        HumanMessage("go"),
        AIMessage("", tool_calls=[{"name": "shot", "args": {}, "id": "1", "type": "tool_call"}]),
        ToolMessage(content, tool_call_id="1"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_a_block_of_every_form_becomes_words(vision, picture, data, form):
    block = FORMS[form](data)
    for message in (HumanMessage([block]), ToolMessage([block], tool_call_id="1"), AIMessage([block])):
        assert ingest([message], vision)[0].content == words_of(picture)
    heard = []

    def script(messages):
        heard.extend(messages)
        return says("seen")

    agent = create_agent(ScriptedChatModel(script=script), middleware=[VisionMiddleware(vision)])
    agent.invoke({"messages": turn([{"type": "text", "text": "done"}, block])})
    assert heard[-1].content == f"done\n{words_of(picture)}"


@pytest.mark.parametrize("form", TEXTS)
def test_a_picture_in_a_text_becomes_words_in_its_place(vision, picture, data, form):
    text = f"Here it is: {TEXTS[form](data)} (taken today)"
    for message in (
        ToolMessage(text, tool_call_id="1"),
        ToolMessage([{"type": "text", "text": text}], tool_call_id="1"),
        ToolMessage([text], tool_call_id="1"),
        HumanMessage(text),
    ):
        found = ingest([message], vision)[0].text
        assert found.startswith("Here it is: ")
        assert found.endswith(" (taken today)")
        assert words_of(picture) in found
        assert not RUN.search(found)


def test_what_is_no_picture_becomes_a_note_or_stays(vision):
    noise = base64.b64encode(bytes(range(256)) * 4).decode()
    for content in (noise, f"see {noise}.", json.dumps({"blob": noise}), f"data:application/pdf;base64,{noise}"):
        (told,) = ingest([ToolMessage(content, tool_call_id="1")], vision)
        assert "base64 that are not a picture]" in told.content
        assert not RUN.search(told.content)
        assert ingest([HumanMessage(content)], vision)[0].content == content
    (told,) = ingest(
        [ToolMessage([{"type": "audio", "data": noise, "mimeType": "audio/wav"}], tool_call_id="1")], vision
    )
    assert isinstance(told.content, str)
    assert not RUN.search(told.content)
    for harmless in ("0123456789abcdef" * 40, "x" * 1000, "/usr/share/" + "a_long_name/" * 40, "word " * 200):
        assert ingest([ToolMessage(harmless, tool_call_id="1")], vision)[0].content == harmless


def test_a_broken_picture_is_a_note(vision, data):
    for form in FORMS.values():
        block = form(data[:400])
        (told,) = ingest([ToolMessage([block], tool_call_id="1")], vision)
        assert told.content.startswith("[image unreadable: ")
    deep = anthropic(data)
    for _ in range(60):
        deep = {"type": "tool_result", "content": [deep]}
    assert "nested too deeply" in ingest([HumanMessage([deep])], vision)[0].content


def test_what_a_provider_needs_back_stays(vision):
    use = {"type": "tool_use", "id": "t1", "name": "shot", "input": {"why": "to see"}}
    thinking = {"type": "thinking", "thinking": "hm", "signature": base64.b64encode(bytes(range(250))).decode()}
    message = AIMessage([thinking, {"type": "text", "text": "a moment"}, use])
    assert ingest([message], vision) == [message]


BLOCKS = st.sampled_from([*FORMS])
SMALL = st.sampled_from(["done", "two words", "", "{}", "[image", "é 猫", "data:", "data:image/png;base64,", "a" * 300])


@st.composite
def contents(draw, data, depth=3):
    """A content block, perhaps one with others inside."""
    kind = draw(st.sampled_from(["form", "text", "embedded", "nest", "list", "audio"] if depth else ["form", "text"]))
    if kind == "form":
        return FORMS[draw(BLOCKS)](data)
    if kind == "text":
        return {"type": "text", "text": draw(SMALL)}
    if kind == "embedded":
        return {"type": "text", "text": f"{draw(SMALL)} {TEXTS[draw(st.sampled_from([*TEXTS]))](data)} {draw(SMALL)}"}
    if kind == "audio":
        return {
            "type": "tool_result",
            "content": [{"type": "audio", "data": base64.b64encode(bytes(range(255))).decode()}],
        }
    inner = draw(st.lists(contents(data, depth - 1), min_size=1, max_size=3))
    if kind == "list":
        return {"type": "tool_result", "content": [inner]}
    return {draw(st.sampled_from(["content", "output", "value", "results"])): inner, "type": "custom_tool_result"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_nothing_long_and_no_other_block_reaches_the_model(vision, data, draw):
    """Nested messages of any shape: the model gets text alone, and no base64 run of 200 characters."""
    blocks = draw.draw(st.lists(contents(data), min_size=1, max_size=4))
    text = draw.draw(st.sampled_from([*TEXTS.values()]))(data)
    messages = [SystemMessage("look"), *turn(blocks), HumanMessage([FORMS[draw.draw(BLOCKS)](data)]), *turn(text)]
    heard = []

    def script(given):  # the model itself raises for every block that is no text
        heard.extend(given)
        return says("seen")

    agent = create_agent(ScriptedChatModel(script=script), middleware=[VisionMiddleware(vision)])
    agent.invoke({"messages": messages})
    for message in heard:
        assert not RUN.search(message.text.replace("a" * 300, "")), message.text[:500]
