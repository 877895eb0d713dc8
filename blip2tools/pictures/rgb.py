"""Conversion of a decoded picture of any mode to 8-bit RGB on a background: the model sees what a person sees.

Works in bands of rows, so that a large picture never exists more than twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

from PIL import Image, ImageMath

from blip2tools.errors import CorruptImageError

BAND_PIXELS = 2**20

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

Conversion = Callable[[Image.Image], Image.Image]
"""Converts an opaque image to RGB; may change that image and return it."""

_VISIBLE = 48  # levels by which a colour must differ from its ground, for a shape to be seen in 224 pixels

_WITH_ALPHA = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def to_rgb(image: Image.Image, convert: Conversion | None = None, ground: Colour = WHITE) -> Image.Image:
    """Any mode as RGB, on a background: a model must not see the colours that transparency hides (CVE-2026-12491).

    An image that already is opaque RGB is returned itself.

    Args:
        image: the decoded image; it may be changed.
        convert: converts its opaque colours, in the mode that `base_of` returns, to sRGB; `None` leaves them.
        ground: the background colour.

    Raises:
        CorruptImageError: infinite or undefined values.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image if convert is None else _in_bands(image, image, convert)
    scaling = range_of(image) if is_deep(image.mode) else None
    canvas = Image.new("RGB", image.size)
    for top, bottom in bands(image.size):
        band = image.crop((0, top, image.width, bottom))
        canvas.paste(
            _flat(band, convert, ground) if scaling is None else _grey(band, scaling, convert, ground), (0, top)
        )
    return canvas


def base_of(mode: str) -> str:
    """The mode of the opaque colours of any mode: `L`, `RGB` or `CMYK`."""
    if mode in ("1", "L", "LA", "La") or is_deep(mode):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


def is_lost_on(image: Image.Image, ground: Colour) -> bool:
    """Whether an RGB image cannot be seen on a background of one colour."""
    extrema = cast("list[tuple[int, int]]", image.getextrema())
    return all(abs(value - own) < _VISIBLE for pair, own in zip(extrema, ground, strict=True) for value in pair)


def is_deep(mode: str) -> bool:
    """Whether a mode has one channel of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First and one-past-last rows of bands of about a megapixel."""
    width, height = size
    rows = max(1, BAND_PIXELS // max(1, width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def with_alpha(image: Image.Image) -> Image.Image:
    """Premultiplied and palette alpha as straight alpha; other modes as they are."""
    return image.convert(_WITH_ALPHA[image.mode]) if image.mode in _WITH_ALPHA else image


def range_of(image: Image.Image) -> tuple[float, float]:
    """The values that are black and white in deep grey.

    16-bit modes have a fixed range. 32-bit and float pictures do not say theirs: 0-1, 0-255 and 0-65,535 are taken as
    such, anything else is stretched between its extremes.

    Raises:
        CorruptImageError: infinite or undefined values.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65_535.0
    low, high = cast("tuple[float, float]", image.getextrema())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CorruptImageError("The picture holds infinite or undefined values; save it as 8-bit PNG first.")
    if low >= 0 and high <= 65_535:
        return 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65_535.0
    return low, high


def eight_bit(image: Image.Image, scaling: tuple[float, float]) -> Image.Image:
    """Deep grey scaled to 8 bit. Pillow's own conversion clips instead: 40,000 of 65,535 turns white."""
    low, high = scaling
    if image.mode.startswith("I;16") and image.mode != "I;16":
        image = image.convert("I")
    scale = 255 / (high - low) if high > low else 0.0
    offset = 0.5 - low * scale
    return image.point(lambda value: value * scale + offset).convert("L")


def invert(image: Image.Image) -> None:
    """Invert, in place, deep grey of a fixed range in which 0 is white."""
    low, high = range_of(image)
    for top, bottom in bands(image.size):
        band = image.crop((0, top, image.width, bottom)).convert("I")
        turned = band.point(lambda value: value * -1 + (low + high))
        image.paste(turned if image.mode == "I" else turned.convert(image.mode), (0, top))


def _in_bands(image: Image.Image, canvas: Image.Image, convert: Conversion) -> Image.Image:
    for top, bottom in bands(image.size):
        canvas.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return canvas


def _flat(image: Image.Image, convert: Conversion | None, ground: Colour) -> Image.Image:
    base = base_of(image.mode)
    if not image.has_transparency_data:
        return image.convert("RGB") if convert is None else convert(image.convert(base))
    rgba = with_alpha(image).convert("RGBA")
    colours: Image.Image = rgba
    if convert is not None:
        colours = convert(rgba.getchannel("R") if base == "L" else rgba.convert("RGB"))
    canvas = Image.new("RGB", image.size, ground)
    canvas.paste(colours, mask=rgba.getchannel("A"))
    return canvas


def _grey(image: Image.Image, scaling: tuple[float, float], convert: Conversion | None, ground: Colour) -> Image.Image:
    grey = eight_bit(image, scaling)
    key = image.info.get("transparency")
    seen = grey.convert("RGB") if convert is None else convert(grey)
    if isinstance(key, int):
        # Pillow compares a 16-bit transparent value with pixels it has already clipped to 8 bit, and misses.
        hidden = ImageMath.lambda_eval(
            lambda names: names["convert"]((names["pixels"] == key) * 255, "L"), pixels=image.convert("I")
        )
        seen.paste(ground, mask=hidden)
    return seen
