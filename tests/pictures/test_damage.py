"""Damage that is found before a decode: only in files that the decoder refuses too, and with little memory."""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.errors import CorruptImageError, TooLargeError, VisionError
from blip2tools.pictures import damage, formats, frames, images
from blip2tools.pictures.decoder import Decoder
from blip2tools.settings import Settings
from tests.pictures.test_images import chunk, encoded, png
from tests.support.fuzz import mend

SETTINGS = Settings(formats=("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "AVIF"))
DRAWN = Image.linear_gradient("L").resize((41, 33)).rotate(20)
RGB = Image.merge("RGB", (DRAWN, DRAWN.rotate(90), DRAWN.rotate(180)))
# Encoded runs of every kind that a BMP knows: a run, plain pixels, a delta, ends of lines.
RUNS = b"\x05\x07\x00\x04\x01\x02\x03\x04\x00\x00" + b"\x09\x01\x00\x00" * 4 + b"\x00\x02\x02\x01" + b"\x07\x02"


def interlaced(width: int, height: int) -> bytes:
    """Adam7 in RGB, with the rows of every pass that has pixels, since Pillow writes none."""
    rows = bytearray()
    for left, top, across, down in damage._PASSES:
        for _ in range(top, height if width > left else 0, down):
            rows += bytes(1 + 3 * len(range(left, width, across)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    body = zlib.compress(bytes(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def runs(four: bool = False) -> bytes:
    colours = bytes(4 * 16)
    header = struct.pack("<IiiHHIIiiII", 40, 9, 7, 1, 4 if four else 8, 2 if four else 1, len(RUNS), 0, 0, 16, 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(RUNS), 0, 0, start) + header + colours + RUNS


def in_pieces(data: bytes) -> bytes:
    """A PNG whose pixels are in several chunks, followed by a text."""
    start = data.index(b"IDAT") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    body = data[start + 8 : start + 8 + length]
    pieces = b"".join(chunk(b"IDAT", body[at : at + 50]) for at in range(0, length, 50))
    return data[:start] + pieces + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"words")) + chunk(b"IEND", b"")


WHOLE_PNG = encoded(RGB)
WHOLE = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg-grey": encoded(DRAWN, "JPEG", restart_marker_rows=1),
    "jpeg-cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg-progressive": encoded(RGB, "JPEG", progressive=True),
    "mpo": encoded(RGB, "MPO", save_all=True, append_images=[RGB]),
    "png": WHOLE_PNG,
    "png-1": encoded(DRAWN.convert("1")),
    "png-16": encoded(DRAWN.convert("I;16")),
    "png-pieces": in_pieces(encoded(RGB)),
    "png-long": png(300, 300, 8, 0, b"".join(b"\0" + random.Random(row).randbytes(300) for row in range(300))),
    "png-more": WHOLE_PNG[:-12] + chunk(b"IDAT", b"more") + WHOLE_PNG[-12:],
    "png-interlaced": interlaced(9, 7),
    "png-interlaced-small": interlaced(2, 2),
    "png-animated": encoded(RGB, save_all=True, append_images=[RGB.rotate(90)]),
    "bmp": encoded(RGB, "BMP"),
    "bmp-8": encoded(DRAWN, "BMP"),
    "bmp-runs": runs(),
    "bmp-runs-4": runs(four=True),
    "tiff": encoded(RGB, "TIFF"),
    "tiff-1": encoded(DRAWN.convert("1"), "TIFF"),
    "tiff-lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "gif": encoded(DRAWN.convert("P"), "GIF"),
}


def found(data: bytes) -> bool:
    with images._guarded():
        opened = images._open(data, SETTINGS)
        whole = frames.first(str(formats.kind_of(data)), data, 2**26).data
        return damage.is_found(opened, whole)


def decodes(data: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """By the decoder alone."""
    with monkeypatch.context() as patch:
        patch.setattr(damage, "is_found", lambda *_: False)
        try:
            images.decode(data, SETTINGS)
        except VisionError:
            return False
    return True


@pytest.mark.parametrize("name", WHOLE)
def test_never_in_what_decodes(name, monkeypatch):
    """Cut at every length, and changed at random: no file that decodes is refused."""
    data = WHOLE[name]
    assert decodes(data, monkeypatch)
    assert not found(data)
    chance = random.Random(name)
    broken = [data[:length] for length in range(len(data) - 60, len(data))]
    broken += [data[: chance.randrange(len(data))] for _ in range(40)]
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        broken.append(mend(bytes(changed)) if chance.random() < 0.7 else bytes(changed))
    seen = 0
    for one in broken:
        try:
            before = found(one)
        except VisionError:
            continue  # by its header
        seen += before
        assert not (before and decodes(one, monkeypatch))
    assert seen or name in ("gif", "tiff-lzw"), "of these, damage shows only where it is decoded"


FOUND = {
    "jpeg-cut": WHOLE["jpeg"][:-30],
    "jpeg-second-scan": WHOLE["jpeg"][:-2] + WHOLE["jpeg"][WHOLE["jpeg"].index(b"\xff\xda") :],
    "jpeg-progressive-cut": WHOLE["jpeg-progressive"][:-12],
    "jpeg-progressive-tables": WHOLE["jpeg-progressive"][:-2] + b"\xff\xc4\0\x15\0" + b"\xff" * 18 + b"\xff\xd9",
    "png-cut": WHOLE["png"][:-40],
    "png-no-next-chunk": WHOLE["png-pieces"][: WHOLE["png-pieces"].index(b"IDAT") + 58],
    "png-checksum": (lambda at: WHOLE["png"][:at] + b"\0\0\0\0" + WHOLE["png"][at + 4 :])(
        WHOLE["png"].index(b"IEND") - 12
    ),
    "png-filter": png(8, 4, 8, 0, (b"\0" * 9) * 2 + b"\x05" + b"\0" * 17),
    "png-filter-last": png(8, 4, 8, 0, (b"\0" * 9) * 3 + b"\x05" + b"\0" * 8),
    "png-half-a-row": png(8, 4, 8, 0, b"\0" * 22),
    "png-bomb-behind": WHOLE["png"][:-12]
    + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000)))
    + WHOLE["png"][-12:],
    "bmp-cut": WHOLE["bmp"][:-3],
    "bmp-runs-cut": WHOLE["bmp-runs"][:-1],
    "bmp-runs-end": WHOLE["bmp-runs"][:-6] + b"\0\1" + bytes(6),
    "bmp-runs-delta": WHOLE["bmp-runs"][:-3],
    "bmp-runs-pixels": WHOLE["bmp-runs"][: -len(RUNS) + 6],
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name, monkeypatch):
    assert found(FOUND[name])
    assert not decodes(FOUND[name], monkeypatch)


def test_only_where_it_saves_something(monkeypatch):
    """A small picture is simply decoded; a large one is checked for damage first."""
    looked = []
    monkeypatch.setattr(damage, "is_found", lambda *_: bool(looked.append(1)))
    images.decode(WHOLE["png"], SETTINGS)
    assert not looked
    monkeypatch.undo()
    monkeypatch.setattr(damage, "CHEAP_BYTES", 1000)
    images.decode(WHOLE["png"], SETTINGS)
    with pytest.raises(CorruptImageError):
        images.decode(FOUND["png-cut"], SETTINGS)


def test_what_would_take_long_to_count_is_left_to_the_decoder(monkeypatch):
    monkeypatch.setattr(damage, "_MAX_RUNS", 3)
    monkeypatch.setattr(damage, "_MAX_TAIL", 100)
    assert not found(FOUND["bmp-runs-cut"])
    assert not found(FOUND["png-bomb-behind"])


# ---- what it saves ----

LARGE = (7000, 6000)  # 170 MB once it is decoded


def large(kind: str) -> bytes:
    small = Image.effect_noise((140, 120), 90)
    image = small.resize(LARGE, Image.Resampling.NEAREST)
    match kind:
        case "jpeg":
            return encoded(Image.merge("RGB", (image,) * 3), "JPEG", quality=60)
        case "jpeg-progressive":
            return encoded(image, "JPEG", quality=60, progressive=True)
        case "png":
            return encoded(Image.merge("RGB", (image,) * 3), compress_level=1)
        case "bmp":
            return encoded(image.resize((5000, 3900)), "BMP")
        case "gif":
            return encoded(image.resize((5000, 4000)).convert("P"), "GIF")
        case "webp":
            return encoded(image.resize((3500, 2800)), "WEBP", method=0)
    raise AssertionError(kind)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("kind", ["jpeg", "jpeg-progressive", "png", "bmp"])
def test_a_damaged_large_picture_costs_little(kind):
    data = large(kind)
    one = Decoder(Settings(), seconds=60)
    try:
        one.decode(encoded(RGB), targets=[(224, 3)])
        (process,) = one._all
        status = Path(f"/proc/{process._process.pid}")
        before = int((status / "status").read_text().split("VmRSS:")[1].split()[0])
        (status / "clear_refs").write_text("5")
        for share in (50, 98):
            with pytest.raises(CorruptImageError):
                one.decode(data[: len(data) * share // 100], targets=[(224, 3)])
        if kind == "png":
            with pytest.raises(CorruptImageError):
                one.decode(data[:-20] + bytes(4) + data[-16:], targets=[(224, 3)])
        grown = int((status / "status").read_text().split("VmHWM:")[1].split()[0]) - before
        assert grown * 1024 < len(data) + 10 * 2**20
    finally:
        one.close()


# ---- what it does not see ----

LATE = {  # a kind, and about as many pixels as are read of it
    "webp": ("RGB", (3600, 3000), "WEBP", {"method": 0}),
    "webp-alpha": ("RGBA", (3000, 2500), "WEBP", {"method": 0}),
    "webp-lossless": ("RGB", (2500, 2100), "WEBP", {"method": 0, "lossless": True}),
    "gif": ("P", (7000, 5500), "GIF", {}),
    "avif": ("RGB", (4800, 4000), "AVIF", {"speed": 10}),
    "tiff-grey": ("L", (7000, 6000), "TIFF", {"compression": "tiff_lzw"}),
    "tiff-colour": ("RGB", (3000, 2500), "TIFF", {"compression": "tiff_lzw"}),
}


def tiled(mode: str, size: tuple[int, int]) -> Image.Image:
    """Squares of one colour each: enough to be damaged, and little to compress."""
    few = (size[0] // 50, size[1] // 50)
    bands = [Image.effect_noise(few, 90) for _ in range(1 if mode in "LP" else len(mode))]
    image = Image.merge(mode, bands) if len(bands) > 1 else bands[0].convert(mode)
    return image.resize(size, Image.Resampling.NEAREST)


def late_bitmap() -> bytes:
    """Over a million runs of one pixel, then long ones."""
    width, height = 4000, 3200
    rows = -(-damage._MAX_RUNS // width) + 1
    single = b"".join(bytes((1, place % 7)) for place in range(width)) + bytes(2)
    longer = b"\xfa\x05" * (width // 250) + bytes(2)
    pixels = single * rows + longer * (height - rows) + b"\0\1"
    start = 14 + 40 + 1024
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
        + bytes(1024)
        + pixels
    )


def changed(data: bytes) -> Iterator[bytes]:
    yield data[:-8]
    for share in (0.5, 0.97):
        at = int(len(data) * share)
        yield data[:at] + bytes(one ^ 0x5A for one in data[at : at + 8]) + data[at + 8 :]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("kind", [*LATE, "bmp-runs"])
def test_late_damage_costs_less_than_is_said(kind):
    """The file in both processes, and the memory that the decoder took before it failed."""
    if kind == "bmp-runs":
        data = late_bitmap()
    else:
        mode, size, name, options = LATE[kind]
        data = encoded(tiled(mode, size), name, **options)
    refused = 0
    decoder = Decoder(SETTINGS, seconds=60)
    try:
        decoder.decode(encoded(RGB), targets=[(224, 3)])
        before = peak(decoder)
        for one in changed(data):
            begin_peak(decoder)
            try:
                decoder.decode(one, targets=[(224, 3)])
            except CorruptImageError:
                refused += 1
                assert peak(decoder) - before + len(one) < 50 * 2**20
    finally:
        decoder.close()
    assert refused, "nothing was damaged"


@pytest.mark.parametrize("kind", LATE)
def test_larger_ones_are_refused_by_their_header(kind):
    mode, (width, height), name, options = LATE[kind]
    data = encoded(tiled(mode, (width // 3, height // 3)), name, **options)
    images.decode(data, SETTINGS)
    with pytest.raises(TooLargeError, match="only decoding shows"):
        images.decode(data, Settings(formats=SETTINGS.formats, max_damage_mb=2))


def test_pixels_that_are_not_compressed_hide_no_damage():
    for name in ("BMP", "TIFF"):
        data = encoded(tiled("RGB", (1200, 800)), name)
        assert images.decode(data, Settings(formats=SETTINGS.formats, max_damage_mb=1)).width == 1200


def test_what_a_webp_begins_with():
    """Without a header, with one, in frames, and behind more than any encoder writes."""
    small = tiled("RGB", (200, 200))
    assert formats.webp_chunk(encoded(small, "WEBP")) == "VP8 "
    assert formats.webp_chunk(encoded(small, "WEBP", lossless=True)) == "VP8L"
    assert formats.webp_chunk(encoded(small, "WEBP", icc_profile=b"three")) == "VP8 "
    assert formats.webp_chunk(encoded(tiled("RGBA", (200, 200)), "WEBP")) == "ALPH"
    frames = {"save_all": True, "append_images": [small.rotate(90)]}
    assert formats.webp_chunk(encoded(small, "WEBP", **frames)) == "VP8 "
    header = encoded(small, "WEBP", icc_profile=b"three")[:30]
    assert formats.webp_chunk(header + (b"JUNK" + bytes(4)) * 100 + b"VP8 ") == "VP8L"


@pytest.mark.parametrize("before", [b"ALPH\x20\0\0\0" + bytes(32), b"VP8 \0\0\0\0"], ids=["alpha", "lossy"])
def test_a_lossless_webp_cannot_pass_for_one_that_costs_less(before):
    """Named by a cheaper chunk in front, it is refused when it is opened, before its pixels take memory."""
    lossless = encoded(tiled("RGB", (200, 200)), "WEBP", lossless=True)[12:]
    header = b"VP8X" + struct.pack("<II", 10, 16) + (199).to_bytes(3, "little") * 2
    body = b"WEBP" + header + before + lossless
    disguised = b"RIFF" + struct.pack("<I", len(body)) + body
    assert formats.webp_chunk(disguised) != "VP8L"
    with pytest.raises(CorruptImageError), images._guarded():
        images._open(disguised, SETTINGS)


def peak(decoder: Decoder) -> int:
    (process,) = decoder._all
    return int(Path(f"/proc/{process._process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def begin_peak(decoder: Decoder) -> None:
    """From here on the peak counts anew."""
    (process,) = decoder._all
    Path(f"/proc/{process._process.pid}/clear_refs").write_text("5")
