"""The indexes of one user, each about one folder and all below it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blip2tools.index.shelf import CATALOGUE, Shelf
from blip2tools.index.writing import Writer

FOLDER: Final = "index"
_UNPLAIN: Final = re.compile(r"[^A-Za-z0-9._-]+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Folder, or part of one, with the index that covers it.

    Attributes:
        shelf: the index.
        below: where the part lies in the indexed folder: empty, or a path that ends with a separator.
    """

    shelf: Shelf
    below: bytes


class Library:
    """Finds indexes by the folders that they are about, and keeps those open that were used. Safe to use from several threads.

    Args:
        cache: this package's folder for its own files.
    """

    def __init__(self, cache: Path) -> None:
        self._base = cache / FOLDER
        self._open: dict[Path, tuple[int, Shelf]] = {}
        self._lock = threading.Lock()

    def place_of(self, folder: Path) -> Path:
        """The place of a folder's index (a real path), whether it exists or not."""
        name = _UNPLAIN.sub("-", folder.name)[:40].strip("-.") or "folder"
        return self._base.absolute() / f"{name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"

    def writer(self, folder: Path, rules: str) -> Writer:
        """See `Writer`."""
        return Writer(self.place_of(folder), folder, rules)

    def about(self, folder: Path) -> Part | None:
        """The index of a folder (a real path), or of the nearest one that it lies in."""
        for above in (folder, *folder.parents):
            if (shelf := self._shelf(self.place_of(above))) is not None:
                below = b"" if above == folder else os.fsencode(folder.relative_to(above)) + os.fsencode(os.sep)
                return Part(shelf, below)
        return None

    def inside(self, folder: Path) -> list[Shelf]:
        """The indexes of folders that lie in a folder, outermost ones only."""
        found: list[Shelf] = []
        try:
            places = sorted(self._base.absolute().iterdir())
        except OSError:
            return []
        for place in places:
            shelf = self._shelf(place)
            if shelf is not None and folder in shelf.made.folder.parents:
                found.append(shelf)
        folders = {shelf.made.folder for shelf in found}
        return [shelf for shelf in found if not folders & set(shelf.made.folder.parents)]

    def close(self) -> None:
        """Close every open index."""
        with self._lock:
            for _, shelf in self._open.values():
                shelf.close()
            self._open.clear()

    def _shelf(self, place: Path) -> Shelf | None:
        try:
            number = (place / CATALOGUE).stat().st_ino
        except OSError:
            return None
        with self._lock:
            known = self._open.get(place)
            if known is not None and known[0] == number:
                return known[1]
            try:
                shelf = Shelf(place)
            except OSError as error:
                logger.debug("an index cannot be read: %s", error)
                return None
            self._open[place] = number, shelf
            return shelf
