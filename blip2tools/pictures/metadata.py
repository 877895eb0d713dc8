"""Colours and orientation of a picture, from the bytes around its pixels: one rule for each container.

The rules are those of Chromium 156; where a desktop viewer differs (a WebP that EXIF rotates), the browser's apply. Nothing is
decoded here but a compressed profile, and that within bounds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from blip2tools.pictures import boxes, formats, icc
from blip2tools.pictures.colours import CodePoints, Description, Gamma

_BROKEN = "is broken"
_NEAR_SRGB = 0.05  # of an exponent: a PNG that says about 1/2.2 means sRGB
_ORIENTATION = 0x0112  # CIPA DC-008
_SHORT = 3
_MAX_ENTRIES = 1_000
# What `irot` (quarter turns anticlockwise) and then `imir` (axis) come to, as an EXIF orientation (ISO/IEC 23008-12, 6.5.10).
_TURNS = {
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip
_MAX_CHUNKS = 2_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """A file's description of its colours and orientation.

    Attributes:
        colours: how its values are meant; `None` is sRGB, or whatever a browser takes for it.
        problem: what is wrong with its colour profile, if anything; continues "its colour profile ...".
        orientation: 1-8 as in EXIF; 1 also where the decoder itself rotates the pixels.
    """

    colours: Description | None = None
    problem: str | None = None
    orientation: int = 1


def read(kind: str, data: bytes, profile: bytes | None = None) -> Metadata:
    """A file's description of its colours and orientation.

    Args:
        kind: format, under Pillow's name.
        data: the bytes of a picture that `formats.is_sane`.
        profile: what the decoder found, for containers that are not read here.
    """
    match kind:
        case "PNG":
            return _of_png(data)
        case "JPEG":
            return _of_jpeg(data)
        case "WEBP":
            return _with_profile(_webp_profile(data))
        case "AVIF":
            return _of_boxes(data, turns=True)
        case "HEIC":
            return _of_boxes(data, turns=False)
        case "BMP":
            return _with_profile(_bmp_profile(data))
        case "GIF":
            return Metadata()
    return _with_profile(profile)


def exif_orientation(tiff: bytes) -> int:
    """The orientation in the first directory of EXIF data without its prefix; 1 if there is none that a browser accepts.

    It accepts one value of the type SHORT, and nothing else.
    """
    order = {b"II\x2a\0": "<", b"MM\0\x2a": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    position = struct.unpack(order + "I", tiff[4:8])[0]
    count = struct.unpack(order + "H", tiff[position : position + 2])[0] if position + 2 <= len(tiff) else 0
    for entry in range(position + 2, position + 2 + 12 * min(count, _MAX_ENTRIES), 12):
        if entry + 12 > len(tiff):
            break
        tag, kind, number, value = struct.unpack(order + "HHIH", tiff[entry : entry + 10])
        if tag == _ORIENTATION and kind == _SHORT and number == 1:
            return value if 1 <= value <= 8 else 1
    return 1


def _with_profile(profile: bytes | None, orientation: int = 1) -> Metadata:
    if not profile:
        return Metadata(orientation=orientation)
    try:
        return Metadata(icc.parse(profile), orientation=orientation)
    except icc.UnusableError as error:
        return Metadata(problem=str(error), orientation=orientation)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, content start and content end of each chunk of a PNG."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], position + 8, position + 8 + length
        position += 12 + length


_OF_COLOURS = frozenset({b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cLLI", b"mDCV", b"eXIf"})


def _of_png(data: bytes) -> Metadata:
    chunks: dict[bytes, bytes] = {}
    for name, begin, end in png_chunks(data):
        if name == b"IDAT":
            break
        if name == b"PLTE":
            chunks.setdefault(b"cICP", b"")  # after the palette it no longer counts
        elif name in _OF_COLOURS and name not in chunks and _is_sound(data, begin, end):
            chunks[name] = data[begin:end]
    orientation = exif_orientation(chunks.get(b"eXIf", b""))
    points = chunks.get(b"cICP", b"")
    if len(points) == 4 and points[2:] == b"\0\1":
        described = CodePoints(points[0], points[1], _png_peak(chunks), is_video=True)
        if described.is_known:
            return Metadata(described, orientation=orientation)
    problem = None
    if b"iCCP" in chunks:
        profile = _unpacked(chunks[b"iCCP"])
        found = _with_profile(profile, orientation) if profile else Metadata(problem=_BROKEN)
        if found.colours is not None:
            return found
        problem = found.problem
    return Metadata(None if b"sRGB" in chunks else _gamma(chunks), problem, orientation)


def _is_sound(data: bytes, begin: int, end: int) -> bool:
    return end + 4 <= len(data) and zlib.crc32(data[begin - 4 : end]) == int.from_bytes(data[end : end + 4], "big")


def _unpacked(chunk: bytes) -> bytes | None:
    """The profile in an iCCP chunk, if it is one; decompression stops above the size of any profile."""
    name, separator, rest = chunk.partition(b"\0")
    if not name or not separator or rest[:1] != b"\0":
        return None
    try:
        return zlib.decompressobj().decompress(rest[1:], icc.MAX_BYTES + 1) or None
    except zlib.error:
        return None


def _gamma(chunks: dict[bytes, bytes]) -> Gamma | None:
    written, points = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    value = int.from_bytes(written, "big") / 100_000 if len(written) == 4 else 0.0
    if not value:
        return None
    if len(points) != 32:
        return Gamma(1 / value) if abs(value * 2.2 - 1) >= _NEAR_SRGB else None
    x_y = [number / 100_000 for number in struct.unpack(">8I", points)]
    white, red, green, blue = zip(x_y[::2], x_y[1::2], strict=True)
    try:
        icc.to_d50((red, green, blue, white))
    except icc.UnusableError:
        return None
    return Gamma(1 / value, (red, green, blue, white))


def _png_peak(chunks: dict[bytes, bytes]) -> float | None:
    light, display = chunks.get(b"cLLI", b""), chunks.get(b"mDCV", b"")
    most = int.from_bytes(light[:4], "big") / 10_000 if len(light) == 8 else 0.0
    return most or (int.from_bytes(display[16:20], "big") / 10_000 if len(display) == 24 else 0.0) or None


def _of_jpeg(data: bytes) -> Metadata:
    parts: list[bytes] = []
    tiff: bytes | None = None
    for code, position in formats.jpeg_markers(data):
        if code == 0xDA:
            break
        if code not in (0xE1, 0xE2):
            continue
        segment = data[position + 2 : position + int.from_bytes(data[position : position + 2], "big")]
        if code == 0xE1 and tiff is None and segment[:5] == b"Exif\0" and len(segment) > 6:
            tiff = segment[6:]
        elif code == 0xE2 and segment[:12] == b"ICC_PROFILE\0" and len(segment) > 14:
            parts.append(segment[12:])
    orientation = exif_orientation(tiff or b"")
    if not parts:
        return Metadata(orientation=orientation)
    profile = _joined(parts)
    return (
        _with_profile(profile, orientation)
        if profile
        else Metadata(problem="is in parts that do not fit", orientation=orientation)
    )


def _joined(parts: list[bytes]) -> bytes | None:
    """The profile from its parts in a JPEG, each of which begins with its number and the total (ICC.1:2022, annex B.4).

    If the first claims to be the only one, it is; otherwise each must be there once.
    """
    count = parts[0][1]
    if parts[0][:2] == b"\1\1":
        return parts[0][2:]
    numbered = {part[0]: part[2:] for part in parts}
    if len(parts) != count or sorted(numbered) != [*range(1, count + 1)] or any(part[1] != count for part in parts):
        return None
    return b"".join(numbered[number] for number in range(1, count + 1))


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, content start and content end of the first chunks of a WebP (RFC 9649, 2.3)."""
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            return
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        yield data[position : position + 4], position + 8, position + 8 + length
        position += 8 + length + length % 2


