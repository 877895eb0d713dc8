"""The process that a side of `bench cpu` runs in, and what it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip2tools.errors import ModelUnavailableError


class Process:
    """The process of a side.

    Args:
        asked: what it is to load, see `cpu_side.serve`.

    Raises:
        ModelUnavailableError: it could not load that.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        program = "from blip2tools.cli.bench.cpu_side import main; main()"
        command = [sys.executable, "-c", program, json.dumps(asked)]
        self._side = str(asked["side"])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
        self.start = self._answer()

    def ask(self, case: str, seed: int = 0, **more: Any) -> dict[str, Any]:
        """The answer to one task; `more` is what only some tasks need, see `cpu_side.serve`."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps({"case": case, "seed": seed, **more}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            self.close()
            raise ModelUnavailableError(f"The side {self._side} ended with status {self._process.returncode}.")
        found: dict[str, Any] = json.loads(line)
        return found


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        name: for the report.
        model: folder of a captioner.
        matcher: folder of a matcher; None without one.
        captions: whether captions are measured: not of a captioner that only lends a matcher its vision tower.
    """

    name: str
    model: Path
    matcher: Path | None
    captions: bool

    def asked(self, side: str, plan: dict[str, Any]) -> dict[str, Any]:
        """The first line for the process of a side.

        Args:
            side: its name.
            plan: threads, and the folder for kept weights.
        """
        return {
            "side": side,
            "model": str(self.model),
            "matcher": None if self.matcher is None else str(self.matcher),
            "captions": self.captions,
            **plan,
        }
