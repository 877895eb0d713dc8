"""The pictures of the README, made from what the package does today: `python -m docs.pictures` (or `make pictures`).

look.png     a drawing next to the command line's output about it
page.png     the page of `blip2tools serve --http`
report.png   the report of `blip2tools demo`

Each file keeps the words that it shows as its PNG description, so that a test can tell when they are out of date.
Needs the extra `[mcp]`, playwright, and a Chromium on this machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image, PngImagePlugin

from blip2tools import Vision
from blip2tools.cli import main as blip2tools
from blip2tools.cli.demo.show import run_demo
from blip2tools.server.http.serve import Listener, build_http_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

REPOSITORY: Final = Path(__file__).parent.parent
DRAWING: Final = "examples/shapes.png"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
COMMANDS: Final = (
    ("caption", DRAWING),
    ("ask", DRAWING, "-q", "what color is the ring?", "-c", "red", "-c", "orange", "-c", "yellow"),
    ("match", DRAWING, "-t", "an orange ring", "-t", "a purple ring"),
)
SEED: Final = 7  # of the report's pictures
COLORS: Final = 128  # of a stored picture: enough for flat colours and smooth type
DESCRIPTION: Final = "Description"

_CARD: Final = """\
<!doctype html>
<meta charset="utf-8">
<style>
body {{ margin: 0; background: #fff; font: 15px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }}
main {{ display: grid; grid-template-columns: 300px minmax(0, 1fr); gap: 22px; padding: 18px; align-items: center; }}
img {{ width: 300px; border-radius: 8px; display: block; }}
pre {{
  margin: 0; padding: 16px 18px; border-radius: 8px; background: #15181c; color: #d7dce0; white-space: pre-wrap; font: inherit;
}}
b {{ color: #7fd0de; font-weight: 600; }}
</style>
<main><img src="data:image/png;base64,{picture}" alt=""><pre>{session}</pre></main>
"""


def session() -> str:
    """The commands about the drawing and their output, as in a terminal."""
    lines = []
    for words in COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            status = blip2tools([*words, "--model", "demo", "--device", "cpu"])
        if status != 0:
            raise RuntimeError(f"`blip2tools {words[0]}` ended with status {status}.")
        shown = " ".join(f'"{word}"' if " " in word else word for word in words)
        lines.append(f"$ blip2tools {shown}\n{printed.getvalue()}")
    return "".join(lines)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser: the machine's own, or the one that playwright installed."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        # Without its sandbox it also starts as root in a container; it only ever sees pages of this package.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of `blip2tools serve --http`, in a thread of this process."""
    with (
        Vision.load(model="demo", device="cpu", allowed_dirs=[REPOSITORY / "examples"]) as vision,
        Listener("127.0.0.1", 0, vision.settings) as listener,
    ):
        running = build_http_server(vision, listener, page=True)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener.socket]})
        thread.start()
        try:
            yield listener.url
        finally:
            running.should_exit = True
            thread.join()


def look(browser: Browser, folder: Path) -> None:
    """The drawing next to the output about it."""
    told = session()
    colored = re.sub(r"^(\$ .*)$", r"\n<b>\1</b>", escape(told, quote=False), flags=re.M)
    picture = base64.b64encode((REPOSITORY / DRAWING).read_bytes()).decode()
    page = browser.new_page(viewport={"width": 1060, "height": 420})
    page.set_content(_CARD.format(picture=picture, session=colored.strip()))
    _keep(page.locator("main").screenshot(), folder / "look.png", told)


def page(browser: Browser, folder: Path) -> None:
    """The page that the server shows, after a caption and two questions, of which one does not hold."""
    with server() as url:
        shown = browser.new_page(viewport={"width": 1240, "height": 940}, color_scheme="light", reduced_motion="reduce")
        shown.goto(url)
        shown.set_input_files("#file", REPOSITORY / DRAWING)
        _wait_for(shown, 1)
        shown.get_by_role("tab", name="Ask").click()
        for number, question in enumerate(("what color is the star?", "what color is the ring?"), start=2):
            shown.locator("#question").fill(question)
            shown.get_by_role("button", name="Ask", exact=True).click()
            _wait_for(shown, number)
        shown.evaluate("scrollTo(0, 0)")
        _keep(shown.screenshot(), folder / "page.png", shown.locator("body").inner_text())


def _wait_for(shown: Page, results: int) -> None:
    shown.locator("article:not(.pending)").nth(results - 1).wait_for()


def demonstration(place: Path) -> Path:
    """The report that `blip2tools demo` writes."""
    told = io.StringIO()
    if run_demo(seed=SEED, output=place, stream=told, errors=told) != 0:
        raise RuntimeError(f"The demo failed:\n{told.getvalue()}")
    (file,) = place.glob("*.html")
    return file


def report(browser: Browser, folder: Path, file: Path) -> None:
    """The top of the report of a demo."""
    shown = browser.new_page(viewport={"width": 1100, "height": 860}, color_scheme="light")
    shown.goto(file.as_uri())
    _keep(shown.screenshot(), folder / "report.png", shown.locator("body").inner_text())


def _keep(screenshot: bytes, file: Path, words: str) -> None:
    """Store a picture with few colours, which makes it several times smaller, and its words."""
    with Image.open(io.BytesIO(screenshot)) as picture:
        small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt(DESCRIPTION, words, zip=True)
    small.save(file, optimize=True, pnginfo=notes)


def words_of(file: Path) -> str:
    """The words that a picture shows, without what differs from run to run: times and handles."""
    with Image.open(file) as picture:
        words = str(picture.info[DESCRIPTION])
    return re.sub(r"\d+\.\d+ s\b", "N s", re.sub(r"img_[0-9a-f]{16}", "img_", words))


def main(folder: Path) -> None:
    """Write all pictures into a folder."""
    with contextlib.chdir(REPOSITORY), tempfile.TemporaryDirectory() as place:
        told = demonstration(Path(place))  # first: the browser's own event loop would be in its way
        with chromium() as browser:
            look(browser, folder)
            page(browser, folder)
            report(browser, folder, told)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="default: docs")
    main(parser.parse_args().output.absolute())
    sys.exit(0)
