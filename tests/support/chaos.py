"""Many clients, good and bad calls, and a server that is killed again and again.

    python -m tests.support.chaos --minutes 30 --clients 32 --kills 5 --json report.json

Each client has a picture of its own whose truth is known. Every call must end with the right answer, with one clear error of
the closed set, as cancelled because the client did so, or, while the server is away, with an error of the connection.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from blip2tools.demo.draw import draw
from blip2tools.demo.words import caption
from blip2tools.demo.world import sample_scene
from blip2tools.errors import ERROR_CODES
from blip2tools.server.mcp import ERROR_CODE_KEY
from tests.support.http_process import HttpProcess

CALL_S = 100.0  # a call that has not ended by then hangs: the server's own deadline is 60 s
AWAY_S = 15.0  # what a client may take to notice that the server has gone
FACES = ("json", "legacy", "json", "2026-07-28")
NUMBERS = ("one", "two", "three")


class Supervisor:
    """Keeps a server running on one port, and starts it again whenever it has ended."""

    def __init__(self, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._arguments = ("--port", str(self._port), *arguments)
        self.kills: list[float] = []
        self.away: list[tuple[float, float]] = []
        self.logs: list[str] = []
        self.statuses: list[int] = []
        self.url = f"http://127.0.0.1:{self._port}"
        self._stopping = threading.Event()
        self.process = self._start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _start(self) -> HttpProcess:
        process = HttpProcess(*self._arguments, ready=False)
        process.wait_until_ready(300)
        return process

    def _watch(self) -> None:
        while True:
            status = self.process.process.wait()
            self.process.end(None)
            self.statuses.append(status)
            self.logs.append(self.process.log)
            if self._stopping.is_set():
                return
            self.process = self._start()
            self.away.append((self.kills[len(self.away)], time.monotonic()))

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.kills.append(time.monotonic())
        self.process.process.send_signal(number)

    def was_away(self, begin: float, end: float) -> bool:
        """Whether the server was missing, or about to come back, at some time of a call."""
        still = [(gone, time.monotonic()) for gone in self.kills[len(self.away) :]]
        return any(begin <= back + AWAY_S and end >= gone for gone, back in [*self.away, *still])

    def end(self) -> None:
        self._stopping.set()
        self.kill(signal.SIGTERM)
        self._watcher.join(60)


@dataclass
class Report:
    """What the calls came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def count(self, kind: str, outcome: str, seconds: float, details: object = None) -> None:
        self.calls[kind] += 1
        self.outcomes[outcome] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if outcome.startswith("WRONG"):
            self.wrong.append(f"{kind}: {outcome}: {str(details)[:300]}")


@dataclass(frozen=True)
class Subject:
    """A client's picture, and what is true about it."""

    name: str
    truth: str
    things: int
    data: str


