"""The output of commands: results, messages, a progress bar, and exit statuses."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from blip2tools.errors import InvalidInputError, VisionError

OK, SOME_FAILED, USAGE, NO_MODEL, INTERRUPTED = 0, 1, 2, 3, 130


class Bar:
    """A progress bar on standard error, where that is a terminal. Standard output stays clean for pipes."""

    def __init__(self, what: str, total: int | None = None, *, show: bool = True) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=what, total=total or 100, file=sys.stderr, leave=False, disable=not (show and sys.stderr.isatty())
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def clear(self) -> None:
        self._bar.clear()

    def step(self) -> None:
        self._bar.update()

    def __call__(self, what: str, share: float | None) -> None:
        """Show a report of a long job."""
        self._bar.set_description(what, refresh=False)
        if share is not None:
            self._bar.n = round(100 * share)
        self._bar.refresh()


def speak_utf8(*, as_json: bool) -> None:
    """Prevent encoding errors: JSON is UTF-8 whatever the console's encoding (RFC 8259, 8.1), and what a console cannot show
    is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if as_json and stream is sys.stdout:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
            else:
                stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """Write a line of the result to standard output."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """Write a message to standard error."""
    _write(sys.stderr, text)


def confirmed(question: str) -> bool:
    """Whether a person says yes.

    Raises:
        InvalidInputError: there is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise InvalidInputError("There is nobody to ask; add --yes to do it.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


def fail(error: VisionError, status: int) -> int:
    """Say why a command failed; returns its exit status."""
    say(str(error))
    return status
