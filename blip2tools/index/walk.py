"""The pictures in a folder and everything below it, found without opening known ones.

A file counts as a picture by its name or by its first bytes, as in `pictures.newest`; whether it can be decoded is seen later.
Hidden names are left out. A link to a file counts as that file where it leads to one that may be read; a link to a folder is
followed where it leads into an allowed folder that this walk does not pass anyway.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blip2tools.call import STOP
from blip2tools.pictures import newest, signs
from blip2tools.pictures.references import real_path

logger = logging.getLogger(__name__)

_CHECK_EVERY = 512  # entries between checks for cancellation


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that may be a picture."""

    name: bytes
    """Its path from the walked folder on, in the file system's own bytes."""
    size: int
    modified_ns: int
    """Nanoseconds since 1970."""
    is_called: bool
    """Whether its name is that of a picture; of others the first bytes tell."""


class Walk:
    """Goes through a folder.

    Args:
        root: the folder, a real path.
        allows: whether what a link leads to may be read.
        is_inside: whether a real path lies in a folder that is allowed by name.
        nested: whether its subfolders belong to it.
        skipped: real paths of folders that are left out.
    """

    def __init__(
        self,
        root: Path,
        allows: Callable[[Path], bool],
        is_inside: Callable[[Path], bool],
        *,
        nested: bool = True,
        skipped: frozenset[str] = frozenset(),
    ) -> None:
        self.unlisted: list[bytes] = []
        """Folders, from the root on, that could not be looked into: their entries stay."""
        self._root = root
        self._allows = allows
        self._is_inside = is_inside
        self._nested = nested
        self._seen = set(skipped)

    def entries(self) -> Iterator[Entry]:
        """Every file that is regular and not hidden, folder by folder.

        Raises:
            CancelledError: the work was cancelled.
        """
        folders = [(str(self._root), "")]
        count = 0
        while folders:
            real, below = folders.pop()
            if real in self._seen:
                continue
            self._seen.add(real)
            try:
                with os.scandir(real) as found:
                    for one in found:
                        count += 1
                        if count % _CHECK_EVERY == 0:
                            STOP.get().check()
                        name = one.name
                        if name[0] == ".":
                            continue
                        if one.is_dir(follow_symlinks=False):
                            if self._nested:
                                folders.append((one.path, f"{below}{name}{os.sep}"))
                        elif one.is_symlink():
                            yield from self._link(one, below, folders)
                        elif (entry := _entry(one.path, below, name)) is not None:
                            yield entry
            except OSError as error:
                logger.debug("a folder could not be listed: %s", error)
                self.unlisted.append(os.fsencode(below))

    def _link(self, link: os.DirEntry[str], below: str, folders: list[tuple[str, str]]) -> Iterator[Entry]:
        real = real_path(Path(link.path))
        if real is None:
            return
        if real.is_dir():
            # A link upward would be followed without end, one elsewhere through the whole disk.
            if self._nested and self._is_inside(real) and not real.is_relative_to(self._root):
                folders.append((str(real), f"{below}{link.name}{os.sep}"))
        elif self._allows(real) and (entry := _entry(str(real), below, link.name)) is not None:
            yield entry


def _entry(path: str, below: str, name: str) -> Entry | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Entry(os.fsencode(f"{below}{name}"), status.st_size, status.st_mtime_ns, signs.in_name(name))


def begins_like_a_picture(path: Path) -> bool:
    """Whether a file's first bytes are a picture's."""
    return signs.in_bytes(newest.head(str(path)))
