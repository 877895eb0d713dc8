"""What the proxy adds to the time until the first token, and what the vision endpoint serves beside MCP.

    first token   a streamed answer of a scripted upstream, asked directly and through the proxy, by turns: without a picture,
                  and with one that was seen before
    throughput    captions of different parts of one picture for 32 clients at once: OpenAI's client at the endpoint, and MCP's,
                  by turns against one server
    mixing        32 conversations at once, each about a picture of its own, for a while: none may get another's words

The proxy and the server are processes of their own, as users run them; the upstream is a thread of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from benchmarks.blind_upstream import BlindUpstream, Heard, Said
from blip2tools.demo.draw import draw
from blip2tools.demo.words import caption
from blip2tools.demo.world import sample_scene

CLIENTS: Final = 32
PATH: Final = "/v1/chat/completions"


@contextlib.contextmanager
def command(*words: str) -> Iterator[str]:
    """A command of this package that serves; gives its address once the model is loaded."""
    started = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "blip2tools", *words, "--port", "0", "--model", "demo", "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        address = ""
        for line in started.stderr or ():
            if found := re.search(r"at (http://[^/\s]+)/", line):
                address = found[1]
                break
        with httpx2.Client(trust_env=False) as client:
            while client.get(f"{address}/readyz").status_code != 200:
                time.sleep(0.2)
        # Nobody reads the log from here on.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: [None for _ in started.stderr or ()])
            yield address
            started.terminate()
    finally:
        started.terminate()
        started.wait(30)


def _png(seed: int, folder: Path) -> tuple[bytes, str]:
    scene = sample_scene(random.Random(seed), 1 + seed % 3)
    path = folder / f"{seed}.png"
    draw(scene).save(path)
    return path.read_bytes(), caption(scene)


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


# ---- first token ----


def first_token(times: int, folder: Path) -> dict[str, float]:
    """Medians of milliseconds to the first event, and what the proxy adds to them."""
    upstream = BlindUpstream(lambda heard: Said("one two three"))
    data, _ = _png(2, folder)
    words: list[dict[str, Any]] = [{"type": "text", "text": "Tell me something about shapes. " * 20}]
    picture = {"type": "image_url", "image_url": {"url": _uri(data)}}
    bodies = {"no picture": words, "picture seen before": [*words, picture]}
    taken: dict[tuple[str, str], list[float]] = {(kind, way): [] for kind in bodies for way in ("direct", "proxy")}
    try:
        with command("proxy", "--upstream", upstream.url) as url, httpx2.Client(trust_env=False, timeout=100) as http:
            for number in range(times + 5):
                for kind, content in bodies.items():
                    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": content}]}
                    sent = json.dumps(body).encode()
                    for way, address in (("direct", upstream.url), ("proxy", url)):
                        begun = time.perf_counter()
                        head = {"content-type": "application/json"}
                        with http.stream("POST", f"{address}{PATH}", content=sent, headers=head) as answer:
                            next(answer.iter_bytes())
                            spent = 1000 * (time.perf_counter() - begun)
                            answer.read()
                        if number >= 5:
                            taken[kind, way].append(spent)
    finally:
        upstream.end()
    found: dict[str, float] = {}
    for kind in bodies:
        pairs = zip(taken[kind, "proxy"], taken[kind, "direct"], strict=True)
        found[f"{kind}: direct"] = statistics.median(taken[kind, "direct"])
        found[f"{kind}: proxy"] = statistics.median(taken[kind, "proxy"])
        found[f"{kind}: added"] = statistics.median(one - other for one, other in pairs)
    return found


# ---- throughput ----


def throughput(rounds: int, folder: Path) -> dict[str, float]:
    """Captions a second for 32 clients at once, by turns over the two protocols."""
    rates: dict[str, list[float]] = {"openai": [], "mcp": []}
    with command("serve", "--http", "--allow-dir", str(folder), "--keep-answers", "0") as url:
        for number in range(rounds):
            pictures = [_png(1000 * number + other, folder)[0] for other in range(2 * CLIENTS)]
            order = ("openai", "mcp") if number % 2 else ("mcp", "openai")
            for index, way in enumerate(order):
                mine = pictures[index * CLIENTS : (index + 1) * CLIENTS]
                spent = asyncio.run(_of_openai(url, mine) if way == "openai" else _of_mcp(url, mine))
                rates[way].append(4 * CLIENTS / spent)
    found = {f"{way}, captions a second": statistics.median(taken) for way, taken in rates.items()}
    ratios = [one / other for one, other in zip(rates["openai"], rates["mcp"], strict=True)]
    return {**found, "openai / mcp, each round": statistics.median(ratios)}


async def _of_openai(url: str, pictures: Sequence[bytes]) -> float:
    clients = [openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=300) for _ in pictures]

    async def one(client: openai.AsyncOpenAI, data: bytes) -> None:
        for _ in range(4):
            parts: Any = [{"type": "text", "text": "describe"}, {"type": "image_url", "image_url": {"url": _uri(data)}}]
            said = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": parts}])
            if "caption" not in (said.choices[0].message.content or ""):
                raise RuntimeError("no caption")

    begun = time.perf_counter()
    await asyncio.gather(*map(one, clients, pictures))
    spent = time.perf_counter() - begun
    for client in clients:
        await client.close()
    return spent


async def _of_mcp(url: str, pictures: Sequence[bytes]) -> float:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in pictures:
            http = await stack.enter_async_context(httpx2.AsyncClient(timeout=300, trust_env=False))
            clients.append(
                await stack.enter_async_context(Client(streamable_http_client(f"{url}/mcp", http_client=http)))
            )

        async def one(client: Any, data: bytes) -> None:
            for _ in range(4):
                said = await client.call_tool("caption_image", {"image": _uri(data)})
                if "caption" not in said.content[0].text:
                    raise RuntimeError("no caption")

        begun = time.perf_counter()
        await asyncio.gather(*map(one, clients, pictures))
        return time.perf_counter() - begun


# ---- mixing ----


def mirror(heard: Heard) -> Said:
    """Looks once a turn, and says whose conversation it is and what it has seen."""
    found = re.search(r"conversation \d+", str(heard.talk[0][1]))
    turn = sum(kind == "user" for kind, _ in heard.talk) - 1
    results = [said[1].splitlines()[0] for kind, said in heard.talk if kind == "result"]
    if len(results) <= turn:
        handle = re.search(rb"img_[0-9a-f]{16}", heard.raw)
        return Said("", [("caption_image", {"image": handle[0].decode() if handle else ""})])
    told = results[-1] if len(set(results)) == 1 and len(results) == turn + 1 else "mixed up"
    return Said(f"{found[0] if found else '?'}, turn {turn}: {told}")


def mixing(seconds: float, folder: Path) -> dict[str, float]:
    """Conversations of three turns, side by side; how many there were, and how many went wrong."""
    upstream = BlindUpstream(mirror)
    drawn = [_png(seed, folder) for seed in range(40)]
    until = time.monotonic() + seconds
    counts = {"conversations": 0, "turns": 0, "wrong": 0}

    def converse(client: int) -> tuple[int, int, int]:
        number = turns = wrong = 0
        while time.monotonic() < until:
            mark = f"conversation {client * 1_000_000 + number}"
            data, truth = drawn[(client * 7 + number) % len(drawn)]
            picture = {"type": "image_url", "image_url": {"url": _uri(data)}}
            messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": mark}, picture]}]
            for turn in range(3):
                got = http.post(f"{url}{PATH}", json={"model": "m", "messages": messages}).json()
                said = got["choices"][0]["message"]["content"]
                turns, wrong = turns + 1, wrong + (said != f"{mark}, turn {turn}: caption: {truth}")
                messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"turn {turn + 1}"}]
            number += 1
        return number, turns, wrong

    try:
        with (
            command("proxy", "--upstream", upstream.url) as url,
            httpx2.Client(trust_env=False, timeout=300) as http,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            for number, turns, wrong in pool.map(converse, range(CLIENTS)):
                counts["conversations"] += number
                counts["turns"] += turns
                counts["wrong"] += wrong
    finally:
        upstream.end()
    return {**counts, "requests upstream": len(upstream.heard), "with a picture": len(upstream.pictures)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat_cost", description=__doc__)
    parser.add_argument("what", choices=("first-token", "throughput", "mixing"))
    parser.add_argument(
        "--times", type=int, default=200, help="requests of each kind for the first token (default 200)"
    )
    parser.add_argument("--rounds", type=int, default=6, help="rounds for the throughput (default 6)")
    parser.add_argument("--seconds", type=float, default=600, help="length of the mixing (default 600)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="blip2tools-chat-") as name:
        folder = Path(name).resolve()
        match arguments.what:
            case "first-token":
                found = first_token(arguments.times, folder)
            case "throughput":
                found = throughput(arguments.rounds, folder)
            case _:
                found = mixing(arguments.seconds, folder)
    for what, value in found.items():
        sys.stdout.write(f"{what}: {value:.4g}\n")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    sys.stdout.write(f"{date}, {os.cpu_count()} cores, load {load:.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
