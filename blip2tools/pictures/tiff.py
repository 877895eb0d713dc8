"""The directories of a TIFF, read without decoding a page: how many pages there are, and what the first one is."""

from __future__ import annotations

import struct
from collections.abc import Iterator

SUBFILE, PHOTOMETRIC, DNG_VERSION = 254, 262, 50706  # TIFF 6.0, section 8; DNG 1.7, chapter 4
_REDUCED = 1
_SIZES = {3: 2, 4: 4}  # SHORT and LONG
_MAX_PAGES = 10_000
_MAX_ENTRIES = 4_096


def directories(data: bytes) -> Iterator[dict[int, int]]:
    """The tags of each page: the value of those with one whole number; 0 for others, such as DNGVersion."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    head, number, entry, offset = ("Q", 8, 20, "Q") if big else ("H", 2, 12, "I")
    position = _read(data, order + offset, 8 if big else 4)
    seen: set[int] = set()
    while position and position not in seen and len(seen) < _MAX_PAGES:
        seen.add(position)
        count = _read(data, order + head, position)
        begin = position + number
        end = begin + entry * count
        if not 0 < count <= _MAX_ENTRIES or end > len(data):
            return
        yield dict(_entry(data, order, at, entry) for at in range(begin, end, entry))
        position = _read(data, order + offset, end)


def is_reduced(first: dict[int, int]) -> bool:
    """Whether a page is a smaller version of another: the preview in a camera's raw file."""
    return bool(first.get(SUBFILE, 0) & _REDUCED)


def _entry(data: bytes, order: str, at: int, size: int) -> tuple[int, int]:
    tag, kind = struct.unpack(order + "HH", data[at : at + 4])
    count = _read(data, order + ("Q" if size == 20 else "I"), at + 4)
    value = at + size - (8 if size == 20 else 4)
    return tag, int.from_bytes(
        data[value : value + _SIZES[kind]], "little" if order == "<" else "big"
    ) if count == 1 and kind in _SIZES else 0


def _read(data: bytes, form: str, at: int) -> int:
    size = struct.calcsize(form)
    return int(struct.unpack(form, data[at : at + size])[0]) if at + size <= len(data) else 0
