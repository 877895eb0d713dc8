"""Folders, standard input and lists as the pictures of every command that takes some."""

import base64
import io
import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest
from PIL import Image

from blip2tools.cli.inputs import given_pictures
from blip2tools.cli.look import AHEAD, look
from blip2tools.errors import InvalidInputError, VisionError
from blip2tools.settings import environment_without_settings
from tests.conftest import run_cli
from tests.support import forked

DEMO = ("--model", "demo", "--threads", "1")
MOST = 2**20


@pytest.fixture(scope="module")
def tree(pictures, tmp_path_factory):
    """A folder with pictures by name and by content, in subfolders, and with what is none."""
    root = tmp_path_factory.mktemp("tree") / "of things"
    for name, drawn in (("b.png", 0), ("below/a.png", 1), ("c without ending", 2), (".hidden/d.png", 3)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pictures[drawn].path.read_bytes())
    (root / "notes.txt").write_text("no picture")
    (root / "empty").mkdir()
    return root


class Piped:
    """Standard input with these bytes."""

    def __init__(self, data):
        self.buffer = io.BytesIO(data)

    def isatty(self):
        return False


@pytest.fixture
def pipe(monkeypatch):
    return lambda data: monkeypatch.setattr(sys, "stdin", Piped(data))


def names(words):
    return [one.name for one in given_pictures(words, MOST)]


def piped(data, *words, cwd=None):
    """A command with bytes on its standard input."""
    clean = environment_without_settings(keep=["cache_dir", "use_server"])
    read, write = os.pipe()
    command = [sys.executable, "-W", "error", "-m", "blip2tools", *words]
    streams = {"stdin": read, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with forked.start(command, **streams, cwd=cwd, env={**clean, "OMP_NUM_THREADS": "1"}, text=True) as process:
        os.close(read)
        with os.fdopen(write, "wb") as file:
            file.write(data)
        output, errors = process.communicate(timeout=250)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def test_a_folder_stands_for_all_pictures_in_it_and_below(tree, monkeypatch):
    found = [str(tree / name) for name in ("b.png", "c without ending", "below/a.png")]
    assert names([str(tree)]) == found
    assert names([str(tree), str(tree / "b.png"), "x.png"]) == [*found, str(tree / "b.png"), "x.png"]
    monkeypatch.chdir(tree.parent)
    assert names([tree.name]) == [f"{tree.name}/{name}" for name in ("b.png", "c without ending", "below/a.png")]
    monkeypatch.setenv("HOME", str(tree.parent))
    assert names([f"~/{tree.name}/"]) == found
    (given,) = given_pictures([str(tree / "empty")], MOST)
    assert isinstance(given.image, VisionError)
    assert given.image.code == "not_found"


@pytest.mark.parametrize(
    "word", ["latest", "img_0123456789abcdef", "data:image/png;base64," + "A" * 9000, "a\0b", "x" * 5000]
)
def test_what_is_no_path_is_passed_on(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").mkdir()
    assert [(one.name, one.image) for one in given_pictures([word], MOST)] == [(word, word)]


def test_standard_input_is_a_picture_or_a_list(tree, pipe, picture):
    data = picture.path.read_bytes()
    pipe(data)
    (given,) = given_pictures(["-"], MOST)
    assert (given.name, given.image) == ("-", data)
    first, second = tree / "b.png", tree / "below"
    for text in (f"{first}\n\n{second}\r\n", f"{first}\0{second}\0", f"\ufeff{first}\n{second}"):
        pipe(text.encode())
        assert names(["-"]) == [str(first), str(second / "a.png")]
    pipe("gr\u00fc\u00dfe/\u56fe.png\n".encode())
    assert names(["-"]) == ["gr\u00fc\u00dfe/\u56fe.png"]
    pipe("gr\u00fc\u00dfe.png\n".encode("latin-1"))
    assert [os.fsencode(name) for name in names(["-"])] == [b"gr\xfc\xdfe.png"]
    pipe(b"\x01\x02 no picture and no text")
    assert isinstance(given_pictures(["-"], MOST)[0].image, bytes)
    pipe(b"")
    with pytest.raises(InvalidInputError, match="Nothing came"):
        names(["-"])
    with pytest.raises(InvalidInputError, match="only once"):
        names(["-", "a.png", "-"])


def test_no_more_is_read_than_is_needed(pipe):
    pipe(b"\x89PNG\r\n\x1a\n" + bytes(3 * MOST))
    (given,) = given_pictures(["-"], MOST)
    assert len(given.image) == MOST + 1, "one too many, so that it is refused as too large"
    assert len(sys.stdin.buffer.read()) > MOST


def test_nobody_waits_for_a_terminal(monkeypatch):
    piped = Piped(b"x")
    monkeypatch.setattr(piped, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", piped)
    with pytest.raises(InvalidInputError, match="pipe a picture"):
        names(["-"])


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("caption", ()),
        ("ask", ("what is there?",)),
        ("match", ("-t", "a ring")),
        ("survey", ("--rows", "1", "--columns", "1")),
        ("read", ()),
    ],
)
def test_every_looking_command_takes_a_folder(verb, more, tree):
    done = run_cli(verb, tree.name, *more, "--json", *(DEMO if verb != "read" else ()), cwd=tree.parent)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["source"] for one in said] == [
        f"{tree.name}/{name}" for name in ("b.png", "c without ending", "below/a.png")
    ]