def _webp_profile(data: bytes) -> bytes | None:
    # A browser ignores that of an animation.
    if data[12:16] != b"VP8X" or data[20] & 0x22 != 0x20:
        return None
    return next((data[begin:end] for name, begin, end in webp_chunks(data) if name == b"ICCP"), None)


def _bmp_profile(data: bytes) -> bytes | None:
    """The profile that a header of version 5 embeds."""
    if int.from_bytes(data[14:18], "little") != 124 or data[70:74] != b"DEBM":
        return None
    begin, length = struct.unpack("<II", data[126:134])
    return data[14 + begin : 14 + begin + length] or None


def _of_boxes(data: bytes, *, turns: bool) -> Metadata:
    """An AVIF or HEIC: a profile first, else code points; and the container's rotation of its primary item."""
    properties = boxes.primary_properties(data)
    angle, axis, profile, points, peak = 0, None, None, None, None
    for name, begin, end in properties:
        content = data[begin:end]
        if name == b"irot" and content:
            angle = content[0] & 3
        elif name == b"imir" and content:
            axis = content[0] & 1
        elif name == b"colr" and content[:4] in (b"prof", b"rICC"):
            profile = profile or content[4:]
        elif name == b"colr" and content[:4] == b"nclx" and len(content) >= 11:
            points = points or struct.unpack(">HH", content[4:8])
        elif name == b"clli" and len(content) >= 4:
            peak = float(int.from_bytes(content[:2], "big")) or peak
        elif name == b"mdcv" and len(content) >= 24:
            peak = peak or int.from_bytes(content[16:20], "big") / 10_000 or None
    orientation = _TURNS[angle, axis] if turns else 1
    if profile or points is None:
        return _with_profile(profile, orientation)
    # 2 is "unspecified" for both; unknown values are treated as that.
    primaries, transfer = points
    described = CodePoints(primaries, transfer, peak)
    if not described.is_known:
        described = CodePoints(
            primaries if CodePoints(primaries, 13).is_known else 1,
            13 if not CodePoints(1, transfer).is_known else transfer,
            peak,
        )
    return Metadata(described, orientation=orientation)
