"""32 tool calls of one AI message at once, against the same calls one by one: `blip2tools bench calls`.

The demo checkpoint behind the LangChain tools; every call is about another picture, and no answer is kept.
"""

from __future__ import annotations

import asyncio
import base64
import io
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

CALLS = 32


def run(*, rounds: int = 5, seed: int = 0, tell: Callable[[str], None] = print) -> None:
    """Measure captions, questions, matches and a mixture; report each row as it is measured."""
    from blip2tools.langchain_tools import Blip2Toolkit
    from blip2tools.vision import Vision

    tell(f"{'32 calls of':12} {'one by one, s':>14} {'at once, s':>11} {'at once / one by one':>22}   batches")
    with Vision.load(model="demo", keep_answers=0) as vision:
        tools = {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}
        for kind in ("captions", "questions", "matches", "mixed"):
            times: list[tuple[float, float]] = []
            before = vision.status().queue.batches
            for number in range(rounds + 1):
                one_by_one = _calls(kind, seed + 2 * number)
                at_once = _calls(kind, seed + 2 * number + 1)
                started = time.perf_counter()
                asyncio.run(_in_turn(tools, one_by_one))
                middle = time.perf_counter()
                asyncio.run(_together(tools, at_once))
                times.append((middle - started, time.perf_counter() - middle))
            times = times[1:]
            ratios = sorted(together / turn for turn, together in times)
            sizes = {batch.size: batch.times for batch in vision.status().queue.batches}
            for batch in before:
                sizes[batch.size] -= batch.times
            shown = " ".join(f"{count}x{size}" for size, count in sizes.items() if count and size > 1)
            tell(
                f"{kind:12} {statistics.median(turn for turn, _ in times):14.2f} "
                f"{statistics.median(together for _, together in times):11.2f} "
                f"{statistics.median(ratios):9.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})   {shown}"
            )


async def _in_turn(tools: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    for call in calls:
        _check(await tools[call["name"]].ainvoke(call))


async def _together(tools: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    for message in await asyncio.gather(*(tools[call["name"]].ainvoke(call) for call in calls)):
        _check(message)


def _check(message: Any) -> None:
    if message.status != "success":
        raise RuntimeError(f"a tool call failed: {message.content}")


def _calls(kind: str, seed: int) -> list[dict[str, Any]]:
    from blip2tools.demo.draw import draw
    from blip2tools.demo.words import caption
    from blip2tools.demo.world import sample_scene

    chance = random.Random(seed)
    calls = []
    for number in range(CALLS):
        scene = sample_scene(chance)
        buffer = io.BytesIO()
        draw(scene, smoothing=1).save(buffer, "PNG")
        image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        tool = {"captions": 0, "questions": 1, "matches": 2}.get(kind, number % 3)
        choices: list[tuple[str, dict[str, Any]]] = [
            ("caption_image", {}),
            ("ask_image", {"question": "how many objects are there?"}),
            ("match_image_text", {"texts": [caption(scene)]}),
        ]
        name, more = choices[tool]
        calls.append({"type": "tool_call", "id": str(number), "name": name, "args": {"image": image, **more}})
    return calls
