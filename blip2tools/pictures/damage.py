"""Detection of damage before a picture's pixels take memory, so that refusing costs less than decoding.

The decoder would refuse whatever is found here, only later, and may refuse more. So each check follows what Pillow and its
libraries do with a damaged file, including what they accept: a PNG that ends early between rows, a checksum that is not
verified, a JPEG without its last two bytes.

The decoder alone would be as correct. But without this check a refused picture could take as much memory as one that is read,
up to 512 MB, and the promise that a refusal costs less than 50 MiB (SECURITY.md) would not hold.
"""

from __future__ import annotations

import io
import zlib
from typing import cast

from PIL import Image, ImageFile

from blip2tools.pictures import formats

CHEAP_BYTES = 16 * 2**20  # of a decode and its file: below this the check would save too little

_PIECE = 2**16  # bytes of a file at a time
_STEP = 2**18  # bytes of pixels at a time
_MAX_RUNS = 2**20  # counted at most: half a second; a decoder takes several times as long
_MAX_TAIL = 2**22  # bytes of a file that are copied to be judged without its pixels
# By what a WebP's first picture is coded in (RFC 9649, 2.7): lossy, lossless, or lossy with an alpha plane before it.
_LATE_WEBP = {"VP8 ": 4.5, "VP8L": 8.5, "ALPH": 6.5}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Segments and comments that the decoder ignores; it takes the colour space from JFIF and Adobe (0xE0, 0xEE).
_OF_APPLICATIONS = frozenset({*range(0xE1, 0xF0), 0xFE} - {0xEE})
# PNG specification, 8.1: first column and row of the seven passes, and the steps between.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def is_found(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether an opened picture, whose bytes are `data`, certainly cannot be decoded.

    Takes less than 10 MB, and for a PNG the time to decompress it.
    """
    codec = image.tile[0].codec_name if image.tile else ""
    match codec:
        case "jpeg":
            return _is_damaged_jpeg(data)
        case "zip":
            return _is_damaged_png(data, image.tile[0])
        case "bmp_rle":
            return _is_short_rle(data, image.tile[0])
        case "raw" if image.format in ("BMP", "TIFF"):
            return any(_last_row(image, data, tile) > len(data) for tile in image.tile)
    return False


def late_cost_of(kind: str, data: bytes, channels: int) -> float:
    """Bytes per pixel that a decode may have taken by the time it meets damage that `is_found` misses.

    Measured with altered bytes (Pillow 13 on Linux). 0 where next to nothing is taken, or everything is checked beforehand.

    Args:
        kind: format, under Pillow's name.
        data: the bytes of a picture.
        channels: bytes of a pixel in memory, which is what a compressed TIFF takes; 0 if the pixels are not compressed.
    """
    if not channels:
        return 0.0
    match kind:
        case "WEBP":
            return _LATE_WEBP[formats.webp_chunk(data)]
        case "AVIF":
            return 2.5
        case "GIF":
            return 1.0
        case "TIFF":
            return float(channels)
        case "BMP" if len(data) > 2 * _MAX_RUNS:  # in smaller files all runs are counted: each has at least two bytes
            return 3.0
    return 0.0


def _is_damaged_jpeg(data: bytes) -> bool:
    """Several scans must all be there before a pixel is decoded; a single one is decoded row by row, as far as it goes."""
    twin, markers = bytearray(data[:2]), list[int]()
    components, scans, several = 0, 0, False
    for code, position in formats.jpeg_markers(data):
        markers.append(code)
        segment = data[position : position + max(2, int.from_bytes(data[position : position + 2], "big"))]
        if code in formats.JPEG_FRAMES and len(segment) > 7:
            components, several = segment[7], several or code & 3 == 2
            # Height and width become 16 pixels, so that the same headers are judged with a picture that takes no memory.
            segment = segment[:3] + b"\0\x10\0\x10" + segment[7:]
        if code == 0xDA:
            scans += 1
            several = several or (scans == 1 and len(segment) > 2 and segment[2] < components)
        if code not in _OF_APPLICATIONS:
            twin += bytes((0xFF, code)) + (b"" if code in (0x01, 0xD9) else segment)
    if several:
        return 0xD9 not in markers or (len(twin) < _MAX_TAIL and not _loads(bytes(twin)))
    if markers[-2:] == [0xDA, 0xD9] and scans == 1:
        return False
    return not _loads(data, shrunk=True)


def _loads(data: bytes, *, shrunk: bool = False) -> bool:
    """Whether it decodes; a JPEG may be shrunk to an eighth of its sides, which reads the same bytes in the same steps."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if shrunk:
                image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except Exception:  # noqa: BLE001  damaged files bring a dozen types
        return False
    return True


