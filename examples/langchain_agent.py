"""A text-only chat model answers questions about pictures in a folder, with the tools of Blip2Toolkit.

pip install 'blip2tools[langchain]' && python examples/langchain_agent.py
"""

import random
import re
import tempfile
from pathlib import Path

from langchain.agents import create_agent

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.langchain_tools.scripted import ScriptedChatModel, calls, says


def script(messages):
    """Stands in for a chat model: look first, then ask about the handle that came back, then say both."""
    told = [message.text for message in messages if message.type == "tool"]
    if not told:
        return calls("caption_image", image="holiday.png")
    if len(told) == 1:
        handle = re.search(r"img_[0-9a-f]{16}", told[0])[0]
        return calls("ask_image", image=handle, question="what is the background like?")
    caption, answer = (text.splitlines()[0].split(": ", 1)[1] for text in told)
    return says(f"It shows {caption}. And the background, asked for by itself, is {answer}.")


# A real one: model = init_chat_model("openai:gpt-5-nano"), from langchain.chat_models
model = ScriptedChatModel(script=script)

with tempfile.TemporaryDirectory() as folder:
    draw(sample_scene(random.Random(1), things=2)).save(Path(folder) / "holiday.png")

    with Vision.load(model="demo", allowed_dirs=[folder]) as vision:
        agent = create_agent(model, Blip2Toolkit(vision).get_tools())
        question = "What is in holiday.png, and what is behind it?"
        state = agent.invoke({"messages": [{"role": "user", "content": question}]})

for message in state["messages"]:
    for call in getattr(message, "tool_calls", []):
        print(f"  calls  {call['name']}({call['args']})")
    if message.text:
        print(f"{message.type:>7}  {message.text.splitlines()[0]}")
