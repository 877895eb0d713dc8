"""Training of the demo's weights: its parts, resuming after a kill, and a very short run of the whole."""

from __future__ import annotations

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset

from blip2tools.checkpoints.confidence import FILE, familiarity_threshold
from blip2tools.checkpoints.family import demo_folder
from blip2tools.demo.words import caption
from blip2tools.demo.world import CHARACTERS, COLORS, STUDY, WIDE, sample_scene
from training.examine import main as evaluate
from training.stages import beginning
from training.stages.architecture import CAPTIONER_QUERIES, SIDE, new_captioner, new_matcher
from training.stages.beginning import begin
from training.stages.claims import IGNORED, Words, batched, claims
from training.stages.labels import label
from training.stages.language import LanguageStage
from training.stages.loop import Schedule, _optimizers, run
from training.stages.matching import MatchingStage
from training.stages.muon import orthogonal
from training.stages.plan import HELD_OUT, Training, train
from training.stages.qformer import keys_and_values, look, read, read_alone
from training.stages.rows import Segment, pack, segments
from training.stages.samples import normalized, training_picture, training_pictures, whitened_patches
from training.stages.speaking import speak
from training.stages.tokenizers import matcher_tokenizer, processor, speaker_tokenizer
from training.stages.vision import PictureBatches, Seeing, VisionStage
from training.train import main

pytestmark = pytest.mark.timeout(600)  # a whole training, however short, is minutes on a slow machine


@pytest.fixture(scope="module")
def speaker():
    return speaker_tokenizer(1)


@pytest.fixture(scope="module")
def matcher_words():
    return matcher_tokenizer(1)


@contextmanager
def few_first_pictures() -> Iterator[None]:
    """What a patch embedding begins with is measured on 20 pictures instead of 300: a trial run needs no good one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beginning, "whitened_patches", partial(whitened_patches, number=20))
        yield


# The loop


class Slope(Dataset[float]):
    def __getitem__(self, step: int) -> float:
        return random.Random(step).uniform(-1, 1)


class Line:
    """A stage that learns one number, and may be killed on the way."""

    name = "line"

    def __init__(self, dies_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.schedule = Schedule(steps=250, batch=1, rate=0.01, warm_up=10, flat=0.5, seed=1)
        self.modules = nn.ModuleDict({"model": nn.Linear(3, 3)})
        self.memory = {"seen": 0.0}
        self._dies_at = dies_at

    def batches(self) -> Slope:
        return Slope()

    def loss(self, batch: float, step: int):
        if step == self._dies_at:
            raise KeyboardInterrupt
        self.memory["seen"] += batch
        value = (self.modules["model"](torch.full((1, 3), batch)) - 1).square().sum()
        return value, {"value": value.item()}


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    first = Line()
    run(first, whole, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run(Line(dies_at=137), cut, workers=0)
    second = Line()
    run(second, cut, workers=0)
    for one, two in zip(first.modules.parameters(), second.modules.parameters(), strict=True):
        assert torch.equal(one, two)
    assert first.memory == second.memory
    third = Line(dies_at=0)
    run(third, cut, workers=0)  # nothing is left to do
    assert torch.equal(next(iter(third.modules.parameters())), next(iter(first.modules.parameters())))
    log = [json.loads(line) for line in (whole / "line.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(25, 251, 25))


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=1000, batch=1, rate=1.0, warm_up=100, flat=0.5, seed=0)
    rates = [schedule.rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert all(rate == pytest.approx(1) for rate in rates[100:500])
    assert rates == [*sorted(rates[:100]), *sorted(rates[100:], reverse=True)]
    assert rates[-1] < 0.03
    assert Schedule(10, 1, 1.0, 1, 1.0, 0).rate_at(9) == 1


def test_muon_makes_all_directions_alike() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 8), (2, 24, 8), (2, 8, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 100))
        assert values.min() > 0.4
        assert values.max() < 1.3


def test_muon_learns_what_is_inside_layers_and_adamw_the_rest() -> None:
    tower = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)])})
    model = nn.ModuleDict({"tower": tower, "head": nn.Linear(4, 2)})
    muon, adamw = _optimizers(model, 0.01)
    of_muon = [weight for group in muon.param_groups for weight in group["params"]]
    of_adamw = [weight for group in adamw.param_groups for weight in group["params"]]
    assert [weight.shape for weight in of_muon] == [(4, 4)]
    assert sorted(tuple(weight.shape) for weight in of_adamw) == [(2,), (2, 4), (4,)]


# What is learned from


def test_to_begin_with_each_patch_looks_at_its_neighbours() -> None:
    """Each head of the first layers looks in one direction, wherever a patch is, and whatever it shows."""
    seeing = Seeing(0)
    begin(seeing.vision_model, WIDE, 0)
    pixels = normalized(training_pictures([sample_scene(random.Random(1), world=WIDE)], random.Random(1)))
    hidden = seeing.vision_model.embeddings(pixels)
    layer = seeing.vision_model.encoder.layers[0]
    with torch.no_grad():
        queries, keys, _ = layer.self_attn.qkv(layer.layer_norm1(hidden)).view(1, 101, 3, 4, 32).permute(2, 0, 3, 1, 4)
    best = (queries @ keys.transpose(-1, -2))[0, :, 1:, 1:].argmax(-1).view(4, 10, 10)
    for looked, (across, down) in zip(best, ((-1, 0), (1, 0), (0, -1), (0, 1)), strict=True):
        there = [
            int(looked[row, column]) == (row + down) * 10 + column + across
            for row in range(1, 9)
            for column in range(1, 9)
        ]
        assert sum(there) > 0.8 * len(there), (across, down, sum(there))


def test_a_turned_scene_is_where_its_labels_say_it_is() -> None:
    """Drawn turned, or drawn upright and turned as a picture: each thing's middle shows its colour."""
    rng = random.Random(6)
    plain = replace(WIDE, numbers=((1, 1.0),), styles=("filled",), signs=0.0, turned=1.0)
    scenes = [scene for scene in (sample_scene(rng, world=plain) for _ in range(80)) if scene.background.turn]
    for scene in scenes:
        (thing,) = scene.things
        if thing.shape == "ring":
            continue
        picture = training_picture(scene, rng)
        shown = picture[round(thing.y * 80 - 0.5), round(thing.x * 80 - 0.5)].astype(int)
        assert np.abs(shown - thing.paint).max() < 90, (scene, shown)


