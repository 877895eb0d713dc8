"""The real server as a child: told what its client has said already, then joined to the client's own pipes."""

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

LEAVE_S = 3.0  # for the server, after the end of the input; it needs a fraction of that
_PIECE = 2**16
ALIVE = discovery("blip2tools-alive")  # asked first: it decides nothing, and the answer says that the server is up


class Server:
    """One start of the server.

    Args:
        python: of its environment.
        arguments: of `blip2tools serve`.
        folder: its working directory.
        front: has the client's first lines.
    """

    def __init__(self, python: str, arguments: Sequence[str], folder: Path, front: Front) -> None:
        self._front = front
        self.handed_over, self.drained = threading.Event(), threading.Event()
        self.said = ""  # the last line of its log
        # Isolated: the working directory and PYTHONPATH belong to others.
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
        """End it with its input; its status."""
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
        """Tell it what was said, drop its answers to that, then pass everything on both ways."""
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
            # Who does not listen any more will soon close the other side, too.
            self._front.pass_on(piece)
        self.drained.set()
