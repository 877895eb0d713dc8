"""Small copies of pictures for people, with outlined boxes. They are decoded as any picture, in a process of its own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from blip2tools.errors import VisionError
from blip2tools.pictures.decoder import Decoder
from blip2tools.pictures.references import handle_in, place_of
from blip2tools.pictures.sources import Sources

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES: Final = 60_000  # of one thumbnail: a notebook keeps each in its file
MOST_BOXES: Final = 100
_QUALITIES: Final = (85, 60, 30, 10)
_LANCZOS: Final = 1
_LINE, _EDGE = "#d6336c", "#ffffff"


class Thumbnails:
    """Makes thumbnails of pictures that can still be read.

    Args:
        sources: what references may lead to.
        decoder: decodes pictures in processes that can be killed.
    """

    def __init__(self, sources: Sources, decoder: Decoder) -> None:
        self._sources = sources
        self._decoder = decoder

    def thumbnail(self, reference: str, boxes: Sequence[Sequence[float]], side: int) -> bytes | None:
        """The JPEG of a picture in at most `side` x `side` pixels and `MAX_BYTES` bytes; `None` if it cannot be read.

        Args:
            reference: a handle or a path; no address is fetched.
            boxes: `[left, top, right, bottom]` as fractions, to be outlined; several get their numbers.
            side: pixels of the longer side.
        """
        if handle_in(reference) is None and place_of(reference) != "file":
            return None
        with suppress(VisionError):
            # Squeezed to a square and stretched again: only few pixels leave the process that decodes.
            seen = self._decoder.decode(self._sources.read(reference).data, [None], [(side, _LANCZOS)])
            longest = max(seen.width, seen.height)
            share = min(1.0, side / longest)
            size = (max(1, round(share * seen.width)), max(1, round(share * seen.height)))
            return _encoded(_outlined(seen.parts[0].resize(size), boxes[:MOST_BOXES]))
        return None


def _outlined(image: Image, boxes: Sequence[Sequence[float]]) -> Image:
    from PIL import ImageDraw

    pen = ImageDraw.Draw(image)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        x, y = round(left * image.width), round(top * image.height)
        box = (x, y, max(x, round(right * image.width) - 1), max(y, round(bottom * image.height) - 1))
        pen.rectangle(box, outline=_EDGE, width=3)
        pen.rectangle(box, outline=_LINE, width=1)
        if len(boxes) > 1:
            pen.text((x + 4, y + 2), str(number), fill=_LINE, stroke_width=1, stroke_fill=_EDGE)
    return image


def _encoded(image: Image) -> bytes:
    data = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) <= MAX_BYTES:
            break
    return data
