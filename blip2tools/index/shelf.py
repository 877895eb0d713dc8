"""One folder's index for readers: its place, its matcher, and the pictures nearest to a text or a picture."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from blip2tools.index import nearest
from blip2tools.index.catalogue import VERSION, Catalogue
from blip2tools.index.passes import Pass, Passes
from blip2tools.index.rows import Mask, Rows, Singles, Slots

CATALOGUE: Final = "catalogue.sqlite"
SCANNED: Final = 2000  # pictures, below which every one is compared exactly: at 32 × 256 that takes some 20 ms
SPARE: Final = 8  # times as many pictures as are wanted that a quick pass leaves, at least
ALIKE: Final = 500  # pictures that a quick pass leaves for an exact comparison with a picture, at least


@dataclass(frozen=True, slots=True)
class Made:
    """The description of an index.

    Attributes:
        folder: the real path of the folder that it is about.
        matcher: the name of the checkpoint that made its features.
        fingerprint: a digest of that checkpoint's weights; features of different ones cannot be compared.
        shape: query tokens and dimensions of the features.
        whole: whether it was finished at least once.
    """

    folder: Path
    matcher: str
    fingerprint: str
    shape: tuple[int, int]
    whole: bool


@dataclass(frozen=True, slots=True)
class Near:
    """A content that was found: its slot, and its cosine with a text or its likeness to a picture."""

    slot: int
    score: float


def made(catalogue: Catalogue) -> Made | None:
    """The description of an index; None if the index was only begun, or made by another version of this package."""
    version, folder = catalogue.fact("version"), catalogue.fact("folder")
    shape, fingerprint = catalogue.fact("shape"), catalogue.fact("fingerprint")
    if version != str(VERSION).encode() or folder is None or shape is None or fingerprint is None:
        return None
    tokens, size = map(int, shape.split())
    matcher = (catalogue.fact("matcher") or b"").decode()
    return Made(
        Path(os.fsdecode(folder)), matcher, fingerprint.decode(), (tokens, size), catalogue.fact("whole") is not None
    )


class Shelf:
    """An index that is read, while another process may write it. Safe to use from several threads.

    Args:
        place: the folder that its files are in.

    Raises:
        OSError: there is none.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._catalogue = Catalogue(place / CATALOGUE)
        self._lock = threading.Lock()
        self._version = -1
        try:
            self._now = self._look()
        except BaseException:
            self._catalogue.close()
            raise

    def close(self) -> None:
        """Close its files."""
        self._catalogue.close()

    @property
    def made(self) -> Made:
        """The description of this index."""
        return self._current().made

    def count(self, below: bytes = b"") -> int:
        """How many files below a folder can be found."""
        return self._catalogue.count(below)

    def names_of(self, slots: Sequence[int], below: bytes = b"") -> dict[int, list[bytes]]:
        """The files below a folder, from the indexed one on, that hold what is in each slot."""
        return self._catalogue.names_of(slots, below)

    def features(self, digest: bytes) -> Singles | None:
        """The features (Q × D) of the content with this SHA-256, if it is here."""
        slot = self._catalogue.slot_of(digest)
        return None if slot is None else self._current().rows.exact(np.asarray([slot], np.int64))[0]

    def nearest(self, vector: Singles, count: int, below: bytes = b"") -> list[Near]:
        """The contents nearest to a text, nearest first.

        Args:
            vector: the text's, D numbers, of length 1.
            count: how many.
            below: only those that a file below this folder holds; it ends with a separator.
        """
        now = self._current()
        slots = self._among(now, below, lambda quick, mask: quick.of_text(vector, SPARE * count, mask))
        return _ranked(slots, nearest.text_scores(now.rows, slots, vector), count)

    def alike(self, features: Singles, count: int, below: bytes = b"") -> list[Near]:
        """The contents most like the picture with these features (Q × D), most similar first."""
        now = self._current()
        slots = self._among(now, below, lambda quick, mask: quick.of_picture(features, max(ALIKE, SPARE * count), mask))
        return _ranked(slots, nearest.picture_scores(now.rows, slots, features), count)

    def _among(self, now: _Now, below: bytes, look: Callable[[Pass, Mask | None], Slots]) -> Slots:
        """Slots to compare exactly: all of few pictures; of many, those that the quick pass finds and those that are newer than
        the pass."""
        slots, mask = now.slots, None
        if below:
            slots = np.asarray(self._catalogue.slots_below(below), np.int64)
            mask = np.zeros(int(slots[-1]) + 1 if len(slots) else 0, bool)
            mask[slots] = True
        quick = None if len(slots) <= SCANNED else now.passes.at(now.quick)
        if quick is None:
            return slots
        newer = now.slots[now.turns > quick.turn]
        if mask is not None:
            newer = newer[newer < len(mask)]
            newer = newer[mask[newer]]
        return np.union1d(look(quick, mask), newer)

    def _current(self) -> _Now:
        with self._lock:
            if self._catalogue.version != self._version:
                self._now = self._look()
            return self._now

    def _look(self) -> _Now:
        version = self._catalogue.version  # before the tables: what is written meanwhile is seen the next time
        found, rows = made(self._catalogue), self._catalogue.fact("rows")
        if found is None or rows is None:
            raise FileNotFoundError("there is no index that this version can read")
        pairs = np.asarray(self._catalogue.turns(), np.int64).reshape(-1, 2)
        where = Rows(self.place / rows.decode(), found.shape)
        if len(pairs) and where.count() <= pairs[-1, 0]:
            raise FileNotFoundError("features are missing that the catalogue names")
        before = getattr(self, "_now", None)
        is_same = before is not None and before.name == rows
        now = _Now(
            found,
            rows,
            before.rows if is_same and before else where,
            before.passes if is_same and before else Passes(self.place, found.shape[1]),
            np.ascontiguousarray(pairs[:, 0]),
            np.ascontiguousarray(pairs[:, 1]),
            self._catalogue.fact("pass"),
        )
        self._version = version
        return now


@dataclass(frozen=True, slots=True)
class _Now:
    """The state of an index between two writes."""

    made: Made
    name: bytes
    """Of the file with the rows."""
    rows: Rows
    passes: Passes
    slots: Slots
    turns: Slots
    quick: bytes | None
    """The fact about the pass."""


def _ranked(slots: Slots, scores: Singles, count: int) -> list[Near]:
    return [Near(int(slots[place]), float(scores[place])) for place in nearest.best(scores, count)]
