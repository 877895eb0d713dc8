"""One folder's index for the writer: additions and deletions. A kill at any moment loses seconds of work at most.

The order makes it safe. Features go to disk before the transaction that names them; deleted files are dropped at the very end,
so that a file with a new name finds its content still there. A freed slot is filled again by a later run only, so that
readers find nothing else in it meanwhile.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from blip2tools.errors import BusyError, InvalidInputError, ModelUnavailableError
from blip2tools.index import passes
from blip2tools.index.catalogue import NO_PICTURE, VERSION, Catalogue, Content, DamagedError, File, WriterLock
from blip2tools.index.rows import Rows
from blip2tools.index.shelf import CATALOGUE, SCANNED, Made, made
from blip2tools.index.walk import Entry, Walk, begins_like_a_picture

LOCK: Final = "writer.sqlite"
_STALE: Final = 0.05  # share of the contents that a quick pass may lack before it is rebuilt


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences between a walk and the catalogue.

    Attributes:
        new: pictures that are new or were changed, in the order of their names.
        kept: how many are as they were.
        gone: names of files that no longer exist.
        unlisted: folders that could not be looked into.
    """

    new: tuple[Entry, ...]
    kept: int
    gone: tuple[bytes, ...]
    unlisted: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """A file that was looked at: its content's SHA-256 and, where that is new, its features; or why it cannot be read."""

    entry: Entry
    digest: bytes | None = None
    features: Any = None
    code: str | None = None
    message: str | None = None
    passing: bool = False
    """Whether the failure may be over the next time, so that it is tried again."""


