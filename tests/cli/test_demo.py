"""`blip2tools demo`: once for real, through a server in its own process, and its parts on made-up outcomes."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.cli.demo import show
from blip2tools.cli.demo.page import render_page
from blip2tools.cli.demo.quiz import make_quiz
from blip2tools.cli.demo.report import DemoReport, Mark, Option, Outcome, Style, outcome_lines, total_lines
from blip2tools.cli.demo.show import run_demo
from blip2tools.demo.draw import draw
from blip2tools.settings import environment_without_settings, wants_colors

SEED = 20
PICTURES = 6
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """The facts of a page that tests need; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.images: list[dict[str, str]] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.classes[attributes.get("class", "")] += 1
        self.references += [value for name, value in attributes.items() if name in ("src", "href", "action", "data")]
        if tag == "img":
            self.images.append(attributes)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@dataclass(frozen=True)
class Run:
    status: int
    transcript: str
    errors: str
    page: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One demo from end to end; the tests below look at it from different sides."""
    output = tmp_path_factory.mktemp("demo") / "page.html"
    stream, errors = io.StringIO(), io.StringIO()
    status = run_demo(seed=SEED, pictures=PICTURES, output=output, stream=stream, errors=errors)
    page = output.read_text(encoding="utf-8") if output.exists() else ""
    return Run(status, stream.getvalue(), errors.getvalue(), page)


pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_it_runs_to_its_end(run: Run) -> None:
    assert run.errors == ""
    assert run.status == 0


@pytest.mark.slow
def test_the_transcript_tells_every_picture_and_its_truth(run: Run) -> None:
    blocks = re.split(r"^picture-", run.transcript, flags=re.MULTILINE)[1:]
    assert len(blocks) == PICTURES
    for number, (block, exhibit) in enumerate(zip(blocks, make_quiz(SEED, PICTURES), strict=True), start=1):
        assert re.match(rf"{number}\.png  \d+\.\d s\n", block)
        assert f"\n         truth     {exhibit.caption}\n" in block
        for question in (*exhibit.questions, exhibit.choice_question):
            assert f" {question.text}" in block
            assert f"truth: {question.answer}\n" in block
        assert len(re.findall(r"\d\.\d\d  .* true$", block, flags=re.MULTILINE)) == 1
        assert len(re.findall(r"\d\.\d\d  .* false: [a-z]+$", block, flags=re.MULTILINE)) == 3
        assert len(re.findall(r"^  (?:right|wrong)  ", block, flags=re.MULTILINE)) == 5
    assert "\x1b" not in run.transcript


@pytest.mark.slow
def test_the_count_is_what_the_marks_say(run: Run) -> None:
    marks = Counter(re.findall(r"^  (right|wrong)  (\w+)", run.transcript, flags=re.MULTILINE))
    for name, word, of in (("Captions", "caption", 6), ("Questions", "question", 12), ("Choices", "choice", 6)):
        assert re.search(rf"^{name} +{marks['right', word]} of {of} right$", run.transcript, flags=re.MULTILINE)
    right = sum(count for (verdict, _), count in marks.items() if verdict == "right")
    assert re.search(rf"^Total +{right} of 30 right$", run.transcript, flags=re.MULTILINE)
    assert f"blip2tools demo --seed {SEED}" in run.transcript


@pytest.mark.slow
def test_the_model_knows_its_world(run: Run) -> None:
    total = re.search(r"^Total +(\d+) of 30", run.transcript, flags=re.MULTILINE)
    assert total
    assert int(total[1]) >= 27


@pytest.mark.slow
def test_the_page_holds_the_pictures_and_needs_nothing_else(run: Run) -> None:
    page = Page(run.page)
    exhibits = make_quiz(SEED, PICTURES)
    assert [image["alt"] for image in page.images] == [exhibit.caption for exhibit in exhibits]
    for image, exhibit in zip(page.images, exhibits, strict=True):
        kind, _, data = image["src"].partition(";base64,")
        assert kind == "data:image/png"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.convert("RGB").tobytes() == draw(exhibit.scene).tobytes()
    assert all(reference.startswith("data:") for reference in page.references)
    assert not re.search(r"https?:|url\(|@import", run.page)
    assert page.tags["script"] == 0
    assert page.tags["article"] == PICTURES
    assert page.classes["mark right"] + page.classes["mark wrong"] == 5 * PICTURES
    assert "prefers-color-scheme: dark" in run.page


# What goes wrong


@pytest.mark.parametrize("pictures", [0, -1, 101])
def test_too_few_or_too_many_pictures_are_refused(pictures: int) -> None:
    errors = io.StringIO()
    assert run_demo(seed=1, pictures=pictures, output=None, stream=io.StringIO(), errors=errors) == 2
    assert "1 to 100 pictures" in errors.getvalue()


def test_a_missing_folder_is_told_before_any_work(tmp_path: Path) -> None:
    stream, errors = io.StringIO(), io.StringIO()
    output = tmp_path / "missing" / "page.html"
    assert run_demo(seed=1, output=output, stream=stream, errors=errors) == 2
    assert str(output.parent) in errors.getvalue()
    assert stream.getvalue() == ""


def test_without_mcp_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    errors = io.StringIO()
    assert run_demo(seed=1, output=None, stream=io.StringIO(), errors=errors) == 2
    assert "pip install 'blip2tools[mcp]'" in errors.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
@pytest.mark.parametrize(
    ("last_words", "status"), [("the roof fell in", 1), ("model_unavailable: there is no demo model", 3)]
)
def test_a_server_that_dies_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_words: str, status: int
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\necho '{last_words}' >&2\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    errors = io.StringIO()
    output = tmp_path / "page.html"
    assert run_demo(seed=1, pictures=1, output=output, stream=io.StringIO(), errors=errors) == status
    assert last_words in errors.getvalue()
    assert not output.exists()


def test_settings_of_the_environment_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP2TOOLS_NUM_BEAMS", "1")
    monkeypatch.setenv("BLIP2TOOLS_MATCHER", "none")
    monkeypatch.setenv("BLIP2TOOLS_DEVICE", "cpu")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environment = environment_without_settings(keep=["device", "cache_dir"])
    assert not {"BLIP2TOOLS_NUM_BEAMS", "BLIP2TOOLS_MATCHER"} & environment.keys()
    assert environment["BLIP2TOOLS_DEVICE"] == "cpu"
    assert environment["SOMETHING_ELSE"] == "kept"


# The transcript and the page, on outcomes made by hand


@pytest.fixture
def report(tmp_path: Path) -> DemoReport:
    picture = tmp_path / "picture-1.png"
    Image.new("RGB", (8, 8), (200, 30, 30)).save(picture)
    marks = (
        Mark("caption", "", "a red star", "a red ring", 0.5),
        Mark("question", "what is it?", "<script>alert(1)</script>", "a ring & more", 0.25),
        Mark("choice", "which?", "ring", "ring", 0.9, (Option("ring", 0.9, "true"), Option("star", 0.1, "false"))),
        Mark("match", "", "a ring", "a ring", 1.0, (Option("a ring", 1, "true"), Option("a star", 0, "false: shape"))),
    )
    return DemoReport(7, (Outcome(picture, 'a "red" ring', marks, 1.25),), 2.0, 1.25)


def test_the_score_counts_right_marks(report: DemoReport) -> None:
    assert report.score() == (2, 4)
    assert report.score("caption") == (0, 1)
    assert report.score("match") == (1, 1)


def test_lines_are_plain_and_aligned(report: DemoReport) -> None:
    lines = [line for outcome in report.outcomes for line in outcome_lines(outcome, Style(colors=False))]
    assert lines == [
        "picture-1.png  1.2 s",
        "  wrong  caption   a red star",
        "         truth     a red ring",
        "  wrong  question  what is it?",
        "         answer    <script>alert(1)</script>  0.25, truth: a ring & more",
        "  right  choice    which?  (ring / star)",
        "         answer    ring  0.90, truth: ring",
        "  right  match     1.00  a ring  true",
        "                   0.00  a star  false: shape",
        "",
    ]
    assert "Total       2 of 4 right" in list(total_lines(report, Style(colors=False)))


def test_colours_change_no_word(report: DemoReport) -> None:
    coloured = "\n".join(outcome_lines(report.outcomes[0], Style(colors=True)))
    plain = "\n".join(outcome_lines(report.outcomes[0], Style(colors=False)))
    assert coloured != plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "wanted"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, variables: dict[str, str], wanted: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wants_colors(stream) is wanted


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    show._tell(stream, "3 × 3")
    assert raw.getvalue() == b"3 ? 3\n"


def test_words_of_a_model_cannot_become_markup(report: DemoReport) -> None:
    text = render_page(report)
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<script>alert(1)</script>" in "".join(page.text)
    assert page.images[0]["alt"] == 'a "red" ring'
    assert "default-src 'none'" in text


def test_the_page_tells_the_truth_where_the_model_was_wrong(report: DemoReport) -> None:
    page = Page(render_page(report))
    told = " ".join(page.text)
    assert (page.classes["mark right"], page.classes["mark wrong"]) == (2, 2)
    assert "The truth: a red ring" in told
    assert "The truth: a ring & more" in told
    assert "blip2tools demo --seed 7 --pictures 1" in told


def test_the_page_goes_where_it_is_told(report: DemoReport, tmp_path: Path) -> None:
    assert show._write_page(report, tmp_path / "mine.html") == tmp_path / "mine.html"
    assert show._write_page(report, tmp_path) == tmp_path / show.PAGE_NAME
    by_default = show._write_page(report, None)
    assert by_default.name == show.PAGE_NAME
    assert by_default.read_text(encoding="utf-8").startswith("<!doctype html>")
    by_default.unlink()
    by_default.parent.rmdir()


def test_a_page_that_cannot_be_written_is_one_sentence(report: DemoReport, tmp_path: Path) -> None:
    with pytest.raises(show.DemoError, match="could not be written"):
        show._write_page(report, tmp_path / ("x" * 300))


def test_a_score_of_one_picture_reads_well(report: DemoReport) -> None:
    assert "One picture," in render_page(report)
    assert "2 pictures," in render_page(replace(report, outcomes=report.outcomes * 2))


def test_the_command_that_repeats_a_demo(report: DemoReport) -> None:
    assert report.command == "blip2tools demo --seed 7 --pictures 1"
    assert replace(report, outcomes=report.outcomes * 6).command == "blip2tools demo --seed 7"
