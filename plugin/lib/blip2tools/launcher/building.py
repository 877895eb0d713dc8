"""Process that makes the environment next to its final place and moves it there when it is complete; it ends with its owner.

It writes one line of JSON to standard output for each message: `{"say": ...}`, and at the end `{"ready": true}` or
`{"failed": ...}`. When standard input ends, the owner is gone: the installer is ended, and what it has made is removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from blip2tools.launcher.environment import (
    Environment,
    find_python,
    find_uv,
    isolated_variables,
    python_of,
    torch_index,
)

PART = ".part"  # ends the name of an environment that is being made
ROOM = 2_500_000_000  # bytes that an environment may take while it is made

_DOWNLOADING = re.compile(r"\s*Downloading (\S+?)(?:-[0-9]\S*)? \((\d[^)]*)\)")
_REASONS = (
    ("No space left|not enough space|disk full", "There is not enough room on the disk; it needs about 2 GB."),
    (
        "No matching distribution found for blip2tools|blip2tools.* not found in the package registry|no version of blip2tools",
        "The package index does not have this version of blip2tools; use a plugin that was built with its wheel.",
    ),
    (
        "NewConnectionError|ConnectionError|Connection refused|resolve host|name resolution|dns error|error sending request"
        "|timed out|Failed to fetch|ProxyError|SSLError|CERTIFICATE",
        "The package index cannot be reached; look at the network, the proxy and the certificates.",
    ),
    (
        "No matching distribution|ResolutionImpossible|No solution found|not found in the package registry",
        "The package index has no build of a package that is needed for this system and this Python.",
    ),
    ("Permission denied|Read-only file system|Access is denied", "The folder {folder} cannot be written to."),
    (
        "ensurepip|No module named venv",
        "This Python cannot make environments; install uv, or the package python3-venv.",
    ),
)


class BuildError(Exception):
    """Reason why the environment could not be made, as one sentence."""


def main() -> None:
    """Build the environment that the first line of standard input describes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for its owner, and this ends with that
        signal.signal(number, lambda *_: None)
    order = json.loads(sys.stdin.readline())
    environment = Environment(Path(order["folder"]), order["name"], order["need"])
    build = Build(environment, order["torch"])
    threading.Thread(target=_end_with_owner, args=(build,), daemon=True).start()
    try:
        build.run()
    except BuildError as error:
        _tell(failed=str(error))
    except OSError as error:
        _tell(failed=build.reason(error.strerror or ""))
    else:
        _tell(ready=True)


def _end_with_owner(build: Build) -> None:
    sys.stdin.read()
    build.abandon()
    os._exit(1)


def _tell(**said: Any) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(said).encode() + b"\n")


