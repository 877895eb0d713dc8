"""The benchmarks are valid: both sides do the same work, and the commands run."""

import argparse
import dataclasses
import io
import json
import sys
import threading
import time
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from blip2tools import checkpoints
from blip2tools.checkpoints.family import CAPTIONERS
from blip2tools.cli import main
from blip2tools.cli.bench import cpu, cpu_floor, cpu_side, engine, gpu, latency, pairs, plot, random_models
from blip2tools.cli.bench import random_checkpoint as writer
from blip2tools.cli.bench.engine import CASES, NEW_TOKENS, make_pictures, measure, open_eyes, run, statements
from blip2tools.cli.bench.latency import Watch
from blip2tools.cli.bench.random_models import Size, build
from blip2tools.settings import Settings
from tests.conftest import run_cli
from tests.support import forked
from tests.support.side import InThread

SVG = "{http://www.w3.org/2000/svg}"
SMALL = Size((32, 2, 4), (32, 2, 4), (32, 2, 4, 64), 600, queries=4)
TINY = dataclasses.replace(SMALL, image_size=56)


@pytest.fixture(scope="module", params=["opt", "t5"])
def pair(request):
    return build(SMALL, request.param)


@pytest.fixture
def few_tokens(monkeypatch):
    """Whether a measurement runs does not depend on how much it measures."""
    monkeypatch.setattr(engine, "NEW_TOKENS", 3)


@pytest.fixture(scope="module", params=["opt", "t5"])
def tiny(request):
    """The same on pictures of 17 places."""
    return build(TINY, request.param)


def test_both_sides_say_the_same(pair):
    """The stock calls that are timed give the words that the engine gives."""
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
def test_every_case_runs(tiny, case, few_tokens, monkeypatch):
    case = dataclasses.replace(case, pictures=min(case.pictures, 2))
    monkeypatch.setattr(engine, "statements", lambda count: statements(min(count, 4)))
    row = measure(case, tiny, beams=1, rounds=1, clock="wall")
    assert row.lowest <= row.median <= row.highest
    assert row.stock_ms > 0 < row.ours_ms


def test_bench_engine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(random_models, "MID", SMALL)
    output, chart = tmp_path / "rows.json", tmp_path / "rows.svg"
    words = ("bench", "engine", "--family", "opt", "--rounds", "1", "--only", "4 choices")
    assert main([*words, "--output", str(output), "--plot", str(chart)]) == 0
    assert "opt: 4 choices ranked" in capsys.readouterr().out
    written = json.loads(output.read_text())
    assert written["rows"][0]["median"] > 0
    assert written["rows"][0]["clock"] == "cpu"
    assert written["versions"]["torch"] == torch.__version__
    assert "4 choices ranked" in chart.read_text()


class TestGpu:
    """On a CPU: whether it measures and counts correctly, not the results."""

    def test_every_way_through_every_case(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(random_models, "MID", TINY)
        monkeypatch.setattr(gpu, "BATCHES", (1, 3))
        output = tmp_path / "rows.json"
        parser = argparse.ArgumentParser()
        gpu.add_options(parser)
        with torch.compiler.set_stance("force_eager"):  # the compiler takes a minute, and has tests of its own
            status = gpu.run(
                parser.parse_args(["--family", "opt", "--rounds", "1", "--device", "cpu", "--output", str(output)])
            )
        assert status == 0
        written = json.loads(output.read_text())
        (limit,) = written["limits"]
        assert limit["bytes_per_s"] > 10**8 < limit["flops_per_s"]
        rows = written["rows"]
        assert len(rows) == 3 * 3
        assert {row["side"] for row in rows} == {"stock", "ours, eager", "ours, compiled"}
        for row in rows:
            assert row["lowest_ms"] <= row["median_ms"] <= row["highest_ms"]
            if "mixed" in row["case"]:
                assert row["floors"] is None
            else:
                assert row["floors"] == pytest.approx(row["median_ms"] / row["floor_ms"])
        shown = capsys.readouterr().out
        assert shown.count("x the floor of") == 2 * 3
        assert shown.count("compiled and tested in") == 1

    def test_without_compiled_steps_the_rest_is_measured(self, pair, monkeypatch):
        def failing(*args, **options):
            raise RuntimeError("no compiler")

        monkeypatch.setattr(torch, "compile", failing)
        monkeypatch.setattr(gpu, "BATCHES", (1,))
        told = []
        subject = pairs.Subject("small", dataclasses.replace(pair, matcher=None), "cpu", "")
        rows = gpu.measure(subject, gpu.Rates(1e9, 1e9), rounds=1, tell=told.append)
        assert [row.side for row in rows] == ["stock", "ours, eager"]
        assert "they cannot be compiled here (RuntimeError)" in told[0]

    def test_the_floor_counts_every_weight_of_every_token(self, pair):
        """By hand, from the sizes: first as if products cost nothing, then as if memory did."""
        reading, computing = (
            gpu.floor(pair, gpu.Rates(4.0, float("inf")), 2),
            gpu.floor(pair, gpu.Rates(float("inf"), 2.0), 2),
        )
        attention, patches, places, tokens = 4 * 32 * 32, 3 * 14 * 14 * 32, 257, 5
        vision = 2 * (attention + 2 * 32 * 4 * 32) + patches
        looked = 2 * (places * vision + 2 * places**2 * 32 * 2)
        head = 600 * 32
        if pair.loaded.captioner.family == "opt":
            layers = 2 * (attention + 2 * 32 * 64)
            read, spoken, passes = layers, layers, NEW_TOKENS - 1
        else:
            read, spoken, passes = 2 * (attention + 3 * 32 * 64), 2 * (2 * attention + 3 * 32 * 64), NEW_TOKENS
        assert reading == vision + read + passes * spoken + NEW_TOKENS * head
        assert computing == looked + 2 * tokens * read + 2 * (passes * spoken + NEW_TOKENS * head)


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--random", "huge"), 2, "opt-6.7b"),
        (("--random", "mid", "--model", "demo"), 2, "not allowed with"),
        (("--model", "no such"), 3, "model_unavailable: "),
        (("--device", "cuda:77"), 2, "invalid_input: "),
    ],
)
def test_what_cannot_be_measured(words, status, told):
    done = run_cli("bench", "engine", *words, fresh=words == ("--random", "huge"))
    assert done.returncode == status
    assert told in done.stderr


