"""Folders indexed and searched with the demo: from Python, by an agent, and against what lies in wait in folders."""

import os
import random
import shutil
from pathlib import Path

import pytest

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.words import caption
from blip2tools.demo.world import sample_scene
from blip2tools.errors import InvalidInputError, NotAllowedError, NotFoundError
from blip2tools.index import library
from blip2tools.toolset import call
from blip2tools.vision import finding


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of 24 scenes with different captions, in two subfolders, and the captions by file."""
    folder = tmp_path_factory.mktemp("scenes").resolve()
    chance, said = random.Random(8), {}
    while len(said) < 24:
        scene = sample_scene(chance, things=2)
        if caption(scene) not in said.values():
            path = folder / "ab"[len(said) % 2] / f"{len(said)}.png"
            path.parent.mkdir(exist_ok=True)
            draw(scene, 96, smoothing=1).save(path)
            said[path] = caption(scene)
    return folder, said


@pytest.fixture(scope="module")
def eyes(drawn, tmp_path_factory):
    with Vision.load(model="demo", allowed_dirs=(drawn[0],), cache_dir=tmp_path_factory.mktemp("cache")) as loaded:
        yield loaded


@pytest.fixture
def copied(drawn, tmp_path):
    """A folder of six of them, which a test may change."""
    folder = tmp_path.resolve() / "copied"
    folder.mkdir()
    for path in list(drawn[1])[:6]:
        shutil.copy(path, folder)
    return folder


def test_a_search_with_and_without_an_index_finds_the_same(eyes, drawn):
    folder, said = drawn
    path = list(said)[5]
    before = eyes.search(said[path], folder)
    assert (before.indexed, before.searched) == (0, 24)
    made = eyes.index(folder)
    assert (made.pictures, made.added, made.unreadable, made.matcher) == (24, 24, [], "demo")
    again = eyes.index(folder)
    assert (again.added, again.unchanged, again.removed) == (0, 24, 0)
    after = eyes.search(said[path], folder)
    assert (after.indexed, after.searched) == (24, 24)
    for found in (before, after):
        assert not found.none_fits
        assert found.hits[0].path == str(path)
        assert found.hits[0].fits
        assert found.hits[0].probability > 0.9
        assert not any(hit.fits for hit in found.hits[1:])
    assert [hit.path for hit in eyes.search(said[path]).hits] == [
        hit.path for hit in after.hits
    ]  # every allowed folder
    inner = eyes.search(said[path], path.parent)
    assert (inner.indexed, inner.hits[0].path) == (12, str(path))


def test_none_of_them_is_an_answer(eyes, drawn):
    found = eyes.search("a photo of a bicycle in the rain", drawn[0], 4)
    assert found.none_fits
    assert len(found.hits) == 4
    assert not found.hits[0].fits
    assert found.hits[0].probability == max(hit.probability for hit in found.hits)
    text = found.text_block()
    assert text.startswith("no picture fits (of 24 searched)\nnear misses:\n0.0")
    assert str(drawn[0]) in text


def test_how_things_lie_is_the_captioners_to_say(eyes, drawn):
    from blip2tools.demo.words import DIRECTION_WORDS
    from blip2tools.demo.world import OPPOSITE

    chance, folder = random.Random(4), drawn[0].parent / "lying"
    folder.mkdir()
    scene = next(
        scene
        for scene in iter(lambda: sample_scene(chance, things=2), None)
        if scene.things[0].direction_from(scene.things[1])
    )
    draw(scene, 96).save(folder / "one.png")
    one, other = scene.things
    way = one.direction_from(other)

    def lies(direction):
        return f"a {one.color} {one.shape} {DIRECTION_WORDS[direction]} a {other.color} {other.shape}"

    with Vision.load(model="demo", allowed_dirs=(folder,), preload=False) as loaded:
        assert not loaded.search(lies(way)).none_fits
        wrong = loaded.search(lies(OPPOSITE[way]))
        assert wrong.none_fits
        assert wrong.hits[0].probability < 0.5


def test_duplicates_are_told(eyes, copied):
    from PIL import Image

    one = sorted(copied.iterdir())[0]
    shutil.copy(one, copied / "same.png")
    with Image.open(one) as image:
        image.resize((160, 160)).save(copied / "recoded.jpg", quality=90)
    with Vision.load(model="demo", allowed_dirs=(copied,), cache_dir=copied.parent / "cache") as loaded:
        for _ in range(2):
            found = loaded.search(image=one.name, limit=5)
            told = {Path(hit.path).name: hit.duplicate for hit in found.hits}
            assert one.name not in told
            assert told["same.png"] == "exact"
            assert told["recoded.jpg"] == "near"
            assert sum(hit.fits for hit in found.hits) == 2
            assert found.hits[0].cosine == 1
            assert "2 duplicates" in found.text_block()
            loaded.index(copied)
        assert found.indexed == 8
        alone = loaded.search(image=sorted(copied.iterdir())[1], limit=1)
        assert alone.none_fits


def test_what_cannot_be_read_is_listed_and_what_lies_in_wait_is_passed_over(eyes, copied, tmp_path):
    secret = tmp_path / "secret.png"
    shutil.copy(sorted(copied.iterdir())[0], secret)
    (copied / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (copied / "empty.jpg").write_bytes(b"")
    (copied / "notes.txt").write_text("not a picture")
    (copied / "no-ending").write_bytes(sorted(copied.iterdir())[0].read_bytes())
    (copied / "link.png").symlink_to(secret)
    os.mkfifo(copied / "pipe.png")
    with Vision.load(model="demo", allowed_dirs=(copied,), cache_dir=tmp_path / "cache") as loaded:
        for added in (6, 0):
            made = loaded.index(copied)
            assert made.added == added
            assert made.pictures == 7  # one of them a copy
            assert {Path(one.path).name: one.error.code for one in made.unreadable} == {
                "broken.png": "corrupt_image",
                "empty.jpg": "corrupt_image",
            }
        # A picture that has become a link since it was indexed is not read any more.
        victim = copied / "0.png"
        victim.unlink()
        victim.symlink_to(secret)
        assert str(victim) not in {hit.path for hit in loaded.search("a star", limit=50).hits}
        for outside in (tmp_path, "/etc"):
            with pytest.raises(NotAllowedError):
                loaded.index(outside)
            with pytest.raises(NotAllowedError):
                loaded.search("a star", outside)
        with pytest.raises(NotFoundError):
            loaded.index(copied / "nowhere")
        with pytest.raises(InvalidInputError, match="not a folder"):
            loaded.index(copied / "2.png")


def test_an_index_of_another_matcher_is_refused_and_not_searched(copied, tmp_path, monkeypatch):
    with Vision.load(model="demo", allowed_dirs=(copied,), cache_dir=tmp_path / "cache") as loaded:
        loaded.index(copied)
        place = library.Library(loaded.settings.cache_folder).place_of(copied)
        import sqlite3

        base = sqlite3.connect(place / "catalogue.sqlite")
        with base:
            base.execute("UPDATE facts SET value = ? WHERE name = 'fingerprint'", (b"0" * 16,))
        base.close()
        found = loaded.search("a star")
        assert (found.indexed, found.searched) == (0, 6)
        assert any("another matcher" in warning and "--rebuild" in warning for warning in found.warnings)
        with pytest.raises(InvalidInputError, match="made by another matcher"):
            loaded.index(copied)
        assert loaded.index(copied, rebuild=True).added == 6
        assert loaded.search("a star").indexed == 6


def test_an_index_of_a_folder_inside_serves_the_folder_around_it(copied, tmp_path):
    inner = copied / "inner"
    inner.mkdir()
    for path in sorted(copied.glob("*.png"))[:3]:
        path.rename(inner / path.name)
    with Vision.load(model="demo", allowed_dirs=(copied,), cache_dir=tmp_path / "cache") as loaded:
        loaded.index(inner)
        found = loaded.search("a star", limit=50)
        assert (found.indexed, found.searched, len(found.hits)) == (3, 6, 6)


def test_where_time_or_number_do_not_allow_all_a_warning_says_so(eyes, copied, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "LOOKED_AT", 4)
    with Vision.load(model="demo", allowed_dirs=(copied,), cache_dir=tmp_path / "cache") as loaded:
        found = loaded.search("a star")
        assert found.searched == 4
        assert any("newest 4 of 6" in one and "blip2tools index" in one for one in found.warnings)


@pytest.mark.parametrize("wrong", [{}, {"query": "a", "image": "b"}, {"query": "a", "limit": 0}, {"query": " "}])
def test_what_is_refused(eyes, wrong):
    with pytest.raises(InvalidInputError):
        eyes.search(**wrong)


async def test_an_agent_finds_a_picture_by_what_it_shows(eyes, drawn):
    path = list(drawn[1])[7]
    found = await call(eyes.for_tools(), "search_images", {"query": drawn[1][path], "image": "", "limit": 3})
    assert found.hits[0].path == str(path)
    looked = await call(eyes.for_tools(), "caption_image", {"image": found.hits[0].path})
    assert looked.text == drawn[1][path]


def test_a_call_does_not_find_the_queue_full_of_its_own(pictures, folder, tmp_path):
    """What takes many looks goes through the smallest queue there is, one after the other."""
    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, max_queue=1, cache_dir=tmp_path) as eyes:
        assert len(eyes.survey(pictures[0].path).tiles) == 4
        assert len(eyes.compare([one.path for one in pictures[:3]]).captions) == 3
        assert eyes.search(pictures[0].caption, str(folder)).searched == len(pictures)
        assert eyes.index(str(folder)).added == len(pictures)
        assert eyes.search(pictures[0].caption, str(folder)).hits[0].fits
