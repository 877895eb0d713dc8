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
from pathlib import Path
from typing import Any, Final

import numpy as np

_COLLAPSE: Final = 25  # MADV_COLLAPSE
_TOGETHER: Final = 16  # huge pages of one request, which takes about 30 ms
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
    """Where this process has memory that is its own and no file's, in whole huge pages."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        where, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            begin, end = (int(address, 16) for address in where.split("-"))
            begin, end = -(-begin // size) * size, end // size * size
            if begin < end:
                yield begin, end


def _present(library: Any, begin: int, end: int, size: int) -> Any:
    """Whether each huge page's worth is wholly in memory, as an array; an empty one where the mapping is gone."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = np.zeros((end - begin) // page, dtype=np.uint8)
    if library.mincore(begin, end - begin, found.ctypes.data):
        return np.zeros(0, dtype=bool)
    return (found & 1).reshape(-1, size // page).all(axis=1)


def _pieces(present: Any) -> Iterator[tuple[int, int]]:
    """Beginnings and lengths of what is present one after the other, each at most so long as is moved together."""
    edges = np.flatnonzero(np.diff(present.astype(np.int8), prepend=0, append=0)).reshape(-1, 2).tolist()
    for start, stop in edges:
        for piece in range(start, stop, _TOGETHER):
            yield piece, min(_TOGETHER, stop - piece)
