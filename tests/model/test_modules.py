"""Parts of the model that replace the library's: configurations, containers, pixels, penalties; each equals it."""

import json
from dataclasses import fields

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools.checkpoints import weights
from blip2tools.model import Captioner, GenerationOptions, Matcher, configuration
from blip2tools.model.decoding import Chooser, repeating
from blip2tools.model.encoder import relative_bias
from blip2tools.model.modules import CaptionerModel, MatcherModel
from blip2tools.model.preprocessing import Recipe
from blip2tools.model.trunk import Pixels
from tests.support import random_models as rm

KINDS = {
    configuration.VisionConfig: transformers.Blip2VisionConfig,
    configuration.QFormerConfig: transformers.Blip2QFormerConfig,
    configuration.OptConfig: transformers.OPTConfig,
    configuration.T5Config: transformers.T5Config,
}
OURS = {
    "word_embed_proj_dim": 768,
    "num_decoder_layers": 6,
    "decoder_start_token_id": None,
}  # of an empty configuration


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_the_librarys(kind):
    ours, its = kind.read({}), KINDS[kind]()
    for one in fields(kind):
        expected = OURS.get(one.name, getattr(its, one.name, None))
        assert (getattr(ours, one.name) or OURS.get(one.name, getattr(ours, one.name))) == expected, one.name
    whole = transformers.Blip2Config()
    assert configuration.Blip2Config().num_query_tokens == whole.num_query_tokens
    assert configuration.Blip2Config().image_text_hidden_size == whole.image_text_hidden_size


