"""Drawings of one or two shapes as anybody would make them with Pillow. Nothing here knows the demo's worlds."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw

COLORS: Final = {
    "red": ("red", "#d32f2f", "firebrick"),
    "orange": ("orange", "#ff9800"),
    "yellow": ("yellow", "gold"),
    "green": ("green", "#2e9e44"),
    "cyan": ("cyan", "#26c6da"),
    "blue": ("blue", "royalblue"),
    "purple": ("purple", "#7b1fa2"),
    "pink": ("hotpink", "#f48fb1"),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
_GROUNDS: Final = ("white", "black", "gray", "#e8e8e8", "#303030")
_SIDES: Final = (80, 112, 160, 224, 336, 480, 640, 1000)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture, and the colour and shape of each thing in it from left to right."""

    picture: Image.Image
    things: tuple[tuple[str, str], ...]


def drawing(rng: random.Random) -> Drawing:
    """One or two shapes on a plain ground, at any size; perhaps as a JPEG, with noise, or turned."""
    side = rng.choice(_SIDES)
    ground = rng.choice(_GROUNDS)
    image = Image.new("RGB", (4 * side if side < 200 else side,) * 2, ground)
    canvas = ImageDraw.Draw(image)
    number = rng.choice((1, 2))
    spots = [(0.5, 0.5)] if number == 1 else [(0.27, rng.uniform(0.3, 0.7)), (0.73, rng.uniform(0.3, 0.7))]
    things = []
    for x, y in spots:
        color, shape = rng.choice(tuple(COLORS)), rng.choice(SHAPES)
        if number == 1:
            x, y = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)
        reach = rng.choice((0.11, 0.13, 0.17, 0.19)) * image.width
        _shape(canvas, shape, x * image.width, y * image.width, reach, rng.choice(COLORS[color]))
        things.append((color, shape))
    return Drawing(_spoilt(image.resize((side, side)), ground, rng), tuple(things))


def _shape(canvas: ImageDraw.ImageDraw, shape: str, x: float, y: float, reach: float, color: str) -> None:
    match shape:
        case "circle":
            canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color)
        case "ring":
            canvas.ellipse(
                (x - reach, y - reach, x + reach, y + reach), outline=color, width=max(2, round(reach * 0.35))
            )
        case "square":
            half = reach * 0.85
            canvas.rectangle((x - half, y - half, x + half, y + half), fill=color)
        case "triangle":
            canvas.polygon([(x, y - reach), (x + reach, y + 0.8 * reach), (x - reach, y + 0.8 * reach)], fill=color)
        case "diamond":
            canvas.polygon([(x, y - reach), (x + 0.7 * reach, y), (x, y + reach), (x - 0.7 * reach, y)], fill=color)
        case "cross":
            arm = reach / 3
            canvas.rectangle((x - arm, y - reach, x + arm, y + reach), fill=color)
            canvas.rectangle((x - reach, y - arm, x + reach, y + arm), fill=color)
        case "star":
            corners = []
            for corner in range(10):
                length = reach if corner % 2 == 0 else reach * 0.42
                corners.append(
                    (x + length * math.sin(math.pi * corner / 5), y - length * math.cos(math.pi * corner / 5))
                )
            canvas.polygon(corners, fill=color)
        case "heart":
            lobe = reach * 0.52
            for side in (-1, 1):
                middle = x + side * lobe * 0.92
                canvas.ellipse(
                    (middle - lobe, y - reach * 0.85, middle + lobe, y - reach * 0.85 + 2 * lobe), fill=color
                )
            top = y - reach * 0.85 + 1.25 * lobe
            canvas.polygon([(x - 1.87 * lobe, top), (x + 1.87 * lobe, top), (x, y + reach)], fill=color)


def _spoilt(image: Image.Image, ground: str, rng: random.Random) -> Image.Image:
    match rng.choice(("plain", "jpeg", "noise", "turned")):
        case "jpeg":
            file = io.BytesIO()
            image.save(file, "JPEG", quality=60)
            return Image.open(file).convert("RGB")
        case "noise":
            grain = Image.frombytes("RGB", image.size, rng.randbytes(3 * image.width * image.height))
            return Image.blend(image, grain, 0.12)
        case "turned":
            return image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, fillcolor=ground)
        case _:
            return image