def test_labels_say_what_each_place_shows() -> None:
    scenes = [sample_scene(random.Random(number), world=WIDE) for number in range(20)]
    labels = label(scenes)
    for number, scene in enumerate(scenes):
        for slot, thing in enumerate(scene.things):
            shape, color, size, character = labels.slots[number, slot].tolist()
            assert (WIDE.shapes[shape - 1], COLORS[color - 1], ("small", "large")[size - 1]) == (
                thing.shape,
                thing.color,
                thing.size,
            )
            assert (CHARACTERS[character] if character >= 0 else None) == thing.character
            assert labels.places[number, slot].tolist() == pytest.approx([thing.x, thing.y, 1], abs=1e-6)
        assert not labels.slots[number, len(scene.things) :, :3].any()
        # The last thing lies on top of all others, so that the patch at its middle is its own.
        top = scene.things[-1]
        patch = int(top.y * 10) * 10 + int(top.x * 10)
        assert WIDE.shapes[int(labels.patches[number, patch, 0]) - 1] == top.shape
        assert int(labels.patches[number, patch, 4]) == len(scene.things)
        assert labels.masks[number].any()


def test_packed_segments_are_what_each_would_be_alone(speaker) -> None:
    """The loss of a packed row is that of its segments one by one: none sees another."""
    model = new_captioner(len(speaker), speaker.convert_tokens_to_ids("<image>"), 0).eval()
    asked = torch.randn(2, CAPTIONER_QUERIES, 128)
    rng = random.Random(4)
    said = [segments(sample_scene(rng, world=WIDE), 3, rng) for _ in range(2)]
    alone: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    with torch.no_grad():
        together = speak(model, asked, pack(said, speaker.backend_tokenizer))
        for row, one in zip(said, asked, strict=True):
            for segment in row:
                other = Segment("x", "y", "color" if segment.kind is None else None)
                spoken = speak(model, one[None], pack([[segment, other]], speaker.backend_tokenizer))
                length = len(speaker(f" {segment.answer}", add_special_tokens=False).input_ids) + 1
                loss = spoken.captions if segment.kind is None else spoken.answers
                alone[segment.kind is None].append((loss.item() * length, length))
    for kind, loss in ((True, together.captions), (False, together.answers)):
        total = sum(value for value, _ in alone[kind]) / sum(length for _, length in alone[kind])
        assert loss.item() == pytest.approx(total, rel=1e-4)


