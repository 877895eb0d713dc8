"""The page at `/` in a real browser: every state on a desktop and a phone, light and dark; mouse, finger, and keys alone."""

import base64
import contextlib
import io
import os
import re
import subprocess

import pytest
from PIL import Image, ImageDraw, ImageFont

from blip2tools import Vision
from blip2tools.demo.samples import SAMPLES
from blip2tools.demo.words import caption
from blip2tools.server.http.page.document import load_page
from tests.support.browser import (
    DESKTOP,
    DONE,
    NEWEST,
    PHONE,
    ask,
    assert_in_view,
    assert_well_made,
    counts,
    run,
    search,
    sees,
    shown,
)
from tests.support.http_process import TOKEN, HttpThread

pytestmark = pytest.mark.browser

SHADE = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)[0] < 128 ? 'dark' : 'light'"


@pytest.fixture(scope="module")
def server(vision):
    running = HttpThread(vision)
    yield running
    running.end()


def looks_right(page, name, size, *selectors):
    """These are in view and the whole is well made, in light and dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert_in_view(page, *selectors)
        assert_well_made(page)
        assert page.evaluate(SHADE) == scheme
        if kept := os.environ.get("PAGE_SCREENSHOTS"):
            page.screenshot(path=f"{kept}/{name}-{size['width']}-{scheme}.png")


def looks_right_everywhere(page, name, *selectors):
    """The same on a phone, too."""
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        looks_right(page, name, size, *selectors)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_state_in_light_and_dark(visit, server, picture, size, tmp_path):
    """With PAGE_SCREENSHOTS=FOLDER the screenshots are kept there, to be looked at."""
    page = visit(server, size=size)

    def looks(name, *selectors):
        looks_right(page, name, size, *selectors)

    page.emulate_media(reduced_motion="reduce")
    sees(page, "#notes", "only knows drawn shapes")
    counts(page, "#samples img", 3)
    looks(
        "empty",
        "#state",
        "#tab-look",
        "#tab-search",
        "#drop h2",
        *(f"#samples li:nth-child({k}) img" for k in (1, 2, 3)),
    )
    page.get_by_role("button", name="Corners").click()
    sees(page, f"{NEWEST} h3", caption(SAMPLES["corners"]))
    looks("look", "#stage", NEWEST, f"{NEWEST} .verdict[data-level=sure]", f"{NEWEST} canvas")
    page.get_by_role("tab", name="Ask").click()
    page.get_by_role("button", name="what color is the diamond?").click()
    sees(page, f"{NEWEST} h3", "cyan")
    looks("ask", NEWEST, "#question")
    ask(page, "what color is the ring?")
    sees(page, f"{NEWEST} .warnings", "does not seem to show a ring")
    sees(page, f"{NEWEST} .verdict[data-level=no]", "The question does not hold")
    looks("false-premise", f"{NEWEST} .verdict", f"{NEWEST} .warnings")
    ask(page, "what color is the diamond?", "red\norange")
    sees(page, f"{NEWEST} .verdict[data-level=no]", "None of these fits")
    looks("none-of-these", f"{NEWEST} .verdict", f"{NEWEST} .measure")
    ask(page, "what shape is in the middle?")
    sees(page, f"{NEWEST} .verdict[data-level=unsure]", "Unsure")
    looks("unsure", f"{NEWEST} .verdict", f"{NEWEST} h3")
    ask(page, "what is it?", "only one")
    sees(page, f"{NEWEST}.error", "'choices'")
    looks("error", f"{NEWEST} .verdict")
    run(page, "Match", "Match")
    sees(page, f"{NEWEST} h3", "2 of 3 fit")
    looks("match", NEWEST)
    run(page, "Survey", "Survey")
    counts(page, "#boxes li", 4)
    looks("survey", f"{NEWEST} h3", f"{NEWEST} .verdict")
    page.locator(f"{NEWEST} summary").click()
    page.locator(f"{NEWEST} pre").first.scroll_into_view_if_needed()
    looks("code", f"{NEWEST} .snippet .button")
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Pick a part").click()
    sees(page, "#region-text", "Part: 25–75 % across")
    looks("part", "#region", "#whole")
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    page.set_input_files("#other", tmp_path / "bad.png")
    sees(page, "#problem-here", "not a picture")
    looks("refused", "#problem-here")
    page.get_by_role("tab", name="Search").click()
    counts(page, "#found img", 6)
    looks("newest", "#query", "#found .hit img")
    search(page, picture.caption)
    counts(page, "#found .grid:not(.misses, .best) .hit", 1)
    counts(page, "#found [data-fetched] img", 5)
    looks("found", "#found h3", "#found .hit img")
    search(page, "a purple star above a purple heart")
    sees(page, "#found .verdict[data-level=no]", "No picture fits")
    counts(page, "#found [data-fetched] img", 5)
    looks("none-fits", "#found .verdict", ".grid.best img")


def test_caption_ask_match_and_survey(visit, vision, server, picture):
    page = visit(server)
    sees(page, "#state", "ready")
    page.set_input_files("#file", picture.path)
    sees(page, f"{NEWEST} h3", picture.caption)  # at once
    sees(page, "#about", "224 × 224")
    assert float(page.get_by_role("meter", name="confidence").first.get_attribute("aria-valuenow")) > 0.9
    assert re.search(r"whole picture · \d+\.\d\d s", page.locator("article").inner_text())
    page.select_option("#count", "2")
    run(page, "Look", "Caption")
    counts(page, f"{NEWEST} .other", 1)

    thing = picture.scene.things[0]
    ask(page, f"what color is the {thing.shape}?", f"{thing.color}\nred\nblack\n")
    sees(page, f"{NEWEST} h3", thing.color)
    counts(page, f"{NEWEST} [role=meter]", 4)
    page.wait_for_timeout(600)  # until the bar has grown
    fill, meter = (page.locator(f"{NEWEST} .meter{part}").first.bounding_box()["width"] for part in (" i", ""))
    assert fill > 0.9 * meter

    page.get_by_role("tab", name="Match").click()
    page.get_by_label("Statements").fill(f"{picture.caption}\na purple star")
    run(page, "Match", "Match")
    sees(page, f"{NEWEST} .measure", picture.caption)
    sees(page, f"{NEWEST} .measure[data-level=no]", "does not fit")
    # What warns about the model as a whole stands at the top, once.
    counts(page, f"{NEWEST} .warnings", 0)

    # What a result says is never markup.
    page.get_by_label("Statements").fill("<img src=x onerror=document.title='owned'>\n<b>bold</b>")
    run(page, "Match", "Match")
    sees(page, NEWEST, "<b>bold</b>")
    counts(page, "article img, article .measure b", 0)
    assert page.title() == "blip2tools"

    vision._store._pictures.clear()  # the handle has expired, so the picture is sent again
    vision._store._used = 0
    page.get_by_role("tab", name="Survey").click()
    page.select_option("#rows", "1")
    run(page, "Survey", "Survey")
    counts(page, f"{NEWEST} .tiles button", 2)
    page.locator(f"{NEWEST} .tiles button").last.click()  # looks closer
    sees(page, f"{NEWEST} footer", "part: 50–100 % across, 0–100 % down")
    assert page.get_by_role("tab", name="Look").get_attribute("aria-selected") == "true"


def test_every_way_in(visit, server, picture, tmp_path):
    page = visit(server)
    sees(page, "#state", "ready")
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    page.wait_for_timeout(300)  # until the browser knows that somebody listens
    box = page.locator("#drop").bounding_box()
    for number, (across, down) in enumerate(((0.02, 0.03), (0.5, 0.5), (0.97, 0.96)), start=1):
        page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
        for _ in range(100):
            if len(chosen) < number:
                page.wait_for_timeout(50)
        assert len(chosen) == number
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    with page.expect_response("**/images") as refused:
        chosen[-1].set_files(tmp_path / "bad.png")
    assert refused.value.status == 415
    sees(page, "#problem", "not a picture")
    for number, event in enumerate(("paste", "drop"), start=1):
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
        counts(page, DONE, number)
        sees(page, f"{NEWEST} h3", picture.caption)
    assert page.locator("#problem-here").is_hidden()


def test_a_part_is_drawn_moved_and_shown_again(visit, server, picture):
    page = visit(server)
    shown(page, picture.path)
    box = page.locator("#preview").bounding_box()

    def drag(*points):
        (x, y), *others = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in others:
            page.mouse.move(x, y, steps=4)
        page.mouse.up()

    drag((0.5, 0.25), (2, 0.75))
    sees(page, "#region-text", "Part: 50–100 % across, 25–75 % down")
    drag((0.75, 0.5), (0.65, 0.6))
    sees(page, "#region-text", "Part: 40–90 % across, 35–85 % down")
    drag((0.4, 0.35), (0.2, 0.2))  # by a corner
    sees(page, "#region-text", "Part: 20–90 % across, 20–85 % down")
    run(page, "Look", "Caption this part")
    sees(page, f"{NEWEST} footer", "part: 20–90 % across, 20–85 % down")
    page.get_by_role("button", name="Whole picture").click()
    assert page.locator("#region-text").inner_text() == ""
    page.locator(f"{NEWEST} .thumb").click()
    sees(page, "#region-text", "Part: 20–90 %")


def test_a_finger_scrolls_unless_it_picks(visit, server, picture):
    page = visit(server, size=PHONE)
    shown(page, picture.path)
    touch = page.context.new_cdp_session(page)
    box = page.locator("#preview").bounding_box()

    def swipe(*points):
        x, y = (
            [box[side] + box[length] * point[k] for point in points]
            for k, (side, length) in enumerate((("x", "width"), ("y", "height")))
        )
        for kind, at in (("touchStart", 0), ("touchMove", 1)):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x[at], "y": y[at]}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe((0.1, 0.1), (0.9, 0.6))
    assert page.locator("#region").is_hidden()
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Pick a part").click()
    box = page.locator("#preview").bounding_box()
    swipe((0.05, 0.1), (0.9, 0.2))
    sees(page, "#region-text", "Part: 5–90 % across, 10–20 % down")


def test_from_the_keyboard_alone(visit, server, picture):
    page = visit(server)
    sees(page, "#state", "ready")
    counts(page, "#samples img", 3)

    def focused():
        return page.evaluate("(({id, textContent}) => id || textContent.trim())(document.activeElement)")

    def tab_to(wanted, key="Tab"):
        """Press the key until something of this name, or of this class, has the focus."""
        for _ in range(40):
            page.keyboard.press(key)
            outline = page.evaluate(
                "(() => { let one = document.activeElement; if (one.type === 'file') one = one.parentElement;"
                " return parseFloat(getComputedStyle(one).outlineWidth); })()"
            )
            assert outline >= 2, f"no ring around {focused()}"
            if focused() == wanted or page.evaluate(
                "(name) => document.activeElement.classList.contains(name)", wanted
            ):
                return
        pytest.fail(f"no Tab leads to {wanted}")

    page.keyboard.press("Tab")
    assert focused() == "tab-look"  # one stop for all tabs
    for key, there in (
        ("ArrowRight", "ask"),
        ("End", "search"),
        ("ArrowRight", "look"),
        ("ArrowLeft", "search"),
        ("Home", "look"),
    ):
        page.keyboard.press(key)
        assert focused() == f"tab-{there}"
        assert page.locator("[role=tab][aria-selected=true]").get_attribute("id") == f"tab-{there}"
    page.keyboard.press("Tab")
    assert focused() == "file"
    chosen = []
    page.on("filechooser", lambda chooser: chosen.append(chooser))
    page.wait_for_timeout(300)  # until the browser knows that somebody listens
    page.keyboard.press("Enter")
    for _ in range(100):
        if not chosen:
            page.wait_for_timeout(100)
    chosen[0].set_files(picture.path)
    sees(page, f"{NEWEST} h3", picture.caption)
    assert focused() == "stage"
    for key in ("Enter", "ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    sees(page, "#region-text", "Part: 27–75 % across, 27–75 % down")
    page.keyboard.press("Escape")
    tab_to("caption-button")
    page.keyboard.press("Enter")
    counts(page, DONE, 2)
    tab_to("tab-look", "Shift+Tab")
    page.keyboard.press("ArrowRight")
    tab_to("question")
    page.keyboard.type("how many objects are there?")
    page.keyboard.press("Enter")
    counts(page, DONE, 3)
    tab_to("Copy as code")
    page.keyboard.press("Enter")
    tab_to("Copy curl")
    page.keyboard.press("Enter")
    tab_to("tab-ask", "Shift+Tab")
    page.keyboard.press("End")
    tab_to("query")
    page.keyboard.type(picture.caption)
    page.keyboard.press("Enter")
    sees(page, "#found h3", "1 picture fits")
    tab_to("hit")
    page.keyboard.press("Enter")
    counts(page, DONE, 4)
    sees(page, f"{NEWEST} h3", picture.caption)


def test_the_copied_code_runs(visit, server, picture, tmp_path, monkeypatch):
    page = visit(server)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    odd = tmp_path / 'it\'s, a "ring"; 1.png'
    odd.write_bytes(picture.path.read_bytes())
    shown(page, odd)
    ask(page, 'is it "red", or isn\'t it?', 'it\'s red\nit is "not" $HOME\n')
    page.locator(f"{NEWEST} summary").click()
    copied = {}
    for name in ("curl", "Python"):
        page.locator(NEWEST).get_by_role("button", name=f"Copy as {name}").click()
        sees(page, "#said", f"Copied as {name}")
        copied[name] = page.evaluate("navigator.clipboard.readText()")
    told = page.locator(f"{NEWEST} h3").inner_text()
    ended = subprocess.run(
        ["bash", "-ec", copied["curl"]], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=True
    )
    assert '"handle":"img_' in ended.stdout
    assert told in ended.stdout
    assert 'it is \\"not\\" $HOME' in ended.stdout
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(copied["Python"], {})
    assert f"answer: {told}" in printed.getvalue()


@contextlib.contextmanager
def serving(folder, **settings):
    with Vision.load(model="demo", allowed_dirs=folder, threads=1, **settings) as vision:
        server = HttpThread(vision)
        try:
            yield server
        finally:
            server.end()


def test_the_token_is_asked_for_and_travels_in_a_header(visit, picture, tmp_path):
    with serving((), token=TOKEN, preload=False, formats=("JPEG", "PNG", "TIFF")) as server:
        page = visit(server)
        sees(page, "#state", "Locked")
        looks_right_everywhere(page, "locked", "#token", "#sign-in button")
        assert not page.locator("#tabs, #hero, #work").first.is_visible()
        page.keyboard.type("a-wrong-token-entirely")  # the field has the focus
        page.keyboard.press("Enter")
        sees(page, "#refused:visible", "does not accept")
        late = []  # the answer to one more wrong token, which comes when the right one is known

        def hold(route):
            if "another" in route.request.headers.get("authorization", ""):
                late.append(route)
            else:
                route.continue_()

        page.route("**/api/status", hold)
        for token in ("another-wrong-token", TOKEN):
            page.keyboard.type(token)
            page.keyboard.press("Enter")
        sees(page, "#state", "not loaded")
        counts(page, "#samples img", 3)
        with page.expect_response(lambda response: response.status == 401):
            late.pop().continue_()
        page.unroute("**/api/status")
        page.get_by_role("tab", name="Search").click()
        sees(page, "#closed", "may read no folder")
        looks_right_everywhere(page, "no-folder", "#closed")
        assert page.locator("#search").is_hidden()
        page.get_by_role("tab", name="Look").click()
        # The first call loads the model. Chromium cannot show this format, so the server does.
        Image.open(picture.path).resize((60, 40)).save(tmp_path / "small.tiff")
        page.set_input_files("#file", tmp_path / "small.tiff")
        counts(page, DONE, 1)
        assert page.evaluate("[preview.naturalWidth, preview.naturalHeight]") == [60, 40]
        page.set_input_files("#other", picture.path)
        sees(page, f"{NEWEST} h3", picture.caption)
        sees(page, "#state", "ready")
        page.locator(f"{NEWEST} summary").click()
        sees(page, f"{NEWEST} pre", "Authorization: Bearer $BLIP2TOOLS_TOKEN")
        page.reload()
        sees(page, "#state", "ready")
        assert TOKEN not in page.url
        assert TOKEN not in page.content()
        assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
        with server.client(follow_redirects=False) as client:  # thumbnails are behind the same guard as the tools
            refused = client.post("/page/thumbnail", json={"image": str(picture.path)})
            assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")


def test_a_server_that_goes_and_comes_back(visit, vision, picture):
    first = HttpThread(vision)
    page = visit(first)
    shown(page, picture.path)
    first.end()
    sees(page, "#away", "The server does not answer")
    sees(page, "#state", "No answer")
    looks_right_everywhere(page, "away", "#away")
    run(page, "Look", "Caption")
    sees(page, f"{NEWEST}.error", "The server does not answer")
    again = HttpThread(vision, port=int(first.url.rpartition(":")[2]))
    try:
        sees(page, "#state", "ready")
        assert page.locator("#away").is_hidden()
        run(page, "Look", "Caption")
        sees(page, f"{NEWEST} h3", picture.caption)
    finally:
        again.end()


def test_a_call_waits_for_the_model_and_can_be_stopped(visit, server, picture):
    """With answers of a server whose model takes long to load: a real one would take minutes."""
    page = visit(server)
    sees(page, "#state", "ready")
    late = {
        "code": "model_unavailable",
        "message": "The model is not ready yet: loading (43%). Call again in a minute.",
    }
    page.route("**/api/caption", lambda route: route.fulfill(status=503, json=late))
    with server.client() as client:
        status = client.get("/api/status").json() | {"loaded": False, "state": "loading (43%)"}
    page.route("**/api/status", lambda route: route.fulfill(json=status))
    page.reload()
    sees(page, "#state[data-state=loading]", "loading (43%)")
    page.set_input_files("#file", picture.path)
    sees(page, "article.pending", "The model is loading (43%)")
    looks_right_everywhere(page, "waiting", "article.pending .working", "article.pending .button")
    page.unroute("**/api/caption")
    page.unroute("**/api/status")
    sees(page, f"{NEWEST} h3", picture.caption)
    sees(page, "#state", "ready")
    page.route("**/api/caption", lambda route: None)
    page.get_by_role("button", name="Caption").click()
    page.get_by_role("button", name="Stop").click()
    counts(page, "article", 1)
    sees(page, "#said", "Stopped.")


def test_the_text_in_a_picture_is_read(visit, server, tmp_path):
    pytest.importorskip("rapidocr", reason="needs the extra [read]")
    sign = Image.new("RGB", (420, 160), "white")
    ImageDraw.Draw(sign).text((24, 20), "GATE 24\nBOARDING", "black", font=ImageFont.load_default(48))
    sign.save(tmp_path / "sign.png")
    page = visit(server)
    shown(page, tmp_path / "sign.png")
    run(page, "Look", "Read text")
    sees(page, f"{NEWEST} h3", "2 lines of text")
    sees(page, f"{NEWEST} .read li[data-level=sure]", "GATE 24")
    counts(page, "#boxes li", 2)
    assert_in_view(page, f"{NEWEST} .read li")


def test_search_for_copies_in_a_folder_and_in_none(visit, server, picture, folder):
    page = visit(server)
    page.get_by_role("tab", name="Search").click()
    page.get_by_label("in", exact=True).fill("no-such-folder")
    page.get_by_label("What the picture shows").fill("a star")
    page.get_by_role("button", name="Search", exact=True).click()
    sees(page, "#found .error", "no-such-folder")
    page.get_by_label("in", exact=True).fill("")
    page.get_by_role("button", name="Search", exact=True).click()
    sees(page, "#found .notice", "There is no index")
    # As with an index of the folder, which other tests must not find.
    page.route("**/api/search", lambda route: route.fulfill(json=route.fetch().json() | {"indexed": 6}))
    page.get_by_role("button", name="Search", exact=True).click()
    sees(page, "#found .summary", "all from an index")
    counts(page, "#found .notice", 0)
    page.unroute("**/api/search")
    page.locator("#found .hit").first.click()
    counts(page, DONE, 1)
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("button", name="Copies of").click()
    sees(page, "#found .summary", "No copy of picture-")
    shown_name = page.locator("#about .name").text_content()
    assert (folder / shown_name).exists()


def test_search_without_pictures_and_without_a_matcher(visit, tmp_path):
    with serving((tmp_path,), preload=False) as server:
        page = visit(server)
        page.get_by_role("tab", name="Search").click()
        sees(page, "#found .notice", "no picture in the folders")
        looks_right_everywhere(page, "no-pictures", "#found .notice", "#query")
        page.get_by_label("What the picture shows").fill("a star")
        page.get_by_role("button", name="Search", exact=True).click()
        sees(page, "#found h3", "There is no picture to search")
        looks_right_everywhere(page, "nothing-to-search", "#found h3")
    with serving((tmp_path,), matcher="none") as server:
        page = visit(server)
        sees(page, "#state", "ready")
        page.get_by_role("tab", name="Search").click()
        sees(page, "#closed", "no image-text matcher for this model")
        looks_right_everywhere(page, "no-matcher", "#closed")


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
