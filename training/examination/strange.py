"""Pictures of nothing that is in any of the demo's worlds: a model that only knows shapes should not be sure about them."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageDraw, ImageFilter

_SIDE: Final = 224
RGB = tuple[int, int, int]


def photo(rng: random.Random) -> Image.Image:
    """A landscape: sky, hills, ground with grain, blurred as by a lens."""
    horizon = rng.randint(70, 150)
    sky = (rng.randint(90, 160), rng.randint(140, 190), rng.randint(190, 250))
    image = Image.new("RGB", (_SIDE, _SIDE), sky)
    canvas = ImageDraw.Draw(image)
    for layer in range(3):
        shade = rng.randint(60, 130) - 15 * layer
        base, steep = horizon + 12 * layer, rng.uniform(10, 45)
        waves = [(rng.uniform(0.01, 0.05), rng.uniform(0, 6), rng.uniform(0.3, 1)) for _ in range(3)]
        ridge = [
            (x, base - steep * sum(size * math.sin(pace * x + start) for pace, start, size in waves))
            for x in range(0, _SIDE + 8, 8)
        ]
        canvas.polygon([(0, _SIDE), *ridge, (_SIDE, _SIDE)], fill=(shade, shade + rng.randint(0, 40), shade - 10))
    for _ in range(rng.randint(0, 12)):
        x, y, height = rng.randint(0, _SIDE), rng.randint(horizon, _SIDE), rng.randint(15, 60)
        canvas.rectangle((x, y - height, x + height // 6, y), fill=(70, 50, 35))
        canvas.ellipse(
            (x - height // 3, y - 2 * height, x + height // 2, y - height // 2), fill=(40, rng.randint(70, 120), 40)
        )
    grain = _noise(rng, _SIDE // 2).resize((_SIDE, _SIDE))
    return Image.blend(image, grain, 0.15).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))


def texture(rng: random.Random) -> Image.Image:
    """Coloured clouds over many scales, as bark, fur or foliage seen near by."""
    image = _noise(rng, 4).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    for cells in (8, 16, 32, 64, 128):
        finer = _noise(rng, cells).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        image = Image.blend(image, finer, rng.uniform(0.25, 0.45))
    return image


def plot(rng: random.Random) -> Image.Image:
    """Lines, bars or points between two axes."""
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    canvas = ImageDraw.Draw(image)
    left, top, right, bottom = 30, 16, 210, 194
    canvas.rectangle((left, top, right, bottom), outline="black")
    for tick in range(6):
        canvas.text((left + 34 * tick - 3, bottom + 4), str(tick), fill="black")
        canvas.text((8, bottom - 34 * tick - 5), str(10 * tick), fill="black")
    match rng.choice(("lines", "bars", "points")):
        case "lines":
            for _ in range(rng.randint(1, 4)):
                pace, size, start = rng.uniform(0.05, 0.3), rng.uniform(15, 70), rng.uniform(0, 6)
                line = [(x, 105 + size * math.sin(pace * (x - left) + start)) for x in range(left, right, 4)]
                canvas.line(line, fill=_color(rng), width=2)
        case "bars":
            color = _color(rng)
            for bar in range(6):
                canvas.rectangle(
                    (left + 8 + 29 * bar, rng.randint(top + 5, bottom - 5), left + 28 + 29 * bar, bottom), fill=color
                )
        case "points":
            for _ in range(60):
                x, y = rng.randint(left, right), rng.randint(top, bottom)
                canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_color(rng))
    return image


def text(rng: random.Random) -> Image.Image:
    """A page of words."""
    image = Image.new("RGB", (_SIDE, _SIDE), rng.choice(("white", "#f4efe1", "#20242a")))
    canvas = ImageDraw.Draw(image)
    ink = (20, 20, 20) if image.getpixel((0, 0)) != (32, 36, 42) else (220, 220, 220)
    for line in range(rng.randint(8, 14)):
        words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(6))
        canvas.text((10, 8 + 15 * line), " ".join(words), fill=ink)
    return image


def clutter(rng: random.Random) -> Image.Image:
    """Many boxes, discs and lines of any colour, over and across each other."""
    image = Image.new("RGB", (_SIDE, _SIDE), _color(rng))
    canvas = ImageDraw.Draw(image)
    for _ in range(rng.randint(14, 40)):
        (left, right), (top, bottom) = (sorted(rng.sample(range(_SIDE), 2)) for _ in range(2))
        match rng.choice(("box", "disc", "line")):
            case "box":
                canvas.rectangle((left, top, right, bottom), fill=_color(rng))
            case "disc":
                canvas.ellipse((left, top, right, bottom), fill=_color(rng))
            case "line":
                canvas.line((left, top, right, bottom), fill=_color(rng), width=rng.randint(1, 9))
    return image


def noise(rng: random.Random) -> Image.Image:
    """Random pixels, fine or coarse."""
    return _noise(rng, rng.choice((28, 56, 112, 224))).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


STRANGE: Final[dict[str, Callable[[random.Random], Image.Image]]] = {
    "photo-like": photo,
    "texture": texture,
    "plot": plot,
    "text": text,
    "clutter": clutter,
    "noise": noise,
}


def _noise(rng: random.Random, cells: int) -> Image.Image:
    return Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells))


def _color(rng: random.Random) -> RGB:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)
