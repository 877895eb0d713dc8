"""Corners of lines: sizes and angles, and the lines that two overlapping strips of a picture both saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Quad = NDArray[np.float32]
"""Corners of a line, 4 × 2: x, y of the top left, top right, bottom right and bottom left, as the line is read."""

EDGE = 3  # pixels from a cut within which a line counts as cut


@dataclass(frozen=True, slots=True)
class Strip:
    """Part of a picture that is examined alone: its edges in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def strips(width: int, height: int, area: int, overlap: int) -> list[Strip]:
    """Overlapping parts of a picture, none larger than `area`; each as wide as the picture if that leaves it high enough.

    A line that is no higher than `overlap` is cut by the upper or lower edge of one strip at most; the next one has all of it.
    A line that is cut at the side is joined again by `merged`.
    """
    if width * height <= area:
        return [Strip(0, 0, width, height)]
    wide = min(width, max(math.isqrt(area), area // (4 * overlap)))
    high = min(height, area // wide)
    return [
        Strip(left, top, min(left + wide, width), min(top + high, height))
        for top in _starts(height, high, overlap)
        for left in _starts(width, wide, overlap)
    ]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    if length <= size:
        return [0]
    count = math.ceil((length - overlap) / (size - overlap))
    return [round(number * (length - size) / (count - 1)) for number in range(count)]


@dataclass(frozen=True, slots=True)
class Seen:
    """A line in the picture's pixels, and the number of the strip that it was seen in."""

    quad: Quad
    strip: int


def merged(seen: Sequence[Seen], places: Sequence[Strip], width: int, height: int) -> list[Quad]:
    """Each line once, without halves that a strip's edge has cut off, and without repetitions.

    Args:
        seen: what was found in each strip.
        places: the strips.
        width, height: of the whole picture.
    """
    if len(places) == 1:
        return [one.quad for one in seen]
    whole = [one for one in seen if not _is_cut(one, places[one.strip], height)]
    kept: list[Seen] = []
    for one in sorted(whole, key=lambda one: -_area(one.quad)):
        twins = [n for n, other in enumerate(kept) if other.strip != one.strip and _are_one(one.quad, other.quad)]
        if not twins:
            kept.append(one)
        elif not _covers(kept[twins[0]].quad, one.quad):  # the same line, cut at the side
            kept[twins[0]] = Seen(_joined(kept[twins[0]].quad, one.quad), kept[twins[0]].strip)
    return [one.quad for one in kept]


def _is_cut(one: Seen, strip: Strip, height: int) -> bool:
    """Whether the upper or lower edge of a strip, inside the picture, cuts a line: the next strip has all of it."""
    top, bottom = one.quad[:, 1].min(), one.quad[:, 1].max()
    return bool(
        (strip.top > 0 and top <= strip.top + EDGE) or (strip.bottom < height and bottom >= strip.bottom - EDGE)
    )


def _area(quad: Quad) -> float:
    x, y = quad[:, 0], quad[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _are_one(one: Quad, other: Quad) -> bool:
    """Whether two strips saw the same line: at the same height where they are side by side."""
    across = min(one[:, 0].max(), other[:, 0].max()) - max(one[:, 0].min(), other[:, 0].min())
    down = min(one[:, 1].max(), other[:, 1].max()) - max(one[:, 1].min(), other[:, 1].min())
    if across <= 0 or down <= 0:
        return False
    low = min(np.ptp(one[:, 1]), np.ptp(other[:, 1]))
    high = max(np.ptp(one[:, 1]), np.ptp(other[:, 1]))
    return bool(down > 0.6 * low and (low > 0.5 * high or across > 0.8 * min(np.ptp(one[:, 0]), np.ptp(other[:, 0]))))


def _covers(one: Quad, other: Quad) -> bool:
    return bool(one[:, 0].min() <= other[:, 0].min() + EDGE and one[:, 0].max() >= other[:, 0].max() - EDGE)


def _joined(one: Quad, other: Quad) -> Quad:
    """The line that goes from the left end of one to the right end of the other."""
    left, right = (one, other) if one[:, 0].min() < other[:, 0].min() else (other, one)
    if right[:, 0].max() <= left[:, 0].max():
        return left
    return np.stack([left[0], right[1], right[2], left[3]]).astype(np.float32)


def height_of(quad: Quad) -> float:
    """Approximate height of a line's letters."""
    return float(np.linalg.norm(quad[3] - quad[0]) + np.linalg.norm(quad[2] - quad[1])) / 2


def width_of(quad: Quad) -> float:
    """Length of a line."""
    return float(np.linalg.norm(quad[1] - quad[0]) + np.linalg.norm(quad[2] - quad[3])) / 2


def angle_of(quads: Sequence[Quad]) -> float:
    """Angle by which lines are turned clockwise, in degrees: the median of all long ones, weighted by their lengths."""
    told = sorted(
        (math.degrees(math.atan2(*(quad[1] - quad[0] + quad[2] - quad[3])[::-1])), width_of(quad))
        for quad in quads
        if width_of(quad) > 4 * height_of(quad)
    )
    half, passed = sum(length for _, length in told) / 2, 0.0
    for angle, length in told:
        passed += length
        if passed >= half:
            return angle
    return 0.0
