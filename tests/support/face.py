"""A server as its callers meet it, and what each of its answers has to keep to, whatever was asked."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from blip2tools.errors import ERROR_CODES
from blip2tools.schemas import plain
from blip2tools.schemas.shown import printable
from blip2tools.server.mcp import ERROR_CODE_KEY
from tests.conftest import StdioServer

MIB = 2**20

# What only the inside of a program says: addresses of objects, modules, classes of exceptions, numbers of the system.
_FOREIGN = re.compile(
    r"0x[0-9a-f]{3,}|_io\.|site-packages|Traceback|Errno|<class|object at|\bline \d+\b|\bNone\b|pydantic|httpx|httpcore|"
    r"\b(?:PIL|torch|anyio|asyncio)\.|\b\w+(?:Error|Exception|Warning)\b"
)
_IP = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\[?[0-9a-f]{1,4}:[0-9a-f:]*:[0-9a-f:.]*\]?")
_PATH = re.compile(r"(?<![\w:/<.~-])/[\w@~-][^\s\"',;)]*")
_URL = re.compile(r"\w+://\S*")


@dataclass(frozen=True)
class Answer:
    """What came back, and what it took."""

    code: str | None
    text: str
    content: dict[str, Any] | None
    seconds: float
    memory: int
    """Bytes by which the server's processes grew while they worked on it, at their peak."""


def foreign_text(text: str, *, given: Iterable[str] = (), folders: Sequence[Path] = ()) -> list[str]:
    """Whatever a message must not hold: insides of a program, addresses, and paths but those of `folders`.

    `given` is what the caller said himself, which may come back.
    """
    for said in sorted(map(str, given), key=len, reverse=True):
        if len(said) > 1:
            text = text.replace(said, "given")
    for folder in folders:
        text = text.replace(str(folder), "folder")
    text = _URL.sub("address", text)
    found = [match[0] for pattern in (_FOREIGN, _IP, _PATH) for match in pattern.finditer(text)]
    return found + [repr(char) for char in text if not char.isprintable() and char != "\n"]


def build_jail(world: Path, good: Path) -> Path:
    """`world/jail` is to be the allowed folder; `outside.png` and `jail-secret` beside it are not for its readers."""
    jail = world / "jail"
    (jail / "deep").mkdir(parents=True)
    shutil.copy(good, jail / "good.png")
    shutil.copy(good, jail / "deep" / "inner.png")
    (world / "jail-secret").mkdir()
    for secret in (world / "outside.png", world / "jail-secret" / "secret.png"):
        Image.new("RGB", (64, 64), "black").save(secret)
    (jail / "empty.png").write_bytes(b"")
    (jail / "notes.png").write_text("secret words that are no picture")
    if os.name == "posix":
        (jail / "link.png").symlink_to("../outside.png")
        (jail / "chain.png").symlink_to("link.png")
        (jail / "linked").symlink_to("../jail-secret")
        (jail / "loop.png").symlink_to("loop.png")
        (jail / "ring-a").symlink_to("ring-b")
        (jail / "ring-b").symlink_to("ring-a")
        (jail / "lost.png").symlink_to("../nothing.png")
        (jail / "inside.png").symlink_to("deep/inner.png")
        (jail / "hard.png").hardlink_to(world / "outside.png")
        (jail / "folder.png").mkdir()
        os.mkfifo(jail / "fifo.png")
        with (jail / "sparse.png").open("wb") as sparse:
            sparse.truncate(2**40)
    return jail


class Processes:
    """Memory, descriptors and threads of a process and of all that it has started (Linux)."""

    def __init__(self, pid: int) -> None:
        self._root = pid

    def pids(self) -> list[int]:
        found, todo = [], [self._root]
        while todo:
            pid = todo.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    todo += map(int, children.read_text().split())
                except OSError:
                    continue
        return found

    def resident(self) -> int:
        return self._sum("VmRSS")

    def peak(self) -> int:
        return self._sum("VmHWM")

    def begin_peak(self) -> None:
        """From here on `peak` counts anew."""
        for pid in self.pids():
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                continue

    def threads(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.pids())

    def descriptors(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids())

    def _sum(self, name: str) -> int:
        total = 0
        for pid in self.pids():
            try:
                found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            except OSError:
                continue
            total += int(found[1]) * 1024 if found else 0
        return total


