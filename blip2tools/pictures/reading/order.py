"""Reading order of lines: columns one after the other, tables row by row.

Only the lines themselves tell columns from tables: prose fills its column from edge to edge, or its lines lie at other heights
than those beside them; the cells of a table are short and stand side by side.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

SECTION: Final = 2.0  # heights of a line that nothing is written in, from edge to edge: what is above is read first
WIDEST: Final = 3.5  # the same where both sides of it have columns in the same places
SPACED: Final = 2.75  # the same where a column goes on at a pace of its own
HEADING: Final = 1.3  # heights of a line
PACE: Final = 0.3  # heights of a line by which the steps between a column's paragraphs, or entries, may differ
GUTTER: Final = 0.6  # heights of a line between two columns, at least
LEAST_LINES: Final = 3  # of each column
LEAST_WIDTH: Final = 8.0  # heights of a line: numbers of lines, bullets and amounts are narrower
NAMES: Final = 4.0  # the same: entries of a list are words, and wider than numbers of lines
FILLED: Final = 0.75  # share of its column that a line of prose takes, but for the last of a paragraph
MOSTLY: Final = 0.5  # share of lines
BESIDE: Final = (
    0.75  # share of the lines of one column that have one of the other beside them, from which it is a table
)
NEAR: Final = 0.5  # heights of a line by which the two sides of a row may differ: a photograph's perspective
IN_STEP: Final = 0.12  # the same from one row to the next
CORE: Final = 0.25  # of its height: lines whose middles overlap stand side by side; their edges always may


@dataclass(frozen=True, slots=True)
class Box:
    """Where a line is, in any unit; upright, with the height of its letters."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def middle(self) -> float:
        """Half-way from top to bottom."""
        return (self.top + self.bottom) / 2

    @property
    def height(self) -> float:
        """From top to bottom."""
        return self.bottom - self.top

    @property
    def width(self) -> float:
        """From left to right."""
        return self.right - self.left


def arranged(boxes: Sequence[Box]) -> list[list[int]]:
    """Numbers of the boxes in reading order, in rows: what stands side by side and belongs together is one row."""
    if not boxes:
        return []
    return _Order(boxes).of(list(range(len(boxes))))


