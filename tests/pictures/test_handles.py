"""Handles outlive a process: a small table says where a picture was; whether it may be read is judged again."""

import base64
import os

import pytest
from PIL import Image

from blip2tools.errors import VisionError
from blip2tools.pictures import store
from blip2tools.pictures.store import Remembered
from blip2tools.vision import Vision
from tests.conftest import handle_of


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    return folder


def keep(cache, image, folders):
    """The handle of an image in a process of its own, as far as its memory is concerned; no model is loaded."""
    with Vision.load(model="demo", cache_dir=cache, allowed_dirs=folders, preload=False) as vision:
        return vision.for_tools().keep(image).handle


def refused(cache, image, folders):
    with pytest.raises(VisionError) as error:
        keep(cache, image, folders)
    return error.value.code


def test_the_next_process_finds_it_again(cache, photos):
    handle = keep(cache, "red.png", (photos,))
    assert handle == handle_of((photos / "red.png").read_bytes())
    assert keep(cache, handle, (photos,)) == handle
    assert refused(cache / "another", handle, (photos,)) == "not_found"


def test_latest_and_a_file_address_are_remembered_too(cache, photos):
    (photos / "red.png").touch()
    for reference in ("latest", f"file://{photos}/blue.png", "@blue.png"):
        handle = keep(cache, reference, (photos,))
        assert keep(cache, handle, (photos,)) == handle


def test_changed_moved_or_out_of_reach_it_is_not_found(cache, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    handle = keep(cache, "red.png", (photos,))
    assert refused(cache, handle, (other,)) == "not_found"  # the same words as if it were not there
    content = (photos / "red.png").read_bytes()
    (photos / "red.png").write_bytes((photos / "blue.png").read_bytes())
    assert refused(cache, handle, (photos,)) == "not_found"
    (photos / "red.png").write_bytes(content)
    assert keep(cache, handle, (photos,)) == handle
    if os.name == "posix":
        (other / "secret.png").write_bytes(content)
        (photos / "red.png").unlink()
        (photos / "red.png").symlink_to(other / "secret.png")
        assert refused(cache, handle, (photos,)) == "not_found"


def test_a_second_place_serves_when_the_first_is_gone(cache, photos):
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    handle = keep(cache, "copy.png", (photos,))
    assert keep(cache, "red.png", (photos,)) == handle
    (photos / "red.png").unlink()
    assert keep(cache, handle, (photos,)) == handle


def test_a_picture_without_a_file_is_not_remembered(cache, photos):
    data = base64.b64encode((photos / "red.png").read_bytes()).decode()
    handle = keep(cache, f"data:image/png;base64,{data}", (photos,))
    assert refused(cache, handle, (photos,)) == "not_found"
    assert not cache.exists() or not (cache / store.NAME).exists()


def test_the_table_is_its_owners_alone_and_stays_small(cache, monkeypatch):
    monkeypatch.setattr(store, "MAX_BYTES", 4000)
    table = Remembered(cache)
    for number in range(500):
        table.note(f"img_{number:016x}", cache / f"{number}.png")
    path = cache / store.NAME
    assert path.stat().st_size <= 4200
    if os.name == "posix":
        assert path.stat().st_mode & 0o077 == 0
    assert Remembered(cache).find(f"img_{499:016x}") == [cache / "499.png"]
    assert Remembered(cache).find(f"img_{0:016x}") == []
    assert [one.name for one in cache.iterdir()] == [store.NAME]


def test_a_broken_table_is_no_failure(cache, photos):
    cache.mkdir()
    (cache / store.NAME).write_bytes(b'\xff\xfe[1]\n["img_0", 5]\n{}\n[[]]\n5\n\n["img_1", "a"')
    handle = keep(cache, "red.png", (photos,))
    assert Remembered(cache).find("img_1") == []
    (cache / store.NAME).unlink()
    (cache / store.NAME).mkdir()
    assert keep(cache, "red.png", (photos,)) == handle
    assert refused(cache, handle, (photos,)) == "not_found"


def test_names_that_are_no_unicode_are_remembered(cache, photos):
    if os.name != "posix":
        pytest.skip("names are bytes on POSIX only")
    name = photos / os.fsdecode(b"caf\xe9.png")
    name.write_bytes((photos / "red.png").read_bytes())
    table = Remembered(cache)
    table.note("img_0", name)
    assert Remembered(cache).find("img_0") == [name]
