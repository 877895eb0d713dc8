"""Small copies of pictures for people to look at; a model gets its own."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

_QUALITY: Final = 86
_FIRST_STEP: Final = 3.0  # by how much more than needed a large picture is reduced by plain averaging first


def thumbnail(image: Image.Image, side: int) -> bytes:
    """A JPEG of an RGB picture, without any metadata.

    Args:
        image: decoded: upright, in sRGB.
        side: of the longer side, pixels; a smaller picture keeps its size.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=_FIRST_STEP)
    buffer = io.BytesIO()
    # Full chroma: a drawing's edges would fray.
    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()
