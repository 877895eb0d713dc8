"""The model sees what a person sees: every mode and orientation against a rendering done by hand, and every damage refused.

Through the process that decodes foreign pictures, as the tools do it.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.errors import VisionError
from blip2tools.pictures.decoder import Decoder
from blip2tools.settings import Settings

SETTINGS = Settings()
Colour = tuple[int, int, int, int]
WIDTH, HEIGHT = 11, 7  # no turn of it looks like another


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    one = Decoder(SETTINGS)
    yield one
    one.close()


def seen(decoder: Decoder, data: bytes) -> list[list[tuple[int, int, int]]]:
    (image,) = decoder.decode(data).parts
    pixels = list(image.get_flattened_data())
    return [pixels[row * image.width : (row + 1) * image.width] for row in range(image.height)]


def scene(levels: int = 256) -> list[list[Colour]]:
    """Colours with alpha, each a whole step of `levels`."""
    chance = random.Random(7)
    steps = [round(step * 255 / (levels - 1)) for step in range(levels)]
    return [[tuple(chance.choice(steps) for _ in range(4)) for _ in range(WIDTH)] for _ in range(HEIGHT)]


def on_white(colour: Colour) -> tuple[int, int, int]:
    red, green, blue, alpha = colour
    return tuple(round((value * alpha + 255 * (255 - alpha)) / 255) for value in (red, green, blue))


def close(found: list[list[tuple[int, int, int]]], wanted: list[list[tuple[int, int, int]]], most: int = 1) -> bool:
    return len(found) == len(wanted) and all(
        len(one) == len(other)
        and all(
            abs(a - b) <= most for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
        )
        for one, other in zip(found, wanted, strict=True)
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows: list[bytes], depth: int, colour: int, *extra: bytes, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A PNG written by hand (W3C PNG, third edition), so that the reference shares no code with what it judges."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + body + chunk(b"IEND", b"")


def packed(rows: list[list[int]], depth: int) -> list[bytes]:
    """Samples of 1 to 16 bits, the first in the highest bits."""
    lines = []
    for row in rows:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        lines.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return lines


class TestPngModes:
    """Every colour type and depth that PNG has."""

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_grey(self, decoder: Decoder, depth: int) -> None:
        most = 2**depth - 1
        values = [[(column * 977 + row * 331) % (most + 1) for column in range(WIDTH)] for row in range(HEIGHT)]
        wanted = [[(round(value * 255 / most),) * 3 for value in row] for row in values]
        assert close(seen(decoder, png(packed(values, depth), depth, 0)), wanted)

    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_grey_with_a_transparent_value(self, decoder: Decoder, depth: int) -> None:
        most = 2**depth - 1
        values = [[(column * 977 + row * 331) % (most + 1) for column in range(WIDTH)] for row in range(HEIGHT)]
        key = values[3][5]
        wanted = [[(255 if value == key else round(value * 255 / most),) * 3 for value in row] for row in values]
        data = png(packed(values, depth), depth, 0, chunk(b"tRNS", struct.pack(">H", key)))
        assert close(seen(decoder, data), wanted)

    @pytest.mark.parametrize("depth", [8, 16])
    @pytest.mark.parametrize("alpha", [False, True])
    def test_colour(self, decoder: Decoder, depth: int, alpha: bool) -> None:
        scale = 257 if depth == 16 else 1
        count = 4 if alpha else 3
        rows = [[value * scale for colour in row for value in colour[:count]] for row in scene()]
        wanted = [[on_white(colour) if alpha else colour[:3] for colour in row] for row in scene()]
        assert close(seen(decoder, png(packed(rows, depth), depth, 6 if alpha else 2)), wanted)

    @pytest.mark.parametrize("depth", [8, 16])
    def test_colour_with_a_transparent_value(self, decoder: Decoder, depth: int) -> None:
        scale = 257 if depth == 16 else 1
        key = scene()[2][4][:3]
        rows = [[value * scale for colour in row for value in colour[:3]] for row in scene()]
        wanted = [[(255,) * 3 if colour[:3] == key else colour[:3] for colour in row] for row in scene()]
        hidden = chunk(b"tRNS", struct.pack(">3H", *(value * scale for value in key)))
        assert close(seen(decoder, png(packed(rows, depth), depth, 2, hidden)), wanted)

    def test_only_the_low_bits_of_a_transparent_value_count(self, decoder: Decoder) -> None:
        rows = [[9] * WIDTH] * HEIGHT
        data = png(packed(rows, 8), 8, 0, chunk(b"tRNS", struct.pack(">H", 0x0709)))
        assert seen(decoder, data) == [[(255,) * 3] * WIDTH] * HEIGHT

    @pytest.mark.parametrize("depth", [8, 16])
    def test_grey_with_alpha(self, decoder: Decoder, depth: int) -> None:
        scale = 257 if depth == 16 else 1
        rows = [[value * scale for colour in row for value in (colour[0], colour[3])] for row in scene()]
        wanted = [[on_white((colour[0], colour[0], colour[0], colour[3])) for colour in row] for row in scene()]
        assert close(seen(decoder, png(packed(rows, depth), depth, 4)), wanted)

    @pytest.mark.parametrize("depth", [1, 2, 4, 8])
    @pytest.mark.parametrize("alpha", [False, True])
    def test_palette(self, decoder: Decoder, depth: int, alpha: bool) -> None:
        chance = random.Random(depth)
        palette = [tuple(chance.randrange(256) for _ in range(4)) for _ in range(2**depth)]
        values = [[chance.randrange(2**depth) for _ in range(WIDTH)] for _ in range(HEIGHT)]
        extra = [chunk(b"PLTE", bytes(value for colour in palette for value in colour[:3]))]
        if alpha:
            extra.append(chunk(b"tRNS", bytes(colour[3] for colour in palette)))
        wanted = [[on_white(palette[value]) if alpha else palette[value][:3] for value in row] for row in values]
        assert close(seen(decoder, png(packed(values, depth), depth, 3, *extra)), wanted)


# Where the stored pixel of a shown one lies (EXIF 2.32, tag 274), for a shown picture of WIDTH x HEIGHT.
STORED = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (WIDTH - 1 - x, y),
    3: lambda x, y: (WIDTH - 1 - x, HEIGHT - 1 - y),
    4: lambda x, y: (x, HEIGHT - 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (y, WIDTH - 1 - x),
    7: lambda x, y: (HEIGHT - 1 - y, WIDTH - 1 - x),
    8: lambda x, y: (HEIGHT - 1 - y, x),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_orientation_of_every_kind(decoder: Decoder, orientation: int, channels: int) -> None:
    shown = scene()
    size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    stored: list[list[Colour]] = [[(0, 0, 0, 0)] * size[0] for _ in range(size[1])]
    for y, row in enumerate(shown):
        for x, colour in enumerate(row):
            column, line = STORED[orientation](x, y)
            stored[line][column] = colour
    pick = {1: (0,), 2: (0, 3), 3: (0, 1, 2), 4: (0, 1, 2, 3)}[channels]
    rows = [bytes(colour[index] for colour in row for index in pick) for row in stored]
    exif = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    data = png(rows, 8, {1: 0, 2: 4, 3: 2, 4: 6}[channels], chunk(b"eXIf", exif), size=size)
    grey = channels < 3
    wanted = [
        [
            on_white((c[0], c[0] if grey else c[1], c[0] if grey else c[2], c[3] if channels in (2, 4) else 255))
            for c in row
        ]
        for row in shown
    ]
    assert close(seen(decoder, data), wanted)
    assert decoder.size_of(data) == (WIDTH, HEIGHT)


def photo(kind: str, **options: object) -> bytes:
    image = Image.effect_noise((260, 180), 60).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTOS = {
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 90}),
    "lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
}


def outcome(decoder: Decoder, data: bytes) -> str:
    try:
        decoder.decode(data, targets=[(32, 3)])
    except VisionError as error:
        said, code = str(error), error.code
    else:
        said, code = "", "ok"
    assert not any(word in said for word in ("0x", "Error(", "PIL", "\n"))
    return code


@pytest.mark.parametrize("name", PHOTOS)
def test_I9_cut_at_every_kilobyte(decoder: Decoder, name: str) -> None:
    kind, options = PHOTOS[name]
    data = photo(kind, **options)
    assert len(data) > 20_000
    cuts = {outcome(decoder, data[:length]) for length in range(1024, len(data) - 64, 1024)}
    assert cuts == {"corrupt_image"}
    assert outcome(decoder, data) == "ok"


@pytest.mark.parametrize("name", PHOTOS)
def test_I9_flipped_bits(decoder: Decoder, name: str) -> None:
    kind, options = PHOTOS[name]
    data, chance = photo(kind, **options), random.Random(name)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(min(len(broken), 600) if chance.random() < 0.5 else len(broken))
            broken[place] ^= 1 << chance.randrange(8)
        assert outcome(decoder, bytes(broken)) in ("ok", "corrupt_image", "unsupported_image", "too_large")
    assert outcome(decoder, data) == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_thousand_pictures_leave_nothing_behind() -> None:
    one = Decoder(SETTINGS)
    good, bad = photo("JPEG"), photo("PNG")[:-999]

    def memory() -> int:
        (process,) = one._all
        text = Path(f"/proc/{process._process.pid}/status").read_text()
        return int(text.split("RssAnon:")[1].split()[0])

    for _ in range(100):
        assert outcome(one, good) + outcome(one, bad) == "okcorrupt_image"
    before = memory()
    for _ in range(400):
        assert outcome(one, good) + outcome(one, bad) == "okcorrupt_image"
    assert memory() < before * 1.05 + 1024, "KiB"
    one.close()
