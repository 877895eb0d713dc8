"""The boxes of an AVIF or HEIC: what belongs to its primary picture, and whether the file is complete (ISO/IEC 23008-12)."""

from __future__ import annotations

from collections.abc import Iterator

_MAX_BOXES = 2_000
_MAX_ITEMS = 20 * _MAX_BOXES


def walk(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, content start and content end of successive boxes (ISO/IEC 14496-12, 4.2)."""
    for _ in range(_MAX_BOXES):
        if begin + 8 > end:
            return
        length, name, head = int.from_bytes(data[begin : begin + 4], "big"), data[begin + 4 : begin + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[begin + 8 : begin + 16], "big"), 16
        stop = end if length == 0 else begin + length
        if stop < begin + head or stop > end:
            return
        yield name, begin + head, stop
        begin = stop


def _inside(data: bytes, name: bytes, begin: int, end: int) -> tuple[int, int] | None:
    return next(((first, last) for found, first, last in walk(data, begin, end) if found == name), None)


def has_items(data: bytes) -> bool:
    """Whether the file holds a still picture, not only tracks (video)."""
    return _inside(data, b"meta", 0, len(data)) is not None


def primary_properties(data: bytes) -> list[tuple[bytes, int, int]]:
    """Name, content start and content end of each property of the primary item (ISO/IEC 23008-12, 9.3)."""
    meta = _inside(data, b"meta", 0, len(data))
    if meta is None:
        return []
    begin, end = meta[0] + 4, meta[1]
    primary, iprp = _inside(data, b"pitm", begin, end), _inside(data, b"iprp", begin, end)
    if primary is None or iprp is None:
        return []
    wide = data[primary[0]] > 0
    item = int.from_bytes(data[primary[0] + 4 : primary[0] + (8 if wide else 6)], "big")
    container = _inside(data, b"ipco", *iprp)
    every = list(walk(data, *container)) if container else []
    found = []
    for name, first, last in walk(data, *iprp):
        if name == b"ipma":
            found += [every[number - 1] for number in _associated(data, first, last, item) if 0 < number <= len(every)]
    return found


def _associated(data: bytes, begin: int, end: int, item: int) -> list[int]:
    """Numbers of the properties that an `ipma` box gives an item."""
    version, large = data[begin], data[begin + 3] & 1
    count, position = int.from_bytes(data[begin + 4 : begin + 8], "big"), begin + 8
    for _ in range(min(count, _MAX_ITEMS)):
        if position + 3 > end:
            break
        size = 4 if version else 2
        own, number = int.from_bytes(data[position : position + size], "big"), data[position + size]
        position += size + 1
        width = 2 if large else 1
        if own == item:
            mask = 0x7FFF if large else 0x7F
            return [
                int.from_bytes(data[at : at + width], "big") & mask
                for at in range(position, min(position + width * number, end), width)
            ]
        position += width * number
    return []


def is_cut_off(data: bytes) -> bool:
    """Whether an item's bytes lie beyond the end of the file (ISO/IEC 14496-12, 8.11.3).

    libheif would decode a tiled photo anyway, with the missing tiles black.
    """
    end = max((last for _, _, last in walk(data, 0, len(data))), default=0)
    if data[end + 4 : end + 8] in (b"meta", b"mdat"):
        return True  # the next box is longer than the rest of the file
    meta = _inside(data, b"meta", 0, len(data))
    place = _inside(data, b"iloc", meta[0] + 4, meta[1]) if meta else None
    if place is None:
        return False
    begin, end = place
    version, sizes = data[begin], int.from_bytes(data[begin + 4 : begin + 6], "big")
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    reader = _Reader(data, begin + 6, end)
    for _ in range(min(reader.take(wide), _MAX_ITEMS)):
        reader.take(wide)
        method = reader.take(2) & 15 if version else 0
        reader.take(2)
        base = reader.take(base_size)
        for _ in range(reader.take(2)):
            reader.take(index_size)
            last = base + reader.take(offset_size) + reader.take(length_size)
            if reader.is_over:
                return True
            if method == 0 and last > len(data):
                return True
    return False


def is_plain_hevc(data: bytes) -> bool:
    """Whether every coded picture in a HEIC has 8 bits and 4:2:0 chroma or none, as phones write: it takes less memory."""
    meta = _inside(data, b"meta", 0, len(data))
    iprp = _inside(data, b"iprp", meta[0] + 4, meta[1]) if meta else None
    ipco = _inside(data, b"ipco", *iprp) if iprp else None
    coded = [data[begin:end] for name, begin, end in walk(data, *ipco) if name == b"hvcC"] if ipco else []
    # ISO/IEC 14496-15, 8.3.3.1: chroma format, and bit depths minus 8.
    return bool(coded) and all(
        len(one) > 18 and one[16] & 3 < 2 and not one[17] & 7 and not one[18] & 7 for one in coded
    )


class _Reader:
    """Successive numbers; zeros past the end."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data, self._position, self._end = data, position, end

    @property
    def is_over(self) -> bool:
        return self._position > self._end

    def take(self, size: int) -> int:
        at = self._position
        self._position += size
        return 0 if self.is_over else int.from_bytes(self._data[at : at + size], "big")
