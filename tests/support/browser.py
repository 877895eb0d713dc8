"""What a person sees of a page in a real Chromium: whether something is in view, uncovered, drawn and readable."""

from __future__ import annotations

import io
import shutil
from typing import Any

import pytest
from PIL import Image

from tests.support.http_process import TOKEN

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 812}
DONE = "article:not(.pending)"  # results on the page
NEWEST = f"{DONE}:first-child"
LEAST_CONTRAST, LEAST_OF_LARGE = 4.5, 3.0  # WCAG 2.2, 1.4.3

# Texts whose colour is too near to what is behind them, by WCAG's relative luminance; their grounds are of one colour.
_FAINT = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((one, k) => one * a + under[k] * (1 - a));
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(parse(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.textContent.trim() || ["SCRIPT", "STYLE", "OPTION"].includes(node.tagName) || !node.checkVisibility()) continue;
    if (node.closest(".unseen, .pending, .sending")) continue;
    const behind = ground(node), ink = over(parse(style.color), behind);
    const [dark, light] = [luminance(ink), luminance(behind)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < (large ? LARGE : NORMAL)) faint.push(`${text.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return faint;
}""".replace("LARGE", str(LEAST_OF_LARGE)).replace("NORMAL", str(LEAST_CONTRAST))

# The share of an element that a person sees: inside the window, and not below another one.
_SEEN = """(node) => {
  const box = node.getBoundingClientRect();
  let seen = 0;
  for (const across of [0.1, 0.5, 0.9]) for (const down of [0.1, 0.5, 0.9]) {
    const top = document.elementsFromPoint(box.left + box.width * across, box.top + box.height * down)
      .find((one) => getComputedStyle(one).opacity !== "0");
    seen += Boolean(top && node.contains(top));
  }
  return seen / 9;
}"""


def chromium_path() -> str | None:
    """The machine's own browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def share_in_view(page: Any, selector: str) -> float:
    """How much of the first such element is seen, 0 to 1."""
    return float(page.locator(selector).first.evaluate(_SEEN))


def assert_in_view(page: Any, *selectors: str) -> None:
    """Every one of these is within the window, uncovered, and drawn: a screenshot shows more than one colour there."""
    screenshot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    for selector in selectors:
        assert share_in_view(page, selector) == 1, f"{selector} is not in view"
        box = page.locator(selector).first.bounding_box()
        edges = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
        drawn = screenshot.crop(tuple(round(edge) for edge in edges))
        assert any(high - low > 40 for low, high in drawn.getextrema()), f"{selector} is not drawn"


def assert_well_made(page: Any) -> None:
    """Nothing wider than the window, no target too small for a finger, no text too faint to read."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, summary, input:not([type=file])')].filter((one) => one.checkVisibility())"
        ".filter((one) => one.getBoundingClientRect().height < 24).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert small == []  # WCAG 2.2, 2.5.8
    assert page.evaluate(_FAINT) == []


# ---- visits to the page ----


@pytest.fixture(scope="module")
def browser():
    """One Chromium for a module's tests."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")
    sync_api.expect.set_options(timeout=30_000)  # on a busy machine
    with sync_api.sync_playwright() as playwright:
        path = chromium_path()
        try:
            # Without its sandbox it also starts as root in a container; it only ever sees our own page.
            running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            failed = f" ({path}: {str(error).splitlines()[0]})" if path else ""
            pytest.skip(f"no Chromium: install it, or run `playwright install chromium`{failed}")
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Opens a page, and at the end checks that it contacted no other server and logged no error."""
    opened = []

    def open_page(server, allowed=None, size=DESKTOP, **options):
        touch = {"has_touch": True, "is_mobile": True} if size == PHONE else {}
        context = browser.new_context(viewport=size, **touch, **options)
        page = context.new_page()
        told, asked, refused = [], [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.on("requestfailed", lambda request: refused.append(request.url))
        page.on("response", lambda response: response.ok or refused.append(response.url))
        page.set_default_timeout(20_000)
        page.goto(server.url + "/")
        opened.append((context, server, told, asked, refused, allowed))
        return page

    yield open_page
    for context, server, told, asked, refused, allowed in opened:
        context.close()
        # Chromium notes every refusal of the server's; of the page itself it has nothing to say.
        own = [text for text in told if not text.startswith("Failed to load resource")]
        assert own == ([] if allowed is None else [text for text in told if allowed in text])
        assert len(told) - len(own) <= len(refused)
        assert [url for url in asked if not url.startswith((server.url, f"blob:{server.url}", "data:"))] == []
        assert [url for url in asked if TOKEN in url] == []


def sees(page, selector, text):
    """Wait until the first such element has this text."""
    from playwright.sync_api import expect

    expect(page.locator(selector).first).to_contain_text(text)


def counts(page, selector, number):
    """Wait until there are so many of these elements."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(number)


def shown(page, path):
    """Give the page a picture, and wait for its caption."""
    before = page.locator(DONE).count()
    page.set_input_files("#other" if page.locator("#other").is_visible() else "#file", path)
    counts(page, DONE, before + 1)


def ask(page, question, choices=""):
    """Ask, and wait for the answer."""
    before = page.locator(DONE).count()
    page.get_by_role("tab", name="Ask").click()
    page.locator("#question").fill(question)
    page.evaluate("document.getElementById('offer').open = true")
    page.get_by_label("Choices").fill(choices)
    page.get_by_role("button", name="Ask", exact=True).click()
    counts(page, DONE, before + 1)


def run(page, tab, button):
    """Press a tab's button, and wait for the result."""
    before = page.locator(DONE).count()
    page.get_by_role("tab", name=tab).click()
    page.locator(f"#panel-{tab.lower()}").get_by_role("button", name=button).click()
    counts(page, DONE, before + 1)


def search(page, query):
    """Search, and wait for the grid."""
    page.get_by_role("tab", name="Search").click()
    page.get_by_label("What the picture shows").fill(query)
    page.get_by_role("button", name="Search", exact=True).click()
    sees(page, "#found .summary", query)
