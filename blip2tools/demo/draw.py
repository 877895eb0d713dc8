"""Scene → picture, at any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, TypeAlias

from PIL import Image, ImageDraw

from blip2tools.demo.world import Background, Scene, Shape, Thing

Point: TypeAlias = tuple[float, float]

_ARM: Final = 0.34  # half the width of a cross's arm
_CIRCLE_RADIUS: Final = 0.93
_RING_WIDTH: Final = 0.38


def _star() -> Iterator[Point]:
    for corner in range(10):
        reach = 0.45 if corner % 2 else 1.08
        angle = corner * math.pi / 5
        yield reach * math.sin(angle), -reach * math.cos(angle)


def _heart() -> Iterator[Point]:
    """The classical heart curve, a little raised so that it sits in the middle."""
    for step in range(28):
        t = step * 2 * math.pi / 28
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        yield 16 * math.sin(t) ** 3 / 16.5, -y / 16 - 0.1


# Outlines around (0, 0) for a thing of radius 1.
OUTLINES: Final[dict[Shape, tuple[Point, ...]]] = {
    "square": ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),
    "triangle": ((0, -1), (0.95, 0.8), (-0.95, 0.8)),
    "diamond": ((0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)),
    "star": tuple(_star()),
    "heart": tuple(_heart()),
    "cross": (
        *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
        *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
    ),
}


def draw(scene: Scene, size: int = 224, *, smoothing: int = 3) -> Image.Image:
    """The scene as a square RGB picture.

    Args:
        scene: what to draw.
        size: side of the picture in pixels.
        smoothing: how many times larger it is drawn before it is reduced to `size`; 1 leaves every edge rough.
    """
    side = size * smoothing
    image = _draw_background(scene.background, side)
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(canvas, thing, side)
    return image if smoothing == 1 else image.resize((size, size), Image.Resampling.LANCZOS)


def _draw_background(background: Background, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), background.paints[0])
    canvas = ImageDraw.Draw(image)
    width = side / background.bands
    if background.name == "striped":
        for band in range(-2, background.bands + 2):
            start = (band + background.phase) * width
            end = start + width / 2
            canvas.rectangle(
                (start, 0, end, side) if background.upright else (0, start, side, end), fill=background.paints[1]
            )
    elif background.name == "checkered":
        for column in range(background.bands + 1):
            for row in range(column % 2, background.bands + 1, 2):
                box = (column * width, row * width, (column + 1) * width, (row + 1) * width)
                canvas.rectangle(box, fill=background.paints[1])
    return image


def _draw_thing(canvas: ImageDraw.ImageDraw, thing: Thing, side: int) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape == "circle":
        reach = _CIRCLE_RADIUS * radius
        canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill=thing.paint)
    elif thing.shape == "ring":
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, outline=thing.paint, width=max(1, int(_RING_WIDTH * radius)))
    else:
        sine, cosine = math.sin(math.radians(thing.tilt)), math.cos(math.radians(thing.tilt))
        canvas.polygon(
            [
                (x + radius * (across * cosine - down * sine), y + radius * (across * sine + down * cosine))
                for across, down in OUTLINES[thing.shape]
            ],
            fill=thing.paint,
        )
