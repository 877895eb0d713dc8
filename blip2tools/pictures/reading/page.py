"""From the pixels of a picture to its lines of text: in strips, turned upright, recognised, in reading order.

Every step is ours but the two networks: see `networks` for why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from blip2tools.pictures.reading.boxes import Quad, Seen, angle_of, height_of, merged, strips, width_of
from blip2tools.pictures.reading.networks import Pixels, cut_out
from blip2tools.pictures.reading.order import Box, arranged

AT_ONCE: Final = 2_000_000  # pixels that are looked at in one piece: about 0.8 GB while it lasts
COARSE: Final = (
    1_600  # pixels of the longer side for a first look at a large picture: its turn, its tilt, its large letters
)
FINE: Final = 16_000_000  # pixels of a picture in which lines are looked for; of a larger one, of a smaller copy
OVERLAP: Final = 128  # pixels that two strips share; no small letters are higher
LARGE: Final = 96  # pixels of a line's height from which it is looked for in the first look
ENOUGH: Final = 5  # lines of the first look that tell how a page lies
TILT: Final = 0.7  # degrees from which a page is turned back
SAMPLES: Final = 4  # lines that are read to find out how a page lies
SURE: Final = 0.9  # confidence of those from which no other way is tried
BETTER: Final = 0.05  # by which a page's lines must be read more surely another way for it to be turned
LEAST_LETTERS: Final = 6  # and what must be read of them: a ring is a letter any way up
DOUBTFUL: Final = 0.75  # below it a line is tried upside down
LEAST: Final = 0.5  # confidence that a line must have
LEAST_OF_SHORT: Final = 0.85  # the same for one or two characters, and for signs alone: much looks like one
MARGIN: Final = 0.05  # of its height that a line is cut closer above and below: read closely, fewer spaces are lost


class Reading(Protocol):
    """The two networks, see `networks.Networks`."""

    def find(self, pixels: Pixels) -> list[Quad]:
        """Corners of lines."""

    def read(self, lines: Sequence[Pixels]) -> list[tuple[str, float]]:
        """Text and confidence of each."""


@dataclass(frozen=True, slots=True)
class Line:
    """Line of text as the network gives it, with its confidence and the edges around it in pixels of the picture."""

    text: str
    confidence: float
    box: tuple[float, float, float, float]
    row: int
    """Number of the row: lines of one row stand side by side."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is written in a picture.

    Attributes:
        lines: in reading order.
        turn: by how many quarters of a turn counter-clockwise it was turned to be read.
        tilt: by how many degrees it was turned further.
        reduced: whether lines were looked for in a smaller copy.
        doubtful: how many lines were left out because they could not be read.
        lone: single characters that were left out because nothing longer was found: a drawn ring looks like an O.
    """

    lines: tuple[Line, ...]
    turn: int
    tilt: float
    reduced: bool
    doubtful: int
    lone: tuple[str, ...] = ()


def read(networks: Reading, pixels: Pixels) -> Page:
    """The lines of a picture."""
    upright = _Upright(pixels)
    quads = _look(networks, pixels)
    turn = _turn(networks, pixels, quads)
    if turn:
        upright = upright.turned(turn)
        quads = _look(networks, upright.pixels)
    tilt = angle_of(quads)
    if abs(tilt) >= TILT:
        upright = upright.tilted(tilt)
        quads = _look(networks, upright.pixels)
    else:
        tilt = 0.0
    height, width = pixels.shape[:2]
    told = _recognised(networks, upright.pixels, quads)
    good = [(quad, text, score) for quad, (text, score) in zip(quads, told, strict=True) if _is_text(text, score)]
    lone: tuple[str, ...] = ()
    if not any(_is_word(text) for _, text, _ in good):
        lone, good = tuple(text for _, text, _ in good), []
    rows = arranged([_box(quad) for quad, _, _ in good])
    lines = tuple(
        Line(good[number][1], good[number][2], upright.back(good[number][0]), row)
        for row, numbers in enumerate(rows)
        for number in numbers
    )
    doubtful = sum(1 for text, score in told if _is_word(text) and score < LEAST)
    return Page(lines, turn, tilt, width * height > FINE, doubtful, lone)


class _Upright:
    """A picture that was turned, and the way back from its pixels to those it had."""

    def __init__(
        self, pixels: Pixels, way: NDArray[np.float64] | None = None, size: tuple[int, int] | None = None
    ) -> None:
        self.pixels = pixels
        self._way = np.eye(3) if way is None else way
        self._size = size or (pixels.shape[1], pixels.shape[0])

    def turned(self, quarters: int) -> _Upright:
        """Turn a picture counter-clockwise."""
        height, width = self.pixels.shape[:2]
        way = {
            1: [[0, 1, 0], [-1, 0, width], [0, 0, 1]],
            2: [[-1, 0, width], [0, -1, height], [0, 0, 1]],
            3: [[0, -1, height], [1, 0, 0], [0, 0, 1]],
        }[quarters]
        pixels = np.ascontiguousarray(np.rot90(self.pixels, quarters))
        return _Upright(pixels, np.array(way, float) @ self._way, self._size)

    def tilted(self, degrees: float) -> _Upright:
        """Turn a picture counter-clockwise by a small angle, on a canvas that holds all of it."""
        height, width = self.pixels.shape[:2]
        cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
        wide, high = math.ceil(width * cosine + height * sine), math.ceil(width * sine + height * cosine)
        way = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1), [0, 0, 1]])
        way[:2, 2] += (wide - width) / 2, (high - height) / 2
        pixels = cv2.warpAffine(
            self.pixels, way[:2], (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        return _Upright(np.asarray(pixels, np.uint8), way @ self._way, self._size)

    def back(self, quad: Quad) -> tuple[float, float, float, float]:
        """Edges around a line in the picture as it came: left, top, right, bottom, inside it."""
        points = np.linalg.inv(self._way) @ np.vstack([quad.T, np.ones(4)])
        x, y = points[0].clip(0, self._size[0]), points[1].clip(0, self._size[1])
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _look(networks: Reading, pixels: Pixels) -> list[Quad]:
    """Corners of all lines: of small ones strip by strip, of large ones in a smaller copy of the whole."""
    height, width = pixels.shape[:2]
    if width * height <= AT_ONCE and max(width, height) <= 2 * COARSE:
        return networks.find(pixels)
    scale = min(1.0, math.sqrt(FINE / (width * height)))
    quads = [quad / scale for quad in _in_strips(networks, _resized(pixels, scale))]
    first = COARSE / max(width, height)
    if first >= 0.9:
        return quads
    large = [quad / first for quad in networks.find(_resized(pixels, first))]
    # In a copy so small a whole paragraph may look like one line.
    large = [one for one in large if height_of(one) >= LARGE and sum(_is_part(quad, one) for quad in quads) < 2]
    return [*large, *(quad for quad in quads if not any(_is_inside(quad, other) for other in large))]


def _in_strips(networks: Reading, pixels: Pixels) -> list[Quad]:
    height, width = pixels.shape[:2]
    # Lines of a page that lies a little askew sink on their way across.
    places = strips(width, height, AT_ONCE, OVERLAP + min(width, 4 * OVERLAP) // 32)
    seen = []
    for number, place in enumerate(places):
        part = np.ascontiguousarray(pixels[place.top : place.bottom, place.left : place.right])
        corner = np.array([place.left, place.top], np.float32)
        seen += [Seen(quad + corner, number) for quad in networks.find(part)]
    return merged(seen, places, width, height)


def _resized(pixels: Pixels, scale: float) -> Pixels:
    if scale >= 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _is_inside(quad: Quad, other: Quad) -> bool:
    x, y = quad.mean(axis=0)
    return bool(other[:, 0].min() <= x <= other[:, 0].max() and other[:, 1].min() <= y <= other[:, 1].max())


def _is_part(quad: Quad, other: Quad) -> bool:
    return _is_inside(quad, other) and height_of(quad) < height_of(other) / 2


def _is_upended(quad: Quad, least: float = 1.5) -> bool:
    return height_of(quad) > least * width_of(quad)


def _turn(networks: Reading, pixels: Pixels, quads: Sequence[Quad]) -> int:
    """Quarter turns counter-clockwise that put a page upright: those after which its longest lines say most.

    The networks find lines at any angle. Those that are upside down they read as other words, less surely.
    """
    standing = sum(height_of(quad) for quad in quads if _is_upended(quad))
    lying = sum(width_of(quad) for quad in quads if width_of(quad) > 1.5 * height_of(quad))
    ways = (1, 3) if standing > lying else (0, 2)
    longest = sorted(quads, key=lambda quad: -max(height_of(quad), width_of(quad)))
    samples = [cut_out(pixels, quad) for quad in longest if _is_upended(quad) == (standing > lying)][:SAMPLES]
    if not samples:
        return 0
    best, most = 0, 0.0
    for way in ways:
        told = networks.read([np.ascontiguousarray(np.rot90(sample, way)) for sample in samples])
        score = sum(confidence for _, confidence in told) / len(told)
        if score > most + BETTER and (way == 0 or sum(len(text) for text, _ in told) >= LEAST_LETTERS):
            best, most = way, score
        if score >= SURE and way == 0:
            break
    return best


def _recognised(networks: Reading, pixels: Pixels, quads: Sequence[Quad]) -> list[tuple[str, float]]:
    """Text of each line. One that is upright on a lying page, or upside down, is read the way that says most."""
    lines = [cut_out(pixels, _closer(quad)) for quad in quads]
    told = networks.read(lines)
    again: list[tuple[int, int]] = []
    for number, (quad, (_, score)) in enumerate(zip(quads, told, strict=True)):
        if _is_upended(quad, 2.2):
            again += [(number, 1), (number, 3)]
        elif score < DOUBTFUL and width_of(quad) > height_of(quad):
            again.append((number, 2))
    others = networks.read([np.ascontiguousarray(np.rot90(lines[number], way)) for number, way in again])
    for (number, way), (text, score) in zip(again, others, strict=True):
        if score > told[number][1] + (0.15 if way == 2 else 0.0):
            told[number] = (text, score)
    return told


def _closer(quad: Quad) -> Quad:
    """A line without a little of what is above and below it."""
    if _is_upended(quad):
        return quad
    left, right = MARGIN * (quad[3] - quad[0]), MARGIN * (quad[2] - quad[1])
    return np.stack([quad[0] + left, quad[1] + right, quad[2] - right, quad[3] - left]).astype(np.float32)


def _is_word(text: str) -> bool:
    return len(text.strip()) > 2 and any(map(str.isalnum, text))


def _is_text(text: str, score: float) -> bool:
    return bool(text.strip()) and score >= (LEAST if _is_word(text) else LEAST_OF_SHORT)


def _box(quad: Quad) -> Box:
    """Around a line that lies: from its ends, as high as its letters."""
    y = quad[:, 1].mean()
    if _is_upended(quad):
        return Box(*map(float, (quad[:, 0].min(), quad[:, 1].min(), quad[:, 0].max(), quad[:, 1].max())))
    half = height_of(quad) / 2
    return Box(float(quad[:, 0].min()), float(y) - half, float(quad[:, 0].max()), float(y) + half)


def threads(cores: int | None) -> int:
    """Threads of the networks on a machine with so many cores: more than four bring little."""
    return max(1, min(4, cores or 1))


def as_reply(page: Page) -> dict[str, Any]:
    """A page as its process sends it."""
    return {
        "lines": [[line.text, line.confidence, list(line.box), line.row] for line in page.lines],
        "turn": page.turn,
        "tilt": page.tilt,
        "reduced": page.reduced,
        "doubtful": page.doubtful,
        "lone": list(page.lone),
    }
