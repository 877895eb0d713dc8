"""`view`: the model's input as PNG files."""

import json

import pytest
from PIL import Image

from blip2tools.cli import main
from tests.pictures.forms import build, compare
from tests.pictures.forms import containers as c
from tests.pictures.forms.grid import grid


def run(*words):
    return main(["view", *map(str, words)])


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    data = build.forms()
    names = {
        "linear.png": "png_icc_linear",
        "still.png": "apng_still_apart",
        "xmp.jpg": "jpeg_xmp",
        "turned.jpeg": "jpeg_exif_6",
        "photo.webp": "webp_exif_saved",
        "p3.avif": "avif_icc_p3",
    }
    for name, form in names.items():
        (folder / name).write_bytes(data[form])
    return folder, names


def test_each_picture_as_a_browser_shows_it(forms, tmp_path, capsys):
    folder, names = forms
    drawn = compare.recorded()[1]
    assert run(*(folder / name for name in names), "--output", tmp_path / "out") == 0
    for name, form in names.items():
        path = tmp_path / "out" / f"{name.rpartition('.')[0]}.png"
        with Image.open(path) as image:
            assert image.mode == "RGB"
            seen = compare.summed(image)
        assert seen.size == drawn[form].size
        assert all(compare.apart(*pair) <= 4 for pair in zip(seen.colours, drawn[form].colours, strict=True)), name
    told, beside = capsys.readouterr()
    assert len(told.splitlines()) == len(names)
    assert "32 × 64" in told
    assert "the animation has 2 frames" in beside


def test_the_size_of_the_model(forms, tmp_path, capsys):
    folder, _ = forms
    assert run(folder / "turned.jpeg", "--output", tmp_path, "--model-size", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["written"]) == (32, 64, [224, 224])
    with Image.open(facts["output"]) as image:
        assert image.size == (224, 224)
    assert run(folder / "turned.jpeg", "--output", tmp_path, "--model-size") == 0
    assert "0.14 pixels across and 0.29 down" in capsys.readouterr().out


def test_a_region(forms, tmp_path):
    assert run(forms[0] / "xmp.jpg", "-o", tmp_path, "--region", "0.5", "0", "1", "1") == 0
    with Image.open(tmp_path / "xmp.png") as image:
        assert image.size == (32, 32)


def test_nothing_is_overwritten_that_is_looked_at(tmp_path):
    for name, angle in (("one.png", 0), ("one.gif", 180)):
        (tmp_path / name).write_bytes(c.saved(grid().rotate(angle), name[-3:].upper()))
    before = (tmp_path / "one.png").read_bytes()
    assert run(tmp_path / "one.png", tmp_path / "one.gif", "--output", tmp_path) == 0
    assert (tmp_path / "one.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one-2.png", "one-3.png", "one.gif", "one.png"]


def test_one_bad_picture_does_not_stop_the_list(forms, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((forms[0] / "xmp.jpg").read_bytes()[:-60])
    assert run(bad, forms[0] / "xmp.jpg", "--json", "-o", tmp_path / "out") == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["error"]["code"] == "corrupt_image"
    assert second["output"].endswith("xmp.png")


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("x.png", "-o", tmp_path / "file" / "in") == 2
    assert "--output" in capsys.readouterr().err
