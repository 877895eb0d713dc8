"""The measurements measure what they say: both sides do the same work, and the commands run."""

import json

import pytest
import torch

from blip2tools.bench.engine import CASES, NEW_TOKENS, make_pictures, measure, open_eyes
from blip2tools.bench.random_models import Size, build
from tests.conftest import run_cli

SMALL = Size((32, 2, 4), (32, 2, 4), (32, 2, 4, 64), 600, queries=4)


@pytest.fixture(scope="module", params=["opt", "t5"])
def pair(request):
    return build(SMALL, request.param)


def test_both_sides_say_the_same(pair):
    """The stock calls that are timed give the words that the engine gives."""
    import io

    from PIL import Image

    data = make_pictures(1, 5)[0]
    image = Image.open(io.BytesIO(data)).convert("RGB")
    prompt = "Question: what is the red dog with 0? Short answer:"
    inputs = pair.captioner_processor(images=image, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = pair.captioner.generate(**inputs, num_beams=1, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS)
    stock = pair.loaded.words.decode(ids[0, -NEW_TOKENS:].tolist())
    with open_eyes(pair, beams=1) as vision:
        ours = vision.ask(data, "what is the red dog with 0?").answer
    assert ours.split() == stock.split()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_case_runs(pair, case):
    row = measure(case, pair, beams=1, rounds=1, clock="wall")
    assert row.lowest <= row.median <= row.highest
    assert row.stock_ms > 0 < row.ours_ms


def test_bench_engine(tmp_path):
    output = tmp_path / "rows.json"
    done = run_cli(
        *("bench", "engine", "--family", "opt", "--rounds", "1", "--only", "4 choices", "--output", str(output))
    )
    assert done.returncode == 0, done.stderr
    assert "opt: 4 choices ranked" in done.stdout
    assert json.loads(output.read_text())[0]["median"] > 0
    assert run_cli("bench", "engine", "--random", "huge").returncode == 2


def test_bench_latency():
    done = run_cli("bench", "latency", "--family", "opt", "--requests", "3")
    assert done.returncode == 0, done.stderr
    assert "opt: pictures seen before" in done.stdout


def test_bench_calls():
    done = run_cli("bench", "calls", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == {"captions", "questions", "matches", "mixed"}
