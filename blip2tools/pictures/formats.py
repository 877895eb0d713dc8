"""Format and structure of a picture, judged by its bytes before any decoder reads them.

A file of 20 MB can hold millions of empty blocks, which a decoder visits one by one for many seconds and hundreds of MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from blip2tools.pictures import boxes

MAX_JPEG_SCANS = 100  # encoders write about ten; each is a pass over the whole picture, however few bytes it takes
_MAX_WEBP_CHUNKS = 64  # before the first picture: headers, a profile, and other additions
MAX_JPEG_FILL = 2**16  # Pillow steps over it byte by byte: 20 MB take ten seconds
MAX_BLOCKS = 50_000  # and one more for every 256 bytes

# The second half is recognised only to be named in errors. File names and declared types are not trusted.
_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)"
    rb"|(?P<PNG>\x89PNG\r\n\x1a\n)"
    rb"|(?P<GIF>GIF8[79]a)"
    rb"|(?P<WEBP>RIFF.{4}WEBP)"
    rb"|(?P<BMP>BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00)"
    rb"|(?P<TIFF>II[\x2a\x2b]\x00|MM\x00[\x2a\x2b])"
    rb"|(?P<AVIF>.{4}ftyp(?:avif|avis|(?:mif1|msf1|miaf).{4,24}avi[fs]))"
    rb"|(?P<HEIC>.{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1))"
    rb"|(?P<PDF>%PDF)"
    rb"|(?P<PostScript>%!PS|\xc5\xd0\xd3\xc6)"
    rb"|(?P<SVG>(?:\xef\xbb\xbf)?\s{0,64}<(?:\?xml[^>]{0,200}>.{0,2000}?<)?svg)"
    rb"|(?P<HTML>\s{0,64}<(?:!doctype html|!DOCTYPE html|html|HTML))"
    rb"|(?P<PSD>8BPS)"
    rb"|(?P<JPEG2000>\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51)"
    rb"|(?P<JPEGXL>\xff\x0a|\x00\x00\x00\x0cJXL )"
    rb"|(?P<ICO>\x00\x00[\x01\x02]\x00[^\x00]\x00)"
    rb"|(?P<ZIP>PK\x03\x04)",
    re.DOTALL,
)
_FIRST_BYTES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"RIFF",
    b"BM",
    b"II\x2a\x00",
    b"MM\x00\x2a",
)

# 0xFF 0x00 is a stuffed byte of the data, 0xFF 0xD0-0xD7 restarts it, 0xFF 0xFF pads (ITU-T T.81, B.1.1.2).
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


def kind_of(data: bytes) -> str | None:
    """The format by its first bytes, under Pillow's name where Pillow reads it; `None` if it is not known."""
    match = _MAGIC.match(data)
    return match.lastgroup if match else None


def is_cut_off(data: bytes) -> bool:
    """Whether there are so few bytes that they could be the beginning of a picture."""
    return len(data) < 18 and any(data[: len(start)] == start[: len(data)] for start in _FIRST_BYTES)


def is_sane(kind: str, data: bytes) -> bool:
    """Whether there are no more blocks, scans and fill than an encoder would write, and a WebP, AVIF or HEIC is complete."""
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if kind in ("AVIF", "HEIC"):
        return not boxes.is_cut_off(data)
    walk = {"JPEG": jpeg_markers, "PNG": _png_chunks, "GIF": _gif_blocks}.get(kind)
    if walk is None:
        return True
    limit = MAX_BLOCKS + len(data) // 256
    scans, fill, end = 0, 0, 2
    for count, (block, position) in enumerate(walk(data)):
        if kind == "JPEG":
            # Between segments: fill (ITU-T T.81, B.1.1.2), and whatever else; after the start of a scan come its pixels.
            fill += 0 if scans else position - 2 - end
            end = position if block == 0x01 else position + int.from_bytes(data[position : position + 2], "big")
            scans += block == 0xDA
        if count > limit or scans > MAX_JPEG_SCANS or fill > MAX_JPEG_FILL:
            return False
    return True


def cost_of(kind: str, data: bytes) -> float:
    """Bytes of memory for each pixel at the peak of a decode, down to RGB (measured: Pillow 13 on Linux)."""
    if kind in ("WEBP", "AVIF"):
        return 16.0  # two canvases of the decoder, what it hands over, and Pillow's copy of that
    if kind == "HEIC":
        return 9.0 if boxes.is_plain_hevc(data) else 14.0
    if kind != "JPEG":
        return 8.0  # the picture, and its RGB
    frame, scans, progressive = b"", 0, False
    for code, position in jpeg_markers(data):
        if code in JPEG_FRAMES and not frame:
            frame = data[position : position + 8 + 3 * 255]
            progressive = code & 3 == 2
        scans += code == 0xDA
    if not frame or not (progressive or scans > 1):
        return 8.0
    # The coefficients of every component, two bytes each, are kept until the last scan (ITU-T T.81, B.2.2).
    factors = [(one >> 4, one & 15) for one in frame[9 : 8 + 3 * frame[7] : 3]] if len(frame) > 9 else []
    most = max((width for width, _ in factors), default=0) * max((height for _, height in factors), default=0)
    return max(8.0, 4 + 2 * sum(width * height for width, height in factors) / max(1, most))


def size_of_webp(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header of a WebP (RFC 9649, 2.5 to 2.7); Pillow would copy the file twice to find them."""
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L" if data[20:21] == b"\x2f":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def webp_chunk(data: bytes) -> str:
    """The first chunk of a WebP's first picture: `VP8 `, `ALPH` or `VP8L`; if that cannot be told, `VP8L`."""
    position = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        name = data[position : position + 4]
        if name in (b"VP8 ", b"ALPH", b"VP8L"):
            return name.decode()
        # A frame's own chunks follow a header of 16 bytes.
        length = 16 if name == b"ANMF" else int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    return "VP8L"


def jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker codes, and where their segments begin, up to and with the end of the image (0xD9).

    What follows (a phone's motion clip, say) is not the picture.
    """
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        yield code, position
        if code == 0xD9:
            return
        if code != 0x01:  # the one other marker without a length
            position += int.from_bytes(data[position : position + 2], "big")


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """First letters of the chunk names, and where the chunks begin."""
    position = 8
    while position + 12 <= len(data):
        yield data[position + 4], position
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Introducers of the blocks and where they begin, up to the second image; and 0 per sub-block.

    GIF89a specification, sections 18 to 26.
    """
    position = 13 + _gif_table(data[10:11])
    images = 0
    while position < len(data) and images < 2:
        block = data[position]
        yield block, position
        if block == 0x2C:
            images += 1
            position += 11 + _gif_table(data[position + 9 : position + 10])
        elif block == 0x21:
            position += 2
        else:
            return
        while position < len(data) and data[position]:
            yield 0, position
            position += data[position] + 1
        position += 1


def _gif_table(flags: bytes) -> int:
    """Bytes of the colour table that a packed field announces."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
