"""`latest` and `list_images` over MCP, in folders as people have them: the newest file is the answer, readable or not."""

from __future__ import annotations

import io
import os
import random
import struct
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mcp import Client
from PIL import Image

from blip2tools import Vision
from blip2tools.pictures import images, signs
from blip2tools.pictures.sources import Sources, _time_of
from blip2tools.pictures.store import Store
from blip2tools.server.mcp import ERROR_CODE_KEY, build_server
from blip2tools.settings import Settings

posix = pytest.mark.skipif(os.name == "nt", reason="links and permissions")
OLD, NOW = 1_700_000_000, 1_750_000_000


def encoded(kind: str = "PNG", size: tuple[int, int] = (40, 30), colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def ftyp(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + bytes(200)


WIDE = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1200, 20_000, 8, 2, 0, 0, 0)) + bytes(500)


class Eyes:
    """A folder, and the tools over it as an MCP client calls them."""

    def __init__(self, vision: Vision, folder: Path) -> None:
        self.folder = folder
        self._server = build_server(vision)

    async def call(self, tool: str, **arguments: object) -> tuple[str | None, str, dict]:
        async with Client(self._server) as client:
            answer = await client.call_tool(tool, arguments)
        code = (answer.meta or {}).get(ERROR_CODE_KEY)
        return code, answer.content[0].text, answer.structured_content or {}

    def write(self, name: str | bytes, data: bytes, at: float = NOW) -> Path:
        path = self.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (at, at))
        return path


@pytest.fixture(scope="module")
def looking(tmp_path_factory) -> Iterator[tuple[Vision, Path]]:
    folder = tmp_path_factory.mktemp("looked-at")
    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, num_beams=1) as vision:
        yield vision, folder


@pytest.fixture
def eyes(looking) -> Iterator[Eyes]:
    """With one picture, an old one, 24 pixels wide."""
    vision, folder = looking
    eyes = Eyes(vision, folder)
    eyes.write("old.png", encoded(size=(24, 24)), OLD)
    yield eyes
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


UNREAD = ("unsupported_image", "corrupt_image")  # by whether the format is one of those that are read
UNREADABLE = {
    "a phone's HEIC": ("IMG_0042.HEIC", ftyp(b"heic"), UNREAD),
    "AVIF": ("photo.avif", ftyp(b"avif"), UNREAD),
    "JPEG XL": ("photo.jxl", b"\xff\x0a" + bytes(100), UNREAD),
    "a camera's raw picture": ("DSC_0001.NEF", b"MM\0*" + bytes(300), UNREAD),
    "CR3": ("IMG.CR3", ftyp(b"crx "), "unsupported_image"),
    "a vector picture": ("plan.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_image"),
    "HEIC under another name": ("screenshot.png", ftyp(b"heix"), UNREAD),
    "HEIC without an ending": ("photo", ftyp(b"heic"), UNREAD),
    "more pixels than are read": ("long.png", WIDE, ("too_large", "corrupt_image")),
    "cut off": ("cut.jpg", encoded("JPEG", (400, 300))[:2000], "corrupt_image"),
    "only a signature": ("short.png", b"\x89PNG\r\n\x1a\n", "corrupt_image"),
    "empty": ("writing.jpg", b"", "corrupt_image"),
    "something else": ("notes.png", b"a text, and no picture", "unsupported_image"),
    "larger than may be read": ("big.bmp", b"BM" + bytes(21 * 2**20), "too_large"),
}


@pytest.mark.parametrize(("name", "data", "code"), UNREADABLE.values(), ids=UNREADABLE)
async def test_the_newest_that_cannot_be_read_is_the_answer(eyes: Eyes, name, data, code):
    eyes.write(name, data)
    got, text, _ = await eyes.call("caption_image", image="latest")
    assert got in ((code,) if isinstance(code, str) else code), text
    assert name in text
    assert text.rstrip()[-1] in ".?"
    _, listing, content = await eyes.call("list_images")
    assert [Path(one["path"]).name for one in content["images"]][-1] == "old.png"
    assert len(content["images"] + content["unreadable"]) == 2
    assert listing.splitlines()[1].find(name) >= 0, "newest first, whether or not it can be read"


