"""The output of commands to consoles of every kind."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys

import pytest

from blip2tools.cli.command_line import main

DEMO = ("--model", "demo", "--threads", "1", "--num-beams", "1")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, bytes, bytes]:
    """A command's exit status and what it writes, redirected, where the system's encoding is one of Windows."""
    with monkeypatch.context() as patch:
        files = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, file in files.items():
            patch.setattr(sys, name, io.TextIOWrapper(file, encoding="cp1252", errors="strict", write_through=True))
        status = main(words)
        # A wrapper that is collected closes what it wraps.
        out, err = (file.getvalue() for file in files.values())
    return status, out, err


def test_json_is_utf8_whatever_the_console_speaks(monkeypatch, picture, tmp_path):
    """One line for each picture, whatever its name."""
    names = ["\u041a\u043e\u0448\u043a\u0430.png", "\U0001f600.png", "missing \u732b.png"]
    for name in names[:2]:
        shutil.copy(picture.path, tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    if sys.platform == "linux":
        shutil.copy(picture.path, os.fsencode(tmp_path) + b"/latin-\xe9.png")
        paths.insert(2, os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe9.png"))
    status, out, _ = run(monkeypatch, "caption", *paths, "--json", *DEMO)
    assert status == 1
    lines = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    assert len(lines) == len(paths)
    assert [line["source"] for line in lines] == [path.replace("\udce9", "\\xe9") for path in paths]
    assert [line.get("error", {}).get("code") for line in lines] == [None] * (len(paths) - 1) + ["not_found"]


def test_a_person_reads_what_the_console_can_show(monkeypatch, picture, tmp_path):
    names = ["\u041a\u043e\u0448\u043a\u0430.png", "caf\u00e9.png"]
    for name in names:
        shutil.copy(picture.path, tmp_path / name)
    paths = [str(tmp_path / name) for name in (*names, "\u732b.png")]
    status, out, err = run(monkeypatch, "caption", *paths, *DEMO)
    assert status == 1
    said = out.decode("cp1252").splitlines()
    assert len(said) == 2
    assert "\\u041a\\u043e\\u0448\\u043a\\u0430.png: " in said[0]
    assert "caf\u00e9.png: " in said[1]
    assert "\\u732b.png: not_found" in err.decode("cp1252")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--device", "gpu"), "is cuda"),
        (("--device", "GPU:1"), "is cuda:1"),
        (("--device", "CUDA"), "is cuda"),
        (("--device", "metal"), "mps"),
        (("--device", "tpu"), "none of auto, cpu, mps, cuda, cuda:N and spread"),
        (("--dtype", "fp16"), "one of auto, float32, float16 or bfloat16"),
        (("--num-beams", "five"), "a whole number"),
        (("--num-beams", "99"), "at most 8"),
        (("--revision", "../x"), "a commit, a tag, a branch"),
        (("--temperature", "nan"), "a finite number"),
    ],
)
def test_a_setting_that_is_wrong_gets_a_sentence(monkeypatch, words, wanted):
    status, _, err = run(monkeypatch, "caption", "x.png", *words)
    assert status == 2
    said = err.decode()
    assert wanted in said
    assert "pattern" not in said
    assert "^" not in said
    assert "nput should" not in said
