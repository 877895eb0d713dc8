"""Bulk work without a model: what inputs stand for, shares, and files that were cut off anywhere."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blip2tools.errors import BusyError, InvalidInputError
from blip2tools.settings import Settings
from blip2tools.vision.bulk import parts, tables
from blip2tools.vision.bulk.inputs import Shard, key_of, list_pictures
from blip2tools.vision.bulk.record import Record, discard
from blip2tools.vision.bulk.running import check_output, open_output, undone
from blip2tools.vision.bulk.tasks import Task, spelled

pytest.importorskip("pyarrow", reason="parquet is optional")

JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Pictures at several depths, and what is none, as the working directory."""
    for name in (
        "b.jpg",
        "a.png",
        "sub/c.webp",
        "sub/deep/d.JPG",
        "other/e.gif",
        ".hidden/f.png",
        "sub/.g.png",
        "notes.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG if name != "notes.md" else b"# text")
    (tmp_path / "sub/nameless").write_bytes(JPEG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(*inputs, lines=b"", shard=None):
    return list_pictures(inputs, lines=io.BytesIO(lines), shard=shard).sources


class TestInputs:
    def test_a_folder_is_all_below_it_in_a_fixed_order(self, tree):
        names = ["a.png", "b.jpg", "other/e.gif", "sub/c.webp", "sub/nameless", "sub/deep/d.JPG"]
        assert listed(".") == names
        assert listed(str(tree)) == [str(tree / name) for name in names]
        assert listed("sub/") == ["sub/c.webp", "sub/nameless", "sub/deep/d.JPG"]

    def test_patterns_lists_and_standard_input(self, tree):
        assert listed("**/*.[jJ][pP][gG]") == ["b.jpg", "sub/deep/d.JPG"]
        assert listed("sub/**") == ["sub/c.webp", "sub/deep/d.JPG", "sub/nameless"]
        assert listed("*") == ["a.png", "b.jpg", "other/e.gif", "sub/c.webp", "sub/nameless", "sub/deep/d.JPG"]
        lines = "\ufeffb.jpg\r\n\n./a.png\nhttps://example.com/x.png\nsub\nmissing.png\n".encode()
        wanted = [
            "b.jpg",
            "a.png",
            "https://example.com/x.png",
            "sub/c.webp",
            "sub/nameless",
            "sub/deep/d.JPG",
            "missing.png",
        ]
        assert listed("-", lines=lines) == wanted
        (tree / "list.txt").write_bytes(lines)
        assert listed("list.txt") == wanted
        assert listed("-", lines=b"a b\nc.png\0b.jpg\0") == ["a b\nc.png", "b.jpg"], "as `find -print0` writes names"
        with pytest.raises(InvalidInputError, match="No file or folder fits"):
            listed("*.bmp")

    def test_a_picture_that_is_named_twice_is_one(self, tree):
        assert listed("b.jpg", ".", str(tree / "a.png"), "./sub//c.webp") == [
            "b.jpg",
            *listed(".")[:1],
            *listed(".")[2:],
        ]

    def test_names_that_are_patterns_pipes_and_links(self, tree):
        (tree / "x[1].png").write_bytes(JPEG)
        os.mkfifo(tree / "pipe.png")
        (tree / "link.png").symlink_to("nowhere.png")
        (tree / "round").symlink_to(".")
        assert listed("x[1].png") == ["x[1].png"]
        assert listed(".")[:4] == ["a.png", "b.jpg", "link.png", "x[1].png"]
        (tree / "bytes").mkdir()
        Path(os.fsdecode(b"bytes/\xff.png")).write_bytes(JPEG)
        (name,) = listed("bytes")
        assert os.fsencode(name) == b"bytes/\xff.png"
        assert spelled(name) == "bytes/\\xff.png"

    def test_shares_are_disjoint_whole_and_stable(self, tree):
        whole = [f"photos/{number}.jpg" for number in range(1000)]
        lines = "\n".join(whole).encode()
        shares = [listed("-", lines=lines, shard=Shard(number, 7)) for number in range(1, 8)]
        assert sorted(one for share in shares for one in share) == sorted(whole)
        assert all(90 < len(share) < 200 for share in shares)
        later = [listed("-", lines=lines + b"\nnew.jpg", shard=Shard(number, 7)) for number in range(1, 8)]
        assert sum(len(new) - len(old) for new, old in zip(later, shares, strict=True)) == 1
        assert all(set(old) <= set(new) for new, old in zip(later, shares, strict=True))
        assert Shard(2, 4).holds("photos/1.jpg") is Shard.parse(" 2/4 ").holds("photos/1.jpg")
        assert [Shard(number, 4).holds("photos/1.jpg") for number in (1, 2, 3, 4)] == [False, False, False, True]
        for wrong in ("0/4", "5/4", "1", "1/0", "-1/2", "a/b", "1/2/3", ""):
            with pytest.raises(InvalidInputError, match="i/n"):
                Shard.parse(wrong)


class TestTasks:
    def test_options_are_judged_before_any_picture(self):
        for verb, options, said in [
            ("caption", {"num_captions": 6}, "at most 5"),
            ("caption", {"texts": ["a"]}, "no option 'texts'"),
            ("caption", {"style": "loud"}, "style"),
            ("ask", {}, "At least one question"),
            ("ask", {"questions": "why?"}, "must be a list"),
            ("ask", {"questions": ["why?"], "choices": ["a"]}, "at least 2"),
            ("match", {"texts": []}, "at least 1"),
            ("features", {"region": [0, 0, 0, 1]}, "region"),
            ("sing", {}, "must be one of"),
        ]:
            with pytest.raises(InvalidInputError, match=said):
                Task.of(verb, options)
        assert Task.of("caption", {"prompt": "", "num_captions": None}).options == {"prompt": ""}
        assert Task.of("ask", {"questions": ["a?", "b?", "a?"]}).rows == 2

    def test_what_decides_the_rows(self):
        settings, other = Settings.load(num_beams=3), Settings.load(num_beams=4)
        caption, match = Task.of("caption"), Task.of("match", {"texts": ["a"]})
        assert caption.told(settings) != caption.told(other)
        assert match.told(settings) == match.told(other), "a match says nothing"
        assert match.told(settings) != Task.of("match", {"texts": ["b"]}).told(settings)


ABOUT = {"handle": "img_0123456789abcdef", "width": 3, "height": 2, "source": "x"}


def rows_of(task, source, *, failed=False):
    """Rows as a model would make them, with everything that text can do to a table."""
    text = f'a "quoted", long\ncaption of {source}\r'
    error = {"code": "corrupt_image", "message": "It is cut off."}
    common = {"image": ABOUT, "region": None, "model": "demo", "warnings": ["one", "tw\no"]}
    if failed:
        result = {"error": error}
    elif task.verb == "caption":
        other = {"text": text, "confidence": 0.25, "match": None}
        result = {**common, "text": text, "confidence": 0.5, "match": None, "abstained": False, "alternatives": [other]}
    elif task.verb == "ask":
        premise = {"text": "a ring", "probability": 0.75, "holds": True}
        result = {**common, "answer": text, "confidence": 0.5, "abstained": True, "choices": None, "premise": premise}
    elif task.verb == "match":
        scored = [{"text": one, "probability": 0.5, "cosine": 0.25} for one in reversed(task.options["texts"])]
        result = {**common, "matches": scored}
    else:
        result = {"image": ABOUT, "region": None, "vectors": [[0.5, -0.5], [1.0, 0.0]]}
    questions = task.options.get("questions", [None])
    return [{"source": source, **({"question": one} if one else {}), **result} for one in questions]


TASKS = {
    "caption": Task.of("caption"),
    "ask": Task.of("ask", {"questions": ["what, exactly?", "why?"]}),
    "match": Task.of("match", {"texts": ["a, b", "c"]}),
    "features": Task.of("features"),
}
SOURCES = ["a.png", 'b, "c"\n.png', "é.png", "b.png"]


def fill(path, task, sources):
    """What a run does with a file: what it lacks is added."""
    output = open_output(path, task, str(Path.cwd()))
    left = list(undone(sources, output.done))
    for source in left:
        output.add(rows_of(task, source, failed=source == "b.png"))
    output.close(whole=True)
    return left


@pytest.mark.parametrize("verb", TASKS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_file_that_was_cut_anywhere_is_made_whole(verb, ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, path = TASKS[verb], tmp_path / f"out{ending}"
    assert fill(path, task, SOURCES) == SOURCES
    whole = path.read_bytes()
    assert fill(path, task, SOURCES) == []
    assert path.read_bytes() == whole
    for cut in range(0, len(whole), 3 if ending == ".csv" else 11):
        path.write_bytes(whole[:cut])
        left = fill(path, task, SOURCES)
        assert path.read_bytes() == whole, cut
        assert left == SOURCES[len(SOURCES) - len(left) :]
    path.write_bytes(whole[: len(whole) // 2] + bytes(100))  # blocks that a power cut left empty
    if whole[len(whole) // 2 - 1 : len(whole) // 2] == b"\n":
        fill(path, task, SOURCES)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("verb", TASKS)
def test_the_three_kinds_of_file_say_the_same(verb, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    task = TASKS[verb]
    for ending in (".jsonl", ".csv", ".parquet"):
        fill(tmp_path / f"out{ending}", task, SOURCES)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["source"] for row in rows] == [source for source in SOURCES for _ in range(task.rows)]
    assert [row.get("error", {}).get("code") for row in rows][-1] == "corrupt_image"
    flat = pq.read_table(tmp_path / "out.parquet").to_pylist()
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(flat) == len(SOURCES) * tables.lines_of(task)
    assert list(table[0]) == list(flat[0]) == list(tables.COLUMNS[verb])
    for line, row in zip(table, flat, strict=True):
        for name, value in row.items():
            if isinstance(value, list):
                assert json.loads(line[name]) == value
            elif isinstance(value, bool):
                assert line[name] == str(value).lower()
            else:
                assert line[name] == ("" if value is None else str(value))
    assert [line["source"] for line in flat] == [one for one in SOURCES for _ in range(tables.lines_of(task))]
    if verb == "match":
        assert [line["text"] for line in flat[:4]] == ["a, b", "c"] * 2, "in the order of the texts"
    if verb == "features":
        assert flat[0]["vectors"] == [[0.5, -0.5], [1.0, 0.0]]


class Killed(BaseException):
    """The process ended here."""


def test_parquet_that_was_cut_at_any_step_is_made_whole(tmp_path, monkeypatch):
    """A run is ended before and after every file gets its name, and before and after its parts are removed."""
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "PART_PICTURES", 2)
    task, path = TASKS["match"], tmp_path / "out.parquet"
    fill(path, task, SOURCES)
    wanted = pq.read_table(path).to_pylist()
    settle, remove = parts._settle, shutil.rmtree
    for end in range(12):
        for file in tmp_path.iterdir():
            remove(file) if file.is_dir() else file.unlink()
        fill(path, task, SOURCES[:1])  # an earlier run was complete
        steps = iter(range(end + 1))

        def step(work, *words, steps=steps, **options):
            if next(steps, None) is None:
                raise Killed
            done = work(*words, **options)
            if next(steps, None) is None:
                raise Killed
            return done

        monkeypatch.setattr(parts, "_settle", lambda *words, step=step: step(settle, *words))
        monkeypatch.setattr(parts.shutil, "rmtree", lambda *words, step=step, **more: step(remove, *words, **more))
        try:
            fill(path, task, SOURCES)
            ended = False
        except Killed:
            ended = True
        monkeypatch.setattr(parts, "_settle", settle)
        monkeypatch.setattr(parts.shutil, "rmtree", remove)
        fill(path, task, SOURCES)
        assert pq.read_table(path).to_pylist() == wanted, end
        assert sorted(one.name for one in tmp_path.iterdir()) == ["out.parquet"]
    assert not ended, "more ends were tried than there are steps"


def test_a_file_that_somebody_edited_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ending in (".jsonl", ".csv"):
        path = tmp_path / f"out{ending}"
        fill(path, TASKS["ask"], SOURCES)
        lines = path.read_bytes().splitlines(keepends=True)
        edits = [[lines[0], b"mine\n", *lines[1:]], [b"x\n", *lines]]
        for edited in edits + ([[lines[0], *lines[2:]]] if ending == ".jsonl" else []):
            path.write_bytes(b"".join(edited))
            with pytest.raises(InvalidInputError, match=r"Line \d+ of .* is none that this command writes"):
                fill(path, TASKS["ask"], SOURCES)
            assert path.read_bytes() == b"".join(edited)
    (tmp_path / "out.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidInputError, match="cannot be read as parquet"):
        fill(tmp_path / "out.parquet", TASKS["ask"], SOURCES)


def test_names_that_are_spelled_alike_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sources = [os.fsdecode(b"\xff.png"), "\\xff.png", "a.png"]
    path = tmp_path / "out.jsonl"
    output = open_output(path, TASKS["caption"], str(tmp_path))
    output.add(rows_of(TASKS["caption"], spelled(sources[0])))
    output.close(whole=False)
    again = open_output(path, TASKS["caption"], str(tmp_path))
    assert list(undone(sources, again.done)) == sources[1:]
    again.close(whole=False)


RUN = {"verb": "caption", "model": {"name": "demo"}}


class TestRecord:
    def test_another_run_is_refused(self, tmp_path):
        path = tmp_path / "new" / "out.jsonl"
        with Record(path, RUN, "/here") as record:
            record.begin()
        with Record(path, RUN, "/there") as record:
            assert record.folder == "/here", "where its relative paths lead from"
        for other in ({"verb": "caption", "model": {"name": "else"}}, {**RUN, "prompt": "a"}, {"verb": "caption"}):
            with pytest.raises(InvalidInputError, match=r"rows of another run \(other (model|prompt)\)"):
                Record(path, other, "/here")
        record.path.write_text("{")
        with pytest.raises(InvalidInputError, match="cannot be read; --restart"):
            Record(path, RUN, "/here")

    def test_a_file_of_somebody_else_is_left_alone(self, tmp_path):
        path = tmp_path / "out.csv"
        path.write_text("mine")
        with pytest.raises(InvalidInputError, match="nothing tells what made it"):
            Record(path, RUN, "/here")
        assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]

    def test_one_process_at_a_time(self, tmp_path):
        path = tmp_path / "out.jsonl"
        code = (
            "import sys, time; from pathlib import Path; from blip2tools.vision.bulk.record import Record\n"
            "record = Record(Path(sys.argv[1]), {}, '/'); record.begin(); print('held', flush=True); time.sleep(60)"
        )
        holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(BusyError, match="Another process is writing"):
                Record(path, {}, "/")
            with pytest.raises(BusyError):
                discard(path)
        finally:
            holder.kill()
            holder.wait()
            holder.stdout.close()
        with Record(path, {}, "/") as record:  # its death has let go of it
            assert not record.is_new
        discard(path)
        assert list(tmp_path.iterdir()) == []


def test_what_an_output_may_be(tmp_path, monkeypatch):
    for name in ("out.json", "out", "out.parquet.gz"):
        with pytest.raises(InvalidInputError, match=r"\.jsonl, \.csv or \.parquet"):
            check_output(tmp_path / name)
    check_output(tmp_path / "OUT.CSV")
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match="pip install pyarrow"):
        check_output(tmp_path / "out.parquet")


def test_keys_of_sources():
    assert key_of("a//b/./c.png", "/x") == key_of("/x/a/b/c.png") == "/x/a/b/c.png"
    assert key_of("../a.png", "/x/y") == "/x/y/../a.png", "a folder may be a link, whose parent is another one"
    assert key_of("HTTPS://x/y", "/z") == "HTTPS://x/y"
