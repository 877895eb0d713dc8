"""Folders in the hub's layouts, and faults of others: one sentence, and never meaningless words."""

from __future__ import annotations

import importlib.util
import json
import warnings
from functools import cache

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints import configuration, family, parents
from blip2tools.checkpoints.prompts import PlainEncoder
from blip2tools.cli.doctor import model as doctor
from blip2tools.cli.doctor.files import check_files
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.settings import Settings
from tests.support import family_models as fm
from tests.support import random_models as rm
from tests.support import taught

PICTURE = Image.radial_gradient("L").convert("RGB")

fitted = cache(taught.matcher)


def findings(model, matcher="none"):
    """Doctor's findings, self-test included, by the name of the check."""
    settings = Settings(model=str(model), matcher=str(matcher), device="cpu")
    return [found for section in doctor.examine(settings, lambda *_: None, online=False) for found in section.findings]


def faults(found):
    return [(one.name, one.sentence) for one in found if one.status in ("failed", "warning")]


def files(folder, kind):
    settings = Settings(**{"model" if kind == "captioner" else "matcher": str(folder)})
    plan = checkpoints.locate(settings)
    part = plan.captioner if kind == "captioner" else plan.matcher
    return {one.name: one for one in check_files(part, lambda *_: None)}


class TestSound:
    """Every layout of the hub, judged by doctor, the self-test and the first result: no fault is found."""

    @pytest.mark.slow
    @pytest.mark.parametrize("layout", fm.LAYOUTS)
    @pytest.mark.parametrize("name", ["itm-vit-g", "itm-vit-g-coco"])
    def test_matchers(self, tmp_path, name, layout):
        captioner = "opt-2.7b-coco" if name.endswith("-coco") else "opt-2.7b"
        fm.save(captioner, tmp_path / "captioner", layout)
        fm.save(name, tmp_path / "matcher", layout, fitted(name))
        assert faults(findings(tmp_path / "captioner", tmp_path / "matcher")) == []
        given = {"model": str(tmp_path / "captioner"), "matcher": str(tmp_path / "matcher")}
        with Vision.load(**given, device="cpu") as vision:
            assert vision.status().warnings == []
            told = vision.match(PICTURE, ["a red dog", "a cat"])
            assert told.warnings == []
            assert "passed" in vision.status().self_test

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "layout"), [("flan-t5-xl", "2024"), ("flan-t5-xl-coco", "2023")])
    def test_captioners(self, tmp_path, name, layout):
        fm.save(name, tmp_path / "captioner", layout)
        assert faults(findings(tmp_path / "captioner")) == []

    def test_a_word_without_a_row_is_none_that_a_text_can_give(self):
        backend = fm.tokenizer("bert", image_token=True)
        encode = PlainEncoder(Tokenizer.from_str(backend.to_str()))
        assert backend.token_to_id("<image>") == 30523
        assert encode.vocabulary <= 30523
        assert 30523 not in encode("an <image> of a dog")

    def test_a_tokenizer_of_another_model_is_still_found(self, tmp_path):
        fm.save("itm-vit-g", tmp_path / "matcher", "2024")
        foreign = json.loads((tmp_path / "matcher" / "tokenizer.json").read_text())
        foreign["model"]["vocab"]["zebra"] = 40000
        (tmp_path / "matcher" / "tokenizer.json").write_text(json.dumps(foreign))
        assert "belongs to another model" in files(tmp_path / "matcher", "matcher")["tokenizer"].sentence


