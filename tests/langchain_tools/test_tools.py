"""The LangChain tools: the same words as everywhere, in sync and async code, and errors that a model can read."""

import asyncio
import base64
import functools
import random

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.toolset import TOOLS
from tests.schemas.test_schemas import REFUSED


@pytest.fixture(scope="module")
def tools(vision):
    return {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}


def tool_call(name, **arguments):
    return {"type": "tool_call", "id": "1", "name": name, "args": arguments}


def test_the_catalogue(tools):
    assert list(tools) == [spec.name for spec in TOOLS]
    for spec in TOOLS:
        assert tools[spec.name].description == spec.description


def test_the_model_sees_the_same_schema_as_over_mcp(tools):
    for spec in TOOLS:
        shown = convert_to_openai_tool(tools[spec.name])["function"]
        ours = spec.input_schema()
        assert set(shown["parameters"].get("properties", {})) == set(ours["properties"])
        for name, argument in ours["properties"].items():
            assert shown["parameters"]["properties"][name]["description"] == argument["description"]
        assert shown["parameters"].get("required", []) == ours.get("required", [])


def test_sync_and_async_say_the_same(tools, picture):
    call = tool_call("caption_image", image=picture.path.name)
    message = tools["caption_image"].invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.status == "success"
    assert picture.caption in message.content
    assert message.artifact["text"] == picture.caption
    assert asyncio.run(tools["caption_image"].ainvoke(call)) == message


async def test_a_bare_text_is_the_first_argument(tools, picture):
    """As `tool.invoke("photo.png")`, by hand or from an older agent; other required arguments are reported missing."""
    for name in ("caption_image", "survey_image"):
        assert picture.path.name in tools[name].invoke(picture.path.name)
        assert picture.path.name in await tools[name].ainvoke(picture.path.name)
    assert tools["ask_image"].invoke(picture.path.name) == "invalid_input: The argument 'question' is missing."
    assert "must be an array" in tools["compare_images"].invoke(picture.path.name)
    assert "not_found" in tools["list_images"].invoke("no-such-folder")
    assert tools["vision_status"].invoke("").startswith("model: ")
    assert "no arguments" in tools["vision_status"].invoke("all of it")


async def test_sync_inside_a_running_loop(tools, picture):
    message = tools["ask_image"].invoke(
        tool_call("ask_image", image=picture.path.name, question="how many objects are there?")
    )
    assert message.artifact["answer"] == "one"


async def test_parallel_calls(tools, pictures):
    calls = [tools["caption_image"].ainvoke(tool_call("caption_image", image=one.path.name)) for one in pictures]
    said = [message.artifact["text"] for message in await asyncio.gather(*calls)]
    assert said == [one.caption for one in pictures]


def test_choices_and_history(tools, picture):
    thing = picture.scene.things[0]
    message = tools["ask_image"].invoke(
        tool_call(
            "ask_image",
            image=picture.path.name,
            question=f"what color is the {thing.shape}?",
            choices=["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"],
            history=[{"question": "how many objects are there?", "answer": "one"}],
        )
    )
    choices = message.artifact["choices"]
    assert sum(choice["probability"] for choice in choices) == pytest.approx(1)
    assert choices == sorted(choices, key=lambda choice: -choice["probability"])
    assert message.artifact["answer"] == choices[0]["text"]


def test_one_question_about_several_pictures(tools, pictures):
    names = [drawn.path.name for drawn in pictures[:2]]
    message = tools["ask_image"].invoke(tool_call("ask_image", images=names, question="how many objects are there?"))
    assert message.status == "success"
    assert [one["image"]["source"] for one in message.artifact["answers"]] == names
    assert all(f"picture {number}: " in message.content for number in (1, 2))


CASES = [
    (spec.name, case) for spec in TOOLS for case in REFUSED if case[0] is spec.arguments and isinstance(case[1], dict)
]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[case[2][:40] for _, case in CASES])
def test_bad_arguments_never_end_the_run(tools, name, case):
    message = tools[name].invoke(tool_call(name, **case[1]))
    assert message.status == "error"
    assert message.content.startswith("invalid_input: ")
    assert case[2] in message.content


