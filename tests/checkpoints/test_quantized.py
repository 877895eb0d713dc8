"""Checkpoints in 8 and 4 bits on a processor: converted as they are read, kept, and used where nothing else fits."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints import converted, hub, loading, plan, quantizing, selftest, shards, streamed
from blip2tools.checkpoints.budget import Budget
from blip2tools.checkpoints.family import CAPTIONERS, find, processor_table
from blip2tools.checkpoints.selftest import beside, checks, examination
from blip2tools.engine.local import LocalEngine
from blip2tools.errors import ModelUnavailableError
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel
from blip2tools.model.quantized import QuantizedLinear, dequantize, prepared
from blip2tools.settings import Settings
from tests.conftest import run_cli
from tests.support import random_models as rm

GB = 10**9


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantized")
    opt, itm = rm.make_opt(hidden_size=128, word_embed_proj_dim=128, ffn_dim=256), rm.make_matcher()
    rm.save(opt, root / "opt")
    rm.save(rm.make_t5(d_model=128, d_kv=32, d_ff=256), root / "t5")
    for part in ("embeddings", "encoder"):
        getattr(itm.vision_model, part).load_state_dict(getattr(opt.vision_model, part).state_dict())
    rm.save(itm, root / "itm")
    return root


@pytest.fixture
def settings(saved, tmp_path):
    given = {"model": str(saved / "opt"), "matcher": "none", "device": "cpu", "cache_dir": tmp_path / "cache"}
    return lambda **changes: Settings.load({}, **given | {"quantize": "8bit"} | changes)


def files(settings):
    return sorted(path.name for path in (settings.cache_folder / "quantized").glob("*"))


def only_file(settings):
    return next((settings.cache_folder / "quantized").glob("*.safetensors"))


def prints(loaded):
    captioner = loaded.captioner
    return captioner.trunk.fingerprint, captioner.fingerprint, captioner.language_fingerprint


def matrices(model):
    """Full-precision matrices that the quantized ones of a language model stand for, by their names."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: dequantize(tensor, *(found[name.removesuffix("weight") + leaf] for leaf in ("scale", "columns")))
        for name, tensor in found.items()
        if name.endswith("weight") and tensor.dtype == torch.int8
    }


class TestConverted:
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_each_matrix_is_that_of_the_file(self, saved, settings, name):
        folder = saved / name
        config = hub_config(folder)
        located = plan.locate(settings(model=str(folder))).captioner
        read = quantizing.read(CaptionerModel, located, config, settings(model=str(folder)), lambda what, share: None)
        originals = dict(shards.tensors(folder))
        held = matrices(read.model)
        assert len(held) > 20
        for key, matrix in held.items():
            original = originals.get(key, originals.get("language_model.model.decoder.embed_tokens.weight"))
            assert (matrix - original).norm() / original.norm() < 0.02, key
        for key, tensor in read.model.named_parameters():
            if tensor.dtype != torch.int8 and not key.endswith("scale"):
                assert torch.equal(tensor, originals[key]), key

    def test_the_tower_that_both_have_is_held_once(self, saved, settings):
        first = checkpoints.load(settings(matcher=str(saved / "itm")))
        again = checkpoints.load(settings(matcher=str(saved / "itm")))
        alone = checkpoints.load(settings(matcher=str(saved / "itm"), keep_quantized=False))
        for loaded in (first, again, alone):
            assert loaded.shared_trunk
            assert (prints(loaded), loaded.matcher.fingerprint) == (prints(first), first.matcher.fingerprint)
        assert first.quantize == "8bit"

    def test_halves_of_the_same_tower_are_known_as_the_same(self, saved, settings, tmp_path):
        shutil.copytree(saved / "itm", tmp_path / "halves")
        file = tmp_path / "halves" / "model.safetensors"
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        assert checkpoints.load(settings(matcher=str(tmp_path / "halves"))).shared_trunk

    def test_another_tower_is_not(self, saved, settings, tmp_path):
        shutil.copytree(saved / "itm", tmp_path / "other")
        file = tmp_path / "other" / "model.safetensors"
        tensors = load_file(file)
        tensors["vision_model.encoder.layers.0.mlp.fc1.weight"][0, 0] += 1
        save_file(tensors, file, {"format": "pt"})
        assert not checkpoints.load(settings(matcher=str(tmp_path / "other"))).shared_trunk

    @pytest.mark.parametrize("fault", ["missing", "shape", "extra", "nan"])
    def test_files_that_do_not_fit(self, saved, settings, tmp_path, fault):
        shutil.copytree(saved / "opt", tmp_path / "bad")
        file = tmp_path / "bad" / "model.safetensors"
        tensors, name = load_file(file), "language_model.model.decoder.layers.1.fc1.weight"
        if fault == "missing":
            del tensors[name]
        elif fault == "shape":
            tensors[name] = tensors[name][:-1].clone()
        elif fault == "extra":
            tensors["language_model.more"] = tensors[name].clone()
        else:
            tensors[name][0, 0] = float("nan")
        save_file(tensors, file, {"format": "pt"})
        given = settings(model=str(tmp_path / "bad"))
        with pytest.raises(ModelUnavailableError, match=r"do not fit|damaged"):
            checkpoints.load(given)
        assert files(given) == []

    def test_what_cannot_go_together(self, settings):
        with pytest.raises(ModelUnavailableError, match="computes in float32"):
            checkpoints.load(settings(dtype="bfloat16"))
        with pytest.raises(ModelUnavailableError, match="either `quantize` or `spread`"):
            checkpoints.load(settings(device="spread"))


