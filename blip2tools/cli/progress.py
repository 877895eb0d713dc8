"""How far a long job over pictures is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Final, Self

from blip2tools.cli.console import say

EVERY_S: Final = 30.0  # between two lines of a log


class Progress:
    """Counts pictures and tells of them on standard error.

    Args:
        total: pictures in all.
        before: how many of them an earlier run has done.
        every_s: seconds between two lines, where standard error is no terminal.
    """

    def __init__(self, total: int, before: int, *, every_s: float = EVERY_S) -> None:
        from tqdm import tqdm

        self.done = self.failed = 0
        self._total = total
        self._before = before
        self._every_s = every_s
        self._started = self._told = time.monotonic()
        self._bar = tqdm(
            desc="pictures",
            total=total,
            initial=before,
            unit="",
            file=sys.stderr,
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def start(self) -> None:
        """Now the pictures begin: what came before, the model's loading, says nothing about the time they take."""
        self._started = self._told = time.monotonic()
        self._bar.unpause()

    def step(self, *, failed: bool = False) -> None:
        """One more picture is done."""
        self.done += 1
        self.failed += failed
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._told >= self._every_s:
            self._told = now
            say(self.line())

    def line(self) -> str:
        """Done, of how many, how fast, how many have failed, and how long it will still take."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rate = self.done / seconds
        done = self._before + self.done
        failed = f", {self.failed:,} failed" if self.failed else ""
        left = f", {_clock((self._total - done) / rate)} left" if rate and done < self._total else ""
        return f"{done:,} of {self._total:,} pictures{failed}, {rate:.1f} a second{left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
