"""Small checkpoints for LAVIS and for us: the same weights from a seed, vocabularies, pictures and questions.

Needs numpy alone, so that it runs in the old environment of LAVIS as in that of the tests. `RandomState`'s numbers are frozen
(numpy, NEP 19): the weights are the same wherever they are made.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["opt", "t5", "bert"]

WIDTH, INNER, LAYERS, HEADS, PATCH, QUERIES, PROJECTED = 32, 64, 2, 4, 14, 32, 16
POSITIONS = 256  # of OPT and of the Q-Former's text
BUCKETS, REACH, KEYS = 32, 128, 8  # of T5


@dataclass(frozen=True)
class Small:
    """One checkpoint."""

    kind: Kind
    image_size: int
    prompt: str = ""  # that LAVIS' configuration of such a member names
    ending: float = 1.0  # factor on the output row of the end of sequence, so that texts have various lengths


MODELS = {
    "opt-224": Small("opt", 224, ending=1.12),
    "opt-364": Small("opt", 364, "a photo of", ending=1.28),
    "t5-224": Small("t5", 224, ending=1.8),
    "t5-364": Small("t5", 364, "a photo of", ending=1.4),
    "itm-224": Small("bert", 224),
    "itm-364": Small("bert", 364),
}

# ---- words ----

_WORDS = (
    "a the an of on in with and is are at to by near under photo picture red blue green yellow black white brown gray "
    "large small tall old young dog cat bird horse cow sheep man woman boy girl people car bus train boat plane bike "
    "street road field park beach water snow grass tree table chair bed room kitchen window door clock sign plate pizza "
    "cake apple ball frisbee kite hat shirt sitting standing walking running holding riding eating looking playing lying "
    "one two three four some many it what color how where who doing there this that his her its up down front next top"
)
WORDS = _WORDS.split()
SIGNS = (".", ",", "?", "!", "'", "'s", "n't", "'re")
ASKED = ("Question", "Short", "answer", "Answer", "photo", "picture", "a", "what", "how", "is", "the")

OPT_PAD, OPT_BOS = 1, 2
T5_PAD, T5_EOS, T5_UNKNOWN = 0, 1, 2


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2): itself where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in seen}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(b for b in range(256) if b not in letters)}


def opt_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids by token, and the merges that make each of the words of its letters, from the left."""
    vocabulary = {"<s>": 0, "<pad>": OPT_PAD, "</s>": OPT_BOS, "<unk>": 3}
    for letter in byte_letters().values():
        vocabulary[letter] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in [*ASKED, *(f"Ġ{word}" for word in (*WORDS, *ASKED, *SIGNS))]:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    return vocabulary, merges


def opt_newline() -> int:
    """The id that ends OPT's texts."""
    return opt_vocabulary()[0]["Ċ"]


