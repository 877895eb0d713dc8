"""The configuration values of the published checkpoints, each with its source. Data only.

We have opened no checkpoint of the hub. A value is *verified* where its source shows it for this very checkpoint, or
where a published count of parameters only comes out with it; everything else is marked as unverified.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

Value = int | float | str | bool


@dataclass(frozen=True, slots=True)
class Source:
    """The place where a value was read."""

    text: str
    verified: bool = True


SOURCES = {
    "config": Source(
        "the checkpoint's own config.json as transformers 4.47.0.dev0 saved it, quoted in public repositories"
    ),
    "defaults": Source(
        "the default of transformers' configuration classes (`Blip2VisionConfig`, `Blip2QFormerConfig`, `Blip2Config`, "
        "`OPTConfig`; 5.23.0): the converter sets nothing else, and the config.json files that were seen (opt-2.7b, "
        "flan-t5-xl) leave it out"
    ),
    "converter": Source(
        "transformers, models/blip_2/convert_blip_2_original_to_pytorch.py, `get_blip2_config` and the processor it saves"
    ),
    "lavis": Source("LAVIS, lavis/configs/models/blip2/*.yaml (`image_size`, `num_query_token`, `prompt`)"),
    "language": Source(
        "configuration of the language model itself (facebook/opt-6.7b as printed by transformers 4.20.1), which the "
        "converter takes over"
    ),
    "count": Source(
        "the parameter count on the hub's page (3.94, 12.2, 3.74, 7.75, 3.87 G) only comes out with this value"
    ),
    "update": Source(
        "transformers pull requests #34223, #34225 and #34876, which gave the configurations an image token"
    ),
    "sibling": Source(
        "taken over from a sibling that was converted in the same way (opt-2.7b, flan-t5-xl)", verified=False
    ),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One value of a configuration."""

    value: Value
    source: str  # a key of SOURCES

    @property
    def verified(self) -> bool:
        return SOURCES[self.source].verified


Facts = dict[str, Fact]


def _facts(source: str, **values: Value) -> Facts:
    return {name: Fact(value, source) for name, value in values.items()}


_VISION = _facts(
    "defaults",
    hidden_size=1408,
    intermediate_size=6144,
    num_hidden_layers=39,
    num_attention_heads=16,
    patch_size=14,
    hidden_act="gelu",
    qkv_bias=True,
    layer_norm_eps=1e-6,
)
_QFORMER = _facts(
    "defaults",
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    pad_token_id=0,
    cross_attention_frequency=2,
    vocab_size=30522,
)
_TOP = _facts("lavis", num_query_tokens=32) | _facts("defaults", image_text_hidden_size=256)

_OPT = (
    _facts("converter", model_type="opt", eos_token_id=50118)
    | _facts("language", bos_token_id=2, pad_token_id=1, activation_function="relu", do_layer_norm_before=True)
    | _facts("language", max_position_embeddings=2048, num_hidden_layers=32, num_attention_heads=32)
    | _facts("defaults", tie_word_embeddings=True)
)
_T5 = _facts("converter", model_type="t5", dense_act_fn="gelu", bos_token_id=1) | _facts(
    "config",
    eos_token_id=1,
    pad_token_id=0,
    decoder_start_token_id=0,
    feed_forward_proj="gated-gelu",
    layer_norm_epsilon=1e-6,
    d_kv=64,
    num_layers=24,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    tie_word_embeddings=False,
    vocab_size=32128,
)

_LANGUAGE = {
    "opt-2.7b": _OPT
    | _facts(
        "config", model_type="opt", eos_token_id=50118, vocab_size=50304, num_hidden_layers=32, num_attention_heads=32
    )
    | _facts("defaults", bos_token_id=2, pad_token_id=1, activation_function="relu", do_layer_norm_before=True)
    | _facts("defaults", max_position_embeddings=2048)
    | _facts("config", hidden_size=2560, ffn_dim=10240, word_embed_proj_dim=2560),
    "opt-6.7b": _OPT
    | _facts("language", hidden_size=4096, ffn_dim=16384, word_embed_proj_dim=4096)
    | _facts("sibling", vocab_size=50304),
    "flan-t5-xl": _T5 | _facts("config", d_model=2048, d_ff=5120, num_heads=32),
    "flan-t5-xxl": _T5
    | _facts("sibling", layer_norm_epsilon=1e-6, relative_attention_num_buckets=32, relative_attention_max_distance=128)
    | _facts("count", d_model=4096, d_ff=10240, num_heads=64, num_layers=24, tie_word_embeddings=False),
}
COCO_PROMPT = "a photo of"  # also in LAVIS' projects/blip2/train/caption_coco_ft.yaml
COCO_IMAGE_SIZE = 364  # pixels; of captioners only those that were tuned on COCO have it
_IMAGE_TOKEN = {"opt": 50265, "t5": 32100}
_CONFIG_SEEN = ("opt-2.7b", "flan-t5-xl")


@dataclass(frozen=True)
class Published:
    """The configuration of one checkpoint, part by part as in its config.json."""

    vision: Facts
    qformer: Facts
    text: Facts  # empty for a matcher
    top: Facts  # num_query_tokens, image_text_hidden_size, image_token_index
    files: Facts  # of the download: the precision, and how many values it holds
    captions: Facts  # the prompt that they were trained and evaluated with, if there was one

    @property
    def parts(self) -> dict[str, Facts]:
        """All facts under the names that config.json has for their parts."""
        return {
            "": self.top,
            "vision_config": self.vision,
            "qformer_config": self.qformer,
            "text_config": self.text,
            "files": self.files,
            "captions": self.captions,
        }


