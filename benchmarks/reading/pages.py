"""Web pages whose words are known: drawn from a seed, rendered by a headless Chromium, the truth read from its DOM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from benchmarks.reading.words import Words

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KINDS: Final = ("prose", "code", "table", "columns", "columns", "application")
PAGES: Final = 60
MOST: Final = 58  # characters of a row that is 396 pixels wide

# Background, text, second background, accent.
_LIGHT: Final = (
    ("#ffffff", "#1b1b1b", "#f2f4f7", "#0b57d0"),
    ("#fbf7ec", "#3b3226", "#f1e9d6", "#8a4b08"),
    ("#f6f8fa", "#24292f", "#ffffff", "#116329"),
)
_DARK: Final = (
    ("#1e1e1e", "#d4d4d4", "#2a2d2e", "#569cd6"),
    ("#0d1117", "#c9d1d9", "#161b22", "#58a6ff"),
    ("#002b36", "#93a1a1", "#073642", "#b58900"),
)
_SANS: Final = ("DejaVu Sans", "Liberation Sans", "Liberation Sans Narrow", "DejaVu Serif", "Liberation Serif")
_MONO: Final = ("DejaVu Sans Mono", "Liberation Mono")

# Lines as they are drawn: the words of one block that lie at one height, in the order of the document.
_LINES: Final = """() => {
  const lines = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const block = (node) => {
    let one = node.parentElement;
    while (getComputedStyle(one).display === 'inline') one = one.parentElement;
    return one;
  };
  let last = null;
  while (walker.nextNode()) {
    const node = walker.currentNode;
    for (const found of node.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const rect = range.getBoundingClientRect();
      const owner = block(node);
      if (last && last.owner === owner && Math.abs(last.top - rect.top) < rect.height / 2 && rect.left >= last.right - 1) {
        last.text += ' ' + found[0];
        last.right = rect.right;
        last.bottom = Math.max(last.bottom, rect.bottom);
      } else {
        last = { owner, text: found[0], left: rect.left, top: rect.top, right: rect.right, bottom: rect.bottom };
        lines.push(last);
      }
    }
  }
  return JSON.stringify(lines.map((line) => [line.text, line.left, line.top, line.right, line.bottom]));
}"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page: how it is written, and what it looks like.

    Attributes:
        kind: one of `KINDS`.
        theme: "light" or "dark".
        scale: device pixels of a CSS pixel.
        html: the document.
        width, height: of the window in CSS pixels.
    """

    kind: str
    theme: str
    scale: int
    html: str
    width: int = 1000
    height: int = 640


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page as Chromium shows it.

    Attributes:
        sheet: the page.
        png: its picture.
        lines: its lines, in the order of the document.
        boxes: left, top, right and bottom of each line in CSS pixels, with the room that its font keeps above and below letters.
    """

    sheet: Sheet
    png: bytes
    lines: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


