"""Words are read in a process of its own: right whichever way they lie, and whatever becomes of it, the next call works."""

import os
import threading

import pytest
from PIL import Image

from blip2tools.errors import CancelledError, DeadlineError, ModelUnavailableError
from blip2tools.pictures.reading import reader as room
from blip2tools.pictures.reading.reader import Reader
from blip2tools.settings import Settings
from tests.support.written import LINES, page

# Nothing is imported to find out: OpenCV belongs into the reading process alone.
pytestmark = pytest.mark.skipif(not room.is_installed(), reason="these tests need: pip install 'blip2tools[read]'")

SETTINGS = Settings(threads=1, deadline_s=300)  # on a machine with much else to do


@pytest.fixture(scope="module")
def reader():
    one = Reader(SETTINGS)
    yield one
    one.close()


@pytest.fixture(scope="module")
def upright(reader):
    """The page as it is read when nothing is turned."""
    return reader.read(page())


def texts(found):
    return [line.text for line in found.lines]


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("#c9d1d9", "#0d1117")])
def test_lines_are_read_letter_by_letter(reader, ink, paper):
    found = reader.read(page(ink=ink, paper=paper))
    assert texts(found) == list(LINES)
    assert (found.turn, found.doubtful, found.reduced) == (0, 0, False)
    assert all(line.confidence > 0.9 for line in found.lines)
    assert "PP-OCRv6" in found.model
    tops = [line.box[1] for line in found.lines]
    assert tops == sorted(tops)
    for number, line in enumerate(found.lines):
        left, top, right, bottom = line.box
        assert 10 <= left <= 22
        assert 250 < right < 400
        assert top < 20 + 40 * number < bottom


@pytest.mark.parametrize("way", [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
def test_a_turned_page_is_read_in_its_own_order(reader, upright, way):
    image = page().transpose(way)
    found = reader.read(image)
    assert texts(found) == list(LINES)
    assert found.turn == {"ROTATE_90": 3, "ROTATE_180": 2, "ROTATE_270": 1}[way.name]
    # The boxes are where the words are in the picture as it came.
    left, top, right, bottom = found.lines[0].box
    x, y = upright.lines[0].box[0], upright.lines[0].box[1]
    width, height = image.size
    wanted = {
        "ROTATE_90": (y, height - x),
        "ROTATE_180": (width - x, height - y),
        "ROTATE_270": (width - y, x),
    }[way.name]
    corner = {"ROTATE_90": (left, bottom), "ROTATE_180": (right, bottom), "ROTATE_270": (right, top)}[way.name]
    assert corner == pytest.approx(wanted, abs=6)


def test_a_tilted_page_is_read(reader):
    found = reader.read(page(width=460).rotate(-6, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC))
    assert texts(found) == list(LINES)
    assert found.turn == 0


def test_a_picture_without_words_has_no_lines(reader):
    assert reader.read(Image.new("RGB", (224, 224), "teal")).lines == ()
    assert reader.read(Image.new("RGB", (2, 2), "teal")).lines == ()
    assert reader.read(Image.new("RGB", (3000, 3), "teal")).lines == ()


@pytest.mark.slow
def test_a_long_page_is_read_in_strips_no_row_twice_or_lost(reader):
    # No number begins with a 0: among letters this small the network may take one for an o, wherever the strips lie.
    rows = [f"Row {number + 100}: {LINES[number % 3]}" for number in range(150)]
    # 640 × 4,816 pixels: two strips, which share what lies between 1,691 and 3,125. To read a row takes long: all of those
    # at the strips' edges, and some of the others.
    written = [
        row if number in {*range(48, 58), *range(93, 103)} or number % 18 == 0 else ""
        for number, row in enumerate(rows)
    ]
    found = reader.read(page(written, size=16, width=640))
    assert texts(found) == list(filter(None, written))


def test_what_takes_too_long_is_killed_and_the_next_call_works(reader):
    slow = Reader(SETTINGS, seconds=0.02)
    try:
        with pytest.raises(DeadlineError, match=r"longer than 0\.02 s .* pass a region"):
            slow.read(page(LINES * 6))
        slow._seconds = 60.0
        assert texts(slow.read(page())) == list(LINES)
        os.kill(slow._process._process.pid, 9)
        slow._process._process.wait()
        assert texts(slow.read(page())) == list(LINES)
    finally:
        slow.close()
    with pytest.raises(CancelledError):
        slow.read(page())


def test_closing_ends_a_call_under_way():
    one = Reader(SETTINGS)
    failed = []

    def read():
        try:
            one.read(page(LINES * 40))
        except CancelledError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while one._process is None:
        thread.join(0.01)
    one.close()
    thread.join(30)
    assert len(failed) == 1


def test_without_the_extra_the_line_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(room, "NEEDED", ("no_such_package",))
    room.is_installed.cache_clear()
    try:
        with pytest.raises(ModelUnavailableError, match=r"^model_unavailable: .*: pip install 'blip2tools\[read\]'\.$"):
            Reader(SETTINGS).read(page())
    finally:
        room.is_installed.cache_clear()
