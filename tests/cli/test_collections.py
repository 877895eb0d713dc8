"""`index` and `search` on the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from blip2tools.cli import main
from tests.conftest import run_cli
from tests.support import forked


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP2TOOLS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("BLIP2TOOLS_SELF_TEST", "0")  # whose verdict would have to be found anew for each cache
    return tmp_path / "cache"


def test_index_then_search(pictures, folder, cache, capsys):
    assert main(["index", str(folder), "--model", "demo"]) == 0
    told = capsys.readouterr().out
    assert re.fullmatch(rf".*: {len(pictures)} pictures can be found \({len(pictures)} new, .*\)\n", told)
    assert main(["search", pictures[1].caption, str(folder), "--json", "--model", "demo"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hits"][0]["path"] == str(pictures[1].path.resolve())
    assert (found["none_fits"], found["indexed"]) == (False, len(pictures))
    assert main(["search", "a photo of a bicycle", str(folder), "--model", "demo"]) == 0
    told, beside = capsys.readouterr()
    assert told.startswith("no picture fits")
    assert "demo model" in beside
    assert main(["search", "--image", str(pictures[0].path), str(folder), "--model", "demo"]) == 0
    assert capsys.readouterr().out.startswith("no duplicate")
    assert main(["search", "--model", "demo"]) == 2
    assert main(["index", str(folder / "nowhere")]) == 2


def test_a_run_without_anything_new_loads_no_model(folder, cache, monkeypatch, capsys):
    assert main(["index", str(folder), "--model", "demo", "--json"]) == 0
    from blip2tools.checkpoints import selftest

    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(selftest, "load", load)
    assert main(["index", str(folder), "--model", "demo", "--json"]) == 0
    first, again = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["added"] == again["unchanged"] > 0


def test_a_damaged_picture_is_listed(tmp_path, picture, cache, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.png").write_bytes(picture.path.read_bytes())
    (folder / "bad.png").write_bytes(picture.path.read_bytes()[:60])
    assert main(["index", str(folder), "--model", "demo"]) == 1
    told, beside = capsys.readouterr()
    assert ": 1 picture can be found" in told
    assert "bad.png: corrupt_image: " in beside


@pytest.mark.slow
def test_watched_and_killed(tmp_path, pictures, cache):
    """A picture that is added is found without another command; killed, the next run goes on."""
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "0.png").write_bytes(pictures[0].path.read_bytes())
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "blip2tools",
        "index",
        str(folder),
        "--watch",
        "--every",
        "0.2",
        "--json",
    ]
    environment = {**os.environ, "BLIP2TOOLS_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    process = forked.start([*command, "--model", "demo"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert json.loads(process.stdout.readline())["added"] == 1
        (folder / "1.png").write_bytes(pictures[1].path.read_bytes())
        assert json.loads(process.stdout.readline())["pictures"] == 2
        (folder / "0.png").unlink()
        assert json.loads(process.stdout.readline())["removed"] == 1
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    (folder / "2.png").write_bytes(pictures[2].path.read_bytes())
    time.sleep(0.05)
    done = run_cli("index", str(folder), "--model", "demo", "--json", env={"BLIP2TOOLS_CACHE_DIR": str(cache)})
    assert json.loads(done.stdout)["pictures"] == 2