def number(facts: Facts, name: str) -> int:
    """A value that is a whole number."""
    return int(facts[name].value)


@dataclass(frozen=True, slots=True)
class Weights:
    """How many values each part of a checkpoint holds, tied ones counted once."""

    trunk: int  # the vision tower, its last LayerNorm included
    bridge: int  # Q-Former, query tokens, matcher's embeddings and heads: what stays in 32 bits
    projection: int  # between Q-Former and language model
    linear: int  # matrices of the language model's layers: what is quantized on request
    rest: (
        int  # of the language model: embeddings, output layer, norms, biases, and T5's `wo`, which overflows in 8 bits
    )
    encoder_decoder: bool = False  # T5, which must not run in float16

    @property
    def total(self) -> int:
        return self.trunk + self.bridge + self.projection + self.linear + self.rest


def weights(published: Published) -> Weights:
    """Counted from the configuration, without building the model."""
    text = published.text
    t5 = bool(text) and text["model_type"].value == "t5"
    linear, rest, width = (0, 0, 0) if not text else _t5(text) if t5 else _opt(text)
    hidden = number(published.qformer, "hidden_size")
    return Weights(
        trunk=_tower(published.vision),
        bridge=_qformer(published, matcher=not text),
        projection=hidden * width + width,
        linear=linear,
        rest=rest,
        encoder_decoder=t5,
    )


def _tower(vision: Facts) -> int:
    width, inner, size, patch = (
        number(vision, name) for name in ("hidden_size", "intermediate_size", "image_size", "patch_size")
    )
    embeddings = (3 * patch**2 + 1) * width + width + ((size // patch) ** 2 + 1) * width
    layer = 4 * width + (width + 1) * 3 * width + (width + 1) * width + (width + 1) * inner + (inner + 1) * width
    return embeddings + number(vision, "num_hidden_layers") * layer + 2 * width


def _qformer(published: Published, *, matcher: bool) -> int:
    facts = published.qformer
    width, inner, layers = (number(facts, name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    seen = number(published.vision, "hidden_size")
    attention = 4 * (width + 1) * width + 2 * width
    crossed = attention + 2 * (seen - width) * width
    feed = (width + 1) * inner + (inner + 1) * width + 2 * width
    crossings = -(-layers // number(facts, "cross_attention_frequency"))
    count = (
        layers * (attention + feed)
        + crossings * crossed
        + 2 * width
        + number(published.top, "num_query_tokens") * width
    )
    if matcher:
        shared = number(published.top, "image_text_hidden_size")
        count += layers * feed + 2 * (width + 1) * shared + 2 * (width + 1)
        count += (number(facts, "vocab_size") + number(facts, "max_position_embeddings")) * width
    return count


def _opt(text: Facts) -> tuple[int, int, int]:
    width, inner, layers = (number(text, name) for name in ("hidden_size", "ffn_dim", "num_hidden_layers"))
    linear = layers * (4 * width**2 + 2 * width * inner)
    biases = layers * (4 * width + inner + width + 4 * width) + 2 * width
    places = number(text, "max_position_embeddings") + 2  # the library's table begins two places early
    return linear, biases + (number(text, "vocab_size") + places) * width, width


def _t5(text: Facts) -> tuple[int, int, int]:
    width, inner, layers = (number(text, name) for name in ("d_model", "d_ff", "num_layers"))
    heads = number(text, "num_heads")
    attention = 4 * width * heads * number(text, "d_kv")
    linear = layers * (3 * attention + 2 * 2 * width * inner)
    outputs = layers * 2 * width * inner
    norms = layers * 5 * width + 2 * width
    buckets = 2 * number(text, "relative_attention_num_buckets") * heads
    tables = 1 if text["tie_word_embeddings"].value else 2
    return linear, outputs + norms + buckets + tables * number(text, "vocab_size") * width, width


@cache
def published(name: str) -> Published:
    """The configuration of a family member by its short name.

    Raises:
        KeyError: no published checkpoint has this name.
    """
    coco = name.endswith("-coco")
    vision = _VISION | _facts("converter", image_size=COCO_IMAGE_SIZE if coco else 224)
    if name.startswith("itm-vit-g"):
        return Published(
            vision,
            _QFORMER | _facts("converter", vocab_size=30523, use_qformer_text_input=True),
            {},
            _TOP | _facts("update", image_token_index=30523),
            _facts("sibling", dtype="float32"),
            {},
        )
    language = name.removesuffix("-coco")
    text = _LANGUAGE[language]
    seen = name in _CONFIG_SEEN
    if not seen:
        text = {key: Fact(fact.value, "sibling") if fact.source == "config" else fact for key, fact in text.items()}
    token = _IMAGE_TOKEN[str(text["model_type"].value)]
    # The output layer of OPT is tied to the embeddings; where the page counts more values, it is stored once more.
    files = _facts("config" if seen else "sibling", dtype="float32")
    if text["tie_word_embeddings"].value:
        files |= _facts("count", stores_tied_output=name == "opt-2.7b-coco")
    top = _TOP | _facts("config" if seen else "sibling", image_token_index=token)
    captions = _facts("lavis", prompt=COCO_PROMPT) if coco else {}
    return Published(vision, _QFORMER, text, top, files, captions)


def stored(published: Published) -> int:
    """Values in the download."""
    again = published.files.get("stores_tied_output")
    extra = 0
    if again is not None and again.value:
        extra = number(published.text, "vocab_size") * number(published.text, "hidden_size")
    return weights(published).total + extra
