"""The facts about each file in a folder, in SQLite: its size and time, the place of its features, or why it cannot be read.

Pictures with the same content share their features, so that a copy or a new name costs no look. One process writes at a time;
any number read meanwhile, each from a consistent state (SQLite's write-ahead log). A slot is taken in the same transaction that
names its file, after its features are on disk: a kill in between leaves a slot that the next run fills.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

VERSION: Final = 1
_WAIT_S: Final = 20.0  # for another process's transaction, which takes milliseconds
_AT_ONCE: Final = 500  # names in one query; SQLite takes 32,766

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (slot INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, turn INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS files (
  name BLOB PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, slot INTEGER, code TEXT, message TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_slot ON files (slot);
"""

NO_PICTURE: Final = "no picture"
"""The code of a file whose first bytes were looked at and are no picture's."""

Known: TypeAlias = tuple[int, int, bool]
"""Size, time of change in nanoseconds, and whether there are features."""


@dataclass(frozen=True, slots=True)
class File:
    """One file. Either it has a slot, or `code` says why not."""

    name: bytes
    size: int
    modified_ns: int
    slot: int | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """The content of one or several files."""

    slot: int
    digest: bytes
    turn: int
    """The number of the run that looked at it: tells a reader what is newer than its quick pass."""


class DamagedError(OSError):
    """The file is not a catalogue, or is incomplete."""


