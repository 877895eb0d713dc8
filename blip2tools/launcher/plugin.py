"""The server for a host that has nothing but Python: answers at once, installs what is missing, and hands over.

    python launch.py [--project FOLDER] [OPTION...]

The options are those of `blip2tools serve`. The project is the server's working directory: its pictures may be read unless
a setting names other folders. Without a project, only the folders that the settings name are open.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, cast

from blip2tools.launcher.catalogue import UNKNOWN_PLACES, Catalogue
from blip2tools.launcher.environment import PYTHON, Environment, find_environment, has_package
from blip2tools.launcher.front import Front
from blip2tools.launcher.server import Server
from blip2tools.launcher.wire import claim_stdin, claim_stdout

TICK_S = 0.1
TELL_S = 2.0  # between two notifications of progress
# Some clients wait only 10 s for a call, and an installation hardly takes less.
INSTALLING_S = 8.0
STARTING_S = 25.0  # by then most servers have started
AGAIN_S = (10.0, 60.0)  # from a failure to the next attempt: if there was a call, and if there was none

_URLS = ("1", "true", "yes", "on")
_BUILDING = "import sys; sys.path.insert(0, sys.argv[1]); from blip2tools.launcher.building import main; main()"
_ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str], plugin: Path | None = None) -> None:
    """Serve one client over standard input and output; when the input ends, so does the process.

    Args:
        arguments: of the command line.
        plugin: the plugin's folder.
    """
    words = list(arguments)
    project = None
    if "--project" in words[:-1]:
        at = words.index("--project")
        project = words[at + 1]
        del words[at : at + 2]
    Launcher(words, _working_directory(project, plugin), plugin).run()


def _working_directory(project: str | None, plugin: Path | None) -> Path:
    """The server's working directory: the project, else the folder in which the host started this; never the plugin's own."""
    if project and "${" not in project and Path(project).is_dir():
        return Path(project)
    here = Path.cwd()
    return Path.home() if plugin is not None and (plugin == here or plugin in here.parents) else here


class Launcher:
    """Connection of one client, from its first line to its last.

    Args:
        arguments: of `blip2tools serve`.
        folder: the server's working directory.
        plugin: the plugin's folder, with what is to be installed.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, plugin: Path | None) -> None:
        self._arguments, self._folder = arguments, folder
        self._builder: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        urls = "--allow-urls" in arguments or os.environ.get("BLIP2TOOLS_ALLOW_URLS", "").lower() in _URLS
        # The environment that the plugin makes cannot read text; a Python that the user names may.
        given = os.environ.get(PYTHON, "")
        reads = bool(given) and all(has_package(given, name) for name in ("rapidocr", "onnxruntime"))
        self._catalogue = Catalogue(places=UNKNOWN_PLACES, urls=urls, reads=reads)
        wire = claim_stdout()
        self._ended = threading.Event()
        self._front = Front(claim_stdin(), wire, self._catalogue, at_end=lambda waiting: self._ended.set())
        self._front.start()  # before anything that takes time
        self._environment = find_environment(self._catalogue.version, plugin)
        self._failure = ""
        self._doing = "it is being looked for"
        self._patience = STARTING_S
        self._told = time.monotonic()

    def run(self) -> None:
        """Serve until the process ends."""
        while True:
            python = self._environment.python()
            failure = self._build(self._environment) if python is None else self._serve(python)
            self._failure = failure
            if failure:
                self._wait_for_the_next_attempt()

    # ---- the environment ----

    def _build(self, environment: Environment) -> str:
        """Make the environment; returns the reason of a failure, or nothing."""
        self._patience, begun = INSTALLING_S, time.monotonic()
        said: dict[str, str] = {}
        order = {"folder": str(environment.folder), "name": environment.name, "need": environment.need}
        self._builder = builder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _BUILDING, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        asking, lines = cast("IO[bytes]", builder.stdin), cast("IO[bytes]", builder.stdout)
        asking.write(json.dumps({**order, "torch": self._catalogue.torch}).encode() + b"\n")
        asking.flush()

        def listen() -> None:
            for line in lines:
                said.update(json.loads(line))

        threading.Thread(target=listen, daemon=True).start()
        while builder.poll() is None:
            seconds = int(time.monotonic() - begun)
            self._doing = (
                f"it is being installed (once, a few minutes): {said.get('say', 'beginning')}, {seconds} s so far"
            )
            self._tick()
        self._builder = None
        if "ready" in said or environment.python():
            return ""
        return said.get("failed") or f"The installation ended early. The log is {environment.log}."

    # ---- the server ----

    def _serve(self, python: str) -> str:
        """Run the server and end with it; returns only to say why it could not start."""
        self._patience, self._doing = STARTING_S, "it is starting"
        try:
            self._server = server = Server(python, self._arguments, self._folder, self._front)
        except OSError as error:
            return f"{python} cannot be started: {error.strerror or 'unknown reason'}."
        while not server.handed_over.is_set():
            if server.process.poll() is not None:
                sentence = server.said.partition("blip2tools: ")[2]
                return sentence or f"The server ended at its start, with status {server.process.returncode}."
            self._tick()
        status = server.process.wait()
        server.drained.wait(1)
        os._exit(status if status >= 0 else 128 - status)

    # ---- meanwhile ----

    def _tick(self) -> int:
        """Wait a moment, then send progress and overdue answers; returns the number of answers."""
        if self._ended.wait(TICK_S):
            self._leave(0)
        if time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self._front.tell(f"The vision server is not there yet: {self._doing}.")
        if self._failure:
            return self._front.give_up(0, "model_unavailable", f"{self._failure} It is tried again: {self._doing}.")
        sentence = f"The vision server is not there yet: {self._doing}. Call again in half a minute."
        return self._front.give_up(self._patience, "busy", sentence)

    def _wait_for_the_next_attempt(self) -> None:
        self._doing = "soon"
        begun = time.monotonic()
        sys.stderr.write(f"blip2tools: {self._failure}\n")
        sys.stderr.flush()
        called = False
        while time.monotonic() - begun < AGAIN_S[0 if called else 1]:
            called = self._tick() > 0 or called

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # At once and without a lock, since this interrupts the main thread anywhere. Children end with their input.
        if self._server is not None:
            with contextlib.suppress(OSError):
                os.kill(self._server.process.pid, number)
        os._exit(128 + number)

    def _leave(self, status: int) -> None:
        if self._server is not None:
            self._server.end()
        if self._builder is not None:
            cast("IO[bytes]", self._builder.stdin).close()  # it ends with that, and cleans up
        os._exit(status)
