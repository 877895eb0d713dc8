"""The page at `/` in a real browser: with the mouse, from the keyboard alone, with a token, light and dark."""

import base64
import re
import shutil

import pytest

from blip2tools import Vision
from blip2tools.server.http.page import load_page
from tests.support.http_process import TOKEN, HttpThread

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        try:
            # Without its sandbox it also starts as root in a container; it only ever sees our own page.
            running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            failed = f" ({path}: {str(error).splitlines()[0]})" if path else ""
            pytest.skip(f"no Chromium: install it, or run `playwright install chromium`{failed}")
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(vision):
    running = HttpThread(vision)
    yield running
    running.end()


@pytest.fixture
def visit(browser):
    """Opens a page, and at the end checks that it contacted no other server and logged no error."""
    opened = []

    def open_page(server, allowed=None, **options):
        context = browser.new_context(viewport={"width": 1100, "height": 900}, **options)
        page = context.new_page()
        told, asked = [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.set_default_timeout(20_000)
        page.goto(server.url + "/")
        opened.append((context, server, told, asked, allowed))
        return page

    yield open_page
    for context, server, told, asked, allowed in opened:
        context.close()
        # Chromium notes every refusal of the server's; of the page itself it has nothing to say.
        assert [text for text in told if not text.startswith("Failed to load resource")] == (
            [] if allowed is None else [text for text in told if allowed in text]
        )
        assert [url for url in asked if not url.startswith((server.url, f"blob:{server.url}", "data:"))] == []
        assert [url for url in asked if TOKEN in url] == []


def sees(page, selector, text):
    from playwright.sync_api import expect

    expect(page.locator(selector).first).to_contain_text(text)


def counts(page, selector, number):
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(number)


def test_caption_ask_and_match(visit, server, picture):
    page = visit(server)
    sees(page, "#state", "ready")
    sees(page, "#notes", "only knows drawn shapes")
    page.set_input_files("#file", picture.path)
    sees(page, "#about", "224 × 224")
    page.select_option("#count", "2")
    page.get_by_role("button", name="Caption").click()
    counts(page, "article", 1)
    sees(page, "article", picture.caption)
    assert float(page.get_by_role("meter", name="confidence").first.get_attribute("aria-valuenow")) > 0.9
    assert re.search(r"img_[0-9a-f]{16}; \d+\.\d\d s", page.locator("article").inner_text())

    thing = picture.scene.things[0]
    page.get_by_label("Ask a question").fill(f"what color is the {thing.shape}?")
    page.get_by_label("Choices").fill(f"{thing.color}\nred\nblack\n")
    page.get_by_role("button", name="Ask").click()
    counts(page, "article", 2)
    sees(page, "article h3", thing.color)
    counts(page, "article:first-child [role=meter]", 3)
    fill = page.locator("article:first-child .meter i").first
    assert fill.bounding_box()["width"] > 0.9 * page.locator("article:first-child .meter").first.bounding_box()["width"]

    page.get_by_label("Match statements").fill(f"{picture.caption}\na purple star")
    page.get_by_role("button", name="Match").click()
    counts(page, "article", 3)
    sees(page, "article .measure", picture.caption)
    # What warns about the model as a whole stands at the top, once.
    counts(page, "article .warnings", 0)


def test_a_region_is_dragged(visit, server, picture):
    page = visit(server)
    page.set_input_files("#file", picture.path)
    sees(page, "#about", "224 × 224")
    box = page.locator("#preview").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 * box["width"], box["y"] + box["height"] * 0.75, steps=4)
    page.mouse.up()
    sees(page, "#region-text", "Region: left 50 %, top 25 %, right 100 %, bottom 75 %")
    page.get_by_role("button", name="Caption").click()
    sees(page, "article", "region 50 %, 25 %, 100 %, 75 %")
    page.get_by_role("button", name="Whole picture").click()
    assert page.locator("#region-text").inner_text() == ""
    page.get_by_role("button", name="Caption").click()
    sees(page, "article", picture.caption)