@pytest.mark.parametrize(
    ("image", "code"), [("/etc/passwd", "not_allowed"), ("no.png", "not_found"), ("img_" + "0" * 16, "not_found")]
)
def test_bad_pictures_never_end_the_run(tools, picture, image, code):
    for invoke in (tools["caption_image"].invoke, lambda call: asyncio.run(tools["caption_image"].ainvoke(call))):
        message = invoke(tool_call("caption_image", image=image))
        assert message.status == "error"
        assert message.content.startswith(f"{code}: ")
    assert tools["caption_image"].invoke(tool_call("caption_image", image=picture.path.name)).status == "success"


def test_paths_from_a_model_are_not_the_callers_own(picture, tmp_path, monkeypatch):
    """A `Vision` without allowed folders reads anything for its caller, and only the working directory for a model."""
    from blip2tools import Vision

    monkeypatch.chdir(tmp_path)
    with Vision.load(model="demo", preload=False) as vision:
        assert vision.caption(str(picture.path)).text == picture.caption
        tool = next(tool for tool in Blip2Toolkit(vision).get_tools() if tool.name == "caption_image")
        refused = tool.invoke(tool_call("caption_image", image=str(picture.path)))
        assert refused.content.startswith("not_allowed: ")


def test_the_toolkit_keeps_its_eyes_open(picture, folder):
    """Nothing else holds the `Vision`: it must not close itself behind the toolkit's back."""
    import gc

    from blip2tools import Vision

    tools = Blip2Toolkit(Vision.load(model="demo", allowed_dirs=(folder,), preload=False)).get_tools()
    gc.collect()
    assert tools[0].invoke(tool_call("caption_image", image=picture.path.name)).status == "success"


def test_a_forged_runtime_is_refused(tools, picture):
    message = tools["caption_image"].invoke(tool_call("caption_image", image=picture.path.name, runtime={"state": 1}))
    assert message.status == "error"
    assert "no argument 'runtime'" in message.content


def test_an_agent_looks(vision, picture):
    """A text-only agent of langchain's own: its answer can only come from the picture."""
    from langchain.agents import create_agent

    from blip2tools.langchain_tools.scripted import ScriptedChatModel, calls, says

    def script(messages):
        last = messages[-1]
        if last.type == "human":
            return calls("caption_image", image="/etc/passwd")
        if last.status == "error":
            return calls("caption_image", image=picture.path.name)
        return says(last.content.splitlines()[0])

    agent = create_agent(ScriptedChatModel(script=script), Blip2Toolkit(vision).get_tools())
    answer = agent.invoke({"messages": [{"role": "user", "content": "what is in the picture?"}]})
    assert answer["messages"][-1].text == f"caption: {picture.caption}"


def agent_that_looks(vision, *wanted):
    """An agent that makes the given calls at once and then says how many went well."""
    from langchain.agents import create_agent

    from blip2tools.langchain_tools.scripted import ScriptedChatModel, calls_all, says

    def script(messages):
        if messages[-1].type == "human":
            return calls_all(wanted)
        replies = [message for message in messages if message.type == "tool"]
        return says(f"{sum(reply.status == 'success' for reply in replies)} went well")

    return create_agent(ScriptedChatModel(script=script), Blip2Toolkit(vision).get_tools())


ASKED = {"messages": [{"role": "user", "content": "go"}]}


async def test_progress_reaches_who_follows_the_graph(vision, picture):
    """The runtime's channels: `custom` has the progress, `tools` the lines of the result; both name the call."""
    agent = agent_that_looks(vision, ("survey_image", {"image": picture.path.name, "rows": 1, "columns": 2}))
    heard, deltas = [], []
    async for mode, chunk in agent.astream(ASKED, stream_mode=["custom", "tools"]):
        (heard if mode == "custom" else deltas).append(chunk)
    assert heard[0]["progress"] == "looking"
    assert {one["tool"] for one in heard} == {"survey_image"}
    assert len({one["tool_call_id"] for one in heard}) == 1
    assert len(heard) > 1
    assert heard[-1]["done"] == heard[-1]["total"]
    events = [chunk["event"] for chunk in deltas]
    assert (events[0], events[-1]) == ("tool-started", "tool-finished")
    told = "".join(chunk["delta"] for chunk in deltas if chunk["event"] == "tool-output-delta")
    assert told == deltas[-1]["output"].content