class Caller:
    """One client over one of the faces; `ask` gives (code, content)."""

    def __init__(self, url: str, face: str) -> None:
        self._url, self._face = url, face
        self._client: Any = None
        self._holder: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    async def ask(self, tool: str, arguments: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        await self._connect()
        if self._face == "json":
            path = {"caption_image": "caption", "ask_image": "ask", "match_image_text": "match"}[tool]
            answer = await self._client.post(f"{self._url}/api/{path}", json=arguments)
            said = answer.json()
            return (None if answer.status_code == 200 else said["code"]), said
        result = await self._client.call_tool(tool, arguments)
        return (result.meta[ERROR_CODE_KEY] if result.is_error else None), result.structured_content or {}

    async def _connect(self) -> None:
        if self._holder is not None:
            return
        connected = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._holder = asyncio.ensure_future(self._hold(connected))
        try:
            self._client = await connected
        except asyncio.CancelledError:
            await self.leave()
            raise

    async def _hold(self, connected: asyncio.Future[Any]) -> None:
        """The connection lives in a task of its own: where it was opened, there it is closed."""
        try:
            async with AsyncExitStack() as stack:
                http = await stack.enter_async_context(httpx2.AsyncClient(timeout=CALL_S, trust_env=False))
                client: Any = http
                if self._face != "json":
                    transport = streamable_http_client(f"{self._url}/mcp", http_client=http)
                    client = await stack.enter_async_context(Client(transport, mode=self._face))
                if not connected.done():
                    connected.set_result(client)
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001  handed to the caller
            if not connected.done():
                connected.set_exception(error)

    async def leave(self) -> None:
        """A connection that has failed is given up; the next call makes another."""
        holder, self._holder = self._holder, None
        self._leave.set()
        if holder is not None:
            await asyncio.wait([holder], timeout=5)
            holder.cancel()
            await asyncio.wait([holder], timeout=5)


def good_call(subject: Subject, chance: random.Random) -> tuple[str, dict[str, Any]]:
    image = chance.choice([subject.name, subject.name, subject.data])
    match chance.randrange(3):
        case 0:
            return "caption_image", {"image": image}
        case 1:
            return "ask_image", {"image": image, "question": "how many objects are there?", "choices": list(NUMBERS)}
        case _:
            return "match_image_text", {"image": image, "texts": [subject.truth, "a photo of a dog on a sofa"]}


def is_right(subject: Subject, tool: str, content: dict[str, Any]) -> bool:
    if tool == "caption_image":
        return content["text"] == subject.truth
    if tool == "ask_image":
        return content["answer"] == NUMBERS[subject.things - 1]
    return content["matches"][0]["text"] == subject.truth


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("caption_image", {"image": "missing.png"}, "not_found"),
    ("caption_image", {"image": "/etc/passwd"}, "not_allowed"),
    ("caption_image", {"image": "http://127.0.0.1/x.png"}, "not_allowed"),
    ("caption_image", {"image": "data:image/png;base64,AAAA"}, "unsupported_image"),
    ("caption_image", {"image": "broken.png"}, "corrupt_image"),
    ("ask_image", {"image": "missing.png", "question": "q" * 2000}, "invalid_input"),
    ("match_image_text", {"image": "missing.png", "texts": []}, "invalid_input"),
]


class Chaos:
    """A run: clients, kills, and a report."""

    def __init__(
        self, supervisor: Supervisor, subjects: list[Subject], minutes: float, kills: int, think_s: float
    ) -> None:
        self.report = Report()
        self._supervisor, self._subjects = supervisor, subjects
        self._seconds, self._kills, self._think_s = minutes * 60, kills, think_s

    async def run(self) -> None:
        until = time.monotonic() + self._seconds
        work = [asyncio.ensure_future(self._client(number, until)) for number in range(len(self._subjects))]
        for number in range(self._kills):
            await asyncio.sleep(self._seconds / (self._kills + 1))
            self._supervisor.kill(signal.SIGKILL if number % 3 < 2 else signal.SIGTERM)
        await asyncio.gather(*work)

    async def _client(self, number: int, until: float) -> None:
        chance, subject = random.Random(number), self._subjects[number]
        caller = Caller(self._supervisor.url, FACES[number % len(FACES)])
        while time.monotonic() < until:
            await asyncio.sleep(chance.random() * 2 * self._think_s)
            draw_of_lots = chance.random()
            kind = "good" if draw_of_lots < 0.7 else "bad" if draw_of_lots < 0.85 else "cancelled"
            if await self._one(kind, subject, caller, chance) in ("away", "WRONG: hangs"):
                await caller.leave()
                await asyncio.sleep(0.5)
        await caller.leave()

    async def _one(self, kind: str, subject: Subject, caller: Caller, chance: random.Random) -> str:
        tool, arguments, wanted = chance.choice(BAD) if kind == "bad" else (*good_call(subject, chance), None)
        began = time.monotonic()
        call = asyncio.ensure_future(caller.ask(tool, arguments))
        patience = chance.random() * 0.2 if kind == "cancelled" else CALL_S
        done, _ = await asyncio.wait([call], timeout=patience)
        if not done:
            call.cancel()
            await asyncio.wait([call], timeout=CALL_S)
        seconds = time.monotonic() - began
        outcome, details = self._judge(call, began, kind, (subject, tool, wanted))
        self.report.count(kind, outcome, seconds, details)
        return outcome

    def _judge(
        self, call: asyncio.Task[Any], began: float, kind: str, truth: tuple[Subject, str, str | None]
    ) -> tuple[str, object]:
        subject, tool, wanted = truth
        if not call.done():
            return "WRONG: hangs", tool
        if call.cancelled():
            return ("cancelled", None) if kind == "cancelled" else ("WRONG: no end in time", tool)
        error = call.exception()
        if error is not None:
            away = self._supervisor.was_away(began, time.monotonic())
            return ("away", None) if away else (f"WRONG: {type(error).__name__}", repr(error))
        code, content = call.result()
        if code is not None:
            if (
                code not in ERROR_CODES
                or code == "internal"
                or (wanted and code not in (wanted, "busy", "model_unavailable"))
            ):
                return f"WRONG: code {code}", content
            return f"error {code}", None
        right = wanted is None and is_right(subject, tool, content)
        return ("right", None) if right else ("WRONG: answer", (subject.truth, content))


