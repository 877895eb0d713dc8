"""JSON Lines and CSV: rows are appended as they come, and a line that was cut off is written again."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Protocol

from blip2tools.errors import InvalidInputError
from blip2tools.schemas.shown import printable
from blip2tools.vision.bulk import tables
from blip2tools.vision.bulk.inputs import key_of
from blip2tools.vision.bulk.tasks import Row, Task

SYNC_S: Final = 10.0  # how often what was written is on the disk for sure: for power cuts, not for ends of the process
_SOURCE: Final = re.compile(rb'\{"source": ("(?:[^"\\]|\\.)*")[,}].*\}\n', re.DOTALL)


class Output(Protocol):
    """A file that rows go into."""

    done: Counter[str]
    """How many pictures of each name have their rows."""

    def add(self, rows: Sequence[Row]) -> None:
        """Write all rows of one picture.

        Raises:
            OSError: the disk does not take them.
        """
        ...

    def close(self, *, whole: bool) -> None:
        """End the file; `whole`: no picture is missing."""
        ...


class Lines:
    """A file with a row in each line.

    Args:
        path: of the file, which goes on where it ends.
        head: its first line, if any.
        write: the rows of one picture as text.
        source_of: the source of a line, or None where it is no row.
        each: lines of one picture.
        folder: that relative paths in the file belong to.

    Raises:
        InvalidInputError: the file holds what no run has written.
    """

    def __init__(
        self,
        path: Path,
        *,
        head: str,
        write: Callable[[Sequence[Row]], str],
        source_of: Callable[[bytes], str | None],
        each: int,
        folder: str,
    ) -> None:
        self._path = path
        self._head = head.encode()
        self._write = write
        self._source_of = source_of
        self._each = each
        self._folder = folder
        self.done: Counter[str] = Counter()
        kept = self._read() if path.exists() else 0
        self._file = path.open("r+b" if path.exists() else "xb", buffering=0)
        self._file.truncate(kept)
        self._file.seek(kept)
        self._synced = time.monotonic()
        if not kept:
            self._put(self._head)

    def add(self, rows: Sequence[Row]) -> None:
        """See `Output.add`."""
        self._put(self._write(rows).encode())
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self, *, whole: bool) -> None:
        """See `Output.close`."""
        with self._file:
            os.fsync(self._file.fileno())

    def _put(self, data: bytes) -> None:
        """All of it: a full disk takes a part, and says so only at the next write."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]

    def _read(self) -> int:
        """Count what is there; the length of the part that is whole."""
        place = kept = count = number = 0
        last = ""
        with self._path.open("rb") as file:
            for line in _records(file, quoted=bool(self._head)):
                number += 1
                if not line.endswith(b"\n") or b"\0" in line[:1]:  # cut off, or empty blocks after a power cut
                    break
                place += len(line)
                if self._head and number == 1:
                    if line != self._head:
                        raise self._refused(number)
                    kept = place
                    continue
                source = self._source_of(line)
                if source is None or (count % self._each and source != last):
                    raise self._refused(number)
                last = source
                count += 1
                if count % self._each == 0:
                    kept = place
                    self.done[key_of(source, self._folder)] += 1
        return kept

    def _refused(self, number: int) -> InvalidInputError:
        return InvalidInputError(
            f"Line {number} of {printable(str(self._path), 120)} is none that this command writes; put it right, or --restart "
            "to replace the file."
        )


def json_lines(path: Path, task: Task, folder: str) -> Lines:
    """JSON Lines, UTF-8: a row of the task in each line, `source` first."""
    return Lines(
        path,
        head="",
        write=lambda rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        source_of=_source_in_json,
        each=task.rows,
        folder=folder,
    )


def csv_lines(path: Path, task: Task, folder: str) -> Lines:
    """CSV after RFC 4180, UTF-8, with a header; lists are JSON."""
    columns = list(tables.COLUMNS[task.verb])
    return Lines(
        path,
        head=_csv([columns]),
        write=lambda rows: _csv([[_cell(line[name]) for name in columns] for line in tables.flat(task, rows)]),
        source_of=_source_in_csv,
        each=tables.lines_of(task),
        folder=folder,
    )


def _source_in_json(line: bytes) -> str | None:
    # Only the beginning is parsed: a line of features has a hundred thousand characters.
    match = _SOURCE.fullmatch(line)
    return None if match is None else str(json.loads(match[1]))


def _source_in_csv(record: bytes) -> str | None:
    try:
        row = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True))
    except (csv.Error, UnicodeDecodeError, StopIteration):
        return None
    return row[0] if row else None


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _records(file: IO[bytes], *, quoted: bool) -> Iterator[bytes]:
    """Lines with their ends; `quoted`: an end of line within quotes is none, and what never leaves them was cut off."""
    begun = b""
    for line in file:
        begun += line
        if not quoted or begun.count(b'"') % 2 == 0:
            yield begun
            begun = b""