class Writer:
    """Writes an index. To be closed, or used in a `with` block.

    Args:
        place: the folder for its files; created if needed.
        folder: the real path of the folder that it is about.
        rules: what decides which pictures are read; when it changes, those that could not be are tried again.

    Raises:
        BusyError: another process writes it.
        ModelUnavailableError: the place cannot be written.
    """

    def __init__(self, place: Path, folder: Path, rules: str) -> None:
        self.place = place
        self._folder = folder
        self._rules = rules.encode()
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(place, os.W_OK):
                raise PermissionError("the index may not be written")
            self._lock = WriterLock(place / LOCK)
            if not self._lock.take():
                raise BusyError("Another process is indexing this folder; search it meanwhile, or try again later.")
            try:
                self._catalogue = self._open()
            except BaseException:
                self._lock.leave()
                raise
        except OSError as error:
            raise ModelUnavailableError(
                "The index cannot be written; name a writable folder with the setting cache_dir."
            ) from error
        self._rows: Rows | None = None
        self._digests: dict[bytes, int] = {}
        self._free: Iterator[int] = iter(())
        self._turn = int(self._catalogue.fact("turn") or b"0")
        self.made: Made | None = made(self._catalogue)
        if not self._is_whole():
            self.clear()

    def _open(self) -> Catalogue:
        """The catalogue; a damaged one is replaced by an empty one, since all of it can be made again."""
        try:
            return Catalogue(self.place / CATALOGUE, create=True)
        except DamagedError:
            for path in self.place.glob(f"{CATALOGUE}*"):
                path.unlink()
            return Catalogue(self.place / CATALOGUE, create=True)

    def _is_whole(self) -> bool:
        """Whether the features that the catalogue names are there."""
        name = self._catalogue.fact("rows")
        if name is None or self.made is None:
            return name is None and self.made is None
        last = max((slot for slot, _ in self._catalogue.turns()), default=-1)
        return Rows(self.place / name.decode(), self.made.shape).count() > last

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, so that another process can write."""
        self._catalogue.close()
        self._lock.leave()

    def clear(self) -> None:
        """Forget everything: all files are looked at again."""
        self._catalogue.clear()
        self.made = None
        self._turn = 0
        self._sweep()

    def changes(self, walk: Walk) -> Changes:
        """Compare a folder with what is known of it."""
        if self._catalogue.fact("rules") != self._rules:
            self._catalogue.forget_failures()
        known = self._catalogue.known()
        new: list[Entry] = []
        none: list[File] = []
        kept = 0
        for entry in walk.entries():
            before = known.pop(entry.name, None)
            if before is not None and before[0] == entry.size and before[1] == entry.modified_ns:
                kept += before[2]
            elif entry.is_called or begins_like_a_picture(self._folder / os.fsdecode(entry.name)):
                new.append(entry)
            else:
                none.append(File(entry.name, entry.size, entry.modified_ns, code=NO_PICTURE))
        if none:
            with self._catalogue.together():
                self._catalogue.note(none)
        unlisted = tuple(walk.unlisted)
        gone = tuple(name for name in known if not name.startswith(unlisted)) if unlisted else tuple(known)
        return Changes(tuple(sorted(new, key=lambda entry: entry.name)), kept, gone, unlisted)

    def begin(self, matcher: str, fingerprint: str, shape: tuple[int, int]) -> None:
        """Name the matcher of the features that come now, before the first of them.

        Raises:
            InvalidInputError: the index has features of another matcher.
        """
        self.check(fingerprint)
        self._turn += 1
        facts = {"turn": str(self._turn).encode(), "rules": self._rules}
        name = self._catalogue.fact("rows")
        if name is None:
            name = f"rows-{secrets.token_hex(4)}.f16".encode()
            facts |= {
                "version": str(VERSION).encode(),
                "folder": os.fsencode(self._folder),
                "matcher": matcher.encode(),
                "fingerprint": fingerprint.encode(),
                "shape": f"{shape[0]} {shape[1]}".encode(),
                "rows": name,
            }
        with self._catalogue.together():
            self._catalogue.set_facts(facts)
        self.made = made(self._catalogue)
        self._rows = Rows(self.place / name.decode(), shape)
        self._digests = self._catalogue.digests()
        used = set(self._digests.values())
        self._free = (slot for slot in count() if slot not in used)

    def check(self, fingerprint: str) -> None:
        """Refuse another matcher than the one that made this index.

        Raises:
            InvalidInputError: this is another one.
        """
        if self.made is not None and self.made.fingerprint != fingerprint:
            raise InvalidInputError(
                f"This index was made by another matcher ({self.made.matcher}, weights {self.made.fingerprint}); use that "
                "one, or build the index again with --rebuild."
            )

    def is_known(self, digest: bytes) -> bool:
        """Whether there are features of a content."""
        return digest in self._digests

    def put(self, looked: Sequence[Looked]) -> None:
        """Write the results for some files: all of them, or none."""
        if self._rows is None:
            raise ValueError("nothing was begun")
        slots: list[int] = []
        rows: list[Any] = []
        contents: list[Content] = []
        files: list[File] = []
        for one in looked:
            entry, slot = one.entry, None
            if one.digest is not None:
                slot = self._digests.get(one.digest)
                if slot is None:
                    slot = next(self._free)
                    slots.append(slot)
                    rows.append(one.features)
                    contents.append(Content(slot, one.digest, self._turn))
                    self._digests[one.digest] = slot
            # No file has a size below zero, so a file that failed for now always counts as changed.
            size = -1 if one.passing else entry.size
            files.append(File(entry.name, size, entry.modified_ns, slot, one.code, one.message))
        if slots:
            self._rows.write(slots, rows)
        with self._catalogue.together():
            self._catalogue.add(contents)
            self._catalogue.note(files)

    def finish(self, gone: Iterable[bytes], tell: Callable[[int, int], None]) -> int:
        """Drop deleted files, and rebuild the quick pass where it lacks too much.

        Args:
            gone: names of files.
            tell: receives how many pictures the pass has, and of how many.

        Returns:
            How many files can be found.
        """
        with self._catalogue.together():
            self._catalogue.forget(gone)
            if gone or self._rows is not None:
                self._catalogue.prune()
            if self._catalogue.fact("whole") is None and self.made is not None:
                self._catalogue.set_facts({"whole": b"1"})
        if self._rows is not None:
            self._refresh(self._rows, tell)
        return self._catalogue.count()

    def failed(self) -> list[File]:
        """The files that look like pictures and cannot be read."""
        return self._catalogue.failed()

    def _refresh(self, rows: Rows, tell: Callable[[int, int], None]) -> None:
        fact = self._catalogue.fact("pass")
        turns = self._catalogue.turns()
        newer = sum(turn > passes.turn_of(fact) for _, turn in turns)
        if len(turns) > SCANNED and newer > max(SCANNED / 2 if fact else 0, _STALE * len(turns)):
            slots = turns[-1][0] + 1
            fact = passes.build(self.place, rows, slots, self._turn, lambda done: tell(done, slots))
            with self._catalogue.together():
                self._catalogue.set_facts({"pass": fact})
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that no fact names: of earlier builds, and of those that were killed."""
        passes.clean(self.place, self._catalogue.fact("pass"))
        rows = (self._catalogue.fact("rows") or b"").decode()
        for path in self.place.glob("rows-*.f16"):
            if path.name != rows:
                with suppress(OSError):
                    path.unlink()
