"""The real server as a child: it gets the client's earlier messages, then the client's own pipes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from blip2tools.launcher.environment import server_variables
from blip2tools.launcher.front import Front, discovery
from blip2tools.launcher.wire import encoded

LEAVE_S = 3.0  # that the server may take to end after its input; it needs a fraction of them
_PIECE = 2**16
ALIVE = discovery("blip2tools-alive")  # the first request: its answer shows that the server is up


class Server:
    """One start of the server.

    Args:
        python: of its environment.
        arguments: of `blip2tools serve`.
        folder: its working directory.
        front: holds the client's first lines.
    """

    def __init__(self, python: str, arguments: Sequence[str], folder: Path, front: Front) -> None:
        self._front = front
        self.handed_over, self.drained = threading.Event(), threading.Event()
        self.said = ""  # the last line of its log
        # Isolated: nothing is imported from the working directory or PYTHONPATH.
        self.process = subprocess.Popen(
            [python, "-I", "-m", "blip2tools", "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=server_variables(),
        )
        self._input, self._output, self._errors = (
            cast("IO[bytes]", pipe) for pipe in (self.process.stdin, self.process.stdout, self.process.stderr)
        )
        for work in (self._log, self._begin):
            threading.Thread(target=work, daemon=True).start()

    def end(self) -> int:
        """Close its input and wait for its end; returns its status."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            return self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _log(self) -> None:
        for line in self._errors:
            self.said = line.decode(errors="replace").strip() or self.said
            with contextlib.suppress(OSError):
                os.write(2, line)

    def _begin(self) -> None:
        """Repeat the answered requests to it, drop its answers to them, then pass everything on both ways."""
        with contextlib.suppress(OSError, ValueError):  # it has ended, which its owner sees
            self._front.wait_for_client()
            self._say(encoded({"jsonrpc": "2.0", **ALIVE}))
            if not self._has_answered(ALIVE["id"]):
                return
            while fresh := self._front.replays():
                for message in fresh:
                    self._say(encoded({"jsonrpc": "2.0", **message}))
                    if "id" in message and not self._has_answered(message["id"]):
                        return
            self.handed_over.set()
            threading.Thread(target=self._answers, daemon=True).start()
            while piece := self._front.next_piece():
                self._say(piece)
        with contextlib.suppress(OSError, ValueError):
            self._input.close()

    def _say(self, piece: bytes) -> None:
        self._input.write(piece)
        self._input.flush()

    def _has_answered(self, number: str) -> bool:
        for line in self._output:
            message = json.loads(line)
            if message.get("id") == number and "method" not in message:
                return True
            self._front.pass_on(line)
        return False

    def _answers(self) -> None:
        while piece := self._output.read1(_PIECE):  # type: ignore[attr-defined]
            # A client that no longer reads will soon close its input, too.
            self._front.pass_on(piece)
        self.drained.set()