def test_captions_of_standard_input(picture, tree):
    done = piped(picture.path.read_bytes(), "caption", "-", *DEMO)
    assert (done.returncode, done.stdout.startswith(f"{picture.caption}  (confidence ")) == (0, True), done.stderr
    both = piped(b"b.png\nnone.png\nempty\n", "caption", "-", "--json", *DEMO, cwd=tree)
    assert both.returncode == 1
    assert [json.loads(line)["source"] for line in both.stdout.splitlines()] == ["b.png", "none.png"]
    empty = run_cli("caption", "empty", *DEMO, cwd=tree)
    assert (empty.returncode, empty.stdout) == (1, "")
    assert empty.stderr.startswith("empty: not_found: There is no picture in this folder")


def test_view_and_search_take_them_too(picture, tree, tmp_path):
    done = run_cli("view", tree.name, "-o", str(tmp_path / "out"), "--json", cwd=tree.parent)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c without ending.png"]
    data = picture.path.read_bytes()
    seen = piped(data, "view", "-", "-o", str(tmp_path / "one"))
    assert seen.returncode == 0, seen.stderr
    with Image.open(tmp_path / "one" / "picture.png") as image:
        assert image.size == Image.open(io.BytesIO(data)).size
    found = piped(data, "search", "--image", "-", tree.name, "--json", *DEMO[:2], cwd=tree.parent)
    assert found.returncode == 0, found.stderr
    hits = json.loads(found.stdout)["hits"]
    assert [(hit["path"].rpartition("/")[2], hit["duplicate"]) for hit in hits if hit["fits"]] == [("b.png", "exact")]


def test_a_long_folder_is_begun_bit_by_bit(monkeypatch, vision, capsys, picture):
    """Of many pictures only some are waiting at a time, and the results keep their order."""
    waiting, most = set(), 0

    async def verb(eyes, image):
        nonlocal most
        waiting.add(image)
        most = max(most, len(waiting))
        found = await eyes.own.acaption(picture.path)
        waiting.discard(image)
        return found

    words = [f"{number}.png" for number in range(3 * AHEAD)]
    settings = {"model": "demo", "threads": 1, "use_server": False}
    assert look(Namespace(image=words, json=True), verb, str, settings=settings, download=False) == 0
    assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == words
    assert 1 < most <= AHEAD


def test_a_data_uri_is_no_folder(picture):
    uri = f"data:image/png;base64,{base64.b64encode(picture.path.read_bytes()).decode()}"
    assert names([uri]) == [uri]
