"""The picture of a file that is used: its first as a browser shows it, its position, and how many there are.

The decoder never seeks later frames: a frame has a size of its own, which no check of a header has seen (CVE-2026-96636). A
frame that is needed is copied into a plain file of its own instead.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from blip2tools.pictures import ends, tiff
from blip2tools.pictures.metadata import png_chunks, webp_chunks

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANIMATED, _ALPHA = 0x02, 0x10  # flags of a WebP (RFC 9649, 2.7)
_MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


class First(NamedTuple):
    """The bytes to decode instead of the file, and the position of their picture in it."""

    data: bytes
    canvas: tuple[int, int] | None = None
    """Width and height of the whole, where the first frame covers only a part of it."""
    place: tuple[int, int] = (0, 0)
    """Left and top of that part."""
    is_cut_out: bool = False
    """Whether the decoder returns only the part, instead of the whole with something around it."""
    is_opaque: bool = False
    """Whether transparency is ignored."""


def first(kind: str, data: bytes, room: int) -> First:
    """The first picture of a file.

    Args:
        kind: format, under Pillow's name.
        data: bytes that `formats.is_sane`.
        room: bytes of memory that may be taken before damage is noticed.
    """
    match kind:
        case "PNG":
            return _of_png(data)
        case "JPEG":
            return First(ends.whole_jpeg(data, room))
        case "GIF":
            return _of_gif(data)
        case "WEBP":
            return _of_webp(data)
        case "BMP":
            return First(_with_alpha(data))
    return First(data)


def count(kind: str, data: bytes, image: Image.Image | None = None) -> int:
    """How many frames or pages a file holds, as far as can be told without decoding them."""
    match kind:
        case "GIF":
            return sum(1 for _ in _gif_frames(data)) or 1
        case "PNG":
            return _png_frames(data)
        case "WEBP":
            return sum(name == b"ANMF" for name, _, _ in webp_chunks(data)) or 1
        case "JPEG":
            return 1  # the second image of an MPO is a phone's gain map or preview: to a person the file is one photo
        case "TIFF":
            return sum(1 for one in tiff.directories(data) if not tiff.is_reduced(one)) or 1
    return int(getattr(image, "n_frames", 1))


def _png_frames(data: bytes) -> int:
    """The count in acTL, which is valid only before the pixels (PNG specification, 11.3.6.1)."""
    for name, begin, end in png_chunks(data):
        if name == b"acTL" and end - begin == 8:
            return max(1, int.from_bytes(data[begin : begin + 4], "big"))
        if name == b"IDAT":
            break
    return 1


def _of_png(data: bytes) -> First:
    """An animation whose still image is not one of its frames shows its first frame instead of that image."""
    head, control, parts, is_animated, behind = [_SIGNATURE], b"", list[bytes](), False, False
    for name, begin, end in png_chunks(data):
        if name == b"IDAT":
            if not is_animated:
                return First(data)
            behind = True
        elif not behind:
            if name == b"fcTL":
                return First(data)  # the still image is the first frame
            if name == b"acTL":
                is_animated = is_animated or int.from_bytes(data[begin : begin + 4], "big") > 0
            else:
                head.append(data[begin - 8 : end + 4])
        elif name == b"fcTL":
            if control:
                break
            control = data[begin:end]
        elif name == b"fdAT" and control:
            parts.append(data[begin + 4 : end])
    canvas = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    if len(control) != 26 or not parts:
        return First(data)
    width, height, left, top = struct.unpack(">4I", control[4:20])
    if not width or not height or left + width > canvas[0] or top + height > canvas[1] or len(head) < 2:
        return First(data)
    head[1] = _chunk(b"IHDR", control[4:12] + head[1][16:21])
    made = b"".join([*head, *(_chunk(b"IDAT", part) for part in parts), _chunk(b"IEND", b"")])
    return First(made, canvas, (left, top), is_cut_out=True)


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def _of_gif(data: bytes) -> First:
    frame = next(_gif_frames(data), None)
    canvas = struct.unpack("<HH", data[6:10])
    if frame is None or (frame[:2] == (0, 0) and frame[2] >= canvas[0] and frame[3] >= canvas[1]):
        return First(data)
    left, top, width, height = frame
    # A frame that reaches beyond the logical screen enlarges it, in browsers as in Pillow.
    return First(data, (width, height), (left, top))


def _gif_frames(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, width and height of each frame of a GIF (GIF89a specification, sections 18 to 26)."""
    position = 13 + _gif_table(data[10:11])
    while position < len(data):
        block = data[position]
        if block == 0x2C and position + 10 <= len(data):
            yield struct.unpack("<4H", data[position + 1 : position + 9])
            position += 11 + _gif_table(data[position + 9 : position + 10])
        elif block == 0x21:
            position += 2
        else:
            return
        while position < len(data) and data[position]:
            position += data[position] + 1
        position += 1


def _gif_table(flags: bytes) -> int:
    """Bytes of the colour table that a packed field announces."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _of_webp(data: bytes) -> First:
    """Transparency of an animation always shows; that of a still picture only where the header declares it."""
    if data[12:16] != b"VP8X":
        return First(data)
    flags = data[20]
    if not flags & _ANIMATED:
        return First(data, is_opaque=not flags & _ALPHA)
    shown = data if flags & _ALPHA else data[:20] + bytes((flags | _ALPHA,)) + data[21:]
    for name, begin, _ in webp_chunks(data):
        if name == b"ANMF":
            left, top, width, height = (int.from_bytes(data[begin + i : begin + i + 3], "little") for i in (0, 3, 6, 9))
            return First(shown, (width + 1, height + 1), (2 * left, 2 * top))
    return First(shown)


def _with_alpha(data: bytes) -> bytes:
    """A 32-bit BMP with an alpha mask in its header, changed so that Pillow uses the masks, as browsers do."""
    header = int.from_bytes(data[14:18], "little")
    if (
        header < 108
        or data[28:34] != b"\x20\0\0\0\0\0"
        or data[66:70] != _MASKS[12:]
        or data[54:70] not in (_MASKS, b"\0" * 12 + _MASKS[12:])
    ):
        return data
    return data[:30] + b"\3\0\0\0" + data[34:54] + _MASKS + data[70:]
