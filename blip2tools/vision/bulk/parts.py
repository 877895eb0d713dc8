"""Parquet: a part for every few hundred pictures, whole or not there; at the end one file of all parts."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from blip2tools.errors import InvalidInputError
from blip2tools.vision.bulk import tables
from blip2tools.vision.bulk.inputs import key_of
from blip2tools.vision.bulk.tasks import Row, Task

PART_PICTURES: Final = 256
PART_S: Final = 10.0  # a part is written after so long, however few pictures it has: so much work is lost at most
_BATCH_ROWS: Final = 4096
_MERGED: Final = b"blip2tools.merged"


class Parts:
    """A parquet file and, beside it, the parts of it that are not yet in it.

    A part has its last name only once it is whole, and so has the file of all parts. That file names the folder of the parts
    that are in it: should they still be there, they are its own.

    Args:
        path: of the file.
        task: whose rows.
        folder: that relative paths in the file belong to.

    Raises:
        InvalidInputError: what is there is not what such a run has written.
    """

    def __init__(self, path: Path, task: Task, folder: str) -> None:
        import pyarrow as pa

        self._path = path
        self._task = task
        self._folder = folder
        self._schema = _schema(task)
        self._rows: list[Row] = []
        self._pictures = 0
        self._since = time.monotonic()
        self.done: Counter[str] = Counter()
        try:
            merged = self._merged_before()
            self._home = self._find_home(merged)
            self._parts = sorted(self._home.glob("*.parquet")) if self._home.is_dir() else []
            for file in ([path] if path.exists() else []) + self._parts:
                self._count(file)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise InvalidInputError(
                "What is there cannot be read as parquet of such a run; name another --output, or --restart to replace it."
            ) from error

    def add(self, rows: Sequence[Row]) -> None:
        """See `Output.add`."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows += tables.flat(self._task, rows)
        self._pictures += 1
        if self._pictures >= PART_PICTURES or time.monotonic() - self._since > PART_S:
            self._write_part()

    def close(self, *, whole: bool) -> None:
        """See `Output.close`. Parts stay parts while pictures are missing."""
        self._write_part()
        if whole and (self._parts or not self._path.exists()):
            self._merge()

    def _write_part(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        self._home.mkdir(exist_ok=True)
        final = self._home / f"{len(self._parts):08}.parquet"
        begun = final.with_suffix(".begun")
        pq.write_table(pa.Table.from_pylist(self._rows, self._schema), begun)
        _settle(begun, final)
        self._parts.append(final)
        self._rows, self._pictures = [], 0

    def _merge(self) -> None:
        import pyarrow.parquet as pq

        begun = self._path.with_name(self._path.name + ".begun")
        schema = self._schema.with_metadata({_MERGED: self._home.name.encode()})
        with pq.ParquetWriter(begun, schema) as writer:
            for file in ([self._path] if self._path.exists() else []) + self._parts:
                with pq.ParquetFile(file) as part:
                    for batch in part.iter_batches(_BATCH_ROWS):
                        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        _settle(begun, self._path)
        shutil.rmtree(self._home, ignore_errors=True)

    def _merged_before(self) -> str:
        """The folder whose parts are in the file already."""
        import pyarrow.parquet as pq

        if not self._path.exists():
            return ""
        schema = pq.read_schema(self._path)
        return str((schema.metadata or {})[_MERGED].decode())

    def _find_home(self, merged: str) -> Path:
        """The folder for this run's parts: that of the last run, if it has left one."""
        begun = sorted(self._path.parent.glob(f"{_escaped(self._path.name)}.parts-*"))
        for folder in begun:
            if folder.name == merged:
                shutil.rmtree(folder, ignore_errors=True)
        left = [folder for folder in begun if folder.name != merged]
        return left[0] if left else self._path.with_name(f"{self._path.name}.parts-{secrets.token_hex(4)}")

    def _count(self, file: Path) -> None:
        """Count the pictures of a file; a picture's lines are always in one part."""
        import pyarrow.parquet as pq

        lines: Counter[str] = Counter()
        with pq.ParquetFile(file) as part:
            for batch in part.iter_batches(_BATCH_ROWS * 16, columns=["source"]):
                lines.update(batch.column(0).to_pylist())
        each = tables.lines_of(self._task)
        for source, count in lines.items():
            self.done[key_of(source, self._folder)] += count // each


def remove_parts(path: Path) -> None:
    """Remove the parts that runs have left beside a file."""
    for folder in path.parent.glob(f"{_escaped(path.name)}.parts-*"):
        shutil.rmtree(folder, ignore_errors=True)


def require() -> None:
    """Make sure that parquet can be written.

    Raises:
        InvalidInputError: pyarrow is not here.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidInputError(
            "Parquet needs pyarrow: pip install pyarrow, or name an --output that ends in .jsonl or .csv."
        )


def _settle(begun: Path, final: Path) -> None:
    """Give a whole file its name once it is on the disk: a power cut must not leave the name without the rows."""
    with begun.open("rb") as file:
        os.fsync(file.fileno())
    begun.replace(final)


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _schema(task: Task) -> Any:
    import pyarrow as pa

    kinds = {
        "text": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "truth": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float64()),
        "rows": pa.list_(pa.list_(pa.float32())),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in tables.COLUMNS[task.verb].items()])


def tables_of(task: Task, rows: Iterable[Sequence[Row]]) -> Any:
    """The rows of pictures as one Arrow table."""
    import pyarrow as pa

    return pa.Table.from_pylist([line for one in rows for line in tables.flat(task, one)], _schema(task))
