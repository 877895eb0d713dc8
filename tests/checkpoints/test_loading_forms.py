"""Other forms of a checkpoint: pickled, adapted, spread over devices, quantized."""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import re
import shutil
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Blip2ForConditionalGeneration

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints import devices, family, selftest, stock
from blip2tools.checkpoints.selftest import Finding, Verdict
from blip2tools.errors import ModelUnavailableError
from blip2tools.model import GenerationOptions
from blip2tools.settings import Settings
from tests.support import random_models as rm

GREEDY = GenerationOptions(num_beams=1)
BEAM = GenerationOptions(num_beams=3)
PICTURE = Image.radial_gradient("L").convert("RGB")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    rm.save(rm.make_opt(), root / "opt")
    rm.save(rm.make_t5(), root / "t5")
    # Wide enough for the blocks of 64 and 256 values that 4 bits share a scale.
    rm.save(rm.make_opt(hidden_size=128, word_embed_proj_dim=128, ffn_dim=256), root / "wide-opt")
    rm.save(rm.make_t5(d_model=128, d_kv=32, d_ff=256), root / "wide-t5")
    return root


def pretend(monkeypatch, *, there):
    """Make bitsandbytes seem installed, or not; nothing else may change."""
    real = importlib.util.find_spec
    found = lambda name, *rest: (there or None) if name == "bitsandbytes" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)


def load(folder, **given):
    given = {"device": "cpu", "matcher": "none"} | given
    return checkpoints.load(Settings.load({}, model=str(folder), **given))


def spoken(loaded, options=GREEDY):
    """Its words about two pictures, each with and without a prompt."""
    captioner = loaded.captioner
    tokens = captioner.query(captioner.trunk.see(rm.pixels(2, size=captioner.trunk.image_size)))[[0, 1, 0, 1]]
    rows = [loaded.words.caption(begin).ids for begin in (None, None, "a dog", "is it red")]
    texts = captioner.speak(tokens, rows, options, max_new_tokens=[8] * 4)
    return [(text.ids, round(text.logprob, 4)) for [text] in texts]


