"""A LangGraph graph that checks what a chat model claims about a picture, and sends back what the matcher refuses.

write (the chat model) -> verify (match_image_text) -> write again, without the refused claims -> ... -> done

pip install 'blip2tools[langchain]' && python examples/langgraph_verify.py
"""

import random
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.words import phrase
from blip2tools.demo.world import COLORS, sample_scene
from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.langchain_tools.scripted import ScriptedChatModel, says

scene = sample_scene(random.Random(3), things=3)
things = [phrase(color=thing.color, shape=thing.shape) for thing in scene.things]
wrong = phrase(color=next(color for color in COLORS if not scene.number(color=color)), shape="star")


def script(messages):
    """Stands in for a chat model that makes things up: one claim is false, until it is told so."""
    refused = messages[-1].text.splitlines()[1:]
    return says("\n".join(claim for claim in [*things, wrong] if claim not in refused))


# A real one: model = init_chat_model("openai:gpt-5-nano"), from langchain.chat_models
model = ScriptedChatModel(script=script)


class Report(TypedDict):
    image: str
    claims: list[str]
    refused: list[str]
    rounds: int


def write(state: Report):
    """The chat model states what is in the picture, one claim a line."""
    order = "Say what is in the picture, one claim a line. Do not claim:\n" + "\n".join(state["refused"])
    return {"claims": model.invoke(order).text.splitlines(), "rounds": state["rounds"] + 1}


def verify(state: Report):
    """Each claim against the pixels; the artifact of a tool call is its whole result."""
    call = {"image": state["image"], "texts": state["claims"]}
    message = match.invoke({"type": "tool_call", "id": "1", "name": match.name, "args": call})
    print(message.content)
    return {"refused": [one["text"] for one in message.artifact["matches"] if one["probability"] < 0.5]}


def done(state: Report):
    return END if not state["refused"] or state["rounds"] == 3 else "write"


graph = StateGraph(Report)
graph.add_node("write", write)
graph.add_node("verify", verify)
graph.add_edge(START, "write")
graph.add_edge("write", "verify")
graph.add_conditional_edges("verify", done)

with Vision.load(model="demo") as vision:
    match = {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}["match_image_text"]
    start = {"image": vision.keep(draw(scene)).handle, "claims": [], "refused": [], "rounds": 0}
    report = graph.compile().invoke(start)

print(f"after {report['rounds']} rounds: {', '.join(report['claims'])}")
