"""Imports of commands: commands without a model run without torch, and the demo without transformers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import forked

ROOT = Path(__file__).parents[2]
SHAPES = "examples/shapes.png"

# One process runs them all: an import that one of them makes is seen behind it.
WITHOUT_TORCH = [
    (["--help"], 0),
    (["caption", "--help"], 0),
    (["capton", "x.png"], 2),
    (["caption", "no-file.png"], 1),
    (["caption", "no-file.png", "nor-this.png", "--json"], 1),
    (["caption", SHAPES, "--region", "2", "0", "1", "1"], 2),
    (["caption", SHAPES, "--num-captions", "9"], 2),
    (["caption", SHAPES, "--num-beams", "many"], 2),
    (["caption", SHAPES, "--device", "gpu"], 2),
    (["caption", SHAPES, "--no-such-option"], 2),
    (["caption", SHAPES, "--model", "nonsense"], 3),
    (["caption", "pyproject.toml"], 1),
    (["ask", SHAPES, "-q", ""], 2),
    (["ask", SHAPES, "-q", "what?", "-c", "only one"], 2),
    (["match", "no-file.png", "-t", "a dog"], 1),
    (["survey", SHAPES, "--rows", "9"], 2),
    (["search", "--model", "demo"], 2),
    (["serve", "--token", "tokentokentokentoken"], 2),
    (["models"], 0),
    (["models", "--json"], 0),
    (["pull", "nonsense"], 3),
    (["pull", "demo"], 3),
    (["install", "vscode", "--print"], 0),
    (["completion", "bash"], 0),
]

RUN = """
import json, sys
from blip2tools.cli import main
heavy = {"torch", "transformers", "accelerate", "numpy"}
for words in json.loads(sys.argv[1]):
    sys.stdout.flush()
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    print(json.dumps([words, status, sorted(heavy & set(sys.modules))]), file=sys.__stderr__, flush=True)
"""


def run(cases):
    words = [sys.executable, "-c", RUN, json.dumps(cases)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith('[["')], done


def test_what_needs_no_model_imports_no_torch():
    found, done = run([words for words, _ in WITHOUT_TORCH])
    assert len(found) == len(WITHOUT_TORCH), done.stderr
    for (words, status), (ran, ended, loaded) in zip(WITHOUT_TORCH, found, strict=True):
        assert (ran, ended, loaded) == (words, status, []), done.stderr


@pytest.mark.slow
def test_the_demo_needs_no_transformers():
    # The first time the model is tested, and the library is what it is compared with.
    forked.run([sys.executable, "-m", "blip2tools", "caption", SHAPES], cwd=ROOT)
    [[_, status, loaded]], done = run([["caption", SHAPES]])
    assert (status, loaded) == (0, ["numpy", "torch"]), done.stderr
    assert "red" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals and signals of POSIX")
def test_a_terminal_shows_the_loading_and_an_interrupt_ends_it():
    """While torch is being imported: until then nothing has been said, and an orderly end would wait for the import."""
    import pty

    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "blip2tools", "caption", SHAPES]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"loading" not in shown:
            shown += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130
    assert output == b""


STUCK = """
import sys, threading
from blip2tools.cli import main
from blip2tools.engine import local
local.JOIN_SECONDS = 1e6
def load(progress):
    print("loading", flush=True)
    threading.Event().wait()
init = local.LocalEngine.__init__
local.LocalEngine.__init__ = lambda self, _, **options: init(self, load, **options)
sys.argv = ["blip2tools", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    "words", [["caption", SHAPES], ["index", "examples"], ["search", "a ring", "examples"], ["run", "caption", SHAPES]]
)
def test_an_interrupt_does_not_wait_for_a_model_that_loads(words, tmp_path):
    """With a model that never gets there: whatever waited for its thread would not end."""
    output = ["--output", str(tmp_path / "out.jsonl")] if words[0] == "run" else []
    environment = {**os.environ, "BLIP2TOOLS_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words, *output],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while b"loading" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
