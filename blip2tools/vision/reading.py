"""What was read in a picture, as a typed result: cleaned, bounded, its boxes as fractions of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from blip2tools.pictures.reading.reader import Line, Page
from blip2tools.schemas import ReadResult, TextLine, plain
from blip2tools.schemas.reading import ASIDE, MAX_CHARACTERS, MAX_LINES
from blip2tools.schemas.shown import quoted
from blip2tools.vision.looking import Part

DOUBTFUL: Final = 0.8  # below it a line has a wrong letter more often than not
FOREIGN: Final = 0.3  # share of doubtful lines from which the script may be an unknown one
KNOWN: Final = "Latin, Chinese and Japanese letters"

_TURNS: Final = {1: "a quarter of a turn clockwise", 2: "upside down", 3: "a quarter of a turn counter-clockwise"}


def result(part: Part, region: Sequence[float] | None, page: Page) -> ReadResult:
    """The lines of a page, as far as they have room in a result."""
    left, top, right, bottom = region or (0.0, 0.0, 1.0, 1.0)
    width, height = part.pixels.size
    lines: list[tuple[int, TextLine]] = []
    characters = 0
    # What holds nothing but invisible characters is no line.
    readable = [(line, text) for line in page.lines if (text := plain(line.text))]
    for line, text in readable:
        characters += len(text)
        if len(lines) == MAX_LINES or characters > MAX_CHARACTERS:
            break
        x0, y0, x1, y1 = line.box
        box = (
            left + (right - left) * x0 / width,
            top + (bottom - top) * y0 / height,
            left + (right - left) * x1 / width,
            top + (bottom - top) * y1 / height,
        )
        fractions = [round(min(max(edge, 0.0), 1.0), 5) for edge in box]
        lines.append((line.row, TextLine(text=text, confidence=min(max(line.confidence, 0.0), 1.0), box=fractions)))
    rows = [ASIDE.join(line.text for _, line in row) for _, row in groupby(lines, key=lambda one: one[0])]
    return ReadResult(
        image=part.info,
        region=None if region is None else [float(edge) for edge in region],
        model=page.model,
        warnings=[*part.warnings, *_doubts(page, [line for line, _ in readable], len(lines))],
        lines=[line for _, line in lines],
        text="\n".join(rows),
    )


def _doubts(page: Page, lines: Sequence[Line], told: int) -> list[str]:
    found = []
    if page.turn:
        found.append(
            f"the text lies {_TURNS[page.turn]}; it was read as if the picture were upright, the boxes are as it lies"
        )
    if page.reduced:
        found.append("the picture is so large that small letters may have been missed: pass a region")
    unsure = sum(line.confidence < DOUBTFUL for line in lines)
    if told < len(lines):
        found.append(
            f"there is more text: only the first {told} of {len(lines)} lines are told, pass a region for the others"
        )
    if page.lone:
        signs = ", ".join(quoted(plain(text)[:2], 2) for text in page.lone[:8])
        found.append(f"left out is what may be single letters or only shapes: {signs}")
    if page.doubtful:
        found.append(f"{page.doubtful} more {'line' if page.doubtful == 1 else 'lines'} could not be read")
    if unsure + page.doubtful > FOREIGN * (len(lines) + page.doubtful):
        found.append(f"much of this is doubtful: only {KNOWN} are known, others come out as wrong letters")
    elif unsure:
        found.append(
            f"{unsure} {'line has' if unsure == 1 else 'lines have'} a confidence below {DOUBTFUL}: letters may be wrong"
        )
    return found
