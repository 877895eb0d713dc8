"""A chat with pictures, a chat model that cannot see, and a checkpointer: VisionMiddleware, and ingest.

pip install 'blip2tools[langchain]' && python examples/langchain_middleware.py
"""

import base64
import io
import random
import re

from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.langchain_tools import VisionMiddleware, ingest
from blip2tools.langchain_tools.scripted import ScriptedChatModel, calls, says


def script(messages):
    """Stands in for a chat model: it reads the captions in the chat and asks about the picture it saw last."""
    last = messages[-1]
    if last.type == "tool":
        return says(last.text.splitlines()[0])
    handles = re.findall(r"\[image (img_[0-9a-f]{16}): ", "\n".join(message.text for message in messages))
    question = last.text.splitlines()[0]
    if "how many" in question:
        return calls("ask_image", image=handles[-1], question="how many objects are there?")
    if "background" in question:
        return calls("ask_image", image=handles[0], question="what is the background like?")
    return says(f"I was told: {last.text.splitlines()[-1]}")


def picture(seed):
    """A freshly drawn picture, as chat front ends send it."""
    file = io.BytesIO()
    draw(sample_scene(random.Random(seed))).save(file, format="PNG")
    return {"type": "image", "base64": base64.b64encode(file.getvalue()).decode(), "mime_type": "image/png"}


def user(text, *pictures):
    return [{"role": "user", "content": [{"type": "text", "text": text}, *pictures]}]


# A real one: model = init_chat_model("openai:gpt-5-nano"), from langchain.chat_models
model = ScriptedChatModel(script=script)

with Vision.load(model="demo") as vision:
    saver = InMemorySaver()
    agent = create_agent(model, middleware=[VisionMiddleware(vision)], checkpointer=saver)
    chat = {"configurable": {"thread_id": "chat"}}
    turns = [
        user("Look at this.", picture(1)),
        user("And at this one.", picture(2)),
        user("Now, how many objects are in it?"),
        user("And what is the background of the first picture?"),
    ]
    for turn in turns:
        # `ingest` keeps the base64 out of the checkpointer; the middleware alone keeps it from the model.
        state = agent.invoke({"messages": ingest(turn, vision)}, chat)
        print("you:  ", turn[0]["content"][0]["text"])
        print("agent:", state["messages"][-1].text)

    print("the first message, as saved:", state["messages"][0].text.splitlines()[1])
    print("base64 in the checkpoints:", "iVBORw0KGgo" in repr((dict(saver.storage), saver.blobs, saver.writes)))