def _is_damaged_png(data: bytes, tile: ImageFile._Tile) -> bool:
    """Whether the pixels cannot be decompressed to their end, or a chunk behind them cannot be read."""
    rows = _Rows(data, cast("tuple[int, int, int, int]", tile.extents))
    position, view = tile.offset, memoryview(data)
    length, name = int.from_bytes(data[position - 8 : position - 4], "big"), data[position - 4 : position]
    if name != b"IDAT" or not rows.wanted:
        return False  # an animation without a still picture
    while name in (b"IDAT", b"DDAT"):
        for begin in range(position, min(position + length, len(data)), _PIECE):
            if not rows.is_over and rows.take(view[begin : min(begin + _PIECE, position + length)]):
                return True
        position += length + 12
        length, name = int.from_bytes(data[position - 8 : position - 4], "big"), data[position - 4 : position]
    if not rows.is_over:
        return name != b"fdAT"  # Pillow reads on from these
    head, tail = data[: tile.offset - 8], data[position - 8 :]
    if name == b"IEND" or len(head) + len(tail) > _MAX_TAIL:
        return False
    return not _loads(head + _chunk(b"IDAT", zlib.compress(bytes(rows.first))) + tail)


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


class _Rows:
    """Decompresses the rows of a PNG and keeps none: counts them and checks the filter of each."""

    def __init__(self, data: bytes, extents: tuple[int, int, int, int]) -> None:
        width, height = extents[2] - extents[0], extents[3] - extents[1]
        bits = data[24] * _PNG_CHANNELS.get(data[25], 1)
        self._inflate = zlib.decompressobj()
        self.wanted = self._done = 0
        self._bad_until = 0
        self._passes: list[tuple[int, int, int]] = []  # where each begins and ends, and the bytes of a row
        for left, top, across, down in _PASSES if data[28] else ((0, 0, 1, 1),):
            if width > left and height > top:
                row = 1 + (-(-(width - left) // across) * bits + 7) // 8
                end = self.wanted + row * -(-(height - top) // down)
                self._passes.append((self.wanted, end, row))
                self.wanted = end

    @property
    def first(self) -> int:
        """Bytes of the first row."""
        return self._passes[0][2]

    @property
    def is_over(self) -> bool:
        """Whether the rest cannot matter: a decoder stops after its last row, or where the stream ends."""
        return self._inflate.eof or self._done >= self.wanted

    def take(self, piece: memoryview) -> bool:
        """Feed the next bytes, in the pieces that Pillow reads; true if its decoder fails there."""
        rest: bytes | memoryview = piece
        while not self.is_over:
            # The last byte separately: with it decoders read the checksum that follows, not always all of it.
            most = min(_STEP, self.wanted - 1 - self._done) or 1
            try:
                pixels = self._inflate.decompress(rest, most)
            except zlib.error:
                return True
            if not self._bad_until:
                self._look_at_filters(pixels)
            self._done += len(pixels)
            if self._bad_until and self._done >= self._bad_until:
                return True
            rest = self._inflate.unconsumed_tail
            if not rest and len(pixels) < most:
                break
        return self._inflate.eof and not self._is_between_rows()

    def _is_between_rows(self) -> bool:
        return any((self._done - begin) % row == 0 for begin, end, row in self._passes if begin < self._done <= end)

    def _look_at_filters(self, pixels: bytes) -> None:
        for begin, end, row in self._passes:
            first = begin + -(-max(0, self._done - begin) // row) * row
            filters = pixels[max(0, first - self._done) : max(0, end - self._done) : row]
            if filters and max(filters) > 4:
                number = next(number for number, one in enumerate(filters) if one > 4)
                self._bad_until = first + (number + 1) * row
                return


def _is_short_rle(data: bytes, tile: ImageFile._Tile) -> bool:
    """Whether the runs of a BMP end before its pixels do, counted as Pillow lays them out, up to a limit."""
    left, top, right, bottom = cast("tuple[int, int, int, int]", tile.extents)
    width, wanted, four = right - left, (right - left) * (bottom - top), cast("tuple[object, ...]", tile.args)[1]
    position, end, done, x = tile.offset, len(data), 0, 0
    for _ in range(_MAX_RUNS):
        if done >= wanted:
            return False
        if position + 1 >= end:
            return True
        count, value = data[position], data[position + 1]
        position += 2
        if count:
            count = max(0, min(count, width - x))
            done, x = done + count, x + count
        elif value == 0:
            done, x = done + -done % width, 0
        elif value == 1:
            return True
        elif value == 2:
            if position + 2 > end:
                return True
            done += min(wanted - done, data[position] + data[position + 1] * width)
            position, x = position + 2, done % width
        else:
            count = min(wanted - done, value)
            position += (count + 1) // 2 if four else count
            if position > end:
                return True
            done, x, position = done + count, x + value, position + position % 2
    return False  # not known


def _last_row(image: ImageFile.ImageFile, data: bytes, tile: ImageFile._Tile) -> int:
    """The least length of a file that holds the last row of plain pixels."""
    left, top, right, bottom = cast("tuple[int, int, int, int]", tile.extents)
    stride = cast("tuple[str, int, int]", tile.args)[1]
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = sum(list(tags.get(258, (1,)))[: 1 if tags.get(284) == 2 else tags.get(277, 1)])
    else:
        bits = int.from_bytes(data[24:26] if data[14] == 12 else data[28:30], "little")
    row = (int(bits) * (right - left) + 7) // 8
    return int(tile.offset) + (stride or row) * (bottom - top - 1) + row
