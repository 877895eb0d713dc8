"""Small copies of pictures for people, with outlined boxes. They are decoded as any picture, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from blip2tools.errors import VisionError
from blip2tools.pictures.decoder import Decoder
from blip2tools.pictures.references import handle_in, place_of
from blip2tools.pictures.small import QUALITY, jpeg, small
from blip2tools.pictures.sources import Sources

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES: Final = 60_000  # of one thumbnail: a notebook keeps each in its file
MOST_BOXES: Final = 100
_QUALITIES: Final = (QUALITY, 60, 30, 10)
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
            image = small(self._decoder, self._sources.read(reference).data, side)
            return _encoded(_outlined(image, boxes[:MOST_BOXES]))
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
    found = (jpeg(image, quality) for quality in _QUALITIES)
    return next((data for data in found if len(data) <= MAX_BYTES), b"")
