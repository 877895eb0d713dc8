"""What the proxy adds to the time until the first token, and what the vision endpoint serves beside MCP.

    latency       time until the first token of a streamed answer of a scripted upstream, asked directly and through the proxy, by
                  turns: without a picture, and with one that was seen before
    throughput    captions for 32 clients at once, each with a picture of its own: OpenAI's client at the endpoint, and MCP's, by
                  turns against one server
    mixing        32 conversations at once, each about a picture of its own, for a while: none may get another's words

    python -m benchmarks.chat_cost                                   all of it, about a quarter of an hour
    python -m benchmarks.chat_cost --only mixing --minutes 1

The proxy and the server are processes of their own, as users run them; the upstream is a thread of this one. Every wait has an
end: what fails is counted, or ends the program with a status of 1. Mixed words do so, too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import datetime
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
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
START_S, CALL_S, END_S = 180.0, 60.0, 30.0  # the longest that anything may take
ROUND_S: Final = 300.0


@contextlib.contextmanager
def command(*words: str, folder: Path) -> Iterator[str]:
    """A command of this package that serves, without a rate limit; gives its address once the model is loaded.

    Raises:
        RuntimeError: it does not start in time; with the end of its log.
    """
    options = ("--port", "0", "--model", "demo", "--threads", "1", "--rate-limit", "0")
    path = folder / "log"
    with path.open("wb") as log:
        started = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "blip2tools", *words, *options],
            stdin=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield _ready(started, path)
    finally:
        started.terminate()
        try:
            started.wait(END_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _ready(started: subprocess.Popen[bytes], log: Path) -> str:
    """The address of a server, when it is ready."""
    until = time.monotonic() + START_S
    with httpx2.Client(trust_env=False, timeout=CALL_S) as client:
        while time.monotonic() < until and started.poll() is None:
            text = log.read_text(encoding="utf-8", errors="replace")
            found = re.search(r"at (http://[^/\s]+)/", text)
            if found and client.get(f"{found[1]}/readyz").status_code == 200:
                return found[1]
            time.sleep(0.2)
    raise RuntimeError(f"the server was not ready; its log ends with: {log.read_text(errors='replace')[-500:]}")


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
        with (
            command("proxy", "--upstream", upstream.url, folder=folder) as url,
            httpx2.Client(trust_env=False, timeout=CALL_S) as http,
        ):
            for number in range(times + 5):
                for kind, content in bodies.items():
                    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": content}]}
                    sent = json.dumps(body).encode()
                    for way, address in (("direct", upstream.url), ("proxy", url)):
                        begun = time.perf_counter()
                        head = {"content-type": "application/json"}
                        with http.stream("POST", f"{address}{PATH}", content=sent, headers=head) as answer:
                            answer.raise_for_status()
                            pieces = answer.iter_bytes()
                            next(pieces)
                            spent = 1000 * (time.perf_counter() - begun)
                            deque(pieces, maxlen=0)
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
    with command("serve", "--http", "--no-ui", "--keep-answers", "0", folder=folder) as url:
        for number in range(rounds):
            pictures = [_png(1000 * number + other, folder)[0] for other in range(2 * CLIENTS)]
            order = ("openai", "mcp") if number % 2 else ("mcp", "openai")
            for index, way in enumerate(order):
                mine = pictures[index * CLIENTS : (index + 1) * CLIENTS]
                work = _of_openai(url, mine) if way == "openai" else _of_mcp(url, mine)
                spent = asyncio.run(asyncio.wait_for(work, ROUND_S))
                rates[way].append(4 * CLIENTS / spent)
    found = {f"{way}, captions a second": statistics.median(taken) for way, taken in rates.items()}
    ratios = [one / other for one, other in zip(rates["openai"], rates["mcp"], strict=True)]
    return {**found, "openai / mcp, each round": statistics.median(ratios)}


async def _of_openai(url: str, pictures: Sequence[bytes]) -> float:
    clients = [openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=CALL_S) for _ in pictures]

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
            http = await stack.enter_async_context(httpx2.AsyncClient(timeout=CALL_S, trust_env=False))
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
    """Conversations of three turns, side by side; how many there were, and how many turns went wrong.

    What a picture's conversation should say is what one said that was alone: whether the caption is right does not matter here.
    """
    upstream = BlindUpstream(mirror)
    drawn = [_uri(data) for data, _ in _distinct(CLIENTS + 8, folder)]
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def converse(mark: str, picture: str, truth: str | None) -> str:
        """One conversation; what was seen in it."""
        block = {"type": "image_url", "image_url": {"url": picture}}
        messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": mark}, block]}]
        seen = ""
        for turn in range(3):
            got = http.post(f"{url}{PATH}", json={"model": "m", "messages": messages})
            got.raise_for_status()
            said = str(got.json()["choices"][0]["message"]["content"])
            head, _, seen = said.partition(": ")
            wrong = head != f"{mark}, turn {turn}" or seen == "mixed up" or (truth is not None and seen != truth)
            with lock:
                counts.update(turns=1, mixed=wrong)
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"turn {turn + 1}"}]
        return seen

    def keep_on(client: int) -> None:
        number = 0
        while time.monotonic() < until:
            one = (client * 7 + number) % len(drawn)
            try:
                converse(f"conversation {client * 1_000_000 + number}", drawn[one], truths[one])
            except (httpx2.HTTPError, ValueError, KeyError, TypeError):
                with lock:
                    counts.update(failed=1)
                time.sleep(0.1)
            with lock:
                counts.update(conversations=1)
            number += 1

    try:
        with (
            command("proxy", "--upstream", upstream.url, folder=folder) as url,
            httpx2.Client(trust_env=False, timeout=CALL_S) as http,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            truths = [converse(f"conversation {10**9 + number}", one, None) for number, one in enumerate(drawn)]
            counts.update(
                {name: -counts[name] for name in ("conversations", "turns", "mixed", "failed")}
            )  # these were alone
            until = time.monotonic() + seconds
            for done in [pool.submit(keep_on, client) for client in range(CLIENTS)]:
                done.result()
    finally:
        upstream.end()
    return {
        **counts,
        "distinct captions": len(set(truths)),
        "requests upstream": len(upstream.heard),
        "with a picture": len(upstream.pictures),
    }


def _distinct(count: int, folder: Path) -> list[tuple[bytes, str]]:
    """Pictures whose captions all differ: else mixed words would not show."""
    found: dict[str, bytes] = {}
    for seed in itertools.count():
        data, truth = _png(seed, folder)
        found.setdefault(truth, data)
        if len(found) == count:
            return [(data, truth) for truth, data in found.items()]
    raise AssertionError  # the count has no end


SECTIONS: Final = ("latency", "throughput", "mixing")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 1 if a conversation got another's words or none, or a server did not start; else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chat_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this part; may be given again")
    parser.add_argument("--times", type=int, default=200, help="requests of each kind for the latency (default 200)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds for the throughput (default 6)")
    parser.add_argument("--minutes", type=float, default=10, help="length of the mixing (default 10)")
    arguments = parser.parse_args(argv)
    status = 0
    for section in arguments.only or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="blip2tools-chat-") as name:
            folder = Path(name).resolve()
            try:
                match section:
                    case "latency":
                        found = first_token(arguments.times, folder)
                    case "throughput":
                        found = throughput(arguments.rounds, folder)
                    case _:
                        found = mixing(60 * arguments.minutes, folder)
            except (RuntimeError, TimeoutError, httpx2.HTTPError, openai.OpenAIError) as error:
                found = {}
                status = 1
                sys.stdout.write(f"{section}: {type(error).__name__}: {error}\n")
        status = 1 if found.get("mixed") or found.get("failed") or found.get("with a picture") else status
        for what, value in found.items():
            sys.stdout.write(
                f"{section}, {what}: {value:.4g}\n" if isinstance(value, float) else f"{section}, {what}: {value}\n"
            )
        sys.stdout.flush()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    sys.stdout.write(f"{date}, {os.cpu_count()} cores, load {load:.1f}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
