"""Two gateways over two replicas on Ray, in a process of its own: what happens is printed as JSON.

    python -m tests.support.ray_gateways FOLDER CALLS

FOLDER holds pictures. A replica is killed when a quarter of the calls are answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from blip2tools import Vision
from blip2tools.engine.replicas.cluster import connected
from blip2tools.engine.replicas.engine import deploy
from blip2tools.errors import VisionError
from blip2tools.settings import Settings

AT_ONCE = 24
WORDS = ("a", "the", "large", "small", "red", "blue", "green", "orange", "purple", "ring", "star", "square")
REPLICA = "ray::ServeReplica:blip2tools:Replica"


def replicas() -> list[int]:
    """Processes of this run's replicas."""
    return [one.pid for one in psutil.Process().children(recursive=True) if (one.cmdline() or [""])[0] == REPLICA]


def listening() -> list[str]:
    """Addresses that this process and all below it listen on."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = set()
    for one in family:
        try:
            found |= {link.laddr.ip for link in one.net_connections("inet") if link.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return sorted(found)


async def many(gateways: list[Vision], pictures: list[Path], calls: int) -> tuple[Counter[str], float]:
    """So many captions through both gateways; how they ended, and after how long."""
    ends: Counter[str] = Counter()
    prompts = product(WORDS, repeat=3)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            try:
                # No two calls are the same: nothing is answered from what is kept. Prompts are short, for a machine that is busy.
                prompt = " ".join(next(prompts))
                await gateways[number % 2].acaption(pictures[number % len(pictures)], prompt=prompt, num_beams=1)
                ends["answered"] += 1
            except VisionError as error:
                ends[error.code] += 1

    async def kill() -> None:
        while sum(ends.values()) < calls // 4:
            await asyncio.sleep(0.02)
        os.kill(replicas()[0], signal.SIGKILL)

    begun = time.monotonic()
    await asyncio.gather(kill(), *map(one, range(calls)))
    return ends, time.monotonic() - begun


async def overload(crowded: Vision, pictures: list[Path]) -> Counter[str]:
    """More calls at once than a gateway takes."""
    outcomes = await asyncio.gather(
        *(crowded.acaption(path, prompt=f"the {number} ") for number, path in enumerate(pictures * 3)),
        return_exceptions=True,
    )
    return Counter(one.code if isinstance(one, VisionError) else type(one).__name__ for one in outcomes)


async def gone(gateway: Vision, picture: Path) -> list[int]:
    """A caller that leaves at once, and one that stays: calls under way afterwards, and how many were cancelled."""
    left = asyncio.ensure_future(gateway.acaption(picture, num_beams=8, min_new_tokens=64, max_new_tokens=64))
    while not gateway.status().queue.waiting and not left.done():
        await asyncio.sleep(0.01)
    if left.done():
        raise RuntimeError("the call ended before its caller left") from left.exception()
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await gateway.aask(picture, "what is it?")
    until = time.monotonic() + 60
    while gateway.status().queue.waiting and time.monotonic() < until:
        await asyncio.sleep(0.05)
    queue = gateway.status().queue
    return [queue.waiting, queue.cancelled]


def main() -> int:
    """Run and print."""
    pictures, calls = sorted(Path(sys.argv[1]).glob("*.png")), int(sys.argv[2])
    settings = Settings.load(model="demo", threads=1, deadline_s=200.0)
    facts: dict[str, Any] = {}
    with connected(None, cpus=3):
        gateways = []
        for limit in (256, 256, 4):
            mine = settings.model_copy(update={"max_queue": limit})
            engine, store = deploy(mine, 2, download=False)
            gateways.append(Vision(mine, engine, trusted=True, store=store))
        one, other, crowded = gateways
        try:
            until = time.monotonic() + 300
            while (
                not (all(each.status().loaded for each in gateways) and len(replicas()) == 2)
                and time.monotonic() < until
            ):
                time.sleep(0.2)
            facts["first"] = one.caption(pictures[0]).text
            facts["status"] = [one.status().model, one.status().device, one.status().loaded]
            facts["listening"] = listening()
            handle = one.keep(pictures[1].read_bytes()).handle
            facts["by handle"] = other.caption(handle).text
            facts["gone"] = one.run(gone(one, pictures[2]))
            facts["crowded"] = crowded.run(overload(crowded, pictures))
            before = replicas()
            ends, facts["seconds"] = one.run(many([one, other], pictures, calls))
            facts["ends"] = ends
            until = time.monotonic() + 100
            while len(replicas()) < 2 and time.monotonic() < until:
                time.sleep(0.2)
            facts["replaced"] = len(set(replicas()) - set(before))
            try:
                deploy(settings.model_copy(update={"matcher": "none"}), 2, download=False)
            except VisionError as error:
                facts["another model"] = str(error)
        finally:
            for gateway in gateways:
                gateway.close()
    sys.stdout.write("\n" + json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