def options(*words):
    parser = argparse.ArgumentParser()
    pairs.add_options(parser)
    return parser.parse_args(words)


def test_both_sides_of_a_checkpoint_say_the_same(picture):
    """`--model`: the checkpoint is loaded twice, by the library and by us."""
    (subject,) = pairs.subjects(options("--model", "demo"), lambda line: None)
    image = Image.open(picture.path).convert("RGB")
    inputs = subject.pair.captioner_processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        ids = subject.pair.captioner.generate(**inputs, num_beams=1, max_new_tokens=40)
        judged = subject.pair.matcher_processor(images=image, text=picture.caption, return_tensors="pt")
        score = subject.pair.matcher(**judged, use_image_text_matching_head=True).logits_per_image.softmax(-1)[0, 1]
    stock = subject.pair.captioner_processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert stock.endswith(picture.caption)
    assert score > 0.9
    assert subject.name == "demo"
    with open_eyes(subject.pair, beams=1) as vision:
        assert vision.caption(picture.path.read_bytes(), min_new_tokens=1, max_new_tokens=40).text == picture.caption


def test_a_matcher_that_is_not_there_leaves_its_rows_out():
    (subject,) = pairs.subjects(options("--model", "demo", "--matcher", "none"), lambda line: None)
    rows = run([subject], rounds=1, only="match")
    assert rows == []


@pytest.mark.parametrize("member", CAPTIONERS, ids=lambda member: member.name)
def test_random_models_have_the_published_sizes(member):
    whole, reduced = pairs.published_size(member.name), pairs.published_size(member.name, share=pairs.REDUCED)
    assert whole.image_size == reduced.image_size == member.image_size
    assert whole.vision == (1408, 39, 16)
    assert reduced.vision == (1408, 4, 16)
    assert reduced.language[0] == whole.language[0]
    assert whole.language[1] in (24, 32)
    assert reduced.language[1] == whole.language[1] // pairs.REDUCED


def test_a_small_model_of_another_picture_size():
    size = dataclasses.replace(SMALL, image_size=56, vision_inner=48)
    pair = build(size, "opt")
    assert pair.captioner.vision_model.encoder.layers[0].mlp.fc1.out_features == 48
    with open_eyes(pair, beams=1) as vision:
        assert vision.caption(make_pictures(1, 0)[0]).text is not None


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_published_configuration_with_fewer_layers():
    done = run_cli("bench", "engine", "--random", "opt-2.7b", "--rounds", "1", "--only", "lone")
    assert done.returncode == 0, done.stderr
    assert "reduced for the CPU to 4 of 39 vision layers" in done.stdout


# ---- waiting times ----


async def test_the_cpu_watch_skips_idle_time_only():
    watch = Watch("cpu")
    started, before = time.perf_counter(), watch.now()
    await watch.until(before + 100, lambda: False)
    assert time.perf_counter() - started < 5
    assert 100 <= watch.now() - before < 105

    stop = time.process_time() + 0.2
    worker = threading.Thread(target=lambda: [None for _ in iter(lambda: time.process_time() < stop, False)])
    worker.start()
    due = watch.now() + 0.1
    await watch.until(due, worker.is_alive)
    assert due <= watch.now() < due + 1
    worker.join()