class _Order:
    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes
        self.unit = statistics.median(box.height for box in boxes)

    def of(self, numbers: list[int]) -> list[list[int]]:
        bands = self.bands(numbers)
        sections = self.sections(bands)
        if len(sections) > 1:
            return [row for section in sections for row in self.of([number for band in section for number in band])]
        run = self.columns(bands)
        if run is None:
            return self.rows(bands)
        first, last, edge = run
        inside = [number for band in bands[first:last] for number in band]
        left = [number for number in inside if self.boxes[number].right <= edge]
        right = [number for number in inside if self.boxes[number].right > edge]
        before = [number for band in bands[:first] for number in band]
        after = [number for band in bands[last:] for number in band]
        return [row for part in (before, left, right, after) if part for row in self.of(part)]

    def bands(self, numbers: list[int]) -> list[list[int]]:
        """Lines side by side, from the top; those of a band from the left."""
        found: list[list[int]] = []
        end = float("-inf")
        for number in sorted(numbers, key=lambda one: self.boxes[one].middle):
            box = self.boxes[number]
            # A large letter beside two small lines stands in the row of the first: only what is about as high joins lines.
            core = CORE * min(box.height, 1.5 * self.unit)
            if found and box.middle - core < end:
                found[-1].append(number)
                end = max(end, min(box.middle + core, end + core))
            else:
                found.append([number])
                end = box.middle + core
        return [sorted(band, key=lambda one: self.boxes[one].left) for band in found]

    def sections(self, bands: list[list[int]]) -> list[list[list[int]]]:
        """Bands that no wide empty strip separates."""
        found: list[list[list[int]]] = []
        end = float("-inf")
        usual = self.usual([number for band in bands for number in band])
        for band in bands:
            gap = min(self.boxes[one].top for one in band) - end
            wide = gap / self.unit
            if found and (
                wide < SECTION
                or (wide < SPACED and not usual.isdisjoint(band))
                or (wide < WIDEST and self.share(found[-1][-1], band))
            ):
                found[-1].append(band)
            else:
                found.append([band])
            end = max(end, *(self.boxes[one].bottom for one in band))
        return found

    def usual(self, numbers: list[int]) -> set[int]:
        """Lines as far below the one above, in their column, as another is there: the next paragraph, or entry of a list."""
        found: set[int] = set()
        for column in self.aligned(numbers):
            middles = [self.boxes[one].middle for one in column]
            steps = sorted(
                (below - above, one) for (above, below), one in zip(pairwise(middles), column[1:], strict=True)
            )
            for (step, one), (other, two) in pairwise(steps):
                if other - step <= PACE * self.unit:
                    found |= {one, two}
        return found

    def aligned(self, numbers: list[int]) -> list[list[int]]:
        """Lines of common height that begin at the same distance from the left, each such column from the top."""
        found: list[list[int]] = []
        common = [one for one in numbers if self.boxes[one].height < HEADING * self.unit]
        for number in sorted(common, key=lambda one: self.boxes[one].left):
            if found and self.boxes[number].left - self.boxes[found[-1][-1]].left < GUTTER * self.unit:
                found[-1].append(number)
            else:
                found.append([number])
        return [sorted(column, key=lambda one: self.boxes[one].middle) for column in found]

    def share(self, above: list[int], below: list[int]) -> bool:
        """Whether two bands have a gutter in common: headings stand apart from the columns that they belong to."""
        spaces = [
            [(self.boxes[one].right, self.boxes[other].left) for one, other in pairwise(band)]
            for band in (above, below)
        ]
        return any(
            min(end, other_end) - max(start, other_start) >= GUTTER * self.unit
            for start, end in spaces[0]
            for other_start, other_end in spaces[1]
        )

    def columns(self, bands: list[list[int]]) -> tuple[int, int, float] | None:
        """Longest run of bands that are two columns: its first band, the one after its last, and where to part them."""
        best: tuple[int, int, float] | None = None
        most = 0
        counts = [0, *accumulate(map(len, bands))]
        for first in range(len(bands)):
            if counts[-1] - counts[first] <= most:
                break
            for last, edge in self.run(bands, first):
                if counts[last] - counts[first] <= most:
                    continue
                # The end of a table is less regular than the table: only a gutter's whole length tells.
                whole = first == 0 or any(
                    self.boxes[one].left < edge < self.boxes[one].right for one in bands[first - 1]
                )
                inside = [number for band in bands[first:last] for number in band]
                if self.are_columns(inside, edge, whole=whole):
                    best, most = (first, last, edge), counts[last] - counts[first]
        return best

    def run(self, bands: list[list[int]], first: int) -> list[tuple[int, float]]:
        """Gutters that begin at a band, each with its end; the longest first, then the widest."""
        whole = [number for band in bands for number in band]
        free = [(min(self.boxes[one].left for one in whole), max(self.boxes[one].right for one in whole))]
        ends: list[tuple[int, float, float]] = []
        for last, band in enumerate(bands[first:], start=first):
            left = free
            for number in band:
                box = self.boxes[number]
                left = [
                    part
                    for start, end in left
                    for part in ((start, min(end, box.left)), (max(start, box.right), end))
                    if part[1] - part[0] >= GUTTER * self.unit
                ]
            for start, end in free:
                if not any(start <= other[0] and other[1] <= end for other in left):
                    ends.append((last, (start + end) / 2, end - start))
            free = left
            if not free:
                break
        ends += [(len(bands), (start + end) / 2, end - start) for start, end in free]
        return [(last, edge) for last, edge, _ in sorted(ends, key=lambda one: (-one[0], -one[2]))]

    def are_columns(self, numbers: list[int], edge: float, *, whole: bool) -> bool:
        """Whether the two sides of a gutter are read one after the other; `whole`: the gutter goes up no further."""
        sides = [
            [self.boxes[one] for one in numbers if self.boxes[one].right <= edge],
            [self.boxes[one] for one in numbers if self.boxes[one].right > edge],
        ]
        if min(map(len, sides)) < LEAST_LINES:
            return False
        if all(_is_prose(column, LEAST_WIDTH * self.unit) for side in sides for column in _side_by_side(side)):
            return True
        if not whole:
            return False
        widest = min(max(box.width for box in side) for side in sides)
        if widest >= NAMES * self.unit and any(map(self.is_mixed, sides)):
            return True
        # What stands beside nothing, above or below the other side, tells nothing.
        top = max(min(box.top for box in side) for side in sides)
        bottom = min(max(box.bottom for box in side) for side in sides)
        # Across a table the rows of a photograph drift apart: only the columns next to the gutter are compared.
        nearest = [self.next_to(numbers, edge, left=left, top=top, bottom=bottom) for left in (True, False)]
        few, many = nearest if len(sides[0]) <= len(sides[1]) else nearest[::-1]
        return len(few) >= LEAST_LINES and self.share_beside(few, many) < BESIDE

    def is_mixed(self, side: Sequence[Box]) -> bool:
        """Whether lines of text run across the columns of a table above or below them: no other side has rows with both."""
        ordered = sorted(side, key=lambda box: box.middle)
        gaps = [
            (box.right, other.left)
            for box, other in pairwise(ordered)
            if abs(box.middle - other.middle) < CORE * self.unit and other.left - box.right >= GUTTER * self.unit
        ]
        across = [any(box.left < start and end < box.right for start, end in gaps) for box in ordered]
        return len(gaps) > 1 and any(one and other for one, other in pairwise(across))

    def next_to(self, numbers: list[int], edge: float, *, left: bool, top: float, bottom: float) -> list[Box]:
        """Lines on one side of a gutter between two heights: of each band the one nearest to the gutter."""
        side = [
            one
            for one in numbers
            if (self.boxes[one].right <= edge) == left and top <= self.boxes[one].middle <= bottom
        ]
        return [self.boxes[band[-1 if left else 0]] for band in self.bands(side)]

    def share_beside(self, few: Sequence[Box], many: Sequence[Box]) -> float:
        """Share of lines that have one of the others beside them, all with the same small difference in height.

        Lines of two columns with similar spacing stand side by side here and there by chance, but not throughout.
        """
        middles = [float("-inf"), *sorted(box.middle for box in many), float("inf")]
        offsets = []
        for box in few:
            place = bisect_left(middles, box.middle)
            offsets.append(min(box.middle - middles[place - 1], box.middle - middles[place], key=abs))
        near = [offset for offset in offsets if abs(offset) < NEAR * self.unit]
        if not near:
            return 0.0
        usual = statistics.median(near)
        return sum(abs(offset - usual) <= IN_STEP * self.unit for offset in near) / len(few)

    def rows(self, bands: list[list[int]]) -> list[list[int]]:
        """Bands as rows; of a table with cells of several lines each cell is read to its end."""
        found: list[list[int]] = []
        for row in self.joined(bands):
            if len(row) == 1:
                found.append(row[0])
                continue
            cells: list[list[int]] = [[one] for one in row[0]]
            for number in (number for band in row[1:] for number in band):
                min(cells, key=lambda cell: abs(self.boxes[cell[0]].left - self.boxes[number].left)).append(number)
            found += [[number] for cell in cells for number in cell]
        return found

    def joined(self, bands: list[list[int]]) -> list[list[list[int]]]:
        """Bands that are one row of a table: those below the first go on with some of its cells, and lie closer than rows do."""
        gaps = [
            min(self.boxes[one].middle for one in below) - max(self.boxes[one].middle for one in above)
            for above, below in pairwise(bands)
        ]
        widest = max(gaps, default=0.0)
        found: list[list[list[int]]] = []
        for number, band in enumerate(bands):
            close = number > 0 and gaps[number - 1] < 0.75 * widest
            if found and close and self.goes_on(found[-1], band) and self.is_table(found[-1][0], bands):
                found[-1].append(band)
            else:
                found.append([band])
        return found

    def is_table(self, row: list[int], bands: list[list[int]]) -> bool:
        """Whether another band has cells where a row has them."""
        starts = [self.boxes[one].left for one in row]
        return any(
            sum(min(abs(self.boxes[one].left - start) for start in starts) < self.unit for one in band) > 1
            for band in bands
            if band is not row
        )

    def goes_on(self, row: list[list[int]], band: list[int]) -> bool:
        """Whether a band has lines of some cells of a row and of nothing else."""
        if len(row[0]) < 2 or len(band) >= len(row[0]):
            return False
        starts = [self.boxes[one].left for one in row[0]]
        return all(min(abs(self.boxes[one].left - start) for start in starts) < self.unit for one in band)


def _side_by_side(lines: Sequence[Box]) -> list[list[Box]]:
    """Lines that lie below each other, apart from those beside them."""
    found: list[list[Box]] = []
    end = float("-inf")
    for line in sorted(lines, key=lambda one: one.left):
        if found and line.left < end:
            found[-1].append(line)
        else:
            found.append([line])
        end = max(end, line.right)
    return found


def _is_prose(lines: Sequence[Box], least: float) -> bool:
    width = max(line.right for line in lines) - min(line.left for line in lines)
    return width >= least and sum(line.width >= FILLED * width for line in lines) >= MOSTLY * len(lines)