READABLE = {
    "Persian, with a joiner": "\u0639\u06a9\u0633\u200c\u0647\u0627.png",
    "a family in one letter": "\U0001f469\u200d\U0001f469\u200d\U0001f467.png",
    "a zero-width space": "a\u200bb.png",
    "turned around": "a\u202egnp.exe.png",
    "a byte order mark": "\ufeffphoto.png",
    "a line break": "two\nlines.png",
    "an escape": "\x1b[31mred.png",
    "what a browser left": "photo.jpg_large",
    "with a question": "photo.jpg?name=orig",
    "a copy": "photo.png~",
    "numbered": "photo.png.1",
    "no ending": "photo",
    "another ending": "photo.bin",
    "a temporary one": "photo.tmp",
    "in capitals": "PHOTO.PNG",
    "quoted": '"photo.png"',
    "called latest": "latest",
    "called like a handle": "img_0123456789abcdef",
    "spaces around": " photo.png ",
    "a backslash": "a\\b.png",
    "like an escape": "a\\u202e.png",
    "a link of markdown": "[a](b).png",
    "in a subfolder": "sub folder/photo.png",
}


@posix
@pytest.mark.parametrize("name", [*READABLE.values(), b"latin-\xe9.png"], ids=[*READABLE, "no UTF-8"])
async def test_every_name_is_seen_and_leads_back(eyes: Eyes, name):
    if isinstance(name, bytes) and sys.platform != "linux":
        pytest.skip("names there are Unicode")
    eyes.write(name, encoded(size=(40, 30)))
    code, text, content = await eyes.call("caption_image", image="latest")
    assert code is None, text
    assert content["image"]["width"] == 40
    source = content["image"]["source"]
    assert source.startswith("latest (")
    assert source.isprintable()
    assert source in text, "the text names the file, too"
    _, _, content = await eyes.call("list_images")
    assert [one["width"] for one in content["images"]] == [40, 24]
    for reference in (content["images"][0]["path"], source[len("latest (") : -1]):
        code, text, told = await eyes.call("caption_image", image=reference)
        assert code is None, text
        assert told["image"]["width"] == 40


async def test_every_result_names_the_file(eyes: Eyes):
    eyes.write("new.png", encoded())
    _, text, content = await eyes.call("caption_image", image="latest")
    handle = content["image"]["handle"]
    assert f"{handle} (40 x 30 px), latest (new.png)" in text
    for tool, arguments in {
        "ask_image": {"question": "what is it?"},
        "match_image_text": {"texts": ["a star"]},
        "survey_image": {"rows": 1, "columns": 1},
    }.items():
        assert "new.png" in (await eyes.call(tool, image=handle, **arguments))[1], tool
    text = (await eyes.call("compare_images", images=[handle, "old.png"]))[1]
    assert "new.png" in text
    assert "old.png" in text


@posix
async def test_links_hide_nothing(eyes: Eyes, tmp_path):
    """A loop of links, and one that leads out, to something or to nothing: only its name is revealed."""
    (eyes.folder / "ring").symlink_to(eyes.folder / "ring")
    eyes.write("sub/deep/photo.png", encoded(), NOW)
    (eyes.folder / "linked").symlink_to(eyes.folder / "sub" / "deep")
    assert (await eyes.call("caption_image", image="latest"))[2]["image"]["source"] == "latest (linked/photo.png)"
    said = set()
    for target in (tmp_path / "there.png", tmp_path / "nowhere.png"):
        (tmp_path / "there.png").write_bytes(encoded(size=(99, 99)))
        link = eyes.folder / "newest.png"
        link.symlink_to(target)
        os.utime(link, (NOW + 9, NOW + 9), follow_symlinks=False)
        code, text, _ = await eyes.call("caption_image", image="latest")
        assert code == "not_allowed"
        assert "newest.png" in text
        listed = (await eyes.call("list_images"))[2]
        assert [one["error"]["code"] for one in listed["unreadable"]] == ["not_allowed"]
        said.add((text, str(listed["unreadable"])))
        link.unlink()
    assert len(said) == 1
    (eyes.folder / "newest.png").symlink_to(eyes.folder / "gone.png")
    assert (await eyes.call("caption_image", image="latest"))[0] == "not_found"


