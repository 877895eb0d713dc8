"""Three scenes to begin with, each drawn in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blip2tools.demo.world import PAINT, WIDE, Background, Color, Scene, Shape, Size, Style, Thing

SIDE: Final = 448
"""Pixels of a sample's side: twice what the model sees, so that there is something to zoom into."""


def _thing(
    size: Size, color: Color, shape: Shape, x: float, y: float, tilt: float, character: str | None = None
) -> Thing:
    radius = 0.195 if size == "large" else 0.12
    return Thing(shape, color, size, x, y, radius, tilt, PAINT[color], character)


def _scene(style: Style, background: Background, *things: Thing) -> Scene:
    return Scene(things, background, style, grain=2026, world=WIDE)


SAMPLES: Final[Mapping[str, Scene]] = {
    "shapes": _scene(
        "shaded",
        Background("gradient", ((214, 203, 178), (176, 198, 214)), 6, 0.1, upright=True),
        _thing("large", "orange", "ring", 0.26, 0.34, 0),
        _thing("large", "blue", "star", 0.55, 0.7, 6),
        _thing("small", "pink", "heart", 0.8, 0.26, -7),
    ),
    "sign": _scene(
        "hand-drawn",
        Background("white", ((247, 246, 242),), 6, 0.0, upright=True),
        _thing("large", "green", "sign", 0.47, 0.27, -4, "7"),
        _thing("large", "red", "cross", 0.52, 0.74, 5),
    ),
    "corners": _scene(
        "filled",
        Background("black", ((24, 26, 30),), 6, 0.0, upright=True),
        _thing("small", "yellow", "circle", 0.2, 0.25, 0),
        _thing("small", "cyan", "diamond", 0.3, 0.76, 4),
        _thing("large", "pink", "circle", 0.72, 0.26, 0),
        _thing("small", "green", "triangle", 0.8, 0.75, -5),
    ),
}
"""By name."""
