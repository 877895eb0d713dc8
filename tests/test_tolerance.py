"""Changes that clients make to a model's arguments are undone, on every interface; the model's own mistakes are refused."""

import base64
import io
import json

import httpx2
import pytest
from mcp import Client
from PIL import Image

from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.schemas.arguments import ADDED_BY_CLIENTS, as_written
from blip2tools.server.http.app import VERBS, build_app
from blip2tools.server.mcp import build_server
from blip2tools.toolset import BY_NAME, DEMO_WARNING, Told, call

CAPTION, ASK, MATCH = "caption_image", "ask_image", "match_image_text"
QUESTION = {"question": "how many objects are there?"}
TURNS = [{"question": "what shape is it?", "answer": "a circle"}]
REGION = [0, 0, 1, 0.9]

# A tool, the arguments as a client sends them, and as the model meant them.
TOLERATED = [
    pytest.param(CAPTION, {"num_captions": 2.0}, {"num_captions": 2}, id="integral-number"),
    pytest.param(CAPTION, {"num_captions": None, "region": None, "prompt": None}, {}, id="nulls"),
    pytest.param(CAPTION, {"num_captions": "", "region": [], "prompt": ""}, {}, id="empty"),
    pytest.param(CAPTION, {"num_captions": [], "region": "", "prompt": {}}, {}, id="empty-of-another-type"),
    pytest.param(CAPTION, {"region": json.dumps(REGION)}, {"region": REGION}, id="array-as-text"),
    pytest.param(CAPTION, {"region": "[]"}, {}, id="empty-array-as-text"),
    pytest.param(CAPTION, {"region": "null"}, {}, id="null-as-text"),
    pytest.param(ASK, QUESTION | {"choices": '["one", "two"]'}, QUESTION | {"choices": ["one", "two"]}, id="choices"),
    pytest.param(ASK, QUESTION | {"history": json.dumps(TURNS)}, QUESTION | {"history": TURNS}, id="turns-as-text"),
    pytest.param(
        ASK, QUESTION | {"history": [json.dumps(TURNS[0])]}, QUESTION | {"history": TURNS}, id="each-turn-as-text"
    ),
    pytest.param(ASK, QUESTION | {"history": [], "choices": None, "region": ""}, QUESTION, id="nothing-given"),
    pytest.param(MATCH, {"texts": '["a red star", "a \\"dog\\""]'}, {"texts": ["a red star", 'a "dog"']}, id="texts"),
    *(pytest.param(CAPTION, {name: "x"}, {}, id=name) for name in ADDED_BY_CLIENTS),
    pytest.param("vision_status", {"random_string": "dummy"}, {}, id="status-with-a-dummy"),
    pytest.param("list_images", {"limit": None, "folder": ""}, {}, id="list"),
    pytest.param("list_images", {"limit": 5.0, "toolCallId": "call_1"}, {"limit": 5}, id="list-limit"),
    pytest.param(
        "search_images",
        {"query": "a red star", "image": "", "folder": "", "limit": 3.0},
        {"query": "a red star", "image": None, "limit": 3},
        id="search",
    ),
    pytest.param("survey_image", {"rows": 1.0, "columns": None}, {"rows": 1}, id="survey"),
    pytest.param("compare_images", {"images": '["latest", "latest"]'}, {"images": ["latest"] * 2}, id="images"),
]
REFUSED = [
    pytest.param(CAPTION, {"num_captions": "2"}, "must be an integer, not a string", id="number-as-text"),
    pytest.param(CAPTION, {"num_captions": 2.5}, "must be an integer, not a number", id="not-integral"),
    pytest.param(CAPTION, {"num_captions": True}, "must be an integer, not a boolean", id="boolean"),
    pytest.param(CAPTION, {"num_captions": 0.0}, "must be at least 1", id="zero"),
    pytest.param(CAPTION, {"region": '["0", "0", "1", "1"]'}, "'region[0]' must be a number", id="texts-for-numbers"),
    pytest.param(CAPTION, {"region": "[0, 0, 1"}, "'region' must be an array, not a string", id="cut-json"),
    pytest.param(CAPTION, {"region": "5"}, "'region' must be an array, not a string", id="no-array-in-the-text"),
    pytest.param(CAPTION, {"region": '{"left": 0}'}, "'region' must be an array, not an object", id="object-as-text"),
    pytest.param(CAPTION, {"toolcallid": "x"}, "no argument 'toolcallid'", id="misspelt-client-name"),
    pytest.param(CAPTION, {"imagee": "x"}, "no argument 'imagee'", id="misspelt"),
    pytest.param(CAPTION, {"config": {}}, "no argument 'config'", id="a-name-of-langchain"),
    pytest.param(CAPTION, {"runtime": "x"}, "no argument 'runtime'", id="another-name-of-langchain"),
    pytest.param(MATCH, {"texts": "a red star"}, "'texts' must be an array, not a string", id="a-lone-text"),
    pytest.param(MATCH, {"texts": []}, "'texts' must have at least 1 entries", id="required-and-empty"),
    pytest.param(MATCH, {"texts": None}, "'texts' must be an array, not null", id="required-and-null"),
    pytest.param(MATCH, {"texts": ["a", None]}, "'texts[1]' must be a string, not null", id="null-inside"),
    pytest.param(ASK, {"question": ""}, "'question' must have at least 1 characters", id="empty-question"),
]


