"""PNG chunks, JPEG segments, RIFF chunks and ISO boxes, put together and taken apart."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    rows: Sequence[bytes],
    *,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG of unfiltered rows; `before` stands before IDAT, `between` between two of them, `after` behind."""
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, int(interlaced)))
    half = len(pixels) // 2
    data = chunk(b"IDAT", pixels[:half]) + between + chunk(b"IDAT", pixels[half:])
    return PNG_START + header + before + data + after + chunk(b"IEND")


def with_chunks(data: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with further chunks before its pixels and behind them."""
    first, end = data.index(b"IDAT") - 4, data.rindex(b"IEND") - 4
    return data[:first] + before + data[first:end] + after + data[end:]


def iccp(profile: bytes, name: bytes = b"icc") -> bytes:
    return chunk(b"iCCP", name + b"\0\0" + zlib.compress(profile))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(primaries: Sequence[tuple[float, float]]) -> bytes:
    red, green, blue, white = primaries
    return chunk(
        b"cHRM", struct.pack(">8I", *(round(v * 100_000) for point in (white, red, green, blue) for v in point))
    )


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, matrix, full)))


def clli(most: float, average: float) -> bytes:
    return chunk(b"cLLI", struct.pack(">II", round(most * 10_000), round(average * 10_000)))


def mdcv(most: float, least: float = 0.005) -> bytes:
    points = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
    return chunk(
        b"mDCV",
        struct.pack(">8H", *(round(v * 50_000) for point in points for v in point))
        + struct.pack(">II", round(most * 10_000), round(least * 10_000)),
    )


def text_chunk(key: bytes, text: bytes) -> bytes:
    return chunk(b"iTXt", key + b"\0\0\0\0\0" + text)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def exif(
    orientation: int,
    *,
    order: str = "<",
    kind: int = 3,
    count: int = 1,
    offset: int = 8,
    entries: Sequence[tuple[int, int, int, bytes]] = (),
    second: bool = False,
) -> bytes:
    """A TIFF header and a first directory with an orientation (0x0112), without the prefix that JPEG puts before it.

    Args:
        orientation: the value.
        order: `<` or `>`.
        kind, count: of the entry: 3 is SHORT, 4 LONG, 1 BYTE.
        offset: where the directory begins.
        entries: further ones, as tag, kind, count and value.
        second: whether the orientation stands in the second directory instead.
    """
    values = {1: "B3x", 3: "H2x", 4: "I", 9: "i"}
    packed = (
        struct.pack(order + values[kind], orientation)
        if count == 1
        else struct.pack(order + "HH", orientation, orientation)
    )
    own = [(0x0112, kind, count, packed)]
    directory = sorted([*entries, *([] if second else own)])
    lines = b"".join(struct.pack(order + "HHI", tag, type_, number) + value for tag, type_, number, value in directory)
    next_at = offset + 2 + len(lines) + 4 if second else 0
    body = struct.pack(order + "H", len(directory)) + lines + struct.pack(order + "I", next_at)
    if second:
        body += struct.pack(order + "H", 1) + struct.pack(order + "HHI", 0x0112, kind, count) + packed + b"\0" * 4
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, offset)
    return head + b"\0" * (offset - 8) + body


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2) + content


def exif_segment(tiff: bytes, prefix: bytes = b"Exif\0\0") -> bytes:
    return segment(0xE1, prefix + tiff)


def xmp_segment(xmp: bytes = XMP) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)


def icc_segment(part: bytes, number: int = 1, of: int = 1) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0" + bytes((number, of)) + part)


def parts_of(profile: bytes, count: int) -> list[bytes]:
    step = -(-len(profile) // count)
    return [profile[i * step : (i + 1) * step] for i in range(count)]


def segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Code, beginning (of the marker) and end of each segment up to the first scan."""
    position = 2
    while True:
        code = jpeg[position + 1]
        end = position + 2 + struct.unpack(">H", jpeg[position + 2 : position + 4])[0]
        yield code, position, end
        if code == 0xDA:
            return
        position = end


def into_jpeg(
    jpeg: bytes, start: bytes = b"", before_frame: bytes = b"", before_scan: bytes = b"", end: bytes = b""
) -> bytes:
    """A JPEG with further segments: behind its first marker, before its frame, before its scan, or after all."""
    places = {code: begin for code, begin, _ in segments(jpeg)}
    frame = next(places[code] for code in (0xC0, 0xC1, 0xC2) if code in places)
    scan = places[0xDA]
    return jpeg[:2] + start + jpeg[2:frame] + before_frame + jpeg[frame:scan] + before_scan + jpeg[scan:] + end


def riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 12
    while position + 8 <= len(data):
        length = struct.unpack("<I", data[position + 4 : position + 8])[0]
        found.append((data[position : position + 4], data[position + 8 : position + 8 + length]))
        position += 8 + length + length % 2
    return found


def vp8x(
    size: tuple[int, int],
    *,
    icc: bool = False,
    alpha: bool = False,
    exif: bool = False,
    xmp: bool = False,
    animated: bool = False,
) -> bytes:
    flags = icc << 5 | alpha << 4 | exif << 3 | xmp << 2 | animated << 1
    return riff(
        b"VP8X", struct.pack("<I", flags) + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
    )


def bitstream(data: bytes) -> bytes:
    """The chunks of a WebP that hold its pixels."""
    return b"".join(riff(name, content) for name, content in riff_chunks(data) if name in (b"VP8 ", b"VP8L", b"ALPH"))


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content


def boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, beginning and end of what each box holds."""
    while begin + 8 <= end:
        length = struct.unpack(">I", data[begin : begin + 4])[0]
        yield data[begin + 4 : begin + 8], begin + 8, begin + length
        begin += length


def with_property(data: bytes, new: bytes, *, drop: Sequence[bytes] = ()) -> bytes:
    """An AVIF of still items, as Pillow writes it, with one more property for every item; no item keeps those of `drop`."""
    meta = next((begin, end) for name, begin, end in boxes(data, 0, len(data)) if name == b"meta")
    iprp = next((b, e) for name, b, e in boxes(data, meta[0] + 4, meta[1]) if name == b"iprp")
    ipco = next((b, e) for name, b, e in boxes(data, *iprp) if name == b"ipco")
    ipma = next((b, e) for name, b, e in boxes(data, *iprp) if name == b"ipma")
    names = [name for name, _, _ in boxes(data, *ipco)]
    # What turns or cuts is essential (ISO/IEC 23000-22, 7.3.9): the highest bit of its association.
    number = len(names) + 1 | (0x80 if new[4:8] in (b"irot", b"imir", b"clap") else 0)
    # ipma, version 0, a byte for each association: id (2), how many (1), associations.
    old, position, items = data[ipma[0] : ipma[1]], 8, b""
    for _ in range(struct.unpack(">I", old[4:8])[0]):
        own = old[position + 3 : position + 3 + old[position + 2]]
        kept = bytes(one for one in own if names[(one & 0x7F) - 1] not in drop) + (bytes((number,)) if new else b"")
        items += old[position : position + 2] + bytes((len(kept),)) + kept
        position += 3 + len(own)
    new_iprp = box(b"iprp", box(b"ipco", data[ipco[0] : ipco[1]] + new) + box(b"ipma", old[:8] + items))
    rebuilt = bytearray(data[meta[0] : iprp[0] - 8] + new_iprp + data[iprp[1] : meta[1]])
    grown = len(rebuilt) - (meta[1] - meta[0])
    # iloc, version 0: offsets into the file grow by as much.
    at = rebuilt.index(b"iloc") + 4
    sizes = struct.unpack(">H", rebuilt[at + 4 : at + 6])[0]
    assert rebuilt[at] == 0
    assert sizes >> 8 == 0x44
    base_size = (sizes >> 4) & 15
    count, position = struct.unpack(">H", rebuilt[at + 6 : at + 8])[0], at + 8
    for _ in range(count):
        extents = struct.unpack(">H", rebuilt[position + 4 + base_size : position + 6 + base_size])[0]
        position += 6 + base_size
        for _ in range(extents):
            place = struct.unpack(">I", rebuilt[position : position + 4])[0]
            rebuilt[position : position + 4] = struct.pack(">I", place + grown)
            position += 8
    return data[: meta[0] - 8] + box(b"meta", bytes(rebuilt)) + data[meta[1] :]
