"""Small copies of pictures for people to look at; a model gets its own."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from blip2tools.pictures.decoder import Decoder

if TYPE_CHECKING:
    from PIL.Image import Image

_LANCZOS: Final = 1  # by Pillow's number
QUALITY: Final = 86


def small(decoder: Decoder, data: bytes | memoryview, side: int) -> Image:
    """An RGB copy of a picture, upright and in sRGB, whose longer side has at most `side` pixels.

    Raises:
        VisionError: as `Decoder.decode`.
    """
    # Squeezed to a square, and stretched again here: only few pixels have to leave the process that decodes.
    seen = decoder.decode(data, [None], [(side, _LANCZOS)])
    share = min(1.0, side / max(seen.width, seen.height))
    return seen.parts[0].resize((max(1, round(share * seen.width)), max(1, round(share * seen.height))), _LANCZOS)


def jpeg(image: Image, quality: int = QUALITY) -> bytes:
    """A JPEG without any metadata."""
    buffer = io.BytesIO()
    # Full chroma: a drawing's edges would fray.
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()
