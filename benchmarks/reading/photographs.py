"""Photographs of pages, as a phone takes them: tilted, in perspective, unevenly lit, blurred, noisy, saved as JPEG."""

from __future__ import annotations

import io
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

WIDTH: Final = 2400  # pixels of a photograph's longer side
MARGIN: Final = 0.06  # of the table around the page
TILT: Final = 5.0  # degrees at most
SKEW: Final = 0.03  # of a side by which each corner is off
BLUR: Final = (0.6, 1.4)  # pixels of a Gaussian's sigma
NOISE: Final = (3.0, 9.0)  # of 255, likewise


def photograph(png: bytes, seed: int) -> bytes:
    """A JPEG of the page."""
    chance = np.random.default_rng(seed)
    with Image.open(io.BytesIO(png)) as opened:
        page = opened.convert("RGB")
    scale = WIDTH * (1 - 2 * MARGIN) / max(page.size)
    size = round(page.width * scale * (1 + 2 * MARGIN)), round(page.height * scale * (1 + 2 * MARGIN))
    corners = _corners(page.width * scale, page.height * scale, size, chance)
    table = Image.new("RGB", size, tuple(int(value) for value in chance.integers(40, 150, 3)))
    back = _perspective(corners, [(0, 0), (page.width, 0), (page.width, page.height), (0, page.height)])
    lying = page.transform(size, Image.Transform.PERSPECTIVE, back, Image.Resampling.BICUBIC)
    mask = Image.new("L", page.size, 255).transform(size, Image.Transform.PERSPECTIVE, back, Image.Resampling.BILINEAR)
    table.paste(lying, mask=mask)
    blurred = table.filter(ImageFilter.GaussianBlur(float(chance.uniform(*BLUR))))
    light = _light(size, chance)[:, :, None]
    pixels = np.asarray(blurred, np.float32) * light + chance.normal(0, chance.uniform(*NOISE), (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=int(chance.integers(70, 90)))
    return buffer.getvalue()


def _corners(
    width: float, height: float, size: tuple[int, int], chance: np.random.Generator
) -> list[tuple[float, float]]:
    """Where the page's corners are seen."""
    angle = math.radians(float(chance.uniform(-TILT, TILT)))
    shrink = 1 / (abs(math.cos(angle)) + abs(math.sin(angle)) * max(width, height) / min(width, height))
    found = []
    for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)):
        across = (x + float(chance.uniform(-SKEW, SKEW))) * width * shrink
        down = (y + float(chance.uniform(-SKEW, SKEW))) * height * shrink
        found.append(
            (
                size[0] / 2 + across * math.cos(angle) - down * math.sin(angle),
                size[1] / 2 + across * math.sin(angle) + down * math.cos(angle),
            )
        )
    return found


def _perspective(seen: list[tuple[float, float]], page: list[tuple[float, float]]) -> tuple[float, ...]:
    """Pillow's eight numbers: from a pixel of the photograph to one of the page."""
    rows, wanted = [], []
    for (x, y), (u, v) in zip(seen, page, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        wanted += [u, v]
    return tuple(map(float, np.linalg.solve(np.array(rows), np.array(wanted))))


def _light(size: tuple[int, int], chance: np.random.Generator) -> NDArray[np.float32]:
    """How bright each pixel is lit: falling off to one side, by a third at most."""
    angle, fall = float(chance.uniform(0, 2 * math.pi)), float(chance.uniform(0.1, 0.33))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, size[0]), np.linspace(-0.5, 0.5, size[1]))
    return np.asarray(1 - fall * (0.5 + x * math.cos(angle) + y * math.sin(angle)).clip(0, 1), np.float32)
