"""Pages that nobody has seen, read through `Vision.read`: `python -m benchmarks.reading`; with `--only CASE` a part of it.

plain   the pages as Chromium shows them
photos  the same as a phone takes them
turned  every page turned by 90°, 180° and 270° in turns
long    one page of 420 × 6,000 pixels
shapes  300 pictures of the demo's world, in which nothing is written
order   no reading: the order of the boxes that Chromium tells, made uneven and higher or lower, as a detector's are

Needs the extra `[read]`, playwright, and a Chromium on this machine. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks.reading.figures import errors, is_in_order, right_rows
from benchmarks.reading.pages import PAGES, Rendered, chromium, long_sheet, render, sheets
from benchmarks.reading.photographs import photograph
from blip2tools import Vision
from blip2tools.cli.console import say, tell
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.pictures.reading.order import Box, arranged

SHAPES: Final = 300
MARGINS: Final = (0.14, 0.08, 0.02, -0.05)  # shares of a font's height that a box leaves out above letters, and below
LONG: Final = 8  # characters: shorter lines are not looked at
_TURNS: Final = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


class Sums:
    """What was counted of one kind of page."""

    def __init__(self) -> None:
        self.wrong = self.characters = self.pages = self.ordered = 0
        self.seconds = 0.0

    def shown(self, name: str) -> str:
        """One row of the report."""
        share = 100 * self.wrong / max(1, self.characters)
        return (
            f"{name:<24} {self.pages:>3} pages  {self.characters:>7,} characters  error {share:5.2f} %  "
            f"order right {self.ordered:>3}  {self.seconds / max(1, self.pages):5.1f} s a page"
        )


def main() -> int:
    """Measure, print, and write the figures down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=PAGES, metavar="N", help=f"pages (default {PAGES})")
    parser.add_argument("--seed", type=int, default=3, help="of the pages (default 3)")
    parser.add_argument("--only", action="append", choices=tuple(CASES), help="a case; all by default")
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="every Nth page from the Kth on: for runs side by side"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    with chromium() as browser:
        first, _, step = arguments.part.partition("/")
        chosen = sheets(arguments.seed, arguments.pages)[int(first) - 1 :: int(step)]
        pages = [render(browser, sheet) for sheet in chosen]
        long = render(browser, long_sheet(arguments.seed))
    figures: dict[str, Any] = {"seed": arguments.seed, "pages": arguments.pages, "part": arguments.part}
    with Vision.load(model="demo", preload=False, deadline_s=600, threads=1) as vision:
        for name in arguments.only or CASES:
            figures[name] = CASES[name](vision, pages, long)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _plain(vision: Vision, pages: list[Rendered], _: Rendered) -> Any:
    return _read(vision, "plain", ((page, page.png) for page in pages))


def _photos(vision: Vision, pages: list[Rendered], _: Rendered) -> Any:
    return _read(vision, "photos", ((page, photograph(page.png, number)) for number, page in enumerate(pages)))


def _turned(vision: Vision, pages: list[Rendered], _: Rendered) -> Any:
    def turned() -> Iterator[tuple[Rendered, bytes]]:
        for number, page in enumerate(pages):
            with Image.open(io.BytesIO(page.png)) as image:
                buffer = io.BytesIO()
                image.transpose(_TURNS[number % 3]).save(buffer, "PNG")
            yield page, buffer.getvalue()

    return _read(vision, "turned", turned())


def _read(vision: Vision, case: str, pages: Iterator[tuple[Rendered, bytes]]) -> dict[str, Any]:
    sums: defaultdict[str, Sums] = defaultdict(Sums)
    for number, (page, data) in enumerate(pages):
        started = time.perf_counter()
        result = vision.read(data)
        seconds = time.perf_counter() - started
        read = [line.text for line in result.lines]
        wrong, characters = errors(page.lines, read)
        in_order = is_in_order(page.lines, read)
        sheet = page.sheet
        say(f"{case} {number} {sheet.kind} {sheet.theme} {sheet.scale}x: {wrong}/{characters}, order {in_order}")
        for name in (case, f"{case}, {sheet.theme} {sheet.scale}x", f"{case}, {sheet.kind}"):
            one = sums[name]
            one.wrong, one.characters = one.wrong + wrong, one.characters + characters
            one.pages, one.ordered, one.seconds = one.pages + 1, one.ordered + in_order, one.seconds + seconds
    for name, one in sums.items():
        tell(one.shown(name))
    return {name: vars(one) for name, one in sums.items()}


def _long(vision: Vision, _: list[Rendered], long: Rendered) -> Any:
    started = time.perf_counter()
    read = [line.text for line in vision.read(long.png).lines]
    right = right_rows(long.lines, read)
    with Image.open(io.BytesIO(long.png)) as image:
        size = image.size
    seconds = time.perf_counter() - started
    tell(f"long, {size[0]} × {size[1]} px: {right} of {len(long.lines)} rows right, {len(read)} read, {seconds:.1f} s")
    return {"right": right, "rows": len(long.lines), "read": len(read)}


def _shapes(vision: Vision, pages: list[Rendered], long: Rendered) -> Any:
    chance = random.Random(len(pages))
    told = []
    for number in range(SHAPES):
        read = vision.read(draw(sample_scene(chance))).lines
        told += [(number, line.text, round(line.confidence, 2)) for line in read]
    tell(f"shapes: {len({number for number, _, _ in told})} of {SHAPES} pictures without text have some read: {told}")
    return {"pictures": SHAPES, "told": told}


def _order(_: Vision, pages: list[Rendered], long: Rendered) -> Any:
    figures = {}
    for margin in MARGINS:
        right, every = Counter[str](), Counter[str]()
        for number, page in enumerate(pages):
            chance = random.Random(f"{number}:{page.sheet.kind}")
            boxes = [_as_detected(box, margin, chance) for box in page.boxes]
            told = [one for row in arranged(boxes) for one in row if len(page.lines[one]) >= LONG]
            every[page.sheet.kind] += 1
            right[page.sheet.kind] += told == sorted(told)
        figures[margin] = {kind: [right[kind], every[kind]] for kind in every}
        told_so = ", ".join(f"{kind} {right[kind]} of {every[kind]}" for kind in every)
        tell(f"order right, boxes {100 * (1 - 2 * margin):.0f} % as high as the font: {told_so}")
    return figures


def _as_detected(box: tuple[float, float, float, float], margin: float, chance: random.Random) -> Box:
    """A line's box with uneven edges, and with less or more room above and below its letters."""
    left, top, right, bottom = box
    height = bottom - top
    across, down = [chance.gauss(0, 0.6) for _ in range(2)], [chance.gauss(0, 0.03 * height) for _ in range(2)]
    return Box(left + across[0], top + margin * height + down[0], right + across[1], bottom - margin * height + down[1])


CASES: Final[dict[str, Callable[[Vision, list[Rendered], Rendered], Any]]] = {
    "plain": _plain,
    "photos": _photos,
    "turned": _turned,
    "long": _long,
    "shapes": _shapes,
    "order": _order,
}

if __name__ == "__main__":
    raise SystemExit(main())