class Build:
    """One attempt to make an environment.

    Args:
        environment: the one to make.
        torch: the requirement whose small build is installed first.
    """

    def __init__(self, environment: Environment, torch: str) -> None:
        self._environment, self._torch = environment, torch
        self._part = environment.folder / f"{environment.name}-{os.getpid()}{PART}"
        self._process: subprocess.Popen[str] | None = None
        self._abandoned = False
        self._ending = threading.Lock()
        self._lock = -1

    def run(self) -> None:
        """Make the environment, unless another process has made it meanwhile.

        Raises:
            BuildError: why it could not be made.
            OSError: the folder cannot be used.
        """
        folder = self._environment.folder
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock", lambda: _tell(say="another start of it is installing the server")) as self._lock:
            if self._environment.python():
                return
            for rest in folder.glob(f"*{PART}"):
                _remove(rest)
            if shutil.disk_usage(folder).free < ROOM:
                raise BuildError("There is not enough room on the disk; it needs about 2 GB.")
            try:
                with self._environment.log.open("w", encoding="utf-8", errors="replace") as log:
                    self._install(log)
                place = self._environment.place
                if place.exists():  # an environment whose Python is gone
                    place.rename(self._part.with_name(f"old-{self._part.name}"))
                self._part.rename(place)
            finally:
                for rest in folder.glob(f"*{PART}"):
                    _remove(rest)

    def abandon(self) -> None:
        """End the installer, and remove what it has made."""
        with self._ending:
            self._abandoned = True
            if self._process is not None:
                _end(self._process)
                self._process.wait()
        _remove(self._part)

    def _install(self, log: IO[str]) -> None:
        uv = find_uv()
        if uv is not None:
            this = [] if find_python() is None else ["--python", str(find_python())]
            make = [uv, "venv", "--no-project", *(this or ["--python", ">=3.11"]), str(self._part)]
            install = [uv, "pip", "install", "--python", str(python_of(self._part))]
            self._do(log, _MAKING, make)
        elif (python := find_python()) is not None:
            pip = self._make_with_venv(log, python)
            install = [*pip, "install", "--disable-pip-version-check", "--no-input"]
        else:
            raise BuildError("It needs Python 3.11 or newer, or uv, which would fetch one.")
        if (index := torch_index()) is not None:
            # `--index-url` of uv gives way to the variable UV_DEFAULT_INDEX, its newer name for the same does not.
            own = ["--default-index", index] if uv else ["--index-url", index, "--retries", "1", "--timeout", "20"]
            self._small_torch(log, [*install, *own])
        self._do(log, "step 3 of 3, fetching packages", [*install, self._environment.need])
        self._do(log, "step 3 of 3, trying it", [str(python_of(self._part)), "-I", "-c", _TRY])
        _relocate(self._part, self._environment.place)

    def _make_with_venv(self, log: IO[str], python: str) -> list[str]:
        """Make a bare environment; returns the pip that installs into it."""
        make = [python, "-I", "-m", "venv"]
        self._do(log, _MAKING, [*make, "--without-pip", str(self._part)])
        # To put a pip into it takes 3 s of CPU; a pip of 22.3 or newer that is there already can do its work.
        pip = [python, "-I", "-m", "pip", "--python", str(python_of(self._part))]
        if self._do(log, _MAKING, [*pip, "--version"], must=False):
            return pip
        self._do(log, _MAKING, [*make, str(self._part)])
        return [str(python_of(self._part)), "-I", "-m", "pip"]

    def _small_torch(self, log: IO[str], install: Sequence[str]) -> None:
        """Install torch's small build; if that fails, the packages bring the ordinary one, which is gigabytes larger."""
        self._do(log, "step 2 of 3, fetching torch", [*install, "--no-deps", self._torch], must=False)

    def _do(self, log: IO[str], what: str, command: Sequence[str], *, must: bool = True) -> bool:
        """Run one command and report its progress; returns whether it succeeded.

        Raises:
            BuildError: it must succeed, and did not.
        """
        _tell(say=what)
        log.write(f"$ {' '.join(command)}\n")
        with self._ending:
            if self._abandoned:
                raise BuildError("Nobody waits for it any more.")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                cwd=self._environment.folder,
                env=isolated_variables(),
                start_new_session=True,
                # If this process is killed, no other one begins before the installer has ended.
                pass_fds=(self._lock,) if os.name == "posix" else (),
            )
        seen, said = 0, []
        for line in cast("IO[str]", self._process.stdout):
            log.write(line)
            said.append(line)
            if "Collecting " in line or line.startswith(" + "):
                seen += 1
            found = _DOWNLOADING.match(line)
            if seen or found:
                _tell(
                    say=what + (f", package {seen}" if seen else "") + (f", {found[1]} ({found[2]})" if found else "")
                )
        status = self._process.wait()
        if status and must:
            raise BuildError(self.reason("".join(said), status))
        return status == 0

    def reason(self, said: str, status: int | None = None) -> str:
        """The sentence that stands for an installer's output or a system error; the output itself is not passed on."""
        for pattern, sentence in _REASONS:
            if re.search(pattern, said, re.IGNORECASE):
                return sentence.format(folder=self._environment.folder)
        ended = "" if status is None else f" The installer ended with status {status}."
        return f"The environment could not be made.{ended} The log is {self._environment.log}."


_MAKING = "step 1 of 3, making an environment"
_TRY = "import importlib.metadata, mcp, blip2tools; importlib.metadata.version('torch')"


def _relocate(part: Path, place: Path) -> None:
    """Write the environment's final place into its scripts."""
    for script in python_of(part).parent.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        if b"\0" not in content and (meant := content.replace(os.fsencode(part), os.fsencode(place))) != content:
            script.write_bytes(meant)


def _remove(folder: Path) -> None:
    # An installer that is ending may still write into it.
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and its children."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


@contextlib.contextmanager
def _alone(path: Path, waiting: Callable[[], None]) -> Iterator[int]:
    """Hold a lock, so that one process works at a time. The system releases it when its holders end, however they end."""
    with path.open("a+b") as file:
        while not _locked(file):
            waiting()
            time.sleep(0.5)
        yield file.fileno()


def _locked(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
