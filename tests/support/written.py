"""Pictures of words, drawn without a browser."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

LINES = ("The harbour was quiet on Monday.", "Order 4711: 12 kettles, $38.50", "Doors close at 17:45 sharp")


def page(
    lines: Sequence[str] = LINES, *, size: int = 20, ink: str = "black", paper: str = "white", width: int = 420
) -> Image.Image:
    """Lines below each other."""
    image = Image.new("RGB", (width, int(2 * size * len(lines)) + size), paper)
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((size, size / 2 + 2 * size * number), line, fill=ink, font=font)
    return image


def png(image: Image.Image) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