def t5_pieces() -> list[tuple[str, float]]:
    """Pieces of a unigram vocabulary with their log-probabilities; the special ones first."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in dict.fromkeys((*WORDS, *ASKED, *SIGNS))]
    return pieces + [(chr(number), -6.0) for number in range(33, 127) if chr(number) not in "<{}~"]


def bert_words() -> list[str]:
    """Lines of a `vocab.txt`; LAVIS adds [DEC] behind them."""
    letters = [chr(number) for number in range(97, 123)]
    signs = list(",.'-?!:;()/0123456789")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return list(dict.fromkeys([*special, *WORDS, *letters, *signs, *(f"##{letter}" for letter in letters)]))


def vocabulary_size(kind: Kind) -> int:
    """Rows of the embeddings."""
    return {"opt": len(opt_vocabulary()[0]), "t5": len(t5_pieces()), "bert": len(bert_words()) + 1}[kind]


def sayable(kind: Kind) -> list[int]:
    """Ids of whole words and signs: only these are likely, so that a text can be read."""
    if kind == "opt":
        vocabulary = opt_vocabulary()[0]
        return [vocabulary[f"Ġ{word}"] for word in (*WORDS, *SIGNS)] + [opt_newline()]
    places = {piece: place for place, (piece, _) in enumerate(t5_pieces())}
    return [places[f"▁{word}"] for word in (*WORDS, *SIGNS)] + [T5_EOS]


# ---- weights, by their names on the hub ----


def _linear(name: str, out: int, of: int, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, of)
    if bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, *, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (WIDTH,)
    if bias:
        yield f"{name}.bias", (WIDTH,)


def _tower(size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "vision_model.embeddings.class_embedding", (1, 1, WIDTH)
    yield "vision_model.embeddings.position_embedding", (1, (size // PATCH) ** 2 + 1, WIDTH)
    yield "vision_model.embeddings.patch_embedding.weight", (WIDTH, 3, PATCH, PATCH)
    yield "vision_model.embeddings.patch_embedding.bias", (WIDTH,)
    for number in range(LAYERS):
        layer = f"vision_model.encoder.layers.{number}"
        yield from _norm(f"{layer}.layer_norm1")
        yield from _linear(f"{layer}.self_attn.qkv", 3 * WIDTH, WIDTH)
        yield from _linear(f"{layer}.self_attn.projection", WIDTH, WIDTH)
        yield from _norm(f"{layer}.layer_norm2")
        yield from _linear(f"{layer}.mlp.fc1", INNER, WIDTH)
        yield from _linear(f"{layer}.mlp.fc2", WIDTH, INNER)
    yield from _norm("vision_model.post_layernorm")


def _qformer(*, text: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "query_tokens", (1, QUERIES, WIDTH)
    yield from _norm("qformer.layernorm")
    for number in range(LAYERS):
        layer = f"qformer.encoder.layer.{number}"
        for attention in ["attention", *(["crossattention"] if number % 2 == 0 else [])]:
            for part in ("query", "key", "value"):
                yield from _linear(f"{layer}.{attention}.attention.{part}", WIDTH, WIDTH)
            yield from _linear(f"{layer}.{attention}.output.dense", WIDTH, WIDTH)
            yield from _norm(f"{layer}.{attention}.output.LayerNorm")
        for branch in ["_query", *([""] if text else [])]:
            yield from _linear(f"{layer}.intermediate{branch}.dense", INNER, WIDTH)
            yield from _linear(f"{layer}.output{branch}.dense", WIDTH, INNER)
            yield from _norm(f"{layer}.output{branch}.LayerNorm")


def _opt() -> Iterator[tuple[str, tuple[int, ...]]]:
    decoder = "language_model.model.decoder"
    yield f"{decoder}.embed_tokens.weight", (vocabulary_size("opt"), WIDTH)
    yield f"{decoder}.embed_positions.weight", (POSITIONS + 2, WIDTH)
    for number in range(LAYERS):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{decoder}.layers.{number}.self_attn.{part}", WIDTH, WIDTH)
        yield from _norm(f"{decoder}.layers.{number}.self_attn_layer_norm")
        yield from _linear(f"{decoder}.layers.{number}.fc1", INNER, WIDTH)
        yield from _linear(f"{decoder}.layers.{number}.fc2", WIDTH, INNER)
        yield from _norm(f"{decoder}.layers.{number}.final_layer_norm")
    yield from _norm(f"{decoder}.final_layer_norm")


def _t5() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "language_model.shared.weight", (vocabulary_size("t5"), WIDTH)
    for side, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        for number in range(LAYERS):
            block = f"language_model.{side}.block.{number}.layer"
            for place, attention in enumerate(attentions):
                for part in ("q", "k", "v"):
                    yield from _linear(f"{block}.{place}.{attention}.{part}", HEADS * KEYS, WIDTH, bias=False)
                yield from _linear(f"{block}.{place}.{attention}.o", WIDTH, HEADS * KEYS, bias=False)
                if number == place == 0:
                    yield f"{block}.0.SelfAttention.relative_attention_bias.weight", (BUCKETS, HEADS)
                yield from _norm(f"{block}.{place}.layer_norm", bias=False)
            last = f"{block}.{len(attentions)}"
            yield from _linear(f"{last}.DenseReluDense.wi_0", INNER, WIDTH, bias=False)
            yield from _linear(f"{last}.DenseReluDense.wi_1", INNER, WIDTH, bias=False)
            yield from _linear(f"{last}.DenseReluDense.wo", WIDTH, INNER, bias=False)
            yield from _norm(f"{last}.layer_norm", bias=False)
        yield from _norm(f"language_model.{side}.final_layer_norm", bias=False)
    yield "language_model.lm_head.weight", (vocabulary_size("t5"), WIDTH)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint."""
    small = MODELS[name]
    found = dict([*_tower(small.image_size), *_qformer(text=small.kind == "bert")])
    if small.kind == "bert":
        found["embeddings.word_embeddings.weight"] = (vocabulary_size("bert"), WIDTH)
        found["embeddings.position_embeddings.weight"] = (POSITIONS, WIDTH)
        for part, rows in (("vision_projection", PROJECTED), ("text_projection", PROJECTED), ("itm_head", 2)):
            found |= dict(_linear(part, rows, WIDTH))
        return found
    return found | dict([*(_opt() if small.kind == "opt" else _t5()), *_linear("language_projection", WIDTH, WIDTH)])