def hub_config(folder):
    return Blip2Config.read(json.loads((folder / "config.json").read_text()))


class TestKept:
    def test_the_second_start_does_not_convert(self, settings, monkeypatch):
        first = checkpoints.load(settings())
        names = files(settings())
        assert len(names) == 2
        assert any(name.endswith(".kernels.json") for name in names)
        monkeypatch.setattr(shards, "tensors", None)
        again = checkpoints.load(settings())
        assert prints(again) == prints(first)
        facts = converted.kept(settings())
        assert [(one.kind, one.bits, one.size > 100_000) for one in facts] == [("captioner", 8, True)]

    def test_any_reader_of_safetensors_can_open_it(self, settings):
        checkpoints.load(settings())
        file = only_file(settings())
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            digests = json.loads(opened.metadata()["digests"])
        assert len(digests) > 100
        assert {name: converted.digest(name, tensors[name]) for name in digests} == digests

    @pytest.mark.parametrize("where", ["header", "first", "middle", "last"])
    def test_a_changed_byte_is_noticed(self, settings, caplog, where):
        first = checkpoints.load(settings())
        file = only_file(settings())
        data = bytearray(file.read_bytes())
        length = int.from_bytes(data[:8], "little")
        place = {"header": 60, "first": 8 + length, "middle": (len(data) + length) // 2, "last": len(data) - 1}[where]
        data[place] ^= 0x10
        file.write_bytes(data)
        assert prints(checkpoints.load(settings())) == prints(first)
        assert "made anew" in caplog.text or where == "header"
        caplog.clear()
        assert prints(checkpoints.load(settings())) == prints(first)
        assert not caplog.records

    @pytest.mark.parametrize("left", [0, 5, 4000, -1])
    def test_a_cut_file_is_made_anew(self, settings, left):
        first = checkpoints.load(settings())
        file = only_file(settings())
        whole = file.read_bytes()
        file.write_bytes(whole[:left])
        assert prints(checkpoints.load(settings())) == prints(first)
        assert len(only_file(settings()).read_bytes()) == len(whole)

    def test_another_checkpoint_edition_or_number_of_bits(self, saved, settings, tmp_path, monkeypatch):
        shutil.copytree(saved / "opt", tmp_path / "mine")
        given = settings(model=str(tmp_path / "mine"))
        first, before = checkpoints.load(given), only_file(given).stat().st_mtime_ns
        file = tmp_path / "mine" / "model.safetensors"
        tensors = load_file(file)
        tensors["qformer.layernorm.weight"] += 1
        save_file(tensors, file, {"format": "pt"})
        second = checkpoints.load(given)
        assert prints(second)[1] != prints(first)[1]
        assert len(converted.kept(given)) == 1  # in the place of the old one
        before = only_file(given).stat().st_mtime_ns
        monkeypatch.setattr(converted, "EDITION", converted.EDITION + 1)
        assert prints(checkpoints.load(given)) == prints(second)
        assert only_file(given).stat().st_mtime_ns != before
        four = checkpoints.load(settings(model=str(tmp_path / "mine"), quantize="4bit"))
        assert prints(four)[2] != prints(second)[2]
        assert sorted(one.bits for one in converted.kept(given)) == [4, 8]

    def test_switched_off(self, settings):
        assert prints(checkpoints.load(settings(keep_quantized=False)))
        assert not converted.kept(settings())

    @pytest.mark.skipif(os.name != "posix", reason="a place that cannot be written")
    def test_a_place_that_cannot_be_written(self, settings, tmp_path, caplog):
        (tmp_path / "cache").write_text("a file where the folder should be")
        loaded = checkpoints.load(settings())
        assert prints(loaded) == prints(checkpoints.load(settings(keep_quantized=False)))
        assert sum("cannot be kept" in one.message for one in caplog.records) == 1

    def test_the_command_line_says_once_that_nothing_can_be_kept(self, tmp_path):
        (tmp_path / "cache").write_text("a file where the folder should be")
        Image.radial_gradient("L").convert("RGB").save(tmp_path / "a.png")
        done = run_cli(
            *("caption", "--model", "demo", "--matcher", "none", "--quantize", "8bit", "a.png"),
            cwd=tmp_path,
            env={"BLIP2TOOLS_CACHE_DIR": str(tmp_path / "cache")},
        )
        assert (done.returncode, bool(done.stdout.strip())) == (0, True)
        assert done.stderr.count("cannot be kept") == 1

    @pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="a limit of this system")
    def test_a_full_disk(self, settings, caplog):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            loaded = checkpoints.load(settings())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)
        assert prints(loaded) == prints(checkpoints.load(settings(keep_quantized=False)))
        assert not [name for name in files(settings()) if "kernels" not in name]
        assert sum("cannot be kept" in one.message for one in caplog.records) == 1

    def test_a_disk_that_fills_up_on_the_way(self, settings, monkeypatch, caplog):
        put, written = converted.Writing._put, []

        def failing(self, name, tensor):
            written.append(name)
            if len(written) == 40:
                raise OSError(28, "No space left on device")
            put(self, name, tensor)

        monkeypatch.setattr(converted.Writing, "_put", failing)
        loaded = checkpoints.load(settings())
        assert prints(loaded) == prints(checkpoints.load(settings(keep_quantized=False)))
        assert not [name for name in files(settings()) if "kernels" not in name]
        assert "No space left" in caplog.text

    def test_a_kill_leaves_nothing_that_is_believed(self, settings, tmp_path):
        """Killed when half is written; the rest is swept away once nobody can be writing it any more."""
        program = f"""
            import os, signal
            from blip2tools import checkpoints
            from blip2tools.checkpoints import converted
            from blip2tools.settings import Settings
            put, count = converted.Writing._put, []
            def killed(self, name, tensor):
                count.append(name)
                put(self, name, tensor)
                if len(count) == 60:
                    self._stream.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            converted.Writing._put = killed
            checkpoints.load(Settings.load({{}}, model={str(settings().model)!r}, matcher="none", device="cpu",
                quantize="8bit", cache_dir={str(tmp_path / "cache")!r}))
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL
        (left,) = (tmp_path / "cache" / "quantized").glob("*.part")
        assert not converted.kept(settings())
        loaded = checkpoints.load(settings())
        assert prints(loaded) == prints(checkpoints.load(settings(keep_quantized=False)))
        assert left.exists()  # for all that is known it is being written
        os.utime(left, (time.time() - 3600,) * 2)
        only_file(settings()).unlink()
        checkpoints.load(settings())
        assert not left.exists()

    def test_the_choice_of_kernels_is_remembered(self, settings, monkeypatch):
        from blip2tools.model import quantized

        asked = []
        real = quantized.prepare

        def watched(model, measured=None, **more):
            asked.append(measured)
            return real(model, measured, **more)

        monkeypatch.setattr(quantized, "prepare", watched)
        checkpoints.load(settings())
        checkpoints.load(settings())
        assert asked[0] is None
        assert asked[1] is not None
        monkeypatch.setattr(quantizing, "processor", lambda: "another machine")
        checkpoints.load(settings())
        assert asked[2] is None
        next((settings().cache_folder / "quantized").glob("*.json")).write_text("[")
        checkpoints.load(settings())
        assert asked[3] is None


class TestBeside:
    """The self-test: quantized models against full precision, which is read from the files part by part."""

    @pytest.mark.parametrize("large", [1, streamed.LARGE])
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_streamed_weights_are_those_of_full_precision(self, saved, settings, monkeypatch, name, large):
        """With a limit of 1 every matrix is streamed that is large in models of published size."""
        monkeypatch.setattr(streamed, "LARGE", large)
        given = settings(model=str(saved / name), matcher=str(saved / "itm"))
        small = checkpoints.load(given)
        whole = checkpoints.load(given.model_copy(update={"quantize": "none"}))
        found = examination._unquantized(small, given)
        pixels = rm.pixels(2)
        states = whole.captioner.trunk.see(pixels)
        assert torch.allclose(found.captioner.trunk.see(pixels), states, atol=1e-5)
        tokens = whole.captioner.query(states)
        prompts, texts = [small.words.caption("a dog").ids] * 2, [(20, 30), ()]
        for ours, theirs in zip(
            found.captioner.logits(tokens, prompts, texts), whole.captioner.logits(tokens, prompts, texts), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-4)
        ids = [small.matcher_words("a dog").ids]
        assert torch.allclose(found.matcher.match(states, ids * 2), whole.matcher.match(states, ids * 2), atol=1e-5)

    @pytest.mark.parametrize("size", ["8bit", "4bit"])
    def test_what_rounding_does_passes(self, saved, settings, size):
        given = settings(matcher=str(saved / "itm"), quantize=size)
        loaded = checkpoints.load(given)
        finding = quantized_finding(loaded, given)
        assert finding.status == "ok", finding
        assert "match probabilities differ by 0.0" in finding.sentence

    @pytest.mark.parametrize("size", ["8bit", "4bit"])
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_layers_that_stay_quantized_are_no_oddity(self, saved, settings, monkeypatch, name, size):
        """In small models float32 is quicker and takes their place, in models of published size it is not."""
        monkeypatch.setattr(prepared, "SMALL", 0)
        monkeypatch.setattr(streamed, "LARGE", 1)
        given = settings(model=str(saved / name), matcher=str(saved / "itm"), quantize=size)
        loaded = checkpoints.load(given)
        assert any(isinstance(part, QuantizedLinear) for part in loaded.captioner._qformer.modules())
        found = {one.name: one for one in selftest.examine(loaded, given).findings}
        wanted = ["configuration", "prompt", "numbers"]
        # T5's scores are not scaled: a random one so small says something else after the least rounding.
        wanted += ["batch", "decoding", "quantized"] if name == "opt" else []
        for check in wanted:
            assert found[check].status == "ok", found[check]

    @pytest.mark.parametrize("part", ["vision tower", "Q-Former", "language model", "matcher"])
    def test_what_breaks_a_part_is_found_and_named(self, saved, settings, part):
        given = settings(matcher=str(saved / "itm"))
        loaded = checkpoints.load(given)
        modules = {
            "vision tower": loaded.captioner.trunk.encoder,
            "Q-Former": loaded.captioner._qformer,
            "language model": loaded.captioner._language_model.model.decoder.layers,
            "matcher": loaded.matcher._qformer,
        }
        with torch.no_grad():
            for parameter in modules[part].parameters():
                if parameter.numel() and parameter.is_floating_point():
                    parameter.mul_(-3)
        finding = quantized_finding(loaded, given)
        assert finding.status == "failed"
        assert f"({part}" in finding.sentence or f", {part}" in finding.sentence
        assert "leave `--quantize` out" in finding.remedy

    def test_a_model_that_fails_is_refused(self, settings, monkeypatch):
        monkeypatch.setattr(beside, "LIMITS", {"8bit": beside.Limits(2, 1, 0, 0)})
        monkeypatch.setattr(checks, "LIMITS", beside.LIMITS)
        with pytest.raises(
            ModelUnavailableError,
            match=r"fails its self-test in 8bit \(quantized\) and is refused; leave `quantize` out",
        ):
            selftest.load(settings())


def quantized_finding(loaded, settings):
    findings = selftest.examine(loaded, settings).findings
    return next(one for one in findings if one.name == "quantized")


class TestRemoved:
    def test_with_the_checkpoint_and_alone(self, saved, settings, tmp_path, monkeypatch):
        from blip2tools.checkpoints import removal

        given = settings()
        checkpoints.load(given)
        size = only_file(given).stat().st_size
        copy = removal.kept(str(saved / "opt"), given)
        assert copy.folder is None
        assert copy.size >= size
        removal.remove(copy, given)
        assert files(given) == []
        assert (saved / "opt" / "config.json").is_file()

    def test_from_the_command_line(self, saved, settings, capsys, monkeypatch):
        from blip2tools.cli import main

        given = settings()
        checkpoints.load(given)
        monkeypatch.setenv("BLIP2TOOLS_CACHE_DIR", str(given.cache_folder))
        assert main(["remove", str(saved / "opt")]) == 2  # nobody to ask
        assert main(["remove", str(saved / "opt"), "--yes"]) == 0
        told = capsys.readouterr().err
        assert "(8 bits, " in told
        assert not converted.kept(given)
        assert main(["remove", str(saved / "opt"), "--yes"]) == 2
        assert "yours to delete" in capsys.readouterr().err


class TestTold:
    def test_the_status_says_why(self, saved, settings, monkeypatch):
        """`auto` took 8 bits; what a named model does it does because it was asked to."""
        member = dataclasses.replace(find("opt-2.7b"), hub="somebody/opt")
        monkeypatch.setattr(plan, "CAPTIONERS", (member,))
        monkeypatch.setattr(hub, "cached", lambda repository, revision=None, **_: saved / "opt")
        size = plan.weights_of(saved / "opt").total
        room = int(2.2 * size) + 2**28  # more than 8 bits of it take, less than 32
        monkeypatch.setattr(plan, "likely_budget", lambda chosen: Budget(room, 4, processor=True))
        monkeypatch.setattr(loading, "budget_of", lambda chosen, device: Budget(room, 4, processor=True))
        auto = Settings.load({}, matcher="none", device="cpu", cache_dir=settings().cache_folder)
        engine = LocalEngine(
            lambda progress: checkpoints.load(auto, progress), max_queue=4, max_batch=4, cache_bytes=2**20
        )
        with Vision(auto, engine, trusted=True) as vision:
            before = vision.status()
            vision.caption(Image.radial_gradient("L").convert("RGB"))
            after = vision.status()
        for status, loaded in ((before, False), (after, True)):
            assert (status.model, status.quantize, status.loaded) == ("opt-2.7b", "8bit", loaded)
            assert any("runs in 8bit" in line for line in status.warnings)
        assert "all in 8bit" in after.text_block()


class TestFits:
    """opt-2.7b on machines of several sizes; the sizes of the family are arithmetic."""

    @pytest.fixture
    def all_here(self, monkeypatch):
        monkeypatch.setattr(hub, "cached", lambda repository, revision=None, **_: hub.cache_folder() / "nothing")

    def test_a_processor_quantizes_more_than_a_card(self):
        sizes = processor_table(find("opt-2.7b"))
        assert 3.7 * GB < sizes["8bit"] < 0.33 * find("opt-2.7b").memory(4)
        assert sizes["4bit"] < 0.85 * sizes["8bit"]
        assert processor_table(find("itm-vit-g"))["8bit"] < 1.3 * GB

    @pytest.mark.parametrize(
        ("free", "chosen"),
        [
            (80, ("flan-t5-xxl", "none")),
            (20, ("flan-t5-xxl", "8bit")),
            (10, ("flan-t5-xl", "8bit")),
            (6, ("flan-t5-xl", "8bit")),
            (4.2, ("opt-2.7b", "4bit")),
            (2, ("demo", "none")),
        ],
    )
    def test_auto(self, all_here, free, chosen):
        budget = Budget(int(free * GB), 4, processor=True)
        found = plan.locate(Settings.load({}), budget)
        assert (found.captioner.name, found.quantize) == chosen

    def test_auto_does_what_was_asked_for(self, all_here):
        budget = Budget(6 * GB, 4, processor=True)
        assert plan.locate(Settings.load({}, quantize="none"), budget).captioner.name == "demo"
        assert plan.locate(Settings.load({}), Budget(6 * GB, 2)).quantize == "none"

    def test_a_named_model_is_refused_with_what_fits(self):
        from blip2tools.checkpoints.budget import admit

        budget = Budget(6 * GB, 4, processor=True)
        with pytest.raises(ModelUnavailableError, match=r"`--quantize 8bit` \(3\.\d GB\)"):
            admit("opt-2.7b", find("opt-2.7b").weights, budget)
        for member in CAPTIONERS[-2:]:
            admit(member.name, member.weights, Budget(20 * GB, 4, quantize="8bit", processor=True))
