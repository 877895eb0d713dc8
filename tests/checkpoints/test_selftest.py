"""The self-test: it passes on a good model, each check fails on the damage it is made for, and verdicts are remembered."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import ImageChops
from tokenizers import Tokenizer, models, pre_tokenizers

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints import selftest
from blip2tools.checkpoints.selftest import checks, remembered
from blip2tools.checkpoints.selftest.beside import Whole
from blip2tools.checkpoints.selftest.samples import PICTURES
from blip2tools.settings import Settings
from tests.support import random_models as rm
from tests.support.selftest_pictures import FOLDER, SCENES


@pytest.fixture
def settings(tmp_path):
    return Settings.load({}, model="demo", device="cpu", cache_dir=tmp_path / "cache")


@pytest.fixture(scope="module")
def good():
    """The demo, loaded once; read-only."""
    return checkpoints.load(Settings.load({}, model="demo", device="cpu"))


@pytest.fixture
def loaded(settings):
    """A demo of the test's own, to be damaged."""
    return checkpoints.load(settings)


def outcome(loaded):
    return {finding.name: finding for finding in selftest.examine(loaded).findings}


def test_the_pictures_are_those_of_the_demo_world():
    from blip2tools.demo.draw import draw

    assert {picture.file for picture in PICTURES} == set(SCENES) == {path.name for path in FOLDER.iterdir()}
    for picture in PICTURES:
        difference = ImageChops.difference(picture.open(), draw(SCENES[picture.file]))
        assert max(high for _, high in difference.getextrema()) <= 2  # another Pillow may round otherwise
        thing = SCENES[picture.file].things[0]
        assert picture.statement == f"a {thing.color} {thing.shape}"


def test_the_demo_passes_every_check(good):
    found = outcome(good)
    assert {name: finding.status for name, finding in found.items()} == {
        **dict.fromkeys(["configuration", "tokenizer", "prompt", "numbers", "pictures", "batch", "decoding"], "ok"),
        "quantized": "skipped",
        **dict.fromkeys(["answer", "match", "words"], "ok"),
    }
    assert found["answer"].sentence == "what color is the circle? red"
    assert found["prompt"].sentence == "16 image slots and one BOS"
    assert all(finding.remedy is None for finding in found.values())


def test_without_a_matcher_nothing_is_matched(good):
    found = outcome(replace(good, matcher=None, matcher_pixels=None, matcher_words=None, matcher_name=None))
    assert found["match"].status == "skipped"
    assert not [one for one in found.values() if one.status == "failed"]