def weights(name: str) -> dict[str, np.ndarray]:
    """Every tensor, float32, such that outputs differ clearly between pictures and between texts."""
    found = {}
    for key, shape in shapes(name).items():
        values = np.random.RandomState(zlib.crc32(f"{name} {key}".encode())).standard_normal(shape).astype(np.float32)
        found[key] = values * _scale(key) + (
            1 if key.endswith(("norm.weight", "Norm.weight", "norm1.weight", "norm2.weight")) else 0
        )
        if key.endswith("qkv.bias"):
            found[key][WIDTH : 2 * WIDTH] = 0  # EVA's tower has no bias of its keys
    kind = MODELS[name].kind
    if kind != "bert":
        head = found[
            "language_model.model.decoder.embed_tokens.weight" if kind == "opt" else "language_model.lm_head.weight"
        ]
        likely = sayable(kind)
        unlikely = np.ones(len(head), dtype=bool)
        unlikely[likely] = False
        head[unlikely] *= np.float32(0.05)
        head[likely[-1]] *= np.float32(MODELS[name].ending)
    return found


def _scale(key: str) -> np.float32:
    if "norm" in key.lower():
        return np.float32(0.2 if key.endswith("weight") and "post_layernorm" in key else 0.05)
    if key.endswith("bias"):
        return np.float32(0.05)
    if key == "query_tokens":
        return np.float32(1)
    if "embed" in key or "shared" in key:
        return np.float32(0.3)
    return np.float32(0.5 if "language_model" in key and "lm_head" not in key else 0.2)


# ---- pictures and words to try ----


def picture(number: int) -> np.ndarray:
    """RGB pixels (height, width, 3): gradients with rectangles and a little noise, in integers."""
    chance = np.random.RandomState(7000 + number)
    height, width = (int(side) for side in chance.randint(120, 420, size=2))
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.empty((height, width, 3), dtype=np.int64)
    for channel in range(3):
        across, down, start = (int(value) for value in chance.randint(0, 256, size=3))
        pixels[..., channel] = (start + across * columns // width + down * rows // height) % 256
    for _ in range(3):
        top, left = int(chance.randint(height - 40)), int(chance.randint(width - 40))
        pixels[top : top + int(chance.randint(20, 200)), left : left + int(chance.randint(20, 200))] = chance.randint(
            0, 256, size=3
        )
    return np.clip(pixels + chance.randint(-12, 13, size=pixels.shape), 0, 255).astype(np.uint8)


PICTURES = 6
ORIENTATION = 0x0112  # the EXIF tag
QUESTIONS = (
    "what is it?",
    "what color is the dog?",
    "how many people are in the picture?",
    "where is the cat",
    "who is holding the kite?",
    "is there a clock on the table",
)
TEXTS = (
    "a dog",
    "a red bus on the street",
    "A Black Cat sitting on a table.",
    "two people riding a horse near the water",
    "a photo of a boat",
    "what is it?",
    "the woman's hat",
    "a man holding a kite, and a dog looking at it",
    "snow",
    "pizza on a plate; a clock on the table",
    "(a picture of) the old train!",
    "a tall tree in the park",
    "three sheep lying in the grass",
    "a white plane",
    "the boy is eating cake",
    "a small bird at the window",
    "one two three four",
    "a yellow car next to a brown door",
    "xylophone",  # of letters alone
    "people walking",
)
LONG = (
    " ".join(
        f"{color} {thing} near the" for color in ("red", "blue", "green") for thing in ("dog", "cat", "bird", "car")
    )
    + " road"
)


def opt_config() -> dict[str, Any]:
    """Of transformers' `OPTConfig`."""
    return {
        "model_type": "opt", "vocab_size": vocabulary_size("opt"), "hidden_size": WIDTH, "word_embed_proj_dim": WIDTH,
        "ffn_dim": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": POSITIONS,
        "bos_token_id": OPT_BOS, "pad_token_id": OPT_PAD, "do_layer_norm_before": True, "dropout": 0.0,
    }  # fmt: skip


def t5_config() -> dict[str, Any]:
    """Of transformers' `T5Config`."""
    return {
        "model_type": "t5", "vocab_size": vocabulary_size("t5"), "d_model": WIDTH, "d_kv": KEYS, "d_ff": INNER,
        "num_layers": LAYERS, "num_heads": HEADS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "relative_attention_num_buckets": BUCKETS, "relative_attention_max_distance": REACH, "dropout_rate": 0.0,
        "decoder_start_token_id": T5_PAD, "eos_token_id": T5_EOS, "pad_token_id": T5_PAD,
    }  # fmt: skip


def qformer_config() -> dict[str, Any]:
    """Of transformers' `Blip2QFormerConfig` and `BertConfig` in common."""
    return {
        "vocab_size": vocabulary_size("bert"), "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }  # fmt: skip