def test_prompts_come_in_all_forms(speaker) -> None:
    rng = random.Random(1)
    prompts = [one.prompt for _ in range(150) for one in segments(sample_scene(rng, world=WIDE), 4, rng)]
    for form in (
        "Question: .* Answer:",
        "Question: .* Short answer:",
        r"(Question: .* Answer: .*\. )+Question: .* Answer:",
    ):
        assert sum(bool(re.fullmatch(form, prompt)) for prompt in prompts) > 20, form
    assert "" in prompts
    assert "a photo of" in prompts


def test_every_caption_fits_into_thirty_tokens(speaker) -> None:
    rng = random.Random(2)
    texts = [f" {caption(sample_scene(rng, 5, WIDE))}" for _ in range(200)]
    assert max(len(ids) for ids in speaker(texts, add_special_tokens=False).input_ids) < 30


def test_claims_are_the_tokenizer_s_own_and_mark_what_is_wrong(matcher_words) -> None:
    words = Words(matcher_words)
    rng = random.Random(3)
    for _ in range(40):
        scene = sample_scene(rng, world=WIDE)
        assert words(caption(scene)) == matcher_words(caption(scene)).input_ids
        made = claims(scene, words, rng, pairs=3, masked=2, short=rng.random() < 0.5, more=0.2, weights=[1.0] * 10)
        assert [claim.true for claim in made] == [1, 0] * 3 + [IGNORED] * 2
        for true, false in zip(made[0:6:2], made[1:6:2], strict=True):
            assert not any(true.wrong)
            assert any(false.wrong)
            assert true.ids != false.ids
            if len(true.ids) == len(false.ids):
                assert [one != two for one, two in zip(true.ids, false.ids, strict=True)] == list(
                    map(bool, false.wrong)
                )
        for claim in made[6:]:
            assert words.mask in claim.ids
            hidden = [place for place, word in enumerate(claim.ids) if word == words.mask]
            assert all(claim.right[place] not in (IGNORED, words.mask) for place in hidden)


def test_the_q_former_for_many_texts_is_the_library_s(matcher_words) -> None:
    words = Words(matcher_words)
    model = new_matcher(len(matcher_words), matcher_words.convert_tokens_to_ids("[UNK]"), 0).eval()
    rng = random.Random(5)
    made = [
        claims(
            sample_scene(rng, world=WIDE), words, rng, pairs=2, masked=1, short=number == 1, more=0, weights=[1.0] * 10
        )
        for number in range(3)
    ]
    rows = batched([claim for row in made for claim in row], 0)
    filled = (rows.ids != 0).long()
    states = torch.randn(3, 101, 128)
    with torch.no_grad():
        pictures = keys_and_values(model, states)
        ours, words = read(model, rows.ids, filled, pictures)
        queries = model.query_tokens.expand(len(rows.ids), -1, -1)
        theirs = model.qformer(
            query_embeds=model.embeddings(input_ids=rows.ids, query_embeds=queries),
            query_length=8,
            attention_mask=torch.cat([filled.new_ones(len(rows.ids), 8), filled], 1),
            encoder_hidden_states=states.repeat_interleave(5, 0),
            output_hidden_states=True,
        )
        alone = model.qformer(
            query_embeds=model.embeddings(input_ids=rows.ids), query_length=0, attention_mask=filled
        ).last_hidden_state
        blind = model.qformer(query_embeds=model.query_tokens.expand(3, -1, -1), encoder_hidden_states=states)
        assert (ours - theirs.last_hidden_state[:, :8]).abs().max() < 1e-5
        assert (words - theirs.hidden_states[-2][:, 8:]).abs().max() < 1e-5
        assert (read_alone(model, rows.ids, filled) - alone)[:, 0].abs().max() < 1e-5
        assert (look(model, pictures) - blind.last_hidden_state).abs().max() < 1e-5