def test_progress_in_synchronous_code(vision, picture):
    agent = agent_that_looks(vision, ("caption_image", {"image": picture.path.name}))
    chunks = list(agent.stream(ASKED, stream_mode=["custom", "tools"]))
    assert next(chunk["progress"] for mode, chunk in chunks if mode == "custom") == "looking"
    lines = [chunk["delta"] for mode, chunk in chunks if mode == "tools" and chunk["event"] == "tool-output-delta"]
    assert lines[0] == f"caption: {picture.caption}\n"


def test_nobody_listens(vision, picture):
    agent = agent_that_looks(vision, ("caption_image", {"image": picture.path.name}))
    assert agent.invoke(ASKED)["messages"][-1].text == "1 went well"


async def test_cancelling_frees_the_row(folder, pictures):
    """A caller that leaves cancels all of its calls: none of them runs or waits, and the next call is served."""
    from blip2tools import Vision

    long = {"min_new_tokens": 120, "max_new_tokens": 128}  # so that nothing ends by itself
    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, **long) as vision:
        completed = vision.status().queue.completed
        agent = agent_that_looks(vision, *(("caption_image", {"image": one.path.name}) for one in pictures))
        run = asyncio.ensure_future(agent.ainvoke(ASKED))
        while not (vision.status().queue.running or run.done()):
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        while (queue := vision.status().queue).running or queue.waiting:
            await asyncio.sleep(0.01)
        assert queue.completed == completed
        assert queue.cancelled >= 1
        match = next(tool for tool in Blip2Toolkit(vision).get_tools() if tool.name == "match_image_text")
        message = await match.ainvoke(tool_call("match_image_text", image=pictures[0].path.name, texts=["a star"]))
        assert message.status == "success"


async def test_parallel_calls_are_served_in_batches(tmp_path):
    """32 calls in one message, all of different pictures and no answer kept: far fewer passes of the decoder than calls."""
    from blip2tools import Vision
    from blip2tools.demo.draw import draw
    from blip2tools.demo.world import sample_scene

    names = [f"{number}.png" for number in range(32)]
    for number, name in enumerate(names):
        draw(sample_scene(random.Random(number)), smoothing=1).save(tmp_path / name)
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), threads=1, keep_answers=0) as vision:
        agent = agent_that_looks(vision, *(("caption_image", {"image": name}) for name in names))
        state = await agent.ainvoke(ASKED)
        assert state["messages"][-1].text == "32 went well"
        queue = vision.status().queue
    assert len({message.artifact["image"]["handle"] for message in state["messages"][2:-1]}) == 32
    assert queue.joined == 0
    assert next(stage.times for stage in queue.stages if stage.stage == "speak") <= 16
    assert sum(batch.times for batch in queue.batches if batch.size > 1) > 1


@functools.cache
def _eyes():
    from blip2tools import Vision
    from tests.conftest import REPOSITORY

    return Vision.load(model="demo", allowed_dirs=(REPOSITORY,), preload=False)


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    if _eyes.cache_info().currsize:
        _eyes().close()
        _eyes.cache_clear()


class _Suite:
    """The standard tests of langchain-tests need a tool before any fixture of ours."""

    tool_name = ""

    @property
    def tool_constructor(self):
        return next(tool for tool in Blip2Toolkit(_eyes()).get_tools() if tool.name == self.tool_name)

    @property
    def tool_invoke_params_example(self):
        from tests.conftest import REPOSITORY

        data = (REPOSITORY / "examples" / "shapes.png").read_bytes()
        image = "data:image/png;base64," + base64.b64encode(data).decode()
        return {
            "caption_image": {"image": image},
            "ask_image": {"image": image, "question": "how many objects are there?"},
            "match_image_text": {"image": image, "texts": ["a red circle"]},
            "survey_image": {"image": image, "rows": 1, "columns": 2},
            "compare_images": {"images": [image, image]},
            "list_images": {"folder": "examples"},
            "read_text": {"image": image},
            "search_images": {"query": "a red circle", "folder": "examples"},
            "vision_status": {},
        }[self.tool_name]


def _suites():
    for spec in TOOLS:
        for base, kind in ((ToolsUnitTests, "Unit"), (ToolsIntegrationTests, "Integration")):
            name = f"Test{kind}{spec.name.title().replace('_', '')}"
            yield name, type(name, (_Suite, base), {"tool_name": spec.name, "__module__": __name__})


globals().update(dict(_suites()))