def sheets(seed: int, count: int = PAGES) -> list[Sheet]:
    """Pages of every kind, light and dark in turns, two of three at 1×."""
    found = []
    for number in range(count):
        words = Words(f"{seed}:{number}")
        kind = KINDS[number % len(KINDS)]
        theme = ("light", "dark")[number // len(KINDS) % 2]
        scale = 2 if words.number(0, 2) == 0 else 1
        found.append(Sheet(kind, theme, scale, _document(words, theme, _MAKERS[kind](words))))
    return found


def long_sheet(seed: int) -> Sheet:
    """A page of 420 × 6,000 pixels: one row after the other, as on a phone."""
    words = Words(f"{seed}:long")
    rows: list[str] = []
    while len(rows) < 266:
        row = words.pick([words.sentence(), words.label(), f"{words.person()}, {words.city()}", words.amount()])
        rows += [row] if len(row) <= MOST else []
    body = "".join(f"<div>{escape(row)}</div>" for row in rows)
    style = (
        "body{width:396px;margin:0;padding:7px 12px}div{white-space:nowrap;overflow:hidden;"
        "height:22.5px;line-height:22.5px;max-width:396px}"
    )
    text = _document(words, "light", body, size=10).replace("</style>", style + "</style>")
    return Sheet("long", "light", 1, text, 420, 6000)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium.

    Raises:
        RuntimeError: there is none on this machine.
    """
    from playwright.sync_api import Error, sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            # Without its sandbox it also starts as root in a container; it sees only pages of ours.
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            raise RuntimeError("There is no Chromium: install it, or run `playwright install chromium`.") from error
        try:
            yield browser
        finally:
            browser.close()


def render(browser: Browser, sheet: Sheet) -> Rendered:
    """What a page looks like, and the lines that it shows."""
    context = browser.new_context(
        viewport={"width": sheet.width, "height": sheet.height},
        device_scale_factor=sheet.scale,
        java_script_enabled=True,
    )
    try:
        page = context.new_page()
        page.set_content(sheet.html)
        lines: list[Any] = json.loads(page.evaluate(_LINES))
        boxes = tuple((float(left), float(top), float(right), float(bottom)) for _, left, top, right, bottom in lines)
        return Rendered(sheet, page.screenshot(full_page=True), tuple(str(line[0]) for line in lines), boxes)
    finally:
        context.close()


def _document(words: Words, theme: str, body: str, size: int | None = None) -> str:
    palette = {"light": _LIGHT, "dark": _DARK}[theme]
    paper, ink, second, accent = palette[words.number(0, len(palette) - 1)]
    size = size or words.number(11, 15)
    return (
        "<!doctype html><meta charset='utf-8'><style>"
        f"body{{margin:0;padding:24px 32px;background:{paper};color:{ink};font:{size}px/1.5 '{words.pick(_SANS)}'}}"
        f"pre,code{{font-family:'{words.pick(_MONO)}'}}pre{{background:{second};padding:12px;line-height:1.4;white-space:pre}}"
        f"h1{{font-size:1.7em;color:{accent}}}h2{{font-size:1.25em}}a{{color:{accent}}}"
        f"table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:5px 10px;border-bottom:1px solid {second}}}"
        f".two{{column-count:2;column-gap:{words.number(24, 44)}px;text-align:{words.pick(('left', 'justify'))}}}"
        ".grid{display:grid;grid-template-columns:1fr 1fr;gap:36px}"
        ".app{display:grid;grid-template-columns:180px 1fr;gap:28px}"
        f"nav{{background:{second};padding:12px}}nav div{{padding:5px 0}}"
        "footer{margin-top:44px;font-size:.85em}</style>"
        f"{body}"
    )


def _paragraphs(words: Words, count: int, sentences: tuple[int, int] = (2, 5)) -> str:
    return "".join(f"<p>{escape(words.paragraph(words.number(*sentences)))}</p>" for _ in range(count))


def _prose(words: Words) -> str:
    return (
        f"<h1>{escape(words.heading())}</h1>{_paragraphs(words, 2)}<h2>{escape(words.heading())}</h2>"
        f"{''.join(f'<div>• {escape(words.sentence())}</div>' for _ in range(3))}{_paragraphs(words, 2)}"
        f"<footer>{escape(words.person())}, {words.date()}</footer>"
    )


def _code(words: Words) -> str:
    lines = words.code(words.number(14, 24))
    return (
        f"<h2>{escape(words.heading())}</h2><p>{escape(words.sentence())}</p><pre>{escape(chr(10).join(lines))}</pre>"
        f"<p>{escape(words.sentence())}</p>"
    )


def _table(words: Words) -> str:
    makers: list[Callable[[], str]] = [
        words.label,
        words.person,
        words.city,
        words.date,
        words.amount,
        lambda: str(words.number(10, 99_999)),
    ]
    columns = makers[: words.number(4, 6)]
    head = "".join(f"<th>{escape(words.label())}</th>" for _ in columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(make())}</td>' for make in columns)}</tr>" for _ in range(words.number(9, 16))
    )
    return f"<h2>{escape(words.heading())}</h2><table><tr>{head}</tr>{rows}</table><p>{escape(words.sentence())}</p>"


def _columns(words: Words) -> str:
    title = f"<h1>{escape(words.heading())}</h1>"
    if words.number(0, 2) == 0:
        sides = [
            f"<div><h2>{escape(words.heading())}</h2>{_paragraphs(words, words.number(3, 4))}</div>" for _ in range(2)
        ]
        body = f"<div class='grid'>{''.join(sides)}</div>"
    else:
        body = f"<div class='two'>{_paragraphs(words, words.number(6, 9), (2, 6))}</div>"
    end = f"<footer>{escape(words.city())}, {words.date()}</footer>" if words.number(0, 1) else ""
    return title + body + end


def _application(words: Words) -> str:
    items = "".join(f"<div>{escape(words.label())}</div>" for _ in range(words.number(6, 9)))
    rows = "".join(
        f"<tr><td>{escape(words.label())}</td><td>{escape(words.amount())}</td><td>{words.date()}</td></tr>"
        for _ in range(5)
    )
    return (
        f"<div class='app'><nav>{items}</nav><main><h2>{escape(words.heading())}</h2>{_paragraphs(words, 1)}"
        f"<table>{rows}</table><p><a href='#'>{escape(words.label())}</a></p></main></div>"
    )


_MAKERS: Final[dict[str, Callable[[Words], str]]] = {
    "prose": _prose,
    "code": _code,
    "table": _table,
    "columns": _columns,
    "application": _application,
}
