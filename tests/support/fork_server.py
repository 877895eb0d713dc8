"""A process that has imported what takes seconds to import, and forks a child for each command that a test starts.

    python -m tests.support.fork_server SOCKET [--now]

A child is a process of its own, with the standard streams, environment, folder and words it was given; it runs as by
`python -m MODULE` or `python -c CODE`, and ends as any other. Only its imports are done already. One connection is one
child: it carries the order, then the child's number, signals for it, and at last its status. Whoever closes the connection
kills the child; when the server's input ends, it kills all of them and ends. Its side in the tests is `tests.support.forked`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any

from tests.support.forked import read_certificates_once

DEFAULT_FILTERS = list(warnings.filters)


def import_all(*, for_tests: bool) -> None:
    """Every module of the package, and with them torch and transformers; clients that the tests use. No model, no thread."""
    import blip2tools

    gc.disable()  # all of this stays
    for found in pkgutil.walk_packages(blip2tools.__path__, "blip2tools."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError:
                continue  # an extra that is not here; whoever needs it will be told
    if for_tests:
        for name in ("anthropic", "langchain_openai", "openai"):
            importlib.import_module(name)
        read_certificates_once()
    import torch

    torch.set_num_threads(1)
    threads = len(list(Path("/proc/self/task").iterdir())) if sys.platform == "linux" else 1
    assert threads == 1, "a fork of a process with threads is not safe"
    gc.freeze()  # else the first collection in a child would write to every page
    gc.enable()


_STREAMS: list[Any] = []


class Child:
    """One forked process and the connection of whoever asked for it."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.connection, self.pid = connection, pid
        self.asked, self.deserted = b"", False

    def tell(self, **said: int) -> None:
        with contextlib.suppress(OSError):  # its owner is gone; then so is the child, soon
            self.connection.sendall(json.dumps(said).encode() + b"\n")


class Server:
    """The parent's side. `serve` returns twice: in each child with its order, and in the parent with `None`."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._wake, wakes = socket.socketpair()
        self._wake.setblocking(False)
        wakes.setblocking(False)
        self._wakes = wakes
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
        signal.set_wakeup_fd(wakes.fileno())
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._wake, sys.stdin.fileno()):
            self._selector.register(source, selectors.EVENT_READ)
        self._children: dict[int, Child] = {}
        self._imported = False

    def warm(self, *, for_tests: bool = False) -> None:
        if not self._imported:
            import_all(for_tests=for_tests)
            self._imported = True

    def serve(self) -> dict[str, Any] | None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    order = self._start(self._listener.accept()[0])
                    if order is not None:
                        return order
                elif key.fileobj is self._wake:
                    self._wake.recv(4096)
                    self._reap()
                elif isinstance(key.data, Child):
                    self._hear(key.data)
                else:
                    self._end()
                    return None

    def _start(self, connection: socket.socket) -> dict[str, Any] | None:
        """In the child: the order."""
        said, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
        while said and not said.endswith(b"\n"):
            said += connection.recv(2**16)
        if not said or len(streams) != 3:  # its owner has gone already
            connection.close()
            return None
        order: dict[str, Any] = json.loads(said)
        self.warm()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            self._selector.close()
            connection.close()
            for mine in (self._listener, self._wake, self._wakes, *(c.connection for c in self._children.values())):
                mine.close()
            os.closerange(3, max(streams) + 1)
            return order
        for stream in streams:
            os.close(stream)
        child = Child(connection, pid)
        self._children[pid] = child
        self._selector.register(connection, selectors.EVENT_READ, child)
        child.tell(pid=pid)
        return None

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid)
            if not child.deserted:
                self._selector.unregister(child.connection)
                child.tell(status=os.waitstatus_to_exitcode(status))
            child.connection.close()

    def _hear(self, child: Child) -> None:
        """Signals, one number a line; nothing any more where its owner is gone. Not yet reaped, so the number is its own."""
        if child.pid not in self._children:
            return  # reaped in this very turn
        try:
            said = child.connection.recv(4096)
        except OSError:
            said = b""
        if not said:
            os.kill(child.pid, signal.SIGKILL)
            self._selector.unregister(child.connection)
            child.deserted = True
            return
        *lines, child.asked = (child.asked + said).split(b"\n")
        for line in lines:
            os.kill(child.pid, int(line))

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def open_streams(encoding: str | None) -> None:
    """Standard streams for the descriptors that are there now: a stream remembers whether its first one could be sought in."""
    kept = sys.stdin, sys.stdout, sys.stderr
    _STREAMS.extend(kept)  # so that nothing is closed
    codes = [encoding or one.encoding for one in kept]
    sys.stdin = open(0, encoding=codes[0], errors=kept[0].errors, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=codes[1], errors=kept[1].errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding=codes[2], errors=kept[2].errors, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _of_the_hub() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("HF_")}


def _read_again() -> None:
    """The variables that the hub's client read when it was imported."""
    from huggingface_hub import constants, hf_api

    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT


def run_as(order: dict[str, Any]) -> None:
    """What `python -m MODULE` or `python -c CODE` does in a fresh process."""
    open_streams(order["env"].get("PYTHONIOENCODING"))
    words: list[str] = order["words"]
    before = _of_the_hub()
    os.environ.clear()
    os.environ.update(order["env"])
    if _of_the_hub() != before:
        _read_again()
    os.chdir(order["cwd"])
    sys.path[0] = "" if words[0] == "-c" else order["cwd"]
    if order["strict"]:
        for given in DEFAULT_FILTERS:
            if given in warnings.filters:
                warnings.filters.remove(given)  # type: ignore[attr-defined]
        warnings.simplefilter("error", append=True)
        sys.warnoptions.append("error")
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *words[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)


def end_as(order: dict[str, Any]) -> None:
    """Run it, wait for its threads, do what is to be done at its end, and leave all that was imported where it is.

    Taking torch apart would cost each child half a second, the pages of which it would first have to copy.
    """
    try:
        run_as(order)
        status = 0
    except SystemExit as ended:
        if not (ended.code is None or isinstance(ended.code, int)):
            raise
        status = ended.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # closed
            try:
                stream.flush()
            except OSError:
                status = status or 120  # as Python itself says it
    os._exit(status & 255)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    if "--now" in sys.argv:
        server.warm(for_tests=True)
    order = server.serve()
    if order is not None:
        end_as(order)