async def test_what_cannot_be_looked_into_is_told(eyes: Eyes, monkeypatch):
    """A folder, and a file whose permissions forbid it."""
    eyes.write("locked/new.png", encoded())
    scandir, opened = os.scandir, os.open

    def no_folder(path):
        if Path(path).name == "locked":
            raise PermissionError
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", no_folder)
        _, text, content = await eyes.call("caption_image", image="latest")
        assert content["image"]["width"] == 24
        assert 'locked" cannot be listed' in text
        assert 'locked" cannot be listed' in (await eyes.call("list_images"))[1]

    def no_file(path, *rest, **options):
        if str(path).endswith("new.png"):
            raise PermissionError
        return opened(path, *rest, **options)

    monkeypatch.setattr(os, "open", no_file)
    code, text, _ = await eyes.call("caption_image", image="latest")
    assert code == "not_found"
    assert "locked/new.png" in text
    assert "permission" in text


async def test_a_clock_that_goes_wrong_is_told(eyes: Eyes):
    eyes.write("ahead.png", encoded(), time.time() + 10 * 86_400)
    assert "in the future" in (await eyes.call("caption_image", image="latest"))[1]
    assert (await eyes.call("list_images"))[0] is None


def test_times_that_no_calendar_has():
    assert (_time_of(2**80).year, _time_of(-(2**80)).year, _time_of(-1).year) == (9999, 1, 1969)


async def test_pages_and_names(eyes: Eyes):
    for number in range(7):
        eyes.write(
            f"shot {number} {'Ring' if number % 2 else 'star'}.png", encoded(size=(30 + number, 30)), NOW + number
        )
    eyes.write("broken ring.heic", ftyp(b"heic"), NOW + 3.5)
    seen, offset = [], 0
    while True:
        content = (await eyes.call("list_images", limit=4, offset=offset))[2]
        page = content["images"] + content["unreadable"]
        seen += [Path(one["path"]).name for one in page]
        offset += len(page)
        if not content["truncated"]:
            break
    assert len(seen) == len(set(seen)) == 9
    text = (await eyes.call("list_images", limit=3))[1]
    assert text.startswith("3 pictures, more were left out; newest first:\n")
    assert "offset 3" in text
    text = (await eyes.call("list_images", limit=4))[1]
    assert text.startswith("3 pictures, 1 that cannot be read, more were left out; newest first:\n")

    async def called(name: str) -> list[int]:
        return [one["width"] for one in (await eyes.call("list_images", name=name))[2]["images"]]

    assert await called("ring") == [35, 33, 31]
    assert await called("RING.PNG") == [35, 33, 31]
    assert await called("shot\u00a0?\u2009*") == [36, 35, 34, 33, 32, 31, 30]
    assert await called("*4*") == [34]
    assert await called("[4]") == []
    assert [one["path"] for one in (await eyes.call("list_images", name="broken"))[2]["unreadable"]]
    assert "whose name fits 'nothing'" in (await eyes.call("list_images", name="nothing"))[1]
    assert "after the first 90" in (await eyes.call("list_images", offset=90))[1]
    for wrong in ({"offset": -1}, {"offset": 10**9}, {"limit": 101}, {"name": "x" * 300}):
        assert (await eyes.call("list_images", **wrong))[0] == "invalid_input", wrong


def test_a_filter_tells_nothing_of_what_is_above_the_folder(tmp_path):
    folder = tmp_path / "secret-parent" / "pictures"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded())
    box = sources(folder, reveal_folders=False)
    assert box.list_images(None, 9, name="pictures/a").images == ()
    assert box.list_images(None, 9, name="secret-parent/").images == ()
    assert box.suggest("/", 9) == []


