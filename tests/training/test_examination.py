"""The demo's examination, and the warning about pictures that the demo model does not know."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.checkpoints.confidence import (
    FILE,
    UNFAMILIAR,
    Calibration,
    Scaling,
    familiarity,
    familiarity_threshold,
    read,
    write,
    write_familiarity,
)
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.errors import ModelUnavailableError
from training import examine
from training.examination import sheet
from training.examination.figures import Figure, Miss, counted, mean
from training.examination.strange import STRANGE
from training.examination.unknown import auroc

pytestmark = pytest.mark.timeout(600)  # the examination is minutes on a slow machine


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examined")
    assert examine.main(["--scenes", "6", "--seed", "5", "--output", str(folder)]) == 0
    return folder


def test_every_part_is_counted_and_saved(examined) -> None:
    told = json.loads((examined / "figures.json").read_text())
    assert told["seed"] == 5
    assert told["worlds"] == ["study", "wide"]
    sections = {figure["section"] for figure in told["figures"]}
    assert sections == {
        *(
            "study captions",
            "study captions, spoilt",
            "study answers",
            "study forms",
            "study statements",
            "wide captions",
            "wide answers",
            "wide forms",
            "wide statements",
            "from outside",
            "unknown",
            "time",
        )
    }
    named = {(figure["section"], figure["name"]): figure for figure in told["figures"]}
    assert named["study captions", "3 things"]["number"] == 6
    assert named["study captions, spoilt", "turned by 10 degrees"]["number"] == 3
    assert named["study answers", "mean"]["number"] == 45
    assert named["study answers", "mean"]["value"] > 0.8
    assert named["study statements", "mean"]["value"] > 0.8
    for name in ("5 things", "drawn hand-drawn", "turned by 15 degrees", "digits and letters"):
        assert named["wide captions", name]["value"] > 0.4, name
    assert named["wide answers", "mean"]["value"] > 0.8
    for form in ("Answer:", "Short answer:", "put otherwise", "after two other turns", "caption after 'a photo of'"):
        assert named["study forms", form]["value"] > 0.6, form
    assert named["unknown", "AUROC, all"]["value"] > 0.9
    assert 0 < named["time", "answer, median"]["value"] < 10_000


def test_the_page_needs_nothing_else(examined) -> None:
    page = (examined / "misses.html").read_text()
    assert "default-src 'none'" in page
    assert "Short answer:" in page
    assert "data:image/png;base64," in page
    assert "http:" not in page
    assert "https:" not in page
    assert (examined / "figures.md").read_text().count("| bar |") == 12


def test_words_in_a_miss_cannot_become_markup() -> None:
    miss = Miss(Image.new("RGB", (4, 4)), "what?", "<script>", "a & b")
    page = sheet.page("a page", [counted("part", "name", [True, False], bar=0.9, misses=iter([miss]))])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'class="no"' in page


def test_figures_know_their_bars() -> None:
    assert not counted("a", "b", [True, False], bar=0.6).holds
    assert counted("a", "b", [True, False], bar=0.5, at_most=0.5).holds
    assert not Figure("time", "x", 61.0, at_most=60.0).holds
    two = [counted("a", "b", [True] * 3), counted("a", "c", [False])]
    assert mean("a", "mean", two).value == 0.5
    assert "MISSED" in sheet.line(counted("a", "b", [False], bar=0.5))
    assert "holds" in sheet.line(counted("a", "b", [True], bar=0.5))


def test_the_area_under_the_curve() -> None:
    assert auroc([3, 4], [1, 2]) == 1
    assert auroc([1, 2], [3, 4]) == 0
    assert auroc([1, 1], [1, 1]) == 0.5


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_pictures_are_all_different(kind: str) -> None:
    rng = random.Random(1)
    drawn = {STRANGE[kind](rng).tobytes() for _ in range(8)}
    assert len(drawn) == 8


def test_pictures_that_the_model_does_not_know_get_a_warning(vision) -> None:
    rng = random.Random(20261124)
    strange = [make(rng) for make in STRANGE.values()]
    known = [draw(sample_scene(rng)) for _ in range(6)]
    for pictures, least, most in ((strange, 5, 6), (known, 0, 1)):
        captioned = [UNFAMILIAR in result.warnings for result in vision.caption(pictures)]
        asked = [UNFAMILIAR in result.warnings for result in vision.ask(pictures, question="what is in the picture?")]
        chosen = vision.ask(pictures, question="what color is it?", choices=["red", "blue"])
        prompted = vision.caption(pictures, prompt="a large")
        assert least <= sum(captioned) <= most
        assert asked == [UNFAMILIAR in result.warnings for result in chosen]
        assert captioned == [UNFAMILIAR in result.warnings for result in vision.survey(pictures, rows=1, columns=1)]
        assert asked == [UNFAMILIAR in result.warnings for result in prompted]
        assert least <= sum(asked) <= most


def test_the_one_that_the_model_does_not_know_is_named(vision, picture) -> None:
    noise = STRANGE["noise"](random.Random(1))
    warnings = vision.compare([picture.path, noise]).warnings
    assert [warning for warning in warnings if UNFAMILIAR in warning] == [f"picture 2: {UNFAMILIAR}"]
    assert UNFAMILIAR in vision.compare([noise, noise]).warnings


def test_without_a_matcher_there_is_no_such_warning(picture) -> None:
    with Vision.load(model="demo", matcher="none", threads=1) as blind:
        result = blind.caption(STRANGE["noise"](random.Random(1)))
    assert UNFAMILIAR not in result.warnings


def test_familiarity_falls_with_doubt() -> None:
    assert familiarity(0.0, 1.0) == 0
    assert familiarity(-0.1, 1.0) == pytest.approx(-0.1)
    assert familiarity(-0.1, 0.5) < familiarity(-0.1, 0.9) < 0
    assert familiarity(0.0, 0.0) < -20


def test_calibration_and_threshold_share_a_file(tmp_path) -> None:
    assert familiarity_threshold(tmp_path) is None
    write_familiarity(tmp_path / FILE, -0.5, {"familiarity": {"seed": 1}})
    write(tmp_path / FILE, Calibration(caption=Scaling(temperature=1.5)), {"date": "today"})
    assert familiarity_threshold(tmp_path) == -0.5
    assert read(tmp_path / FILE).caption == Scaling(temperature=1.5)
    assert json.loads((tmp_path / FILE).read_text())["fitted"] == {"familiarity": {"seed": 1}, "date": "today"}
    (tmp_path / FILE).write_text("{}garbage")
    with pytest.raises(ModelUnavailableError):
        familiarity_threshold(tmp_path)
