"""Pictures already seen: a handle leads back to the encoded bytes, within a byte budget, or to the file of an earlier process.

A framework may start one process for each call. A handle is a hash of the content, so the file of an earlier process can be
found as long as it exists. The table of files only says where to look: each use judges again whether the path may be read, and
hashes its content. A problem with the table is not an error: the handle is then not found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final


def handle_of(digest: str) -> str:
    """The short name of a picture in later calls: `img_` and the first 16 hex digits of the SHA-256 of its encoded bytes."""
    return "img_" + digest[:16]


class Store:
    """Encoded pictures by handle, least recently used out first. Safe to use from several threads.

    A picture larger than the whole budget is not kept, and nothing is evicted for it: its handle counts as expired
    (`not_found`), and other callers' pictures stay.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._paths: dict[str, Path] = {}
        self._used = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, digest: str | None = None, path: Path | None = None) -> str:
        """Keep `data` as the newest picture and return its handle; the same bytes are kept once.

        Args:
            data: the encoded bytes.
            digest: their SHA-256 in hex, if already known.
            path: the file that they were read from, if any.
        """
        digest = digest or hashlib.sha256(data).hexdigest()
        handle = handle_of(digest)
        if len(data) > self._budget:
            return handle
        with self._lock:
            before, _ = self._pictures.pop(handle, (b"", ""))
            self._used += len(data) - len(before)
            self._pictures[handle] = data, digest
            if path is not None:
                self._paths[handle] = path
            while self._used > self._budget:
                gone, (oldest, _) = self._pictures.popitem(last=False)
                self._paths.pop(gone, None)
                self._used -= len(oldest)
        return handle

    def get(self, handle: str) -> bytes | None:
        """The bytes behind a handle, which thereby becomes the newest, or `None` when they are not kept."""
        return self._use(handle)[0]

    def digest(self, handle: str) -> str | None:
        """The SHA-256 of the bytes behind a handle, which thereby becomes the newest, or `None` when they are not kept."""
        return self._use(handle)[1]

    def path(self, handle: str) -> Path | None:
        """The file that the bytes behind a handle were last read from; `None` where they came from elsewhere or are not kept."""
        with self._lock:
            return self._paths.get(handle)

    def _use(self, handle: str) -> tuple[bytes, str] | tuple[None, None]:
        with self._lock:
            found = self._pictures.get(handle)
            if found is None:
                return None, None
            self._pictures.move_to_end(handle)
            return found

    def known(self, limit: int) -> list[str]:
        """At most `limit` handles, newest first."""
        with self._lock:
            return list(reversed(self._pictures))[: max(limit, 0)]

    def __len__(self) -> int:
        with self._lock:
            return len(self._pictures)

    @property
    def bytes_used(self) -> int:
        """The size of everything kept."""
        with self._lock:
            return self._used


NAME: Final = "handles"  # of the file in the cache folder
MAX_BYTES: Final = 256 * 2**10
MAX_ENTRIES: Final = 1024  # that are left when the table has grown to `MAX_BYTES`
MAX_PATHS: Final = 4  # of one handle that are looked at: the same picture may lie in several places

logger = logging.getLogger(__name__)


class Remembered:
    """A table of handles and paths: one line each, newest last. Safe to use from several threads and processes.

    Args:
        folder: where the table lies; made at the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._noted: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def note(self, handle: str, path: Path) -> None:
        """Remember that the picture behind `handle` came from `path`, a resolved one."""
        entry = (handle, str(path))
        with self._lock:
            if entry in self._noted:
                return
            if len(self._noted) >= MAX_ENTRIES:
                self._noted.clear()
            self._noted.add(entry)
            try:
                self._append(_line(*entry))
            except OSError as error:
                logger.debug("a handle could not be remembered: %s", error)

    def find(self, handle: str) -> list[Path]:
        """Paths where the picture may be, newest entry first."""
        found = [path for known, path in reversed(self._entries()) if known == handle]
        return [Path(path) for path in dict.fromkeys(found)][:MAX_PATHS]

    def _append(self, line: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Private to the user: paths reveal what is on the machine.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(line)
            grown = file.tell() > MAX_BYTES
        if grown:
            self._shorten()

    def _shorten(self) -> None:
        """Keep the newest entries. An entry that another process adds meanwhile is lost."""
        newest = list(dict.fromkeys(reversed(self._entries())))[:MAX_ENTRIES]
        lines, room = [], MAX_BYTES // 2
        for line in (_line(*entry) for entry in newest):
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f"{NAME}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(reversed(lines))
            Path(name).replace(self._path)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def _entries(self) -> list[tuple[str, str]]:
        try:
            with self._path.open("rb") as file:
                return list(_read(file.read(2 * MAX_BYTES).splitlines()))
        except OSError:
            return []


def _line(handle: str, path: str) -> bytes:
    return json.dumps([handle, path]).encode() + b"\n"  # ASCII: a path need not be valid Unicode


def _read(lines: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for line in lines:
        try:
            handle, path = json.loads(line)
        except (ValueError, TypeError):
            continue  # another process is writing it, or it was edited by hand
        if isinstance(handle, str) and isinstance(path, str):
            yield handle, path
