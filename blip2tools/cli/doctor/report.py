"""The output of `doctor`: a report for programs, and the same in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from pydantic import BaseModel, ConfigDict, Field

from blip2tools.checkpoints.selftest import Finding, Status
from blip2tools.settings import wants_colors

WELL, ILL, NO_MODEL = 0, 1, 3  # the exit statuses of the command line

_MARKS: Final[dict[Status, str]] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}
_WORDS: Final[dict[Status, str]] = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "skip"}
_COLORS: Final[dict[Status, str]] = {"ok": "32", "warning": "33", "failed": "1;31", "skipped": "2"}


def size(number: int) -> str:
    """Bytes as people write them: 2.4 MB, 15.0 GB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def tilde(path: Path) -> str:
    """A path as people write it; that also keeps the user's name out of reports that are passed on."""
    try:
        return str("~" / path.relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)


class Section(BaseModel):
    """Checks of one kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    findings: tuple[Finding, ...]


class Report(BaseModel):
    """Everything that was checked. `doctor --json` prints it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(description="Of blip2tools.")
    created: datetime = Field(description="In UTC.")
    settings: dict[str, str] = Field(description="Settings that differ from their defaults; secrets are masked.")
    absent: bool = Field(description="Whether the model that was asked for is not on this computer or does not exist.")
    sections: tuple[Section, ...]

    def count(self, status: Status) -> int:
        """How many checks have this status."""
        return sum(finding.status == status for section in self.sections for finding in section.findings)

    @property
    def exit_status(self) -> int:
        """0 all well, 1 something failed, 3 only the model is missing."""
        if not self.count("failed"):
            return WELL
        return NO_MODEL if self.absent and self.count("failed") == 1 else ILL


class Voice:
    """The look of lines: colours and signs where the stream has them."""

    def __init__(self, stream: TextIO) -> None:
        self._colors = wants_colors(stream)
        self._signs = (stream.encoding or "").lower().replace("-", "").startswith("utf")

    def section(self, section: Section) -> Iterator[str]:
        """A heading, one line for each check, and its remedy below it."""
        yield self._paint("1", section.title)
        width = max((len(finding.name) for finding in section.findings), default=0)
        for finding in section.findings:
            mark = self._mark(finding.status)
            name, *rest = finding.name.ljust(width), *finding.sentence.split("\n")
            yield f"  {mark} {name}  {rest[0]}".rstrip()
            if finding.remedy is not None:
                arrow = "→" if self._signs else "->"
                yield f"  {' ' * self._width} {'':{width}}  {self._paint('36', arrow)} {finding.remedy}"
        yield ""

    def ending(self, report: Report) -> str:
        """The summary in one line."""
        counts: Sequence[tuple[Status, str]] = (("failed", "failed"), ("warning", "to know"))
        told = [f"{number} {words}" for status, words in counts if (number := report.count(status))]
        passed = f"{report.count('ok')} well"
        color = "1;31" if report.count("failed") else "32"
        return self._paint(color, ", ".join([*told, passed]))

    @property
    def _width(self) -> int:
        return 1 if self._signs else max(map(len, _WORDS.values()))

    def _mark(self, status: Status) -> str:
        return self._paint(_COLORS[status], _MARKS[status] if self._signs else _WORDS[status].ljust(self._width))

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors else text
