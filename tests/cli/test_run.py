"""`blip2tools run` in processes of its own: rows in order, and the same rows however often it was killed."""

import csv
import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blip2tools.settings import environment_without_settings
from tests.conftest import run_cli
from tests.support import forked

DEMO = ("--model", "demo", "--threads", "1", "--num-beams", "1")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 60 pictures, two folders deep, and one that is none."""
    from blip2tools.demo.draw import draw
    from blip2tools.demo.world import sample_scene

    folder, chance = tmp_path_factory.mktemp("many"), random.Random(21)
    (folder / "more").mkdir()
    for number in range(60):
        draw(sample_scene(chance, things=1 + number % 2)).save(
            folder / ("more" if number % 3 else ".") / f"{number:02}.png"
        )
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    return folder


def read(path):
    """The rows of a file as JSON Lines has them, or as a table has them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def alike(one, other):
    """Whether rows say the same: numbers of another batch may differ in their last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    try:
        return one == other or float(one) == pytest.approx(float(other), abs=1e-4)
    except (TypeError, ValueError):
        return False


@pytest.fixture(scope="module")
def undisturbed(many):
    """The rows of a run that nobody disturbed."""
    path = many.parent / "undisturbed.jsonl"
    done = run_cli("run", "caption", str(many), "--output", str(path), *DEMO)
    assert done.returncode == 1, done.stderr
    assert "61 of 61 pictures, 1 failed, " in done.stderr
    assert done.stdout == ""
    return read(path)


def test_rows_are_in_the_order_of_the_pictures(many, undisturbed):
    own = [*(f"{number:02}.png" for number in range(0, 60, 3)), "broken.jpg"]
    names = own + [f"more/{number:02}.png" for number in range(60) if number % 3]
    assert [row["source"] for row in undisturbed] == [str(many / name) for name in names]
    broken = undisturbed[len(own) - 1]
    assert broken["error"]["code"] == "corrupt_image"
    assert all(row["text"].startswith(("a ", "two ", "an ")) for row in undisturbed if row is not broken)
    assert undisturbed[0]["image"]["source"] == undisturbed[0]["source"]


def test_a_second_run_adds_what_is_new_and_loads_nothing_for_nothing(many, pictures, tmp_path, undisturbed):
    folder, output = tmp_path / "folder", tmp_path / "new/out.jsonl"
    folder.mkdir()
    for drawn in pictures[:2]:
        (folder / drawn.path.name).write_bytes(drawn.path.read_bytes())
    words = ("run", "caption", "folder", "--output", str(output), *DEMO)
    assert run_cli(*words, cwd=tmp_path).returncode == 0
    first = output.read_bytes()
    (folder / "a.png").write_bytes(pictures[2].path.read_bytes())
    assert run_cli(*words, cwd=tmp_path).returncode == 0
    assert output.read_bytes().startswith(first)
    assert [row["source"] for row in read(output)] == [
        f"folder/{name}" for name in ("picture-0.png", "picture-1.png", "a.png")
    ]
    done = run_cli("-v", *words, cwd=tmp_path, env={"BLIP2TOOLS_SELF_TEST": "0"})
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("3 of 3 pictures, 0.0 a second, 3 were done before; written to ")
    assert "warning" not in done.stderr, "no model was loaded to warn of"
    assert sorted(path.name for path in output.parent.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]

    refused = run_cli(*words[:-1], "2", cwd=tmp_path)
    assert refused.returncode == 2
    assert "rows of another run (other num_beams)" in refused.stderr
    elsewhere = run_cli(*words, cwd=folder)
    assert elsewhere.returncode == 2
    assert "paths below" in elsewhere.stderr
    assert output.read_bytes().startswith(first)
    again = run_cli("run", "ask", "folder", "-q", "what is it?", "-o", str(output), "--restart", *DEMO, cwd=tmp_path)
    assert again.returncode == 0
    assert [row["question"] for row in read(output)] == ["what is it?"] * 3


def test_questions_statements_and_features_as_tables(pictures, tmp_path):
    names = "\n".join(str(drawn.path) for drawn in pictures[:3])
    (tmp_path / "list.txt").write_text(names)
    shape = pictures[0].scene.things[0].shape
    asked = ("run", "ask", "list.txt", "-q", f"what color is the {shape}?", "-q", "how many?", "-c", "two", "-c", "one")
    done = run_cli(*asked, "-o", "a.csv", *DEMO, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "a.csv")
    assert [row["source"] for row in rows] == [str(drawn.path) for drawn in pictures[:3] for _ in range(2)]
    assert {row["answer"] for row in rows} <= {"one", "two"}
    assert all(sorted(json.loads(row["choices"])) == ["one", "two"] for row in rows)

    pytest.importorskip("pyarrow")
    texts = ("-t", pictures[0].caption, "-t", "a photo of a dog")
    done = run_cli("run", "match", "list.txt", *texts, "-o", "m.parquet", *DEMO[:4], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "m.parquet")
    assert [row["text"] for row in rows] == [pictures[0].caption, "a photo of a dog"] * 3
    assert rows[0]["probability"] > 0.9 > 0.1 > rows[1]["probability"]
    done = run_cli("run", "features", *names.splitlines(), "-o", "f.parquet", *DEMO[:4], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "f.parquet")
    assert len(rows) == 3
    assert sum(value**2 for value in rows[0]["vectors"][0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("caption", ".", "-o", "out.txt"), 2, "must be a file that ends in .jsonl, .csv or .parquet"),
        (("caption", "*.bmp", "-o", "out.csv"), 2, "No file or folder fits *.bmp"),
        (("caption", ".", "-o", "out.csv", "--shard", "0/2"), 2, "such as 1/4"),
        (("caption", ".", "-o", "out.csv", "--num-captions", "9"), 2, "at most 5"),
        (("caption", ".", "-o", "out.csv", "--replicas", "2"), 2, "--replicas only works with --ray"),
        (("match", ".", "-o", "out.csv", "-t", "a", "--matcher", "none"), 3, "needs an image-text matcher"),
        (("caption", ".", "-o", "out.csv", "--model", "nowhere/at-all"), 3, "nowhere/at-all"),
        (("caption", ".", "-o", "file.jsonl"), 2, "nothing tells what made it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_run_is_said_before_it(words, status, sentence, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture.path.read_bytes())
    (tmp_path / "file.jsonl").write_text("mine")
    given = words if "--model" in words else (*words, "--model", "demo")
    done = run_cli("run", *given, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert sentence in done.stderr
    assert (tmp_path / "file.jsonl").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file.jsonl"]


def test_shares_of_several_runs_are_the_whole(many, tmp_path, undisturbed):
    rows = []
    for number in (1, 2):
        path = tmp_path / f"{number}.jsonl"
        done = run_cli("run", "caption", str(many), "-o", str(path), "--shard", f"{number}/2", *DEMO)
        assert done.returncode in (0, 1), done.stderr
        rows += read(path)
    place = [row["source"] for row in undisturbed].index
    assert alike(sorted(rows, key=lambda row: place(row["source"])), undisturbed)
    other = run_cli("run", "caption", str(many), "-o", str(tmp_path / "1.jsonl"), "--shard", "2/2", *DEMO)
    assert other.returncode == 2
    assert "another run (other shard)" in other.stderr


def started(words):
    """A run in a process of its own; and an event that is set once its model is there."""
    environment = {**environment_without_settings(keep=["cache_dir", "use_server"]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "blip2tools", *words]
    process = forked.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    ready, said = threading.Event(), []

    def listen():
        for line in process.stderr:
            said.append(line)
            ready.set()  # it warns of the demo model, and then begins
        ready.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    return process, ready, said, listener


def ended(process, listener):
    """The exit status of a run that ends or was ended."""
    status = process.wait(200)
    listener.join(200)
    process.stderr.close()
    return status


def disturbed(words, kills, seed, signals=(signal.SIGKILL,)):
    """Kill a run so many times at random, and let it end; how often it really was killed.

    One kill in four comes while the model is being loaded, the others within a moment that is enough for a few pictures.
    """
    begun = time.monotonic()
    process, ready, _, listener = started((*words[:-2], "-o", f"{words[-1]}.timed{Path(words[-1]).suffix}"))
    ready.wait(200)
    loaded = time.monotonic()
    assert ended(process, listener) in (0, 1)
    loading, working = loaded - begun, time.monotonic() - loaded
    chance, count = random.Random(seed), 0
    for _ in range(kills):
        process, ready, _, listener = started(words)
        if chance.random() < 0.25:
            time.sleep(chance.random() * loading)
        else:
            ready.wait(200)
            time.sleep(chance.random() * 2 * working / kills)
        if process.poll() is None:
            process.send_signal(chance.choice(signals))
        count += ended(process, listener) not in (0, 1)
    done = run_cli(*words)
    assert done.returncode in (0, 1), done.stderr
    return count


FEW = (*DEMO, "--max-batch", "4")  # else all pictures are one batch, and their rows come at one moment


@pytest.mark.slow
def test_killed_at_random_the_rows_are_the_same(many, tmp_path, undisturbed):
    path = tmp_path / "out.jsonl"
    assert disturbed(("run", "caption", str(many), *FEW, "-o", str(path)), 3, 1) >= 1
    assert alike(read(path), undisturbed)


@pytest.mark.slow
def test_a_machine_that_is_taken_away_loses_nothing_that_was_done(many, tmp_path, undisturbed):
    """SIGTERM: the part of a parquet file that was begun is written, and the next run goes on behind it."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    words = ("run", "caption", str(many), *FEW, "-o", str(path))
    process, ready, said, listener = started(words)
    ready.wait(200)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    status = ended(process, listener)
    assert status in (130, 1), said
    if status == 130:
        assert b"stopped: the same command goes on from here" in said[-1]
    done = run_cli(*words)
    assert done.returncode in (0, 1), done.stderr
    rows = read(path)
    assert [row["source"] for row in rows] == [row["source"] for row in undisturbed]
    assert [row["text"] for row in rows] == [row.get("text") for row in undisturbed]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.parquet", "out.parquet.run.json"]


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_killed_twenty_times_the_result_is_the_same(ending, many, tmp_path):
    """Parquet is written in parts of 256 pictures or ten seconds: some of its ends leave it the time to write one."""
    path = tmp_path / f"out{ending}"
    signals = (signal.SIGKILL, signal.SIGTERM) if ending == ".parquet" else (signal.SIGKILL,)
    assert disturbed(("run", "caption", str(many), *FEW, "-o", str(path)), 20, ending, signals) >= 5
    assert alike(read(path), read(tmp_path / f"out{ending}.timed{ending}"))
    assert len(list(tmp_path.iterdir())) == 4, "two files, and what tells of each"