class Evil:
    """A pickle that would run code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def pickle_of(source, target, *, shards=1, extra=None):
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors") | (extra or {})
    (target / "model.safetensors").unlink()
    if shards == 1:
        torch.save(weights, target / "pytorch_model.bin")
        return target
    names = [f"pytorch_model-{number:05}-of-{shards:05}.bin" for number in range(1, shards + 1)]
    where = {key: names[number % shards] for number, key in enumerate(weights)}
    for name in names:
        torch.save({key: value for key, value in weights.items() if where[key] == name}, target / name)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return target


class TestPickles:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_equal_to_the_safetensors_once_allowed(self, saved, tmp_path, shards):
        folder = pickle_of(saved / "opt", tmp_path / "pickled", shards=shards)
        with pytest.raises(
            ModelUnavailableError, match=r"it has pickled ones, which `--allow-pickle` opens for values"
        ):
            load(folder)
        assert spoken(load(folder, allow_pickle=True)) == spoken(load(saved / "opt"))

    def test_a_pickle_that_would_run_code_does_not(self, saved, tmp_path):
        folder = pickle_of(saved / "opt", tmp_path / "evil")
        weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
        torch.save(weights | {"x": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
        with pytest.raises(ModelUnavailableError, match="hold more than values, and are refused"):
            load(folder, allow_pickle=True)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
        with pytest.raises(ModelUnavailableError):
            load(folder, allow_pickle=True)
        assert not (tmp_path / "ran").exists()

    def test_a_shard_outside_the_folder_is_no_checkpoint(self, saved, tmp_path):
        folder = pickle_of(saved / "opt", tmp_path / "strange", shards=2)
        (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../pytorch_model.bin"}}')
        with pytest.raises(ModelUnavailableError, match="lacks a readable list of weight files"):
            load(folder, allow_pickle=True)


def adapt(base, folder, targets, *, seed=5, **config):
    """An adapter as peft trains and saves it, with random values; its folder."""
    from peft import LoraConfig, get_peft_model

    warnings.simplefilter("ignore", FutureWarning)  # of peft, about a name that transformers has changed
    model = Blip2ForConditionalGeneration.from_pretrained(base)
    changed = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets, **config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    changed.save_pretrained(folder)
    return folder


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra [lora]")
class TestAdapters:
    @pytest.mark.parametrize(
        ("name", "targets"),
        [("opt", ["q_proj", "v_proj"]), ("t5", ["q", "v"]), ("opt", ["query", "value", "qkv"])],
        ids=["opt", "t5", "qformer-and-vision"],
    )
    def test_equal_to_stock_transformers_with_peft(self, saved, tmp_path, name, targets):
        from peft import PeftModel

        adapter = adapt(saved / name, tmp_path / "my-lora", targets)
        loaded = load(adapter)
        assert loaded.model == f"my-lora on {name}"
        its = Blip2ForConditionalGeneration.from_pretrained(saved / name)
        its = PeftModel.from_pretrained(its, adapter).eval()
        pixels = rm.pixels(1)
        with torch.no_grad():
            image = its.get_base_model().get_image_features(pixels).pooler_output
        tokens = loaded.captioner.query(loaded.captioner.trunk.see(pixels))
        torch.testing.assert_close(tokens, image, atol=1e-5, rtol=1e-5)
        row = list(loaded.words.caption("a dog").ids)
        ids = torch.tensor([[rm.OPT_IMAGE if name == "opt" else rm.T5_IMAGE] * rm.QUERIES + row])
        out = its.generate(
            pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=3, min_new_tokens=1,
            max_new_tokens=8, eos_token_id=loaded.captioner.eos, pad_token_id=loaded.captioner.pad, do_sample=False,
        )  # fmt: skip
        new = out[0, ids.shape[1] if name == "opt" else 1 :].tolist()
        [[text]] = loaded.captioner.speak(tokens, [row], BEAM, max_new_tokens=[8])
        eos = loaded.captioner.eos
        assert list(text.ids) == (new[: new.index(eos)] if eos in new else new)
        assert spoken(loaded) != spoken(load(saved / name))  # it does change something
        assert not [key for key, _ in loaded.captioner._language_model.named_parameters() if "lora" in key]

    def test_on_the_demo(self, tmp_path, picture):
        base = family.demo_folder("captioner")
        adapter = adapt(base, tmp_path / "tuned", ["q_proj", "v_proj"], init_lora_weights=True)
        weights = {key: value * 0 for key, value in load_file(adapter / "adapter_model.safetensors").items()}
        from safetensors.torch import save_file

        save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "demo"}))
        with Vision.load(model=str(adapter), device="cpu") as vision:
            seen = vision.caption(picture.path)
            assert (seen.text, seen.model) == (picture.caption, "tuned on demo")
            assert seen.match is not None  # the matcher of the model that it changes, on the same trunk
            assert vision._engine._loaded.shared_trunk

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"base_model_name_or_path": None}, "does not say which model it changes"),
            ({"base_model_name_or_path": "no/such-model"}, r"is not on this computer; run `blip2tools pull no/such-model`"),
            ({"base_model_name_or_path": "SELF"}, "which is an adapter itself"),
            ({"base_model_name_or_path": "T5"}, "damaged|does not fit"),
            ({"base_model_name_or_path": "itm-vit-g"}, "is a matcher, not a captioner"),
        ],
    )  # fmt: skip
    def test_refusals(self, saved, tmp_path, change, says):
        adapter = adapt(saved / "opt", tmp_path / "my-lora", ["q_proj"])
        places = {"SELF": str(adapter), "T5": str(saved / "t5")}
        change = {key: places.get(value, value) for key, value in change.items()}
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(ModelUnavailableError, match=says) as raised:
            load(adapter)
        assert str(tmp_path) not in raised.value.message

    def test_weights_that_are_missing_or_too_many(self, saved, tmp_path):
        from safetensors.torch import save_file

        adapter = adapt(saved / "opt", tmp_path / "my-lora", ["q_proj"])
        whole = load_file(adapter / "adapter_model.safetensors")
        first = next(iter(whole))
        for weights in (
            {k: v for k, v in whole.items() if k != first},
            whole | {first.replace("q_proj", "z"): whole[first].clone()},
        ):
            save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
            with pytest.raises(ModelUnavailableError, match="does not fit the model that it names"):
                load(adapter)

    def test_an_adapter_without_its_weights(self, saved, tmp_path):
        adapter = adapt(saved / "opt", tmp_path / "my-lora", ["q_proj"])
        (adapter / "adapter_model.safetensors").unlink()
        with pytest.raises(ModelUnavailableError, match="lacks safetensors weights"):
            load(adapter)

    def test_not_into_quantized_weights(self, saved, tmp_path, monkeypatch):
        pretend(monkeypatch, there=True)
        adapter = adapt(saved / "opt", tmp_path / "my-lora", ["q_proj"])
        with pytest.raises(ModelUnavailableError, match="cannot be merged into quantized weights"):
            load(adapter, quantize="4bit")


class TestSpread:
    """On the CPU: layers that fit stay in memory, the others are read from the disk for each step."""

    @pytest.mark.parametrize("options", [GREEDY, BEAM], ids=["greedy", "beam"])
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_the_same_tokens_with_layers_on_disk(self, saved, tmp_path, name, options):
        whole = load(saved / name)
        model = rm.opt() if name == "opt" else rm.t5()
        blocks = [p.numel() for k, p in model.named_parameters() if re.search(r"language.*\.(layers|block)\.0\.", k)]
        stays = [p.numel() for k, p in model.named_parameters() if not re.search(r"language.*\.(layers|block)\.", k)]
        room = 4 * (sum(stays) + sum(blocks)) // 1024 + 1  # what must stay, and one layer of each stack
        loaded = load(saved / name, device="spread", max_memory=(f"cpu={room}KiB",), offload_dir=str(tmp_path / "rest"))
        offloaded = [key for key, p in loaded.captioner._language_model.named_parameters() if p.is_meta]
        assert any(".1." in key for key in offloaded)
        assert not any("lm_head" in key or "embed" in key or "shared" in key for key in offloaded)
        assert spoken(loaded, options) == spoken(whole, options)
        assert loaded.captioner.language_fingerprint
        hooks = [
            module._hf_hook for module in loaded.captioner._language_model.modules() if hasattr(module, "_hf_hook")
        ]
        assert hooks
        assert all(getattr(hook, "io_same_device", True) for hook in hooks)  # or two GPUs would meet in one sum

    def test_an_adapter_on_a_spread_model_is_refused(self, saved, tmp_path, monkeypatch):
        monkeypatch.setattr(stock, "placement", lambda *_: {"device_map": {"a": "cpu", "b": "disk"}})
        folder = tmp_path / "my-lora"
        folder.mkdir()
        config = {"base_model_name_or_path": str(saved / "opt"), "peft_type": "LORA"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(ModelUnavailableError, match="cannot be merged into a spread model"):
            load(folder, device="spread")

    def test_without_a_folder_it_says_so(self, saved):
        with pytest.raises(ModelUnavailableError, match=r"needs .* all devices together|name a folder for the rest"):
            load(saved / "opt", device="spread", max_memory=("cpu=8KiB",))

    def test_everything_fits(self, saved):
        assert spoken(load(saved / "opt", device="spread")) == spoken(load(saved / "opt"))


bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra [quantize]")


def dequantized(parameter):
    """The matrix that a quantized parameter stands for."""
    from bitsandbytes.functional import dequantize_4bit

    if parameter.dtype == torch.int8:
        return parameter.CB.float() * parameter.SCB[:, None] / 127
    return dequantize_4bit(parameter.data, parameter.quant_state).float()


@bitsandbytes
class TestQuantized:
    @pytest.mark.parametrize("size", ["8bit", "4bit"])
    @pytest.mark.parametrize("name", ["opt", "t5"])
    def test_only_the_language_model(self, saved, tmp_path, name, size):
        """By the library, as on a card: a pickled checkpoint is not read tensor by tensor."""
        pickled = pickle_of(saved / f"wide-{name}", tmp_path / "pickled")
        whole, small = load(saved / f"wide-{name}"), load(pickled, quantize=size, allow_pickle=True)
        assert (small.quantize, small.dtype) == (size, "float32")
        mine, its = small.captioner, whole.captioner
        for part in ("_qformer", "_projection", "_post_layernorm"):
            pairs = zip(getattr(mine, part).parameters(), getattr(its, part).parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
        assert mine.trunk.fingerprint == its.trunk.fingerprint
        kinds = {key: p.dtype for key, p in mine._language_model.named_parameters()}
        integers = [key for key, dtype in kinds.items() if not dtype.is_floating_point]
        assert integers
        assert all((".layers." in key or ".block." in key) for key in integers)
        assert not any("lm_head" in key or ".wo." in key for key in integers)
        # Each matrix is the one of the file, rounded, and its products are those of the rounded one.
        originals = dict(its._language_model.named_modules())
        generator = torch.Generator().manual_seed(1)
        for key, module in mine._language_model.named_modules():
            if f"{key}.weight" not in integers:
                continue
            original = originals[key]
            matrix = dequantized(module.weight)
            assert (matrix - original.weight).norm() / original.weight.norm() < (0.02 if size == "8bit" else 0.12)
            given = torch.randn(1, 5, matrix.shape[1], generator=generator)
            with torch.no_grad():
                found, expected = module(given), torch.nn.functional.linear(given, matrix, original.bias)
            # In 8 bits what goes in is rounded too.
            assert (found - expected).norm() / expected.norm() < (0.02 if size == "8bit" else 0.005)
        tokens = its.query(its.trunk.see(rm.pixels(1)))
        row = whole.words.caption("a dog").ids
        scores = [loaded.captioner.rank(tokens, row, [(20,), (30,)]) for loaded in (whole, small)]
        assert scores[0] != scores[1]
        assert all(math.isfinite(total) for total, _ in scores[1])

    def test_refused_where_it_fails_its_self_test(self, saved, monkeypatch):
        failed = Finding(name="batch", status="failed", sentence="no", remedy="none")
        monkeypatch.setattr(
            selftest.examination, "examine", lambda *_, **__: Verdict(
                model="x", tested="2026-11-23T00:00:00Z", seconds=0.1, findings=(failed,), complete=False
            ),
        )  # fmt: skip
        chosen = Settings.load(
            {}, model=str(saved / "opt"), matcher="none", device="cpu", quantize="4bit", self_test=False
        )
        with pytest.raises(
            ModelUnavailableError, match=r"fails its self-test in 4bit \(batch\) and is refused; try `--quantize 8bit`"
        ):
            selftest.load(chosen)
        assert selftest.load(chosen.model_copy(update={"quantize": "none"})).quantize == "none"


class TestQuantizeRefusals:
    def test_without_the_extra(self, saved, tmp_path, monkeypatch):
        pretend(monkeypatch, there=False)
        pickled = pickle_of(saved / "opt", tmp_path / "pickled")
        with pytest.raises(ModelUnavailableError, match=r"pip install 'blip2tools\[quantize\]'"):
            load(pickled, quantize="4bit", allow_pickle=True)
        assert load(saved / "opt", quantize="4bit").quantize == "4bit"  # a plain one on a CPU needs none

    @pytest.mark.parametrize(
        ("size", "card", "says"),
        [
            ("8bit", (7, 0), "it needs compute capability 7.5; try `--quantize 4bit`"),
            ("4bit", (5, 2), "choose a smaller"),
        ],
    )
    def test_a_card_that_cannot(self, size, card, says, monkeypatch):
        pretend(monkeypatch, there=True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card)
        chosen = Settings.load({}, quantize=size)
        with pytest.raises(ModelUnavailableError, match=says):
            devices.quantization(chosen, torch.device("cuda:0"), torch.float16, "opt-2.7b")

    def test_the_demo_a_mac_and_many_devices(self, monkeypatch):
        pretend(monkeypatch, there=True)
        chosen = Settings.load({}, quantize="8bit")
        for name, device, settings, says in (
            ("demo", "cpu", chosen, "too small"),
            ("opt-2.7b", "mps", chosen, "8bit does not work on mps"),
            ("opt-2.7b", "cpu", chosen.model_copy(update={"device": "spread"}), "either `quantize` or `spread`"),
        ):
            with pytest.raises(ModelUnavailableError, match=says):
                devices.quantization(settings, torch.device(device), torch.float32, name)


class TestPrecisionOnACard:
    """The contents of a GPU; the choice itself needs none."""

    @pytest.mark.parametrize(
        ("t5", "demo", "has_bfloat16", "dtype"),
        [
            (False, False, True, torch.float16),
            (True, False, True, torch.bfloat16),
            (True, False, False, torch.float32),
            (False, True, True, torch.float32),
        ],
        ids=["OPT", "T5", "T5 on an older card", "the demo"],
    )
    def test_auto(self, t5, demo, has_bfloat16, dtype, monkeypatch):
        monkeypatch.setattr(devices, "_has_bfloat16", lambda: has_bfloat16)
        chosen = Settings.load({})
        assert devices.dtype_for(chosen, torch.device("cuda:0"), t5=t5, name="any", demo=demo) == dtype
        assert devices.dtype_for(chosen, torch.device("cpu"), t5=t5, name="any", demo=demo) == torch.float32

    @pytest.mark.parametrize(("name", "dtype"), [("opt", "float16"), ("t5", "bfloat16")])
    def test_half_precision_but_for_the_q_former(self, saved, name, dtype):
        captioner = load(saved / name, dtype=dtype).captioner
        kept = {parameter.dtype for parameter in captioner._qformer.parameters()} | {captioner._query_tokens.dtype}
        assert kept == {torch.float32}
        halves = [captioner.trunk.encoder, captioner._post_layernorm, captioner._projection, captioner._language_model]
        assert {str(weight.dtype) for part in halves for weight in part.parameters()} == {f"torch.{dtype}"}