def sources(*folders: Path, **options: bool) -> Sources:
    settings = Settings(allowed_dirs=folders)
    return Sources(settings, Store(2**20), size_of=lambda data: images.size_of(data, settings), **options)


def fill(folder: Path, count: int, ending: str, time_of: Callable[[int], int]) -> None:
    for number in range(count):
        path = folder / f"{number:06d}.{ending}"
        path.touch()
        os.utime(path, (time_of(number),) * 2)


@pytest.mark.parametrize(
    ("ending", "time_of"),
    [
        pytest.param("png", lambda number: OLD + number, id="pictures, each newer"),
        pytest.param("png", lambda number: OLD - number, id="pictures, each older"),
        pytest.param("log", lambda number: NOW + 10 + number, id="other files, all newer"),
    ],
)
def test_the_newest_among_many(tmp_path, ending, time_of):
    fill(tmp_path, 5_000, ending, time_of)
    (tmp_path / "zzz.bin").write_bytes(encoded())
    os.utime(tmp_path / "zzz.bin", (NOW, NOW))
    box = sources(tmp_path)
    tracemalloc.start()
    try:
        assert box.read("latest").label == "latest (zzz.bin)"
        assert tracemalloc.get_traced_memory()[1] < 2**19, "not all of them are held"
        listing = box.list_images(None, 5)
    finally:
        tracemalloc.stop()
    assert Path(listing.images[0].path).name == "zzz.bin"
    assert listing.truncated == (ending == "png")


def test_the_newest_of_random_folders(tmp_path):
    """Against a sort of everything."""
    chance = random.Random(18)
    for turn in range(20):
        folder = tmp_path / str(turn)
        for number in range(chance.randrange(40)):
            path = folder / chance.choice(["", "a", "b"]) / f"{number}.{chance.choice(['png', 'txt', 'heic', 'bin'])}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(chance.choice([encoded(), b"text", b"", ftyp(b"heic")]))
            os.utime(path, (OLD + chance.randrange(9),) * 2)
        if not folder.exists():
            continue
        files = [path for path in folder.rglob("*") if path.is_file()]
        wanted = [path for path in files if signs.in_name(path.name) or signs.in_bytes(path.read_bytes())]
        wanted.sort(key=lambda path: (-path.stat().st_mtime_ns, str(path.parent), path.name))
        for count in (1, 3, 100):
            found = sources(folder)._folders.newest(count).newest()
            assert [one.path for one in found] == wanted[:count]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *(
            (name, True)
            for name in ("a.jpg", "A.JPEG", "a.png", "a.b.webp", "a.heic", "a.dng", "a.jpg_large", "a.jpg:orig")
        ),
        *((name, True) for name in ("a.jpeg!d", "a.png~", "a.png~2", "a.jpg.12", "a.jpg (1)", "a.PNG ", "a.png.")),
        *(
            (name, False)
            for name in ("png", "a", "a.", "a.txt", "a.jpg.json", "a.png.md5", "a.jpg.xmp", "a.mp4", "apng")
        ),
        *((name, False) for name in ("a.pngx", "a.jpg.supplemental-metadata.json", "jpg.txt", "a.raw", "a.pdf")),
    ],
)
def test_signs_in_names(name, is_one):
    assert signs.in_name(name) is is_one


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"BM, a text",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x7fELF",
        b"RIFF\0\0\0\0WAVE",
        b"<html><svg>",
        ftyp(b"isom"),
        ftyp(b"qt  "),
        bytes(600),
    ],
)
def test_signs_of_something_else(data):
    if data[4:8] == b"ftyp":
        data = data[:16] + bytes(100)
    assert not signs.in_bytes(data)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "JPEG2000", "QOI", "DDS", "ICNS"]
)
def test_signs_in_bytes(kind):
    assert signs.in_bytes(encoded(kind, (32, 32)))