class TestDamage:
    """One damage at a time: the check made for it fails, with a remedy."""

    def fails(self, loaded, *names):
        found = outcome(loaded)
        assert tuple(name for name, one in found.items() if one.status == "failed") == names
        assert all(found[name].remedy for name in names)
        return found

    def test_blind(self, loaded):
        with torch.no_grad():
            loaded.captioner._projection.weight.zero_()
        found = self.fails(loaded, "pictures", "words")
        assert "same caption" in found["pictures"].sentence

    def test_a_matcher_that_reads_nothing(self, loaded):
        with torch.no_grad():
            loaded.matcher._itm_head.weight.zero_()
        self.fails(loaded, "match", "words")

    def test_not_a_number(self, loaded):
        with torch.no_grad():
            loaded.captioner._projection.weight[0, 0] = float("nan")
        assert outcome(loaded)["numbers"].status == "failed"

    def test_a_half_precision_qformer(self, loaded):
        loaded.captioner._query_tokens = loaded.captioner._query_tokens.half()
        assert "Q-Former" in outcome(loaded)["configuration"].sentence

    def test_another_epsilon(self, loaded):
        loaded.captioner._post_layernorm.eps = 1e-5
        self.fails(loaded, "configuration")

    def test_another_picture_size(self, loaded):
        loaded.captioner.trunk.image_size = 72
        assert outcome(loaded)["configuration"].sentence.startswith("pictures are made 80 px large")

    def test_two_bos(self, loaded, monkeypatch):
        monkeypatch.setattr(
            type(loaded.words), "_row", lambda words, ids, *, truncated: checks_row(words._special, ids, truncated)
        )
        found = outcome(loaded)
        assert found["prompt"].status == "failed"
        assert "BOS 2 times" in found["prompt"].sentence

    def change(self, loaded, monkeypatch, changed):
        right = type(loaded.captioner._words).begin

        def wrong(words, *arguments):
            rows, logits = right(words, *arguments)
            return changed(rows), logits

        monkeypatch.setattr(type(loaded.captioner._words), "begin", wrong)

    def test_padding_that_is_read(self, loaded, monkeypatch):
        self.change(loaded, monkeypatch, lambda rows: replace(rows, mask=torch.zeros_like(rows.mask)))
        assert "padding" in outcome(loaded)["prompt"].sentence

    def test_a_batch_that_differs(self, loaded, monkeypatch):
        self.change(loaded, monkeypatch, lambda rows: replace(rows, prompt=rows.prompt.roll(1, 2)))
        assert outcome(loaded)["batch"].status == "failed"

    def test_a_decoder_that_goes_its_own_way(self, loaded, monkeypatch):
        right = type(loaded.captioner._words).extend

        def wrong(words, rows, ids):
            rows, logits = right(words, rows, ids)
            return rows, logits.roll(1, -1)

        monkeypatch.setattr(type(loaded.captioner._words), "extend", wrong)
        assert "own forward" in outcome(loaded)["decoding"].sentence

    def test_quantized_into_another_model(self, loaded, good):
        """Despite rounding, a quantized language model must agree with the one it was made from."""
        quantized = replace(loaded, quantize="4bit")
        findings, _ = checks.run(quantized, None, unquantized=lambda: Whole(good.captioner))
        same = {one.name: one for one in findings}["quantized"]
        assert (same.status, "0.00 per token less likely" in same.sentence) == ("ok", True)
        with torch.no_grad():
            for layer in loaded.captioner._language_model.model.decoder.layers:
                layer.fc1.weight.neg_()
        findings, _ = checks.run(quantized, None, unquantized=lambda: Whole(good.captioner))
        assert {one.name: one for one in findings}["quantized"].status == "failed"
        findings, _ = checks.run(quantized, None)
        assert "not enough memory" in {one.name: one for one in findings}["quantized"].sentence

    def test_what_was_quantized_is_loaded_again_whole(self, settings, loaded):
        """Where the library quantized it: on a card."""
        plan = checkpoints.locate(settings)
        whole = selftest.examination._loaded_whole(plan, settings, loaded.device)
        assert whole.language_fingerprint == loaded.captioner.language_fingerprint
        assert selftest.examination._unquantized(loaded, None) is None

    def test_a_model_that_says_nothing(self, loaded, monkeypatch):
        monkeypatch.setattr(type(loaded.words), "decode", lambda words, ids: "")
        assert outcome(loaded)["answer"].status == "failed"

    def test_a_tokenizer_of_another_model(self, loaded):
        loaded.words._encode._tokenizer = loaded.matcher_words._encode._tokenizer
        assert outcome(loaded)["words"].status == "failed"

    def test_a_tokenizer_without_its_words(self, loaded):
        tokenizer = Tokenizer(models.WordLevel({"a": 5, "red": 6, "<unk>": 3}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        loaded.words._encode._tokenizer = tokenizer
        assert outcome(loaded)["tokenizer"].sentence.startswith("the tokenizer makes ")

    def test_a_tokenizer_with_more_words_than_the_model(self, loaded):
        loaded.words._encode._tokenizer.add_tokens([f"word{number}" for number in range(600)])
        assert outcome(loaded)["tokenizer"].sentence == "the tokenizer has more words than the model"

    def test_an_exception_is_a_finding(self, loaded, monkeypatch, caplog):
        monkeypatch.setattr(type(loaded.captioner), "query", lambda *_: 1 / 0)
        verdict = selftest.examine(loaded)
        assert not verdict.complete
        assert set(verdict.failed) == {"prompt", "numbers", "pictures", "batch", "decoding", "answer", "words"}
        assert "zero" not in verdict.model_dump_json()
        monkeypatch.setattr(type(loaded.captioner), "query", _out_of_memory)
        assert "memory" in outcome(loaded)["pictures"].sentence


def _out_of_memory(*_):
    raise MemoryError


def checks_row(special, ids, truncated):
    from blip2tools.checkpoints.prompts import Prompt

    return Prompt((special, special, *ids), truncated)


@pytest.mark.parametrize("make", [rm.make_opt, rm.make_t5])
def test_both_families_decode_as_the_library_does(make, tmp_path):
    """Random weights know nothing, so only questions that they cannot get wrong are asked."""
    folder = rm.save(make(), tmp_path / "random")
    settings = Settings.load({}, model=str(folder), matcher="none", device="cpu", cache_dir=tmp_path)
    found = outcome(checkpoints.load(settings))
    for name in ("configuration", "prompt", "numbers", "batch", "decoding"):
        assert found[name].status == "ok", found[name]


class TestRemembered:
    def test_a_verdict_is_kept_and_found_again(self, settings, good, monkeypatch):
        first = selftest.verdict_on(good, settings)
        (file,) = (settings.cache_folder / "self-test").iterdir()
        assert json.loads(file.read_text())["model"] == "demo + demo"
        monkeypatch.setattr(checks, "CHECKS", ())  # would give a verdict without findings
        assert selftest.verdict_on(good, settings) == first
        assert selftest.verdict_on(good, settings, again=True).findings == ()

    def test_other_weights_are_another_model(self, loaded):
        before = remembered.key(loaded)
        for tensor in (
            loaded.captioner.trunk.encoder.layers[0].mlp.fc1.weight,
            loaded.captioner._language_model.lm_head.weight,
            loaded.matcher._itm_head.weight,
        ):
            loaded.captioner.trunk._fingerprint = loaded.captioner._fingerprint = loaded.matcher._fingerprint = None
            with torch.no_grad():
                tensor[0, 0] += 1
            after = remembered.key(loaded)
            assert after != before
            before = after
        assert remembered.key(replace(loaded, dtype="bfloat16")) != before

    @pytest.mark.parametrize("content", [b"", b"{", b'{"model": 3}', b"\xff\xfe\x00"])
    def test_a_damaged_file_is_ignored(self, settings, good, content):
        first = selftest.verdict_on(good, settings)
        (file,) = (settings.cache_folder / "self-test").iterdir()
        file.write_bytes(content)
        assert selftest.verdict_on(good, settings).findings == first.findings
        assert remembered.recall(file.parent, file.stem) is not None

    def test_a_folder_that_cannot_be_written_to(self, good, tmp_path):
        (tmp_path / "file").touch()
        settings = Settings.load(
            {}, model="demo", cache_dir=tmp_path / "file"
        )  # root may write anywhere but below a file
        assert not selftest.verdict_on(good, settings).failed
        assert not selftest.verdict_on(good, settings).failed

    def test_a_verdict_that_broke_off_is_not_kept(self, settings, loaded, monkeypatch):
        monkeypatch.setattr(type(loaded.captioner), "query", lambda *_: 1 / 0)
        assert selftest.verdict_on(loaded, settings).failed
        assert not (settings.cache_folder / "self-test").exists()

    def test_the_default_folder_is_the_users_cache(self, tmp_path):
        code = "from blip2tools.settings import Settings; print(Settings.load({}).cache_folder)"
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        if sys.platform == "linux":
            assert done.stdout.strip() == str(tmp_path / "blip2tools")


class TestAtFirstLoad:
    def test_a_good_model_says_so_in_its_status(self, settings, picture):
        with Vision.load(model="demo", device="cpu", cache_dir=settings.cache_dir, preload=False) as vision:
            assert vision.status().self_test is None
            vision.caption(picture.path)
            assert vision.status().self_test.startswith("passed on 20")
            assert "\nself-test: passed on " in vision.status().text_block()

    def test_a_bad_model_warns_in_every_result(self, settings, picture, monkeypatch):
        def blind(trial):
            raise checks.Doubt("it sees nothing", "open its eyes")

        monkeypatch.setattr(checks, "CHECKS", (blind,))
        with Vision.load(model="demo", device="cpu", cache_dir=settings.cache_dir) as vision:
            warnings = vision.caption(picture.path).warnings
            assert any("self-test of this model failed (blind)" in warning for warning in warnings)
            assert vision.status().self_test.endswith(": blind")
            assert any("self-test" in warning for warning in vision.status().warnings)

    def test_it_can_be_switched_off(self, settings, picture):
        with Vision.load(model="demo", device="cpu", cache_dir=settings.cache_dir, self_test=False) as vision:
            assert vision.status().self_test is None
        assert not settings.cache_dir.exists()
