"""What the page is made of, and the pictures that it asks for: samples, and thumbnails of what tools may read."""

import io
import re
from importlib import resources

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.demo.samples import SAMPLES, SIDE
from blip2tools.demo.words import caption
from blip2tools.errors import InvalidInputError
from blip2tools.server.http import page
from blip2tools.server.http.page.document import load_page
from tests.support.http_process import HttpThread


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture(scope="module")
def client(vision):
    running = HttpThread(vision)
    with running.client() as connected:
        yield connected
    running.end()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_model_knows_the_samples(client, vision, name):
    drawn = client.get(f"/page/samples/{name}")
    assert (drawn.status_code, drawn.headers["content-type"]) == (200, "image/png")
    assert opened(drawn.content).size == (SIDE, SIDE)
    assert vision.caption(drawn.content).text == caption(SAMPLES[name])


def test_a_thumbnail_is_a_small_jpeg_of_the_whole_upright_picture(vision, tmp_path):
    wide = Image.new("RGB", (900, 300), "white")
    wide.paste((200, 0, 0), (0, 0, 450, 300))
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret"
    wide.save(turned, exif=exif, quality=95)
    small = opened(vision.thumbnail(turned.read_bytes(), 100))
    assert (small.format, small.size, dict(small.getexif())) == ("JPEG", (33, 100), {})
    (red, white) = small.getpixel((16, 10)), small.getpixel((16, 90))
    assert red[0] > 180 > 60 > red[1]
    assert min(white) > 240
    assert opened(vision.thumbnail(turned.read_bytes(), 1024)).size == (300, 900)  # never larger than it is
    with pytest.raises(InvalidInputError, match="'side' must be at most 1024"):
        vision.thumbnail(turned.read_bytes(), 5000)


def test_a_thumbnail_comes_from_an_allowed_folder_or_a_handle(client, vision, picture, tmp_path):
    found = client.post("/page/thumbnail", json={"image": picture.path.name, "side": 64})
    assert (found.status_code, found.headers["content-type"]) == (200, "image/jpeg")
    assert opened(found.content).size == (64, 64)
    handle = client.post("/images", content=picture.path.read_bytes()).json()["handle"]
    assert client.post("/page/thumbnail", json={"image": handle, "side": 64}).content == found.content
    (tmp_path / "private.png").write_bytes(picture.path.read_bytes())
    for image, status, code in (
        (str(tmp_path / "private.png"), 403, "not_allowed"),
        (f"../{tmp_path.name}/private.png", 403, "not_allowed"),
        ("no-such.png", 404, "not_found"),
        ("http://127.0.0.1/x.png", 403, "not_allowed"),
    ):
        refused = client.post("/page/thumbnail", json={"image": image})
        assert (refused.status_code, refused.json()["code"]) == (status, code), image
    wrong = client.post("/page/thumbnail", json={"image": handle, "side": 1_000_000})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_input")
    missing = client.get("/page/samples/no-such")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


def test_nothing_is_kept_of_a_picture_that_was_only_shown(folder, pictures):
    with Vision.load(model="demo", allowed_dirs=(folder,), preload=False, threads=1) as vision:
        for one in pictures:
            vision.thumbnail(one.path)
        assert vision.handles() == []


def test_every_source_is_in_the_page():
    html = load_page().html.decode()
    sources = [one for one in resources.files(page).iterdir() if one.name.endswith((".js", ".css"))]
    assert len(sources) > 10
    for source in sources:
        last = source.read_text().rstrip().splitlines()[-1]
        assert last.removeprefix("export ") in html, f"{source.name} is not served"
    assert re.search(r"^(import|export) ", html, flags=re.M) is None


def test_without_the_page_there_are_no_pictures(vision, picture):
    running = HttpThread(vision, page=False)
    try:
        with running.client() as client:
            assert client.post("/page/thumbnail", json={"image": picture.path.name}).status_code == 404
            assert client.get("/page/samples/shapes").status_code == 404
    finally:
        running.end()