class Face:
    """One running stdio server, a picture whose caption is known, and the folder that it lies in."""

    def __init__(self, server: StdioServer, picture: str, caption: str, folders: Sequence[Path]) -> None:
        self.server = server
        self.processes = Processes(server.process.pid)
        self.folders = folders
        self._picture, self._caption = picture, caption
        until = time.monotonic() + 100
        while not self.works("vision_status")["loaded"]:  # on a busy machine that takes its time
            assert time.monotonic() < until, server.log
            time.sleep(0.1)
        for _ in range(3):
            self.healthy()

    def ask(self, tool: str, arguments: Any, timeout: float = 200) -> Answer:
        """One call with whatever arguments; its code, time and memory."""
        before = self.processes.resident()
        self.processes.begin_peak()
        began = time.monotonic()
        message = self.server.request("tools/call", timeout, name=tool, arguments=arguments)
        seconds = time.monotonic() - began
        memory = self.processes.peak() - before
        if "error" in message:
            text, content = message["error"]["message"], None
            if text == "Invalid request parameters":  # the SDK's own words for arguments that are no object
                text = "invalid_input: The arguments are no object."
            code = text.partition(":")[0]
        else:
            result = message["result"]
            (block,) = result["content"]
            text, content = block["text"], result.get("structuredContent")
            code = result["_meta"][ERROR_CODE_KEY] if result.get("isError") else None
            assert (content is None) == (code is not None)
        return Answer(code, text, content, seconds, memory)

    def judge(self, tool: str, arguments: Any) -> Answer:
        """One call whose answer may be anything lawful: a result, or one clear error of the closed set."""
        answer = self.ask(tool, arguments)
        if answer.code is not None:
            assert answer.code in ERROR_CODES, answer.text[:300]
            assert answer.code != "internal", answer.text[:300] + self.server.log[-3000:]
            sentence = answer.text.removeprefix(f"{answer.code}: ")
            assert sentence != answer.text
            assert sentence[0].isupper()
            assert sentence[-1] in ".?"
            assert "\n" not in sentence
            assert len(sentence) < 600
            assert not foreign_text(sentence, given=_texts([tool, arguments]), folders=self.folders), sentence
        return answer

    def judged(self, tool: str, **arguments: Any) -> Answer:
        """The same with arguments by name."""
        return self.judge(tool, arguments)

    def refused(
        self, codes: str | Sequence[str], tool: str = "caption_image", *, within: float = 3, **arguments: Any
    ) -> Answer:
        """One call that must fail with one of `codes`, soon, for little memory, and leave the next call unharmed."""
        answer = self.judged(tool, **arguments)
        assert answer.code in ((codes,) if isinstance(codes, str) else codes), answer.text[:300]
        assert answer.seconds < within
        assert answer.memory < 50 * MIB
        self.healthy()
        return answer

    def works(self, tool: str = "caption_image", **arguments: Any) -> dict[str, Any]:
        """One call that must succeed; its structured content."""
        answer = self.ask(tool, arguments)
        assert answer.code is None, answer.text[:300]
        assert answer.content is not None
        return answer.content

    def healthy(self) -> None:
        """The next good call gives the right answer."""
        assert self.works(image=self._picture)["text"] == self._caption


def _texts(value: Any) -> list[str]:
    """Every string in some arguments, names included, as a message may quote them."""
    if isinstance(value, str):
        value = value[:10_000]  # no message quotes more than a few hundred characters
        shown = [printable(form, limit) for form in (value, value.removeprefix("@")) for limit in (80, 200)]
        return [value, value.removeprefix("@"), plain(value), plain(value)[:64], *shown]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in _texts(part)]
    return [text for part in value[:100] for text in _texts(part)] if isinstance(value, list) else []
