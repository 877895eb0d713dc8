"""The newest pictures in a folder, however many files there are: streamed, keeping no more than are wanted.

A file counts as a picture by its name or by its first bytes, which are read only where it could be among the newest. Whether it
can be decoded is not checked here: an unreadable file must be reported, not skipped for an older picture.
"""

from __future__ import annotations

import heapq
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blip2tools.call import STOP
from blip2tools.pictures import signs
from blip2tools.pictures.references import real_path

SCAN_S = 30.0  # a folder on a slow network must not keep a thread from others for longer
_CHECK_EVERY = 256  # entries between checks of the clock

# O_NONBLOCK: a FIFO with no writer must not hang the call. Flags that a system does not know count as 0.
READ_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
    READ_FLAGS |= getattr(os, _name, 0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A file that looks like a picture. Ordered by age, the oldest first, and by name where two are equally old."""

    folder: Path
    name: str
    size: int
    modified_ns: int
    """Nanoseconds since 1970."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.folder / self.name

    def __lt__(self, other: Found) -> bool:
        if self.modified_ns != other.modified_ns:
            return self.modified_ns < other.modified_ns
        return (str(self.folder), self.name) > (str(other.folder), other.name)


class Scan:
    """Looks through folders for their newest pictures.

    Args:
        wanted: how many.
        allows: whether what a link leads to may be read.
        accepts: which names are wanted, by folder and name; all by default.
        by_bytes: whether files with other names are recognised by their first bytes.
    """

    def __init__(
        self,
        wanted: int,
        allows: Callable[[Path], bool],
        accepts: Callable[[Path, str], bool] | None = None,
        *,
        by_bytes: bool = True,
    ) -> None:
        self.unlisted: list[Path] = []
        """Folders that could not be listed, or not completely."""
        self.is_cut = False
        """Whether time ran out before the scan was complete."""
        self._wanted = wanted
        self._allows = allows
        self._accepts = accepts
        self._by_bytes = by_bytes
        self._heap: list[Found] = []
        self._seen: set[Path] = set()
        self._until = time.monotonic() + SCAN_S
        self._count = 0

    def look(self, roots: Iterable[Path]) -> None:
        """Scan folders and their direct subfolders. Hidden names are left out, and each folder is scanned once."""
        links: list[Path] = []
        subfolders: list[Path] = []
        for root in roots:
            self._folder(root, root, subfolders, links)
        for subfolder in sorted(subfolders):
            self._folder(subfolder, subfolder)
        for link in sorted(links):
            real = real_path(link)
            if real and real.is_dir() and self._allows(real):
                self._folder(link, real)

    def newest(self) -> list[Found]:
        """The pictures found, newest first."""
        return sorted(self._heap, reverse=True)

    def _folder(
        self, folder: Path, real: Path, subfolders: list[Path] | None = None, links: list[Path] | None = None
    ) -> None:
        if real in self._seen or self.is_cut:
            return
        self._seen.add(real)
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    if self._is_over():
                        return
                    if entry.name.startswith("."):
                        continue
                    if subfolders is not None and entry.is_dir(follow_symlinks=False):
                        subfolders.append(folder / entry.name)
                    elif links is not None and _leads_to_a_folder(entry):
                        links.append(folder / entry.name)
                    elif self._accepts is None or self._accepts(folder, entry.name):
                        self._offer(folder, entry)
        except FileNotFoundError:
            if subfolders is not None:  # a subfolder may vanish meanwhile; a folder that was asked for may not
                self.unlisted.append(folder)
        except OSError as error:
            logger.debug("a folder could not be listed: %s", error)
            self.unlisted.append(folder)

    def _is_over(self) -> bool:
        STOP.get().check()
        self._count += 1
        if self._count % _CHECK_EVERY == 1:
            self.is_cut = time.monotonic() > self._until
        return self.is_cut

    def _offer(self, folder: Path, entry: os.DirEntry[str]) -> None:
        """Keep an entry if it is a picture and newer than what is kept."""
        try:
            path, status = (
                self._leads_to(entry) if entry.is_symlink() else (entry.path, entry.stat(follow_symlinks=False))
            )
        except OSError:
            return
        if not stat.S_ISREG(status.st_mode) and not (stat.S_ISLNK(status.st_mode) and signs.in_name(entry.name)):
            return
        found = Found(folder, entry.name, status.st_size * stat.S_ISREG(status.st_mode), status.st_mtime_ns)
        full = len(self._heap) >= self._wanted
        if full and not self._heap[0] < found:
            return
        if not signs.in_name(entry.name) and not (self._by_bytes and signs.in_bytes(head(path))):
            return
        if full:
            heapq.heapreplace(self._heap, found)
        else:
            heapq.heappush(self._heap, found)

    def _leads_to(self, link: os.DirEntry[str]) -> tuple[str, os.stat_result]:
        """The file behind a link; the link itself if that lies outside or does not exist, to reveal nothing about it."""
        real = real_path(Path(link.path))
        if real is not None and self._allows(real):
            try:
                return str(real), real.lstat()
            except OSError:
                pass
        return link.path, link.stat(follow_symlinks=False)


def _leads_to_a_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a loop of links
        return False


def head(path: str) -> bytes:
    """The first bytes of a file, none if it cannot be read."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except OSError:
        return b""
    try:
        return os.read(descriptor, signs.HEAD_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
