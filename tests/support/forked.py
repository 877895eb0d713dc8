"""Commands in processes of their own, without the seconds that importing torch and transformers takes each time.

`start` takes a command line as `subprocess.Popen` does. One that runs this environment's Python with `-m` or `-c` is forked
from `tests.support.fork_server`, which has imported everything; every other one is started anew, and so is one whose
variables are read by what is imported. What a test says about starting itself, about memory, or about what is imported when,
needs a real start: `subprocess`.

    python tests/support/forked.py [-u] [-W error] -m MODULE WORD...

is the same for programs that are told a command to start: it stands in for `python`. So start the processes that share the
tests' work.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SOCKET, ENVIRONMENT = "TESTS_FORK_SERVER", "environment.json"
# A command line for those who want an interpreter's.
INTERPRETER = f"{shlex.quote(sys.executable)} {shlex.quote(__file__)}"
# When garbage is looked for: rarely, since a test makes little, and looking through all that torch makes takes long.
GARBAGE = (10_000, 20, 20)
# Variables that nothing reads while it is imported, but for this package's, pytest's, those that torch sets itself, and those
# that a forked process reads once more: the hub's and the encoding of its streams.
LATE = {
    "PYTHONIOENCODING",
    "TRANSFORMERS_OFFLINE",  # which nothing but this package heeds: transformers gets folders alone
    "LD_LIBRARY_PATH",  # which importing cv2 sets; what a forked process needs of it is loaded already
    "HOME",
    "PATH",
    "TERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "http_proxy",
    "ALL_PROXY",
    "USERPROFILE",
    "XDG_CONFIG_HOME",
    SOCKET,
}


class ForkServer:
    """The one server of a run of the tests; the processes that share the tests' work find it by a variable."""

    def __init__(self, *, at_once: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="blip2tools-forks-")
        path = str(Path(self._folder.name) / "socket")
        words = [sys.executable, "-m", "tests.support.fork_server", path, *(["--now"] if at_once else [])]
        root, environment = Path(__file__).parents[2], _environment()
        Path(path).with_name(ENVIRONMENT).write_text(json.dumps(environment))
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, cwd=root, env=environment)
        while not Path(path).exists():
            assert self._process.poll() is None, "the fork server did not start"
            time.sleep(0.01)
        os.environ[SOCKET] = path

    def end(self) -> None:
        del os.environ[SOCKET]
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def read_certificates_once() -> None:
    """Let HTTP clients share what they check certificates by: each would read the system's, for 25 ms of CPU."""
    import httpcore2

    httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)
    httpcore2.default_ssl_context(_trust_env=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(
    command: Sequence[str],
    *,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    cwd: Any = None,
    env: Mapping[str, str] | None = None,
    text: bool = False,
) -> Any:
    """A process like that of `subprocess.Popen` with these arguments."""
    options = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "cwd": cwd, "env": env}
    words, strict = list(command[1:]), False
    if words[0] == "-u":  # execnet's, which writes to the descriptor itself
        words = words[1:]
    if words[:2] == ["-W", "error"]:
        words, strict = words[2:], True
    server, given = os.environ.get(SOCKET), _environment() if env is None else dict(env)
    if server and command[0] == sys.executable and words[0] in ("-m", "-c") and not _read_at_import(server, given):
        return ForkedProcess(server, command, words, strict, **{**options, "env": given}, text=text)
    return subprocess.Popen(command, **options, text=text)


def run(command: Sequence[str], *, timeout: float = 250, **options: Any) -> subprocess.CompletedProcess[Any]:
    """The same as `subprocess.run`, which captures both outputs."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(command, **streams, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _read_at_import(server: str, given: Mapping[str, str]) -> bool:
    """Whether variables differ from those with which the server imported what it did."""
    was = json.loads(Path(server).with_name(ENVIRONMENT).read_text())
    changed = {name for name in was.keys() | given.keys() if was.get(name) != given.get(name)}
    return any(
        name not in LATE and not name.startswith(("BLIP2TOOLS_", "PYTEST_", "TORCHINDUCTOR_", "HF_"))
        for name in changed
    )


class ForkedProcess:
    """A child of the fork server; as much of `subprocess.Popen` as the tests use."""

    def __init__(
        self,
        server: str,
        command: Sequence[str],
        words: Sequence[str],
        strict: bool,
        *,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        cwd: Any,
        env: Mapping[str, str],
        text: bool,
    ) -> None:
        self.args = command
        self.returncode: int | None = None
        self._said, self._reading = b"", threading.Lock()
        ours: list[IO[Any] | None] = []
        theirs: list[int] = []
        for number, wanted in enumerate((stdin, stdout, stderr)):
            mine, its = _stream(number, wanted, text)
            ours.append(mine)
            theirs.append(its)
        self.stdin, self.stdout, self.stderr = ours
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server)
        order = {"words": list(words), "strict": strict, "cwd": str(Path(cwd or ".").resolve()), "env": dict(env)}
        message = json.dumps(order).encode() + b"\n"
        sent = socket.send_fds(self._connection, [message], theirs)
        self._connection.sendall(message[sent:])
        for one in theirs:
            os.close(one)
        self.pid = int(self._next(None)["pid"])

    def _next(self, timeout: float | None) -> dict[str, Any]:
        """The next line of the server; `TimeoutError` after so many seconds."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._said:
            more = self._connection.recv(4096)
            assert more, "the fork server is gone"
            self._said += more
        line, self._said = self._said.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait(self, timeout: float | None = None) -> int:
        with self._reading:
            if self.returncode is None:
                try:
                    self.returncode = int(self._next(timeout)["status"])
                except (TimeoutError, BlockingIOError):
                    raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
                self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._connection.sendall(b"%d\n" % number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `input`, read both outputs to their ends, and wait; `subprocess.TimeoutExpired` after so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        found: dict[int, Any] = {}

        def read(number: int, stream: IO[Any]) -> None:
            found[number] = stream.read()

        pairs = [(number, stream) for number, stream in ((1, self.stdout), (2, self.stderr)) if stream is not None]
        readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in pairs]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                if input:
                    self.stdin.write(input)
                self.stdin.close()
        for reader in readers:
            reader.join(None if until is None else max(0, until - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if until is None else max(0.01, until - time.monotonic()))
        for _, stream in pairs:
            stream.close()
        return found.get(1), found.get(2)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.wait()


def _stream(number: int, wanted: Any, text: bool) -> tuple[IO[Any] | None, int]:
    """Our end of a pipe, if it is one, and the child's descriptor."""
    if wanted is None:
        return None, os.dup(number)
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    if wanted != subprocess.PIPE:
        return None, os.dup(wanted if isinstance(wanted, int) else wanted.fileno())
    reads, writes = os.pipe()
    mine, its = (writes, reads) if number == 0 else (reads, writes)
    mode = ("w" if number == 0 else "r") + ("" if text else "b")
    return os.fdopen(mine, mode, encoding="utf-8" if text else None), its


def main(words: Sequence[str]) -> int:
    """Start the command as a child of the fork server, pass signals on, and end as it ends."""
    with start([sys.executable, *words]) as process:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: process.send_signal(number))
        status = process.wait()
    return int(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