def test_from_the_keyboard_alone(visit, server, picture):
    page = visit(server)
    sees(page, "#state", "ready")
    assert page.evaluate("document.activeElement.id") == "file"  # it has the focus from the beginning
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    page.wait_for_timeout(300)  # until the browser knows that somebody listens
    page.keyboard.press("Enter")
    for _ in range(100):
        if not chosen:
            page.wait_for_timeout(100)
    chosen[0].set_files(picture.path)
    sees(page, "#about", "224 × 224")
    for key in ("Enter", "ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Shift+ArrowUp"):  # now it is on the picture
        page.keyboard.press(key)
    sees(page, "#region-text", "Region: left 27 %, top 27 %, right 75 %, bottom 75 %")
    page.keyboard.press("Escape")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if reached[-1] == "Caption":
            page.keyboard.press("Enter")
            sees(page, "article", picture.caption)
    order = ["Caption", "count", "question", "choices", "Ask", "texts", "Match"]
    assert list(dict.fromkeys(one for one in reached if one in order)) == order


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(visit, server, picture, event):
    page = visit(server)
    sees(page, "#state", "ready")
    page.evaluate(
        """([kind, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "x.png", {type: "image/png"}));
            const event = kind === "drop" ? new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true})
                : new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true});
            document.body.dispatchEvent(event);
        }""",
        [event, base64.b64encode(picture.path.read_bytes()).decode()],
    )
    sees(page, "#about", "224 × 224")


def test_mistakes_are_told_and_the_next_call_works(visit, server, picture, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    page = visit(server)
    sees(page, "#state", "ready")
    page.get_by_role("button", name="Caption").click()
    sees(page, "#problem", "Choose a picture first.")
    with page.expect_response("**/images") as refused:
        page.set_input_files("#file", tmp_path / "bad.png")
    assert refused.value.status == 415
    sees(page, "#problem", "not a picture")
    page.set_input_files("#file", picture.path)
    sees(page, "#about", "224 × 224")
    page.get_by_label("Choices").fill("only one")
    page.get_by_label("Ask a question").fill("what is it?")
    page.get_by_role("button", name="Ask").click()
    sees(page, "article.error", "'choices'")
    page.get_by_label("Choices").fill("")
    page.get_by_role("button", name="Ask").click()
    counts(page, "article:not(.error)", 1)


def test_a_handle_that_has_expired_is_sent_again(visit, vision, server, picture, pictures):
    page = visit(server)
    page.set_input_files("#file", picture.path)
    sees(page, "#about", "224 × 224")
    vision._store._pictures.clear()
    vision._store._used = 0
    page.get_by_role("button", name="Caption").click()
    sees(page, "article", picture.caption)


def test_text_from_a_result_is_never_markup(visit, server, picture):
    page = visit(server)
    page.set_input_files("#file", picture.path)
    sees(page, "#about", "224 × 224")
    page.get_by_label("Match statements").fill("<img src=x onerror=document.title='owned'>\n<b>bold</b>")
    page.get_by_role("button", name="Match").click()
    sees(page, "article", "<b>bold</b>")
    counts(page, "article img, article b", 0)
    assert page.title() == "blip2tools"


def test_the_token_is_asked_for_and_travels_in_a_header(visit, folder, picture):
    with Vision.load(model="demo", allowed_dirs=(folder,), token=TOKEN, threads=1) as vision:
        server = HttpThread(vision)
        try:
            page = visit(server)
            sees(page, "#state", "Locked")
            assert not page.locator("#left").is_visible()
            page.keyboard.type("a-wrong-token-entirely")  # the field has the focus
            page.keyboard.press("Enter")
            sees(page, "#refused", "does not accept")
            page.keyboard.type(TOKEN)
            page.keyboard.press("Enter")
            sees(page, "#state", "ready")
            page.set_input_files("#file", picture.path)
            page.get_by_role("button", name="Caption").click()
            sees(page, "article", picture.caption)
            page.reload()
            sees(page, "#state", "ready")
            assert TOKEN not in page.url
            assert TOKEN not in page.content()
            assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
        finally:
            server.end()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
@pytest.mark.parametrize("width", [1100, 360])
def test_light_dark_wide_and_narrow(visit, server, picture, scheme, dark, width):
    page = visit(server, color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.set_input_files("#file", picture.path)
    page.get_by_role("button", name="Caption").click()
    sees(page, "article", picture.caption)
    shade, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b)")
        for name in ("backgroundColor", "color")
    )
    assert (shade < 200, ink > 500) == (dark, dark)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.evaluate(
        "[...document.querySelectorAll('button, select')].filter((one) => one.checkVisibility())"
        ".map((one) => one.getBoundingClientRect().height).filter((height) => height < 24)"
    )
    assert small == []


def test_nothing_but_its_own_script_runs(visit, server):
    page = visit(server, allowed="violates the following Content Security Policy")
    sees(page, "#state", "ready")
    policy = load_page().headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    blocked = page.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
        })"""
    )
    assert blocked.startswith("script-src")
    assert page.title() == "blip2tools"