def test_pairs_are_held_out_on_request(tmp_path: Path) -> None:
    assert all(made.world.missing == HELD_OUT for made in Training(tmp_path, tmp_path, held_out=True).rounds)
    assert not any(made.world.missing for made in Training(tmp_path, tmp_path).rounds)
    assert Training(tmp_path, tmp_path, seed=2, held_out=True).command.endswith("--state FOLDER --seed 2 --held-out")


def test_without_the_pairs_a_captioner_is_trained_and_asked_about_them(tmp_path: Path, capsys) -> None:
    state = ["--state", str(tmp_path), "--processes", "0"]
    with few_first_pictures():
        assert main([*state, "--share", "0.0003", "--held-out"]) == 0
    weights = tmp_path / "weights"
    assert [folder.name for folder in weights.iterdir() if folder.is_dir()] == ["captioner"]
    card = (weights / "CARD.md").read_text()
    assert "Kept out of all pictures and questions: blue heart," in card
    assert "matcher" not in card
    assert evaluate(["--weights", str(weights), "--held-out", "--scenes", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in told] == ["held out"] * 6
    assert (
        sum("that were seen" in line for line in told)
        == sum("that were not" in line and "≥" in line for line in told)
        == 3
    )


# The whole


def assert_checkpoints_load(weights: Path) -> None:
    """With stock transformers, and without a word of warning."""
    for part, kind in (("captioner", "Blip2ForConditionalGeneration"), ("matcher", "Blip2ForImageTextRetrieval")):
        folder = weights / part
        assert (folder / "model.safetensors").stat().st_size < 8_000_000
        assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
            transformers.Blip2Processor.from_pretrained(folder)
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert model.config.vision_config.image_size == SIDE
    card = (weights / "CARD.md").read_text()
    for part in ("captioner", "matcher"):
        digest = hashlib.sha256((weights / part / "model.safetensors").read_bytes()).hexdigest()
        assert f"| `{digest}` |" in card
    assert "hand-drawn" in card
    assert familiarity_threshold(weights / "captioner") is not None
    assert json.loads((weights / "captioner" / FILE).read_text())["fitted"]["familiarity"]["seed"] == 777


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Training:
    """A few steps of everything."""
    state = tmp_path_factory.mktemp("state")
    training = Training(state, state / "weights", share=0.0003, processes=0)
    with few_first_pictures():
        train(training)
    return training


def test_a_training_of_a_few_steps_gives_two_checkpoints(trained: Training) -> None:
    assert_checkpoints_load(trained.output)
    for made in trained.rounds:
        logged = {file.stem: json.loads(file.read_text().splitlines()[-1]) for file in made.state.glob("*.jsonl")}
        assert set(logged) == {"vision", "language", "matching"}
        assert all(entry["step"] == entry["of"] for entry in logged.values())
    assert "| 2. language | 2 | 32 | 64 |" in (trained.output / "CARD.md").read_text()


def test_a_later_round_begins_with_what_the_one_before_has_learned(trained: Training) -> None:
    """All of the vision stage; of the others everything that the new trunk does not replace."""
    first, second = trained.rounds
    ends = {name: torch.load(first.state / f"{name}.pt")["modules"] for name in ("vision", "language", "matching")}
    vision = VisionStage(second.world, second.schedules["vision"])
    vision.prepare(second.before)
    assert_same(vision.modules.state_dict(), ends["vision"])
    trunk = torch.load(second.state / "vision.pt")["modules"]
    stages = {
        "language": (LanguageStage, "captioner", ("model.vision_model.",)),
        "matching": (MatchingStage, "matcher", ("model.vision_model.embeddings.", "model.vision_model.encoder.")),
    }
    for name, (make, tools, replaced) in stages.items():
        processor = transformers.Blip2Processor.from_pretrained(trained.state / tools)
        stage = make(second.bank(), second.schedules[name], processor)
        stage.prepare(second.state, second.before)
        new = {key: weight for key, weight in trunk.items() if key.startswith(replaced)}
        assert new
        assert_same(stage.modules.state_dict(), ends[name] | new)
    matrix = "model.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(trunk[matrix], ends["vision"][matrix])


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_what_is_easy_comes_first_but_only_once() -> None:
    schedule = Schedule(100, 32, 1e-3, 10, 0.5, 1)
    assert [schedule.gone(step) for step in (0, 50)] == [0, 0.5]
    assert replace(schedule, again=True).gone(0) == 1
    study, again = (PictureBatches(WIDE, one)[0].labels.slots for one in (schedule, replace(schedule, again=True)))
    assert (study[..., 0] > 0).sum(1).max() <= STUDY.max_things < (again[..., 0] > 0).sum(1).max()


def test_given_weights_go_on_with_their_trunk_and_their_matcher_as_they_were(tmp_path: Path) -> None:
    given, weights = demo_folder("captioner").parent, tmp_path / "weights"
    command = ["--from", str(given), "--share", "0.0008", "--state", str(tmp_path)]
    command += ["--rate", "1e-3", "--keep", "0.25"]
    assert main(command) == 0
    assert_checkpoints_load(weights)
    told = (weights / "CARD.md").read_text()
    assert "`python -m training.train --from FOLDER --world wide" in told
    assert "| language | 2 | 32 | 64 | 0.001 | 51 |" in told
    one, other = (load_file(folder / "captioner" / "model.safetensors") for folder in (given, weights))
    assert one.keys() == other.keys()
    same = {name for name, weight in one.items() if torch.equal(weight, other[name])}
    trunk = {name for name in one if name.startswith("vision_model.")}
    assert trunk <= same
    for learning in ("qformer.", "language_projection.", "language_model."):
        assert any(name.startswith(learning) for name in one.keys() - same), learning
    matchers = [(folder / "matcher" / "model.safetensors").read_bytes() for folder in (given, weights)]
    assert matchers[0] == matchers[1]
    written = (weights / "captioner" / "model.safetensors").read_bytes()
    assert main(command) == 0  # nothing is left to learn
    assert (weights / "captioner" / "model.safetensors").read_bytes() == written
    with pytest.raises(SystemExit):
        main([*command, "--held-out"])
    with pytest.raises(SystemExit):
        main(["--rate", "1e-4", "--state", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["--from", str(tmp_path), "--state", str(tmp_path)])


def test_a_folder_with_the_state_of_another_training_is_refused(trained: Training, capsys) -> None:
    """With other steps it could not resume, and a training without some pairs would resume from weights that have seen them."""
    weights = {file: file.read_bytes() for file in trained.output.rglob("*") if file.is_file()}
    for other in (
        ["--held-out"],
        ["--share", "0.0004"],
        ["--seed", "1"],
        ["--from", str(demo_folder("captioner").parent)],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["--state", str(trained.state), "--share", "0.0003", *other])
        assert ended.value.code == 2
        assert "keeps the state of another training" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in trained.output.rglob("*") if file.is_file()} == weights
    assert main(["--state", str(trained.state), "--share", "0.0003", "--processes", "0"]) == 0


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf", "much"])
def test_shares_that_are_none(number: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--state", str(tmp_path / "state"), "--share", number])
    assert "--share" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_an_evaluation_that_would_count_something_else_is_refused(tmp_path: Path, capsys) -> None:
    package = demo_folder("captioner").parent
    alone = tmp_path / "captioner"
    alone.mkdir()
    (alone / "config.json").write_text("{}")
    for words, says in (
        (["--held-out"], "--held-out is about --weights that were trained so"),
        (["--held-out", "--weights", str(package)], "--held-out wants a captioner alone"),
        (["--held-out", "--weights", str(tmp_path), "--fit"], "without a threshold to --fit"),
        (["--weights", str(tmp_path)], "there are no captioner and matcher in"),
        (["--weights", str(tmp_path / "nothing")], "there are no captioner and matcher in"),
        (["--scenes", "0"], "--scenes must be at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            evaluate(words)
        assert ended.value.code == 2
        assert says in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="ends a process by a signal")
@pytest.mark.parametrize(
    ("moment", "number"),
    [("round-1/vision.pt", "SIGTERM"), ("round-2/vision.pt", "SIGKILL"), ("round-2/language.pt", "SIGKILL")],
)
def test_the_command_goes_on_where_it_was_killed(tmp_path: Path, moment: str, number: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "training.train", "--share", "0.0006"]
    command += ["--state", str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / moment).exists() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.Signals[number])
    first.communicate()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "vision: going on at step 4 of 4" in second.stderr
    assert_checkpoints_load(tmp_path / "weights")


def test_the_processor_has_a_place_for_pictures(speaker) -> None:
    assert processor(speaker, CAPTIONER_QUERIES).num_query_tokens == CAPTIONER_QUERIES