class TestOlderTokenizers:
    """Forms of tokenizers before tokenizer.json."""

    def old(self, folder, new, **more):
        """The folder with `new` files in place of tokenizer.json, without naming the kind of tokenizer."""
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).unlink(missing_ok=True)
        for name, text in new.items():
            (folder / name).write_text(text, encoding="utf-8")

    def test_opt(self, tmp_path):
        fm.save("opt-2.7b", tmp_path / "opt", "2023")
        written = json.loads((tmp_path / "opt" / "tokenizer.json").read_text())["model"]
        new = Tokenizer.from_file(str(tmp_path / "opt" / "tokenizer.json"))
        self.old(tmp_path / "opt", {"vocab.json": json.dumps(written["vocab"]), "merges.txt": "#version: 0.2\n"})
        old = configuration.tokenizer(tmp_path / "opt", "opt")
        text = "what color is the dog?"
        assert PlainEncoder(old)(text) == PlainEncoder(new)(text) != []
        assert files(tmp_path / "opt", "captioner")["tokenizer"].status == "ok"
        (tmp_path / "opt" / "merges.txt").unlink()
        with pytest.raises(ModelUnavailableError, match=r"lacks merges\.txt"):
            checkpoints.locate(Settings(model=str(tmp_path / "opt")))

    def test_bert(self, tmp_path):
        fm.save("itm-vit-g", tmp_path / "itm", "2023")
        new = Tokenizer.from_file(str(tmp_path / "itm" / "tokenizer.json"))
        lines = [f"[unused{number}]" for number in range(30523)]
        for word, number in new.get_vocab().items():
            lines[number] = word
        self.old(tmp_path / "itm", {"vocab.txt": "\n".join(lines) + "\n"})
        text = "A red Dog, is it?"
        old = configuration.tokenizer(tmp_path / "itm", "itm")
        assert PlainEncoder(old)(text) == PlainEncoder(new)(text) != []
        assert files(tmp_path / "itm", "matcher")["tokenizer"].status == "ok"

    @pytest.mark.parametrize(
        ("here", "lacking"),
        [
            ([], "sentencepiece protobuf"),
            (["google.protobuf"], "sentencepiece"),
            (["sentencepiece"], "protobuf"),
        ],
    )
    def test_sentencepiece_names_what_is_missing(self, here, lacking, tmp_path, monkeypatch):
        monkeypatch.setattr(configuration, "_is_installed", lambda package: package in here)
        fm.save("flan-t5-xl", tmp_path / "t5", "2023")
        self.old(tmp_path / "t5", {"spiece.model": "pieces"})
        named = rf"The tokenizer of t5 is .*spiece\.model.*: pip install {lacking}\."
        with pytest.raises(ModelUnavailableError, match=named):
            Vision.load(model=str(tmp_path / "t5"), matcher="none")
        found = files(tmp_path / "t5", "captioner")["tokenizer"]
        assert found.status == "failed"
        assert found.sentence.endswith(f"pip install {lacking}")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {"opt": rm.save(rm.make_opt(), root / "opt"), "t5": rm.save(rm.make_t5(), root / "t5")}


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra [lora]")
class TestAdaptersOnSharedWeights:
    REFUSED = (
        ("opt", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("opt", {"target_modules": ["lm_head"]}),
        ("opt", {"target_modules": ["embed_positions"]}),
        ("opt", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [20, 21]}}),
        ("t5", {"target_modules": ["shared"]}),
        ("t5", {"target_modules": ["embed_tokens", "q"]}),
    )
    MERGED = (
        ("opt", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
        ("t5", {"target_modules": ["lm_head", "q"]}),
        ("t5", {"target_modules": ["relative_attention_bias"]}),
    )

    def adapted(self, bases, family, folder, config):
        """The folder of an adapter, and peft's words about a picture with it, unmerged."""
        from peft import LoraConfig, get_peft_model

        warnings.simplefilter("ignore")  # peft has advice about all of these
        model = {"opt": rm.make_opt, "t5": rm.make_t5}[family]()
        changed = get_peft_model(model, LoraConfig(r=4, **config)).eval()
        torch.manual_seed(0)
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter), alpha=1.0)
                    assert "base_layer" not in name
        changed.save_pretrained(folder)
        written = json.loads((folder / "adapter_config.json").read_text())
        written["base_model_name_or_path"] = str(bases[family])
        (folder / "adapter_config.json").write_text(json.dumps(written))
        return changed

    @pytest.mark.parametrize(("family", "config"), REFUSED)
    def test_refused(self, bases, tmp_path, family, config):
        with warnings.catch_warnings():
            self.adapted(bases, family, tmp_path / "lora", config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with pytest.raises(ModelUnavailableError, match=r"cannot be merged: it changes `.*would say other words"):
                Vision.load(model=str(tmp_path / "lora"), matcher="none", self_test=False)

    @torch.no_grad()
    @pytest.mark.parametrize(("family", "config"), MERGED)
    def test_merged_where_the_words_stay(self, bases, tmp_path, family, config):
        with warnings.catch_warnings():
            changed = self.adapted(bases, family, tmp_path / "lora", config)
        pixels = rm.pixels(1)
        if family == "opt":
            given = {"input_ids": torch.tensor([[rm.OPT_IMAGE] * rm.QUERIES + [2, 20, 21]])}
        else:
            ids = torch.tensor([[rm.T5_IMAGE] * rm.QUERIES + [5, 6, 1]])
            given = {"input_ids": ids, "decoder_input_ids": torch.tensor([[rm.T5_PAD]])}
        expected = changed(pixel_values=pixels, **given).logits[0, -1]
        with Vision.load(model=str(tmp_path / "lora"), matcher="none", self_test=False) as vision:
            captioner = vision._engine._loaded.captioner
            prompt = [2, 20, 21] if family == "opt" else [5, 6, 1]
            found = captioner.first_logits(captioner.query(captioner.trunk.see(pixels)), [prompt])[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def outcome(verb, vision):
    try:
        return verb(vision)
    except VisionError as error:
        return error


class TestNumbersThatAreNone:
    """Weights with NaN or infinity: a sentence in place of `and and and` at 1.00."""

    VERBS = (
        lambda vision: vision.caption(PICTURE),
        lambda vision: vision.caption(PICTURE, num_beams=1),
        lambda vision: vision.caption(PICTURE, do_sample=True, seed=1),
        lambda vision: vision.ask(PICTURE, "what is it?"),
        lambda vision: vision.ask(PICTURE, "what is it?", choices=["red", "blue"]),
    )
    MATCHING = (
        lambda vision: vision.match(PICTURE, ["a dog", "a cat"]),
        lambda vision: vision.features(PICTURE),
        lambda vision: vision.extract_features(PICTURE, mode="image"),
        lambda vision: vision.extract_features(PICTURE, text="a dog"),
        lambda vision: vision.retrieve([PICTURE], ["a dog"]),
    )

    def spoilt(self, model, part, value):
        weight = dict(model.named_parameters())[part]
        with torch.no_grad():
            weight.view(-1)[:3] = value
        return model

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize(
        ("make", "part"),
        [
            (rm.make_opt, "language_model.model.decoder.layers.1.fc2.bias"),
            (rm.make_opt, "vision_model.encoder.layers.0.mlp.fc2.bias"),
            (rm.make_t5, "language_model.decoder.block.0.layer.0.SelfAttention.o.weight"),
            (rm.make_t5, "qformer.layernorm.bias"),
        ],
    )
    def test_captioners(self, tmp_path, make, part, value):
        folder = rm.save(self.spoilt(make(), part, value), tmp_path / "model")
        with Vision.load(model=str(folder), matcher="none", self_test=False) as vision:
            for verb in self.VERBS:
                with pytest.raises(ModelUnavailableError, match=r"NaN or infinite.*float32.*doctor"):
                    verb(vision)

    @pytest.mark.parametrize(
        "part", ["itm_head.bias", "qformer.encoder.layer.0.crossattention.output.dense.bias", "vision_projection.bias"]
    )
    def test_matchers(self, tmp_path, part):
        captioner = rm.save(rm.make_opt(), tmp_path / "opt")
        matcher = rm.save(self.spoilt(rm.make_matcher(), part, float("nan")), tmp_path / "itm")
        with Vision.load(model=str(captioner), matcher=str(matcher), self_test=False) as vision:
            outcomes = [outcome(verb, vision) for verb in self.MATCHING]
            refused = [found for found in outcomes if isinstance(found, VisionError)]
            assert {found.code for found in refused} == {"model_unavailable"}
            assert all("NaN or infinite" in found.message for found in refused)
            assert len(refused) >= 2
            with pytest.raises(ModelUnavailableError, match="NaN or infinite"):
                vision.match(PICTURE, ["a dog"])

    def test_the_next_model_works(self, tmp_path):
        folder = rm.save(rm.make_opt(), tmp_path / "model")
        with Vision.load(model=str(folder), matcher="none", self_test=False) as vision:
            assert 0 < vision.caption(PICTURE).confidence < 1


class TestParents:
    """A folder with an unknown name, whose files tell what it was made from."""

    def test_a_member_has_its_own(self):
        prompts = {member.name: member.prompt for member in family.CAPTIONERS}
        assert {name for name, prompt in prompts.items() if prompt} == {name for name in prompts if "coco" in name}
        assert set(prompts.values()) == {"", "a photo of"}
        assert checkpoints.locate(Settings(model="opt-2.7b-coco")).captioner.prompt == "a photo of"

    def folder(self, tmp_path, **config):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.json").write_text(json.dumps({"model_type": "blip-2", **config}))
        return tmp_path / "mine"

    @pytest.mark.parametrize(
        "named",
        [
            "Salesforce/blip2-opt-2.7b-coco",
            "salesforce/BLIP2-OPT-2.7B-COCO",
            "/data/models/blip2-opt-2.7b-coco/",
            "C:\\models\\blip2-flan-t5-xl-coco",
        ],
    )
    def test_by_its_configuration(self, tmp_path, named):
        folder = self.folder(tmp_path, _name_or_path=named)
        assert parents.caption_prompt(None, folder) == "a photo of"

    @pytest.mark.parametrize("base", ["Salesforce/blip2-opt-2.7b-coco", ["x/y", "Salesforce/blip2-opt-6.7b-coco"]])
    def test_by_its_card(self, tmp_path, base):
        folder = self.folder(tmp_path)
        listed = json.dumps(base)
        (folder / "README.md").write_text(f"---\nlicense: mit\nbase_model: {listed}\n---\n# Mine\n", encoding="utf-8")
        assert parents.caption_prompt(None, folder) == "a photo of"

    def test_by_its_place_in_the_cache(self, tmp_path):
        folder = tmp_path / "models--Salesforce--blip2-opt-2.7b-coco" / "snapshots" / "abc"
        folder.mkdir(parents=True)
        assert parents.caption_prompt(None, folder) == "a photo of"

    def test_by_the_size_of_its_pictures(self, tmp_path):
        assert parents.caption_prompt(None, self.folder(tmp_path, vision_config={"image_size": 364})) == "a photo of"

    @pytest.mark.parametrize("card", ["", "---\n: [\n---\n", "---\nbase_model: 7\n---\n", "no card"])
    def test_others_have_none(self, tmp_path, card):
        folder = self.folder(tmp_path, _name_or_path="somebody/blip2-opt-2.7b", vision_config={"image_size": 224})
        (folder / "README.md").write_text(card, encoding="utf-8")
        assert parents.caption_prompt(None, folder) == ""

    def test_a_child_that_names_its_parent_has_the_parents(self, tmp_path):
        folder = self.folder(tmp_path, _name_or_path="Salesforce/blip2-opt-2.7b", vision_config={"image_size": 364})
        assert parents.caption_prompt(None, folder) == ""
