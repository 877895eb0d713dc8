"""The drawing in every form: a grid of patches, so that a turn, a shift of colour and a lost patch all show."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

COLUMNS, ROWS, SIDE = 8, 4, 8  # a patch is one block of a JPEG
SIZE = (COLUMNS * SIDE, ROWS * SIDE)

COLOURS: tuple[tuple[int, int, int], ...] = (
    *((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0)),
    *((32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 128), (160, 160, 160), (192, 192, 192), (224, 224, 224)),
    *((16, 16, 16), (200, 80, 40), (40, 160, 90), (60, 70, 180), (230, 180, 150), (120, 60, 30), (90, 120, 200)),
    *((180, 40, 120), (220, 220, 60), (150, 0, 0), (0, 100, 0), (0, 0, 120), (70, 200, 210), (250, 140, 20)),
    *((130, 90, 170), (245, 235, 215), (20, 40, 60)),
)
GREYS = (*range(0, 248, 8), 255)


def grid(colours: Sequence[tuple[int, ...] | int] = COLOURS, mode: str = "RGB") -> Image.Image:
    """The patches, row by row from the top left."""
    small = Image.new(mode, (COLUMNS, ROWS))
    small.putdata(list(colours))
    return small.resize(SIZE, Image.Resampling.NEAREST)


def patches(image: Image.Image) -> list[tuple[int, ...]]:
    """The colour in the middle of each patch of a picture of any size, which may be turned."""
    across, down = (COLUMNS, ROWS) if image.width >= image.height else (ROWS, COLUMNS)
    found = []
    for row in range(down):
        for column in range(across):
            x, y = (2 * column + 1) * image.width // (2 * across), (2 * row + 1) * image.height // (2 * down)
            pixel = image.getpixel((min(x, image.width - 1), min(y, image.height - 1)))
            assert isinstance(pixel, tuple)
            found.append(pixel)
    return found
