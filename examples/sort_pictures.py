"""Sort a folder of pictures into subfolders: a chat model names them, BLIP-2 decides, all pictures at once.

pip install 'blip2tools[langchain]' && python examples/sort_pictures.py
"""

import asyncio
import random
import re
import tempfile
from pathlib import Path

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.langchain_tools.scripted import ScriptedChatModel, says

PICTURES = 24


def script(messages):
    """Stands in for a chat model that is asked for folder names: it takes them from the captions it is shown."""
    grounds = re.findall(r"a (\w+) background", messages[-1].text)
    return says("\n".join(sorted(set(grounds))))


# A real one: model = init_chat_model("openai:gpt-5-nano"), from langchain.chat_models
model = ScriptedChatModel(script=script)


async def sort(folder):
    with Vision.load(model="demo", allowed_dirs=[folder]) as vision:
        tools = {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}

        async def use(name, **arguments):
            call = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
            return await tools[name].ainvoke(call)

        names = sorted(path.name for path in folder.glob("*.png"))
        # All calls at once: the engine puts them into batches.
        captions = await asyncio.gather(*(use("caption_image", image=name) for name in names))
        listed = "\n".join(message.artifact["text"] for message in captions)
        kinds = (await model.ainvoke(f"Name folders for these pictures, by background, one a line:\n{listed}")).text
        choices = [f"a {kind} background" for kind in kinds.splitlines()]
        matches = await asyncio.gather(*(use("match_image_text", image=name, texts=choices) for name in names))

    for name, message in zip(names, matches, strict=True):
        best = message.artifact["matches"][0]
        kind = best["text"].split()[1] if best["probability"] > 0.5 else "unsorted"
        (folder / kind).mkdir(exist_ok=True)
        (folder / name).rename(folder / kind / name)


with tempfile.TemporaryDirectory() as name:
    room = Path(name)
    truth = {}
    for number in range(PICTURES):
        scene = sample_scene(random.Random(number))
        draw(scene).save(room / f"{number:02}.png")
        truth[f"{number:02}.png"] = scene.background.name
    asyncio.run(sort(room))
    for kind in sorted(room.iterdir()):
        inside = sorted(path.name for path in kind.iterdir())
        right = sum(truth[name] == kind.name for name in inside)
        print(f"{kind.name:10} {len(inside):2} pictures, {right} of them right")