async def test_the_wall_watch_waits():
    watch = Watch("wall")
    started = time.perf_counter()
    await watch.until(watch.now() + 0.05, lambda: False)
    assert time.perf_counter() - started >= 0.05


def test_waiting_times_are_those_of_both_sides(tiny, few_tokens):
    subject = pairs.Subject("small", tiny, "cpu", "")
    streams = latency.run([subject], requests=3, rounds=1, tell=lambda line: None)
    assert [stream.stream for stream in streams] == ["distinct pictures", "pictures seen before"]
    for stream in streams:
        assert 0 < stream.stock_p50 <= stream.stock_p99
        assert 0 < stream.ours_p50 <= stream.ours_p99
        assert stream.lowest <= stream.highest
        assert stream.stock_p99 >= stream.service_ms / 3


def test_bench_latency(tmp_path):
    done = run_cli(
        *("bench", "latency", "--model", "demo", "--requests", "3", "--rounds", "1"),
        *("--output", str(tmp_path / "waits.json")),
    )
    assert done.returncode == 0, done.stderr
    assert "demo: pictures seen before" in done.stdout
    assert len(json.loads((tmp_path / "waits.json").read_text())["streams"]) == 2


# ---- a processor ----


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory):
    """A captioner and a matcher on one tower, as `bench cpu --random` writes them."""
    root = tmp_path_factory.mktemp("random")
    writer.write(root / "captioner", TINY, "opt", "captioner")
    writer.write(root / "matcher", TINY, "opt", "matcher")
    return root


def _small_columns(weight):
    sizes = weight.norm(dim=0)
    return int((sizes < sizes.median() / 10).sum())


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_random_checkpoints_are_those_of_the_library(family, tmp_path, monkeypatch):
    size = dataclasses.replace(TINY, language=(32, 4, 4, 64))
    monkeypatch.setattr(writer, "_SHARD", 50_000)
    writer.write(tmp_path / "made", size, family, "captioner")
    assert len(list((tmp_path / "made").glob("model-*.safetensors"))) > 2
    stock, processor = pairs.stock("Blip2ForConditionalGeneration", tmp_path / "made", torch.float32, "cpu")
    loaded = checkpoints.load(Settings.load({}, model=str(tmp_path / "made"), matcher="none", device="cpu"))
    pixels = loaded.pixels(Image.radial_gradient("L").convert("RGB"))
    seen = []
    layers = stock.language_model.model.decoder.layers if family == "opt" else stock.language_model.encoder.block
    layers[3].register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))
    with torch.inference_mode():
        inputs = processor(images=Image.new("RGB", (60, 60), "red"), text="a dog", return_tensors="pt")
        stock.generate(**inputs, max_new_tokens=2, min_new_tokens=2)
    widths = seen[0].abs().mean(0).sort(descending=True).values
    assert widths[writer.OUTLIERS - 1] > 10 * widths[writer.OUTLIERS]  # for all tokens
    if family == "t5":
        behind = [stock.language_model.encoder.block[3].layer[0].SelfAttention.q]
        behind += [part.layer[1].EncDecAttention.k for part in stock.language_model.decoder.block]
        counts = [_small_columns(part.weight) for part in (*behind, layers[2].layer[0].SelfAttention.q)]
        assert counts == [writer.OUTLIERS] * 5 + [0]  # read with smaller weights
    states = loaded.captioner.trunk.see(pixels)
    with torch.inference_mode():
        theirs = stock.vision_model(pixels).last_hidden_state
    assert torch.allclose(loaded.captioner._post_layernorm(states), theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["stock", "8bit"])
def test_a_side_answers_every_case(random_checkpoint, tmp_path, name, monkeypatch):
    monkeypatch.setattr(cpu_side, "NEW_TOKENS", 2)
    monkeypatch.setattr(engine, "NEW_TOKENS", 2)
    asked = {
        "side": name,
        "model": str(random_checkpoint / "captioner"),
        "matcher": str(random_checkpoint / "matcher"),
        "captions": True,
        "threads": 1,
        "cache": str(tmp_path / "cache"),
    }
    tasks = [
        {"case": case, "seed": number} for number, case in enumerate([*cpu_side.CASES, "stages", "memory", "pause"])
    ]
    waiting, told = [json.dumps(task) for task in tasks], []
    cpu_side.serve(asked, lambda: waiting.pop(0) if waiting else "", told.append)
    start, *cases, stages, memory, pause = told
    assert start["resident"] <= start["peak"]
    assert 0 < start["load_cpu_s"] <= start["start_cpu_s"]
    assert all(case["seconds"] > 0 for case in cases)
    assert len(cases) == len(cpu_side.CASES)
    assert memory["resident"] > 2**20
    assert (pause["seconds"] > 0) == (name == "8bit")
    least = cpu_floor.floors(random_checkpoint / "captioner", random_checkpoint / "matcher", [name], 1)
    if name == "8bit":
        assert stages.keys() == least["stages"][name].keys()
        assert all(seconds > 0 for seconds in least["stages"][name].values())