class Catalogue:
    """The tables. Safe to use from several threads.

    Args:
        path: of the database.
        create: make it if it is not there.

    Raises:
        OSError: it cannot be made; a `DamagedError` if it is not a catalogue.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._lock = threading.RLock()
        try:
            mode = "rwc" if create else "rw"  # a reader of a write-ahead log writes beside it, too
            self._base = sqlite3.connect(
                f"{path.as_uri()}?mode={mode}", uri=True, timeout=_WAIT_S, check_same_thread=False, isolation_level=None
            )
            if create:
                self._base.execute("PRAGMA journal_mode = WAL")
                self._base.executescript(_TABLES)
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("SELECT count(*) FROM facts").fetchone()
        except sqlite3.OperationalError as error:
            raise OSError(f"the catalogue cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise DamagedError(f"the catalogue is damaged: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """One transaction: all that is written in the block is there afterwards, or nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    @property
    def version(self) -> int:
        """A number that changes when another connection has written."""
        with self._lock:
            return int(self._base.execute("PRAGMA data_version").fetchone()[0])

    # ---- facts ----

    def fact(self, name: str) -> bytes | None:
        """One fact about the whole index."""
        with self._lock:
            row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def set_facts(self, facts: Mapping[str, bytes]) -> None:
        """Write facts over earlier ones."""
        with self._lock:
            self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def clear(self) -> None:
        """Empty every table."""
        with self.together():
            for table in ("files", "contents", "facts"):
                self._base.execute(f"DELETE FROM {table}")  # noqa: S608  names of ours

    # ---- files ----

    def known(self) -> dict[bytes, Known]:
        """Every file."""
        with self._lock:
            rows = self._base.execute("SELECT name, size, modified_ns, slot IS NOT NULL FROM files")
            return {name: (size, modified, bool(has)) for name, size, modified, has in rows}

    def note(self, files: Iterable[File]) -> None:
        """Write files over earlier ones of the same name."""
        with self._lock:
            self._base.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                ((one.name, one.size, one.modified_ns, one.slot, one.code, one.message) for one in files),
            )

    def forget(self, names: Iterable[bytes]) -> None:
        """Drop files."""
        with self._lock:
            self._base.executemany("DELETE FROM files WHERE name = ?", ((name,) for name in names))

    def forget_failures(self) -> None:
        """Drop files that could not be read, so that they are tried again."""
        with self._lock:
            self._base.execute("DELETE FROM files WHERE slot IS NULL")

    def failed(self) -> list[File]:
        """The files that look like pictures and cannot be read, by name."""
        with self._lock:
            rows = self._base.execute(
                "SELECT * FROM files WHERE slot IS NULL AND code != ? ORDER BY name", (NO_PICTURE,)
            )
            return [File(*row) for row in rows]

    def count(self, below: bytes = b"") -> int:
        """How many files below a folder have features."""
        with self._lock:
            where, bounds = _below(below)
            return int(
                self._base.execute(
                    f"SELECT count(*) FROM files WHERE slot IS NOT NULL{where}",  # noqa: S608  no value in it
                    bounds,
                ).fetchone()[0]
            )

    def slots_below(self, below: bytes) -> list[int]:
        """The slots of the files below a folder, ascending."""
        with self._lock:
            where, bounds = _below(below)
            rows = self._base.execute(
                f"SELECT DISTINCT slot FROM files WHERE slot IS NOT NULL{where} ORDER BY slot",  # noqa: S608
                bounds,
            )
            return [slot for (slot,) in rows]

    def names_of(self, slots: Sequence[int], below: bytes = b"") -> dict[int, list[bytes]]:
        """The files below a folder that hold each slot's content, by name; slots without one are left out."""
        found: dict[int, list[bytes]] = {}
        with self._lock:
            for first in range(0, len(slots), _AT_ONCE):
                group = [int(slot) for slot in slots[first : first + _AT_ONCE]]
                marks = ",".join("?" * len(group))
                rows = self._base.execute(
                    f"SELECT slot, name FROM files WHERE slot IN ({marks}) ORDER BY name",  # noqa: S608  question marks
                    group,
                )
                for slot, name in rows:
                    if name.startswith(below):
                        found.setdefault(slot, []).append(name)
        return found

    # ---- contents ----

    def add(self, contents: Iterable[Content]) -> None:
        """Write the contents of slots."""
        with self._lock:
            self._base.executemany(
                "INSERT INTO contents VALUES (?, ?, ?)", ((one.slot, one.digest, one.turn) for one in contents)
            )

    def digests(self) -> dict[bytes, int]:
        """The slot of each content, by the SHA-256 of its bytes."""
        with self._lock:
            return dict(self._base.execute("SELECT digest, slot FROM contents"))

    def slot_of(self, digest: bytes) -> int | None:
        """The slot of one content."""
        with self._lock:
            row = self._base.execute("SELECT slot FROM contents WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else int(row[0])

    def turns(self) -> list[tuple[int, int]]:
        """Slots and their turns, by slot."""
        with self._lock:
            return self._base.execute("SELECT slot, turn FROM contents ORDER BY slot").fetchall()

    def prune(self) -> int:
        """Drop the contents that no file holds any more; returns how many. Their slots are free."""
        with self._lock:
            return self._base.execute(
                "DELETE FROM contents WHERE NOT EXISTS (SELECT 1 FROM files WHERE files.slot = contents.slot)"
            ).rowcount


class WriterLock:
    """Held by the one process that writes an index. The system releases it when that process ends, however it ends.

    Args:
        path: of a database of its own, which is never written: only locked.
    """

    def __init__(self, path: Path) -> None:
        self._base: sqlite3.Connection | None = None
        self._path = path

    def take(self) -> bool:
        """Take the lock if it is free; returns whether it was."""
        base = sqlite3.connect(self._path, timeout=0, check_same_thread=False, isolation_level=None)
        try:
            base.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            base.close()
            return False
        self._base = base
        return True

    def leave(self) -> None:
        """Close it, so that another process can write."""
        if self._base is not None:
            with suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            self._base.close()
            self._base = None


def _below(folder: bytes) -> tuple[str, tuple[bytes, ...]]:
    """A condition on names, and its values: all that begin with these bytes, found by the table's own order."""
    if not folder:
        return "", ()
    return " AND name >= ? AND name < ?", (folder, folder[:-1] + bytes([folder[-1] + 1]))