@pytest.mark.parametrize(
    "written",
    [
        {"feed_forward_proj": "gated-gelu"},
        {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"},
        {"feed_forward_proj": "relu", "tie_word_embeddings": False},
        {"feed_forward_proj": "gated-silu", "tie_word_embeddings": True},
        {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False, "num_layers": 3},
        {"num_hidden_layers": 4, "num_decoder_layers": 4, "hidden_size": 96, "num_attention_heads": 3},
    ],
)
def test_what_follows_in_a_t5(written):
    ours, its = configuration.T5Config.read(written), transformers.T5Config(**written)
    for one in fields(configuration.T5Config):
        assert getattr(ours, one.name) == getattr(its, one.name, None), one.name


@pytest.mark.parametrize(
    "written",
    [
        {"vision_config": {"hidden_size": "1408"}},
        {"vision_config": {"image_size": 224.0}},
        {"qformer_config": {"use_qformer_text_input": 1}},
        {"text_config": {"vocab_size": True}},
        {"text_config": ["opt"]},
        {"num_query_tokens": None, "vision_config": 3},
    ],
)
def test_a_value_of_another_type_is_refused(written):
    with pytest.raises(ValueError, match=r"is|no object"):
        configuration.Blip2Config.read(written)


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ({}, True),
        ({"do_layer_norm_before": False}, False),
        ({"word_embed_proj_dim": 512}, False),
        ({"word_embed_proj_dim": 768}, True),
        ({"enable_bias": False}, False),
        ({"activation_function": "gelu_new"}, False),
        ({"model_type": "t5", "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, True),
        ({"model_type": "t5", "feed_forward_proj": "relu"}, False),
        ({"model_type": "bloom"}, None),
    ],
)
def test_what_the_library_has_to_load(written, plain):
    text = configuration.Blip2Config.read({"text_config": written}).text_config
    assert getattr(text, "is_plain", None) is plain


def saved_as(model, folder, **options):
    model.save_pretrained(folder, **options)
    written = json.loads((folder / "config.json").read_text())
    return configuration.Blip2Config.read(written)


def filled(model, folder, dtype=torch.float32):
    config = saved_as(model, folder)
    kind = MatcherModel if hasattr(model, "itm_head") else CaptionerModel
    return weights.read(kind, folder, config, dtype, torch.device("cpu"))


@pytest.mark.parametrize("make", [rm.opt, rm.t5, rm.matcher])
def test_names_order_and_values_are_the_librarys(make, tmp_path):
    its = make()
    ours = filled(its, tmp_path)
    mine, theirs = (
        {part: list(one.named_parameters()) for part, one in model.named_children()} for model in (ours, its)
    )
    assert mine.keys() == theirs.keys()
    for part, named in mine.items():
        assert [name for name, _ in named] == [name for name, _ in theirs[part]]
        for (name, one), (_, other) in zip(named, theirs[part], strict=True):
            assert torch.equal(one, other), name
            assert not one.requires_grad
    kind = Matcher if make is rm.matcher else Captioner
    assert kind(ours).fingerprint == kind(its).fingerprint
    assert kind(ours).trunk.fingerprint == kind(its).trunk.fingerprint


@pytest.mark.parametrize("make", [rm.make_opt, rm.make_t5])
def test_the_librarys_own_forward_runs_over_our_weights(make, tmp_path):
    its = Captioner(make())
    ours = Captioner(filled(make(), tmp_path))
    tokens = its.query(its.trunk.see(rm.pixels(1)))
    assert torch.equal(tokens, ours.query(ours.trunk.see(rm.pixels(1))))
    prompt = [rm.OPT_BOS, 20, 30] if its.family == "opt" else [20, 30, rm.T5_EOS]
    ids = [15, 16, 17]
    assert torch.equal(its.plain_logits(tokens, prompt, ids), ours.plain_logits(tokens, prompt, ids))
    plain = ours._plain.get_input_embeddings().weight
    assert plain.data_ptr() == ours._language_model.get_input_embeddings().weight.data_ptr()


WORDS, HEAD = "language_model.model.decoder.embed_tokens.weight", "language_model.lm_head.weight"


class TestTied:
    @pytest.fixture
    def written(self, tmp_path):
        config = saved_as(rm.opt(), tmp_path)
        file = tmp_path / "model.safetensors"
        tensors = load_file(file)

        def read(**changes):
            save_file({name: one for name, one in {**tensors, **changes}.items() if one is not None}, file)
            return weights.read(CaptionerModel, tmp_path, config, torch.float32, torch.device("cpu")).language_model

        return read, tensors[WORDS], config

    def test_one_tensor_for_both(self, written):
        read, table, _ = written
        for given in ({}, {HEAD: table.clone()}, {HEAD: table.clone(), WORDS: None}):
            model = read(**given)
            assert model.lm_head.weight is model.model.decoder.embed_tokens.weight or WORDS in given
            assert torch.equal(model.lm_head.weight, table)
            assert torch.equal(model.model.decoder.embed_tokens.weight, table)

    def test_two_that_differ_stay_apart(self, written):
        read, table, _ = written
        model = read(**{HEAD: table + 1})
        assert torch.equal(model.lm_head.weight, table + 1)
        assert torch.equal(model.model.decoder.embed_tokens.weight, table)

    def test_missing_ones_are_told(self, written):
        read, _, config = written
        with pytest.raises(weights.MisfitError, match="missing"):
            read(**{WORDS: None})
        config.text_config.tie_word_embeddings = False
        with pytest.raises(weights.MisfitError, match="missing"):
            read()

    def test_what_does_not_fit(self, written):
        read, table, _ = written
        for changes, says in (
            ({"something": torch.ones(1)}, "unexpected"),
            ({WORDS: table[:5].clone()}, "not"),
            ({WORDS: table.to(torch.int32)}, "not"),
        ):
            with pytest.raises(weights.MisfitError, match=says):
                read(**changes)
        read(**{"embeddings.position_ids": torch.arange(5)})

    @pytest.mark.parametrize("kept", [("encoder",), ("encoder", "decoder")])
    def test_a_t5_that_has_its_table_under_another_name(self, tmp_path, kept):
        config = saved_as(rm.t5(), tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        table = tensors.pop("language_model.shared.weight")
        for part in kept:
            tensors[f"language_model.{part}.embed_tokens.weight"] = table.clone()
        save_file(tensors, tmp_path / "model.safetensors")
        model = weights.read(CaptionerModel, tmp_path, config, torch.float32, torch.device("cpu"))
        assert torch.equal(model.language_model.shared.weight, table)
        assert not torch.equal(model.language_model.lm_head.weight, table)


@pytest.mark.parametrize("both_ways", [True, False])
def test_distances_count_as_in_the_library(both_ways):
    config = transformers.T5Config(num_heads=2, d_model=16, d_kv=8, is_decoder=not both_ways)
    attention = transformers.models.t5.modeling_t5.T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    with torch.no_grad():
        attention.relative_attention_bias.weight.copy_(torch.arange(64.0).view(32, 2))
        for places in (1, 2, 17, 300):
            found = relative_bias(attention, places, torch.device("cpu"), both_ways=both_ways)
            assert torch.equal(found, attention.compute_bias(places, places))


class TestPenalties:
    @pytest.mark.parametrize("penalty", [0.8, 1.3])
    @pytest.mark.parametrize("size", [0, 1, 2, 3])
    def test_equal_the_librarys(self, penalty, size):
        generator = torch.Generator().manual_seed(5)
        chooser = Chooser(GenerationOptions(repetition_penalty=penalty, no_repeat_ngram_size=size), [7], 1)
        for length in (0, 1, 2, 9):
            said = torch.randint(0, 6, (4, length), generator=generator)
            scores = torch.randn(4, 12, generator=generator)
            ids = torch.cat([torch.full((4, 1), 7), said], 1)
            expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores.clone())
            if size:
                expected = NoRepeatNGramLogitsProcessor(size)(ids, expected)
            expected[:, 1] = expected[:, 1] if length else float("-inf")
            assert torch.equal(chooser._scored(scores, [tuple(row) for row in said.tolist()]), expected)

    def test_rows_of_different_lengths(self):
        chooser = Chooser(GenerationOptions(repetition_penalty=2.0, min_new_tokens=0), [], 1)
        scores = chooser._scored(torch.full((2, 4), 2.0), [(), (3, 3)])
        assert scores.tolist() == [[2, 2, 2, 2], [2, 2, 2, 1]]

    def test_repeating(self):
        assert repeating([5, 6, 5, 6, 5], 2) == {6}
        assert repeating([5, 6, 5], 4) == set()
        assert repeating([], 1) == set()


class TestRecipes:
    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"size": {"height": 30, "width": 30}, "resample": 2},
            {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 0.01},
        ],
    )
    @pytest.mark.parametrize("size", [(30, 30), (7, 41), (500, 333)])
    def test_pixels_equal_the_librarys(self, values, size):
        picture = Image.effect_noise(size, 80).convert("RGB")
        its = BlipImageProcessorPil(**{"size": {"height": 48, "width": 48}, **values})
        ours = Recipe.read(json.loads(json.dumps(its.to_dict(), default=float)))
        pixels = Pixels(ours)
        assert torch.equal(pixels([picture, picture])[1], its(picture, return_tensors="pt")["pixel_values"][0])
        assert pixels.key == Pixels(its).key

    def test_defaults_are_the_librarys(self):
        assert Pixels(Recipe.read({})).key == Pixels(BlipImageProcessorPil()).key
        assert Recipe.read({"size": 224}).size == {"height": 224, "width": 224}

    @pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize"])
    def test_steps_that_are_left_out_are_refused(self, step):
        with pytest.raises(ValueError, match="more than resize, rescale and normalize"):
            Recipe.read({step: False})

    def test_the_nested_file_counts_first(self, tmp_path):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 40}))
        (tmp_path / "processor_config.json").write_text(json.dumps({"num_query_tokens": 32}))
        assert Recipe.of_folder(tmp_path).size["height"] == 40
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 50}}))
        assert Recipe.of_folder(tmp_path).size["height"] == 50
