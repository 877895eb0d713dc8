"""Pictures whose truth is known, and one loaded `Vision` for all tests that only look."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blip2tools.settings import environment_without_settings
from tests.support import forked

REPOSITORY = Path(__file__).parent.parent

# The tests decide what is set: a developer's own variables must not change an outcome.
for _name in [name for name in os.environ if name.startswith("BLIP2TOOLS_")]:
    del os.environ[_name]
# Where there is no GPU, its kernels are run by an interpreter, which has to be known before Triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
# What is remembered about models is remembered for this run of the tests alone.
_cache = tempfile.TemporaryDirectory(prefix="blip2tools-tests-")
os.environ["BLIP2TOOLS_CACHE_DIR"] = _cache.name
# A command must not be answered by whatever server another test runs.
os.environ["BLIP2TOOLS_USE_SERVER"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["BLIP2TOOLS_CONFIG"] = os.devnull
# What a test starts anew should read what it imports, not compile it each time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# All that is imported while the tests are collected stays: to look through it for garbage again and again takes seconds.
gc.disable()

forked.read_certificates_once()

# A shell's background jobs ignore interrupts, and so would every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput") and hasattr(os, "fork") and not config.option.collectonly:
        workers = len(getattr(config.option, "tx", None) or [])
        config.fork_server = forked.ForkServer(at_once=workers > 0)
        if workers:  # which need what the server has imported, too
            gc.enable()
            config.option.tx = [f"popen//python={forked.INTERPRETER}"] * workers


def pytest_unconfigure(config) -> None:
    if hasattr(config, "fork_server"):
        config.fork_server.end()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)
    gc.enable()
    gc.set_threshold(*forked.GARBAGE)


@pytest.fixture(scope="module", autouse=True)
def what_is_there_stays() -> None:
    """Each model that is closed collects garbage: up to half a second among all that tests have imported, and share."""
    gc.collect(1)
    gc.freeze()


def handle_of(data: bytes) -> str:
    """The handle of a picture's encoded bytes."""
    return f"img_{hashlib.sha256(data).hexdigest()[:16]}"


@dataclass(frozen=True)
class Drawn:
    """A picture file and what is in it."""

    path: Path
    caption: str
    scene: Any


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Drawn]:
    """Six fresh pictures of one to three shapes."""
    from blip2tools.demo.draw import draw
    from blip2tools.demo.words import caption
    from blip2tools.demo.world import sample_scene

    folder = tmp_path_factory.mktemp("pictures")
    chance = random.Random(20261123)
    drawn = []
    for number in range(6):
        scene = sample_scene(chance, things=1 + number % 3)
        path = folder / f"picture-{number}.png"
        draw(scene).save(path)
        drawn.append(Drawn(path, caption(scene), scene))
    return drawn


@pytest.fixture(scope="session")
def picture(pictures) -> Drawn:
    return pictures[0]


@pytest.fixture(scope="session")
def folder(pictures) -> Path:
    """The one folder that the tests' tools may read."""
    return pictures[0].path.parent


@pytest.fixture(scope="session")
def vision(folder):
    """The demo checkpoint, allowed to read the pictures' folder."""
    from blip2tools import Vision

    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1) as eyes:
        yield eyes


class StdioServer:
    """A real server process, driven line by line; `fresh` where the start itself matters (see `tests.support.forked`)."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        program: tuple[str, ...] = ("blip2tools",),
        prefix: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> None:
        clean = environment_without_settings(keep=["cache_dir", "use_server"])
        command = [*prefix, sys.executable, "-m", *program, "serve", *arguments]
        self._start(command, cwd, {**clean, "OMP_NUM_THREADS": "1", **(env or {})}, fresh=fresh)

    def _start(
        self, command: list[str], cwd: Path | None, env: dict[str, str], *, fresh: bool = True, **more: Any
    ) -> None:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = (subprocess.Popen if fresh else forked.start)(command, **streams, cwd=cwd, env=env, **more)
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.raw: list[bytes] = []
        self.errors: list[bytes] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._id = 0

    def _read(self) -> None:
        for line in self.process.stdout:
            self.raw.append(line)
            self.lines.put(line)

    def _read_errors(self) -> None:
        self.errors.extend(self.process.stderr)

    def send(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, timeout: float = 200, **params: Any) -> dict[str, Any]:
        self._id += 1
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        return self.response(self._id, timeout)

    @property
    def asked(self) -> int:
        """Requests that were sent; `call` calls again while the model is not ready."""
        return self._id

    def response(self, number: int, timeout: float = 200) -> dict[str, Any]:
        while True:
            message = json.loads(self.lines.get(timeout=timeout))
            if message.get("id") == number:
                return message

    def initialize(self) -> dict[str, Any]:
        answer = self.request(
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": "test", "version": "0"},
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer["result"]

    def call(self, name: str, timeout: float = 200, **arguments: Any) -> dict[str, Any]:
        while True:
            result = self.request("tools/call", timeout, name=name, arguments=arguments)["result"]
            if "The model is not ready yet" not in json.dumps(result.get("content")):
                return result  # else the machine is slow: it says to call again

    def end(self, timeout: float = 200) -> int:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    @property
    def log(self) -> str:
        return b"".join(self.errors).decode()


@pytest.fixture(scope="session")
def jail(tmp_path_factory, picture) -> Path:
    """An allowed folder with one good picture, and next to it things that must stay out of reach."""
    from tests.support.face import build_jail

    return build_jail(tmp_path_factory.mktemp("world"), picture.path)


@pytest.fixture(scope="session")
def face(jail, picture) -> Iterator[Any]:
    """One real stdio server over the jail, for every case that only needs some server."""
    from tests.support.face import Face

    server = StdioServer(
        *("--model", "demo", "--allow-dir", str(jail), "--threads", "1", "--preload"),
        cwd=jail.parent,
        env={"HOME": str(jail.parent)},
    )
    server.initialize()
    yield Face(server, "good.png", picture.caption, [jail])
    assert server.end() == 0
    assert "Traceback" not in server.log
    for line in server.raw:
        assert json.loads(line)["jsonrpc"] == "2.0"


@pytest.fixture
def start_server() -> Iterator[Any]:
    """Starts real servers and ends whatever still runs."""
    started: list[StdioServer] = []

    def start(*arguments: str, **options: Any) -> StdioServer:
        server = StdioServer(*arguments, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
        server.end()


def run_cli(
    *words: str, cwd: Path | None = None, env: dict[str, str] | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """The real command line in a process of its own; `fresh` where the start itself matters (see `tests.support.forked`)."""
    clean = environment_without_settings(keep=["cache_dir", "use_server"])
    command = [sys.executable, "-W", "error", "-m", "blip2tools", *words]
    environment = {**clean, "OMP_NUM_THREADS": "1", **(env or {})}
    if fresh:
        return subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=cwd, env=environment)
    return forked.run(command, text=True, timeout=250, cwd=cwd, env=environment)