def test_floors_are_those_of_a_hand(random_checkpoint, monkeypatch):
    """17 places times the tower's matrices where products are slow, the layers' bytes once where memory is."""
    folder = random_checkpoint / "captioner"
    monkeypatch.setattr(cpu_floor, "_bandwidth", lambda: 1e30)
    monkeypatch.setattr(cpu_floor, "_products", lambda dtype: 1.0)
    width, layers = TINY.vision[:2]
    found = cpu_floor.floors(folder, None, ["float32"], 1)["stages"]["float32"]
    assert found["vision tower"] == 2 * 17 * layers * (4 * width**2 + 2 * 4 * width**2)
    monkeypatch.setattr(cpu_floor, "_bandwidth", lambda: 1.0)
    monkeypatch.setattr(cpu_floor, "_products", lambda dtype: 1e30)
    sizes = [
        cpu_floor.floors(folder, None, [side], 1)["stages"][side]["a token, 1 beam"] for side in ("float32", "8bit")
    ]
    assert 3 < sizes[0] / sizes[1] < 4


def test_bench_cpu(random_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "Process", InThread)
    monkeypatch.setattr(engine, "NEW_TOKENS", 2)
    options = ["bench", "cpu", "--model", str(random_checkpoint / "captioner"), "--only", "greedy", "--rounds", "2"]
    options += [
        "--side",
        "float32",
        "--side",
        "8bit",
        "--folder",
        str(tmp_path),
        "--output",
        str(tmp_path / "cpu.json"),
    ]
    assert main(options) == 0
    told = capsys.readouterr()
    assert "in turns" in told.err
    assert "second start" in told.out
    assert "of the first" in told.out
    figures = json.loads((tmp_path / "cpu.json").read_text())
    side = figures["sides"]["8bit"]
    assert len(side["seconds"]["one caption, greedy"]) == 2
    assert side["pause_cpu_s"] > 0
    assert side["start_cpu_s"].keys() == {"first start", "second start"}
    assert side["memory"]["resident"] > 2**20
    assert figures["floors"]["bandwidth"] > 1e8
    monkeypatch.setattr("blip2tools.checkpoints.memory.free_memory", lambda: 2**29)
    assert main([*options[:8], "--side", "float32", "--folder", str(tmp_path)]) == 0
    assert "one after the other" in capsys.readouterr().err


@pytest.mark.long
def test_sides_are_processes(tmp_path):
    done = run_cli(
        *("bench", "cpu", "--only", "greedy", "--rounds", "1", "--folder", str(tmp_path)),
        *("--output", str(tmp_path / "cpu.json")),
    )
    assert done.returncode == 0, done.stderr
    sides = json.loads((tmp_path / "cpu.json").read_text())["sides"]
    assert sides.keys() == {"stock", "float32", "8bit", "4bit"}
    assert sides["8bit"]["memory"]["resident"] < sides["float32"]["memory"]["resident"]


def test_a_folder_that_holds_no_checkpoint(tmp_path, capsys):
    assert main(["bench", "cpu", "--model", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


# ---- charts ----


def test_charts_are_well_formed_and_hold_what_they_show():
    rows = [plot.Ratio("a < b", "opt", 2.5, 2.0, 3.1), plot.Ratio("a < b", "t5", 0.9, 0.8, 1.0)]
    drawn = ElementTree.fromstring(plot.ratios("Times & ratios", rows))
    words = [element.text for element in drawn.iter(f"{SVG}text")]
    assert {"Times & ratios", "a < b", "2.50×", "0.900×", "opt", "t5"} <= set(words)
    dots = [float(dot.get("cx")) for dot in drawn.iter(f"{SVG}circle")][2:]
    assert dots[0] > dots[1]
    lines = plot.panels("Time", "minutes", [plot.Panel("MiB", [0, 1, 2], [400, 410, 405], band=(400, 1.05))])
    assert len(list(ElementTree.fromstring(lines).iter(f"{SVG}polyline"))) == 1
    assert "allowed: 400 + 5%" in lines


FEWER_CALLS = """
import sys
from blip2tools.cli import main
from blip2tools.cli.bench import calls
calls.CALLS = 6
sys.exit(main(["bench", "calls", "--rounds", "1"]))
"""


def test_bench_calls():
    done = forked.run([sys.executable, "-W", "error", "-c", FEWER_CALLS], text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()[1:]} == {"captions", "questions", "matches", "mixed"}
