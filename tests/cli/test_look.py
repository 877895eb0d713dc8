"""The command line in processes of its own: what it prints, where, and with which status it ends."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from blip2tools import Vision
from blip2tools.checkpoints.confidence import UNFAMILIAR
from blip2tools.cli.command_line import build_parser
from blip2tools.cli.look import MANY, look
from blip2tools.cli.options import given_settings
from blip2tools.errors import BusyError
from blip2tools.settings import PROXY_SETTINGS, Settings
from tests.conftest import run_cli
from tests.support import forked

DEMO = ("--model", "demo", "--threads", "1")


def test_one_picture(picture):
    done = run_cli("caption", str(picture.path), *DEMO)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{picture.caption}  (confidence ")
    assert done.stdout.count("\n") == 1
    assert done.stderr.startswith("warning: demo model: it only knows")
    assert done.stderr.count("\n") == 1


def test_several_pictures_come_in_order_and_bad_ones_are_told(pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    names = [str(pictures[0].path), str(tmp_path / "broken.png"), "missing.png", str(pictures[1].path)]
    done = run_cli("caption", *names, "--json", *DEMO, cwd=tmp_path)
    assert done.returncode == 1
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["source"] for one in said] == names
    assert [one.get("text") for one in said] == [pictures[0].caption, None, None, pictures[1].caption]
    assert [one.get("error", {}).get("code") for one in said] == [None, "corrupt_image", "not_found", None]
    plain = run_cli("caption", *names, "\x1b[31mred\u202e.png", *DEMO, cwd=tmp_path)
    assert plain.returncode == 1
    assert [line.split(": ")[0] for line in plain.stdout.splitlines()] == [names[0], names[3]]
    assert "corrupt_image" in plain.stderr
    assert "\ufffd[31mred\ufffd.png: " in plain.stderr, "a name must not write to the terminal"


def test_ask_and_match(picture):
    thing = picture.scene.things[0]
    done = run_cli(
        "ask",
        str(picture.path),
        "-q",
        f"what color is the {thing.shape}?",
        "-c",
        thing.color,
        "-c",
        "red",
        "-c",
        "blue",
        *DEMO,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(thing.color)
    assert len(done.stdout.splitlines()) == 4
    done = run_cli("match", str(picture.path), "-t", "two red hearts", "-t", picture.caption, *DEMO)
    assert done.stdout.splitlines()[0].endswith(picture.caption)


def test_survey(pictures, tmp_path):
    from PIL import Image

    both = Image.new("RGB", (448, 224))
    for number, drawn in enumerate(pictures[:2]):
        both.paste(Image.open(drawn.path), (224 * number, 0))
    both.save(tmp_path / "both.png")
    done = run_cli("survey", "both.png", "--rows", "1", *DEMO, cwd=tmp_path, fresh=True)
    assert done.returncode == 0
    _, left, right = done.stdout.splitlines()
    assert left.startswith(f"  0.00 0.00 0.50 1.00  {pictures[0].caption}  (confidence ")
    assert right.startswith(f"  0.50 0.00 1.00 1.00  {pictures[1].caption}  (confidence ")
    done = run_cli("survey", "both.png", "missing.png", "--rows", "1", "--columns", "1", "--json", *DEMO, cwd=tmp_path)
    assert done.returncode == 1
    seen, failed = map(json.loads, done.stdout.splitlines())
    assert len(seen["tiles"]) == 1
    assert failed["error"]["code"] == "not_found"
    done = run_cli("survey", "both.png", "--rows", "5", *DEMO, cwd=tmp_path)
    assert done.returncode == 2
    assert "'rows' must be at most 4" in done.stderr


def test_which_of_several_pictures_is_doubted(picture, tmp_path):
    noise(tmp_path / "noise.png")
    done = run_cli("caption", str(picture.path), "noise.png", "--abstain-below", "0.5", *DEMO, cwd=tmp_path)
    assert done.returncode == 0
    good, odd = done.stdout.splitlines()
    assert good.startswith(f"{picture.path}: {picture.caption}  (confidence ")
    assert ("abstained" in good, odd.startswith("noise.png: ")) == (False, True)
    told = done.stderr.splitlines()
    assert f"noise.png: warning: {UNFAMILIAR}" in told
    assert not any(line.startswith(str(picture.path)) for line in told)
    assert sum(line.startswith("warning: ") for line in told) == 1  # what the demo model is
    assert ", abstained)" in run_cli("caption", "noise.png", "--abstain-below", "1", *DEMO, cwd=tmp_path).stdout


def noise(path):
    from PIL import Image

    Image.frombytes("RGB", (300, 300), random.Random(1).randbytes(270_000)).save(path)


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ((), 2, "required"),
        (("see",), 2, "invalid choice"),
        (("ask", "x.png"), 2, "--question"),
        (("caption", "x.png", "--num-beams", "99"), 2, "'num_beams'"),
        (("caption", "x.png", "--num-beam", "3"), 2, "unrecognized"),
        (("match", "x.png", "-t", "a", "--num-beams", "3"), 2, "unrecognized"),
        (("survey", "x.png", "--abstain-below", "0.5"), 2, "unrecognized"),
        (("ask", "x.png", "-q", "a?", "--best-of", "3"), 2, "unrecognized"),
        (("caption", "x.png", "--vqa-template", "{question}"), 2, "unrecognized"),
        (("caption", "x.png", "--num-captions", "9", *DEMO), 2, "'num_captions'"),
        (("caption", "x.png", "--device", "tpu"), 2, "'device'"),
        (
            ("caption", "x.png", "--model", "opt-2.7b", "--dtype", "bfloat16", "--offline"),
            3,
            "blip2tools pull opt-2.7b",
        ),
        (("caption", "x.png", "--model", "none of these"), 3, "no captioner named"),
        (("caption", "x.png", "--allow-dir", "/proc", *DEMO), 2, "/proc"),
        (("pull", "demo"), 3, "nothing to download"),
    ],
)
def test_wrong_usage(words, status, sentence, tmp_path):
    done = run_cli(*words, cwd=tmp_path)
    assert done.returncode == status
    assert sentence in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_causes_of_a_failure_are_for_who_asks():
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    words = ("pull", "opt-2.7b", "--anyway")  # whatever memory is free
    quiet = run_cli(*words, env=environment)
    assert quiet.returncode == 3
    assert quiet.stderr.startswith("model_unavailable: The download of opt-2.7b failed")
    assert quiet.stderr.count("\n") == 1
    assert "Traceback" in run_cli("--verbose", *words, env=environment).stderr


def test_help_and_version():
    for words in ((), ("caption",), ("ask",), ("match",), ("serve",), ("models",), ("pull",), ("demo",), ("doctor",)):
        done = run_cli(*words, "--help")
        assert done.returncode == 0
        assert "usage: blip2tools" in done.stdout
        assert done.stderr == ""
    assert run_cli("--version", fresh=True).stdout.strip().startswith("blip2tools 0.")


def test_every_setting_is_an_option_of_serve():
    text, proxy = (run_cli(command, "--help-all").stdout for command in ("serve", "proxy"))
    for name in Settings.model_fields:
        told = proxy if name in PROXY_SETTINGS else text
        assert f"BLIP2TOOLS_{name.upper()}" in told.replace("\n", "").replace(" ", ""), name


def test_options_become_settings(tmp_path):
    words = [
        "serve",
        "--allow-dir",
        "a",
        "--allow-dir",
        "b",
        "--allow-urls",
        "--formats",
        "png,tiff",
        "--num-beams",
        "2",
    ]
    settings = Settings.load({}, **given_settings(build_parser().parse_args(words)))
    assert [str(folder) for folder in settings.allowed_dirs] == ["a", "b"]
    assert settings.allow_urls is True
    assert settings.formats == ("PNG", "TIFF")
    assert settings.num_beams == 2


def test_models(tmp_path):
    done = run_cli("models", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["name", "kind", "parameters"]
    assert any(line.startswith("flan-t5-xl ") for line in lines)
    rows = [
        json.loads(line) for line in run_cli("models", "--json", env={"HF_HOME": str(tmp_path)}).stdout.splitlines()
    ]
    assert len(rows) == len(lines) - 1
    assert [row["name"] for row in rows if row["here"]] == ["demo", "demo"]


def test_a_closed_pipe_is_no_error(pictures):
    command = [sys.executable, "-m", "blip2tools", "caption", *[str(drawn.path) for drawn in pictures], *DEMO]
    process = forked.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(200)
    process.stderr.close()
    assert b"Traceback" not in errors
    assert b"BrokenPipe" not in errors


@pytest.mark.parametrize(
    ("pictures", "given", "variable", "wanted"),
    [(MANY - 1, {}, "", False), (MANY, {}, "", None), (1, {"cuda_graphs": True}, "", True), (1, {}, "1", None)],
)
def test_graphs_are_recorded_where_that_pays(pictures, given, variable, wanted, monkeypatch):
    """It takes seconds, which do not pay off for a few pictures."""

    def load(**settings):
        assert settings.get("cuda_graphs") is wanted
        raise BusyError("enough seen")

    monkeypatch.setattr(Vision, "load", load)
    if variable:
        monkeypatch.setenv("BLIP2TOOLS_CUDA_GRAPHS", variable)
    with pytest.raises(BusyError):
        look(argparse.Namespace(image=["a.png"] * pictures, json=False), None, None, settings=given, download=False)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_an_interrupt_ends_with_130(pictures):
    command = [sys.executable, "-m", "blip2tools", "caption", *[str(pictures[0].path)] * 2000, *DEMO]
    with forked.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()  # it works
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_without_the_mcp_extra(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['mcp'] = None\n")
    done = run_cli("serve", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "pip install 'blip2tools[mcp]'" in done.stderr