def subjects_of(folder: Path, count: int) -> list[Subject]:
    """Pictures that all differ in what is true about them."""
    chance, found = random.Random(7), {}
    while len(found) < 2 * count:
        scene = sample_scene(chance, things=1 + len(found) % 3)
        truth = caption(scene)
        if truth in found:
            continue
        name = f"picture-{len(found)}.png"
        buffer = io.BytesIO()
        draw(scene).save(buffer, "PNG")
        (folder / name).write_bytes(buffer.getvalue())
        data = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        found[truth] = Subject(name, truth, len(scene.things), data)
    (folder / "broken.png").write_bytes(buffer.getvalue()[:200])
    return list(found.values())


async def known(subjects: list[Subject], url: str) -> list[Subject]:
    """Those that the model, left in peace, gets right by every question: its own mistakes are not what is measured."""
    right = []
    async with httpx2.AsyncClient(timeout=CALL_S, trust_env=False) as http:
        for subject in subjects:
            asked = {
                "caption": {"image": subject.name},
                "ask": {"image": subject.name, "question": "how many objects are there?", "choices": list(NUMBERS)},
                "match": {"image": subject.name, "texts": [subject.truth, "a photo of a dog on a sofa"]},
            }
            tools = {"caption": "caption_image", "ask": "ask_image", "match": "match_image_text"}
            answers = {verb: (await http.post(f"{url}/api/{verb}", json=body)).json() for verb, body in asked.items()}
            if all(is_right(subject, tools[verb], content) for verb, content in answers.items()):
                right.append(subject)
    return right


def run(*, minutes: float, clients: int, kills: int, think_s: float) -> dict[str, Any]:
    """One whole run; its figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        subjects = subjects_of(folder, clients)
        supervisor = Supervisor("--model", "demo", "--allow-dir", place, "--rate-limit", "0", "--keep-answers", "0")
        try:
            subjects = asyncio.run(known(subjects, supervisor.url))[:clients]
            assert len(subjects) == clients
            chaos = Chaos(supervisor, subjects, minutes, kills, think_s)
            asyncio.run(chaos.run())
        finally:
            supervisor.end()
    report = chaos.report
    return {
        "minutes": minutes,
        "clients": clients,
        "kills": kills,
        "restarts": len(supervisor.away),
        "statuses": supervisor.statuses,
        "calls": sum(report.calls.values()),
        "kinds": dict(report.calls),
        "outcomes": dict(sorted(report.outcomes.items())),
        "slowest_s": round(report.slowest_s, 1),
        "away_s": [round(back - gone, 1) for gone, back in supervisor.away],
        "tracebacks": sum(log.count("Traceback") for log in supervisor.logs),
        "faults": [found for log in supervisor.logs for found in re.findall(r"(?s).{0,200}Traceback.{0,6000}", log)][
            :5
        ],
        "wrong": report.wrong[:50],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--think", type=float, default=0.3, help="mean seconds between two calls of a client")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = run(minutes=arguments.minutes, clients=arguments.clients, kills=arguments.kills, think_s=arguments.think)
    text = json.dumps(report, indent=1)
    if arguments.json:
        arguments.json.write_text(text)
    sys.stdout.write(text + "\n")
    return 1 if report["wrong"] or report["restarts"] != report["kills"] else 0


if __name__ == "__main__":
    sys.exit(main())
