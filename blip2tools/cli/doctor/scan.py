"""`blip2tools doctor --scan FOLDER`: every file of a folder, read the way the tools read pictures."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from blip2tools.cli.console import tell
from blip2tools.cli.doctor.report import ILL, WELL, size, tilde
from blip2tools.errors import ErrorCode, VisionError, to_vision_error
from blip2tools.pictures.decoder import Decoder
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Store
from blip2tools.schemas.shown import printable
from blip2tools.settings import Settings

TARGET = (224, 3)  # what the models of the family look at: 224 pixels, bicubic
REGION = (0.25, 0.25, 0.75, 0.75)
MAX_NAME = 200


class Outcome(BaseModel):
    """The result for one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Below the folder.")
    code: ErrorCode | None = Field(default=None, description="Of the error; null: it was read.")
    message: str | None = None
    width: int | None = None
    height: int | None = None
    seconds: float


class Total(BaseModel):
    """The result for all files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: int
    outcomes: dict[str, int] = Field(description="How many were `ok`, and how many ended with each code.")
    seconds: float
    slowest_seconds: float
    slowest_path: str | None
    peak_bytes: int | None = Field(description="Of this process; null where the system does not report it.")
    peak_decoder_bytes: int | None = Field(description="Of the process that decoded.")

    @property
    def exit_status(self) -> int:
        """0 unless a file took too long or met an internal error."""
        return ILL if self.outcomes.get("timeout") or self.outcomes.get("internal") else WELL


def run(folder: Path, settings: Settings, *, json: bool) -> int:
    """Scan a folder and report it; returns the exit status.

    Raises:
        InvalidInputError: there is no such folder, or it may never be opened.
    """
    began = time.monotonic()
    outcomes = []
    for outcome in scan(folder, settings):
        outcomes.append(outcome)
        if json:
            tell(outcome.model_dump_json())
        else:
            what = f"{outcome.code}: {outcome.message}" if outcome.code else f"{outcome.width} × {outcome.height}"
            tell(f"{outcome.path}  {what}")
    total = sum_up(outcomes, time.monotonic() - began)
    if json:
        tell(total.model_dump_json())
        return total.exit_status
    counts = ", ".join(f"{count} {name}" for name, count in total.outcomes.items())
    tell(f"\n{total.files} files in {tilde(folder.absolute())}: {counts or 'nothing to read'}")
    tell(f"{total.seconds:.1f} s; the slowest took {total.slowest_seconds:.2f} s: {total.slowest_path or '-'}")
    if total.peak_bytes is not None and total.peak_decoder_bytes is not None:
        tell(f"peak memory: {size(total.peak_bytes)} here, {size(total.peak_decoder_bytes)} in the decoder's process")
    return total.exit_status


def scan(folder: Path, settings: Settings) -> Iterator[Outcome]:
    """Read, decode, crop and resize every file below `folder`, in the order of their names.

    Raises:
        InvalidInputError: there is no such folder, or it may never be opened.
    """
    decoder = Decoder(settings)
    try:
        chosen = Settings.check({**settings.model_dump(), "allowed_dirs": (folder,)})
        sources = Sources(chosen, Store(1), size_of=decoder.size_of)
        (root,) = sources.folders
        for path in _files(root):
            yield _read(path, path.relative_to(root), sources, decoder)
    finally:
        decoder.close()


def sum_up(outcomes: Iterable[Outcome], seconds: float) -> Total:
    """The total of finished outcomes. Peaks are those of this process since its start, and of children that have ended."""
    all_of_them = list(outcomes)
    counts = Counter(outcome.code or "ok" for outcome in all_of_them)
    slowest = max(all_of_them, key=lambda outcome: outcome.seconds, default=None)
    here, there = _peaks()
    return Total(
        files=len(all_of_them),
        outcomes=dict(sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0]))),
        seconds=round(seconds, 3),
        slowest_seconds=slowest.seconds if slowest else 0.0,
        slowest_path=slowest.path if slowest else None,
        peak_bytes=here,
        peak_decoder_bytes=there,
    )


def _files(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner.sort()
        for name in sorted(names):
            yield Path(folder, name)


def _read(path: Path, name: Path, sources: Sources, decoder: Decoder) -> Outcome:
    shown = printable(str(name), MAX_NAME)
    began = time.monotonic()
    try:
        data = sources.read(str(path)).data
        decoded = decoder.decode(data, (None, REGION), (TARGET,))
    except Exception as error:  # noqa: BLE001  one file must not end the scan
        known: VisionError = to_vision_error(error)
        return Outcome(path=shown, code=known.code, message=known.message, seconds=_since(began))
    return Outcome(path=shown, width=decoded.width, height=decoded.height, seconds=_since(began))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 4)


def _peaks() -> tuple[int | None, int | None]:
    if sys.platform == "win32":
        return None, None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    here, there = (resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return here * unit, there * unit
