"""Main memory in huge pages: for weights that are read from one end to the other for every word.

A processor looks up where each page of memory lies, and weights in pages of 4 KB are more than it remembers. Linux moves what a
process has into pages of 2 MB when it is asked to (madvise(2): MADV_COLLAPSE, since 6.1). Only memory that is in use is moved,
so that a process takes no more than before. On other systems, and where huge pages are switched off, nothing happens.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

_COLLAPSE: Final = 25  # MADV_COLLAPSE
_TOGETHER: Final = 16  # huge pages of one request, which takes about 30 ms
_WINDOW: Final = 512  # huge pages that are looked at together: libraries reserve far more than there is
_LOWEST: Final = bytes(value & 1 for value in range(256))  # the only bit of mincore(2) that means something
_SETTINGS: Final = Path("/sys/kernel/mm/transparent_hugepage")


def collapse() -> Iterator[None]:
    """Give freed memory back and move the rest into huge pages, piece by piece: a caller may stop after each."""
    if (size := _huge()) is None:
        return
    library: Any = ctypes.CDLL(None, use_errno=True)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    library.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    if (trim := getattr(library, "malloc_trim", None)) is not None:  # of glibc
        trim(0)
    for begin, end in _mappings(size):
        for first, count in _pieces(_present(library, begin, end, size)):
            failed = library.madvise(begin + first * size, count * size, _COLLAPSE) != 0
            if failed and ctypes.get_errno() == errno.EINVAL:
                break  # an older system, or memory that must not move
            yield


def _huge() -> int | None:
    """Bytes of a huge page; None where there are none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        if "[never]" in (_SETTINGS / "enabled").read_text(encoding="ascii"):
            return None
        return int((_SETTINGS / "hpage_pmd_size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _mappings(size: int) -> Iterator[tuple[int, int]]:
    """Where this process has memory that is its own and no file's, in whole huge pages; what is large in several pieces."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            begin, end = (int(address, 16) for address in where.split("-"))
            begin, end = -(-begin // size) * size, end // size * size
            for start in range(begin, end, _WINDOW * size):
                yield start, min(start + _WINDOW * size, end)


def _present(library: Any, begin: int, end: int, size: int) -> list[bool]:
    """Whether each huge page's worth is wholly in memory; none where the mapping is gone."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = (ctypes.c_ubyte * ((end - begin) // page))()
    if library.mincore(begin, end - begin, found):
        return []
    told, pages = bytes(found).translate(_LOWEST), size // page
    return [told.count(1, start, start + pages) == pages for start in range(0, len(told), pages)]


def _pieces(present: list[bool]) -> Iterator[tuple[int, int]]:
    """Beginnings and lengths of what is present one after the other, each at most so long as is moved together."""
    start = 0
    for there, run in groupby(present):
        stop = start + len(list(run))
        if there:
            for piece in range(start, stop, _TOGETHER):
                yield piece, min(_TOGETHER, stop - piece)
        start = stop
