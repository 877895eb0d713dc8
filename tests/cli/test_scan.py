"""`doctor --scan`: every file of a folder gets its outcome, through the real command."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.cli.doctor import scan as module
from blip2tools.cli.doctor.scan import Outcome, scan, sum_up
from blip2tools.settings import Settings
from tests.conftest import run_cli
from tests.support.fuzz import main as fuzz


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "album"
    (root / "inner").mkdir(parents=True)
    (root / "a.png").write_bytes(png((30, 20)))
    (root / "b.gif").write_bytes(b"GIF89a")
    (root / "c.txt").write_text("words")
    (root / "inner" / "d.png").write_bytes(png((16_385, 2)))
    (root / "inner" / "e\x1b.png").write_bytes(png((2, 2)))
    (root / "inner" / "f.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "outside.png").write_bytes(png((9, 9)))
    if os.name != "nt":
        os.mkfifo(root / "g.png")
    return root


WANTED = {
    "a.png": None,
    "b.gif": "corrupt_image",
    "c.txt": "unsupported_image",
    "g.png": "not_allowed",
    "inner/d.png": "too_large",
    "inner/e�.png": None,
    "inner/f.png": "not_allowed",
}


def test_the_command_in_json(folder: Path) -> None:
    done = run_cli("doctor", "--scan", str(folder), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *files, total = map(json.loads, done.stdout.splitlines())
    assert {one["path"]: one["code"] for one in files} == WANTED
    assert (files[0]["width"], files[0]["height"]) == (30, 20)
    assert total["files"] == len(WANTED)
    assert total["outcomes"]["ok"] == 2
    assert total["slowest_seconds"] <= total["seconds"] < 30
    assert total["peak_decoder_bytes"] is None or 10e6 < total["peak_decoder_bytes"] < 512e6


def test_the_command_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.run(folder, Settings(), json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a.png  30 × 20"
    assert lines[1].startswith("b.gif  corrupt_image: ")
    assert any(line.startswith("7 files in ") and "2 ok, 1 corrupt_image" in line for line in lines)


def test_json_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.run(folder, Settings(), json=True) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["files"] == len(WANTED)


def test_no_such_folder() -> None:
    done = run_cli("doctor", "--scan", "/no/such/folder")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("invalid_input: ")


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_peaks", lambda: (None, None))
    assert module.run(tmp_path, Settings(), json=False) == 0
    assert "0 files" in capsys.readouterr().out


def test_one_broken_file_does_not_end_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("0x7f")

    monkeypatch.setattr("blip2tools.pictures.decoder.Decoder.decode", fail)
    outcomes = list(scan(folder, Settings()))
    assert len(outcomes) == len(WANTED)
    assert outcomes[0].code == "internal"
    assert "0x7f" not in outcomes[0].message
    assert sum_up(outcomes, 1).exit_status == 1


@pytest.mark.parametrize(("code", "status"), [("timeout", 1), ("internal", 1), ("corrupt_image", 0), (None, 0)])
def test_the_exit_status(code: str | None, status: int) -> None:
    assert sum_up([Outcome(path="x", code=code, seconds=1)], 1).exit_status == status


@pytest.mark.skipif(os.name == "nt", reason="POSIX file types and links")
@pytest.mark.parametrize("target", ["pictures", "references"])
def test_the_fuzzer_runs(target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz([target, "--minutes", "0.02", "--blind", "--corpus", str(tmp_path / "corpus")]) == 0
    assert "nothing found" in capfd.readouterr().out