class Faces:
    """The same call over MCP, HTTP and LangChain: structured content, or the error's text."""

    def __init__(self, vision):
        self.vision = vision

    async def mcp(self, name, arguments):
        async with Client(build_server(self.vision)) as client:
            result = await client.call_tool(name, arguments)
        return result.content[0].text if result.is_error else result.structured_content

    async def http(self, name, arguments):
        transport = httpx2.ASGITransport(app=build_app(self.vision, page=False))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            verb = next(verb for verb, tool in VERBS.items() if tool == name)
            answer = await client.post(f"/api/{verb}", json=arguments)
        body = answer.json()
        return body if answer.status_code == 200 else f"{body['code']}: {body['message']}"

    async def langchain(self, name, arguments):
        tool = next(tool for tool in Blip2Toolkit(self.vision).get_tools() if tool.name == name)
        message = await tool.ainvoke({"name": name, "args": arguments, "id": "1", "type": "tool_call"})
        return message.content if message.status == "error" else message.artifact

    async def all(self, name, arguments):
        ways = [self.mcp, self.langchain, *([self.http] if name in (CAPTION, ASK, MATCH) else [])]
        return [await way(name, dict(arguments)) for way in ways]


def without_what_changes(result):
    if not isinstance(result, dict):
        return result
    return {name: value for name, value in result.items() if name not in ("queue", "cache")}


def with_image(name, arguments, picture):
    return {"image": picture.path.name, **arguments} if "image" in BY_NAME[name].arguments.model_fields else arguments


@pytest.mark.parametrize(("name", "sent", "meant"), TOLERATED)
async def test_a_call_means_the_same_on_every_face(vision, picture, name, sent, meant):
    wanted = (await call(vision.for_tools(), name, with_image(name, meant, picture))).structured()
    for found in await Faces(vision).all(name, with_image(name, sent, picture)):
        assert without_what_changes(found) == without_what_changes(wanted)


@pytest.mark.parametrize(("name", "sent", "sentence"), REFUSED)
async def test_a_models_own_mistake_is_refused_on_every_face(vision, picture, name, sent, sentence):
    for found in await Faces(vision).all(name, with_image(name, sent, picture)):
        assert isinstance(found, str)
        assert found.startswith("invalid_input: ")
        assert sentence in found


def test_a_string_that_may_be_one_stays_one():
    schema = BY_NAME[ASK].input_schema()
    sent = {"image": '["a.png"]', "question": '{"a": 1}', "choices": ['["x"]', "null"]}
    assert as_written(sent, schema) == sent


def test_a_long_text_is_not_parsed_into_many_times_its_size():
    schema = BY_NAME[MATCH].input_schema()
    bomb = "[" + "[]," * 200_000 + "[]]"
    assert as_written({"image": "x", "texts": bomb}, schema)["texts"] is bomb
    deep = "[" * 100_000
    assert as_written({"image": "x", "texts": deep}, schema)["texts"] is deep


async def test_a_client_is_told_once_that_the_demo_answers(vision, picture):
    arguments = {"image": picture.path.name}
    async with Client(build_server(vision)) as client:
        warnings = [
            (await client.call_tool(name, arguments | more)).structured_content["warnings"]
            for name, more in ((CAPTION, {}), (CAPTION, {}), (ASK, QUESTION), ("survey_image", {}))
        ]
        status = (await client.call_tool("vision_status", {})).structured_content["warnings"]
        listed = (await client.call_tool("list_images", {})).structured_content["warnings"]
    assert [DEMO_WARNING in one for one in warnings] == [True, False, False, False]
    assert DEMO_WARNING in status
    assert DEMO_WARNING not in listed
    assert len(DEMO_WARNING) < 100
    told = Told()
    file = io.BytesIO()
    Image.effect_noise((224, 224), 200).convert("RGB").save(file, "PNG")
    noise = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    await call(vision.for_tools(), CAPTION, arguments, told=told, client="a")
    for image, client, wanted in ((noise, "a", True), (picture.path.name, "a", False), (picture.path.name, "b", True)):
        result = await call(vision.for_tools(), CAPTION, {"image": image}, told=told, client=client)
        assert (DEMO_WARNING in result.warnings) == wanted, (client, result.warnings)


async def test_numbers_of_a_result_have_six_digits(vision, picture):
    for found in await Faces(vision).all(CAPTION, {"image": picture.path.name, "region": [0, 0, 1, 2 / 3]}):
        numbers = [found["confidence"], found["match"]["probability"], found["match"]["cosine"], *found["region"]]
        assert all(number == float(f"{number:.6g}") for number in numbers)
        assert found["region"][3] == 0.666667


async def test_a_status_is_short(vision):
    async with Client(build_server(vision)) as client:
        result = await client.call_tool("vision_status", {})
    assert len(json.dumps(result.structured_content)) < 1200
    assert len(result.content[0].text) < 800
    assert {"limits", "queue", "cache", "cannot", "device", "dtype", "loaded"} <= set(result.structured_content)
