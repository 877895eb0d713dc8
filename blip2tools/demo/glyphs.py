"""The characters of signs, as black-and-white shapes."""

from __future__ import annotations

from functools import cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

_HEIGHT: Final = 96  # pixels of the font; larger than any sign in a picture of usual size


@cache
def glyph(character: str) -> Image.Image:
    """One character, cut out as tightly as possible: 255 where the ink is, 0 elsewhere.

    It is from the font that comes with Pillow, so that it looks the same on every machine.
    """
    font = ImageFont.load_default(_HEIGHT)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character, stroke_width=2))
    image = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, stroke_width=2)
    return image.crop(image.getbbox())
