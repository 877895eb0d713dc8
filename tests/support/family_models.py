"""Every member of the family, narrow and shallow: published configuration values, random weights, the hub's folders.

What decides answers is kept as published: vocabulary sizes, special ids, picture size and patches, query tokens, epsilons,
activations, tied or own output layer. Widths, heads and depth are reduced.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, PreTrainedTokenizerFast
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools.checkpoints.published import Published, published

Layout = Literal[
    "2023", "2024", "today"
]  # as first converted; as the hub has it since 4.47; as the library saves it now
LAYOUTS: tuple[Layout, ...] = ("2023", "2024", "today")

WIDTH, LAYERS, HEADS = 32, 2, 4
REDUCED = {
    "vision_config": {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
    "qformer_config": {
        "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "encoder_hidden_size": WIDTH,
    },
    "opt": {
        "hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": 64, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    },
    "t5": {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_heads": HEADS, "num_layers": LAYERS, "num_decoder_layers": LAYERS},
}  # fmt: skip

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "what",
    "color",
    "is",
    "red",
    "dog",
    "cat",
    "on",
    "Question",
    "Short",
    "Answer",
    "yes",
    "no",
    "it",
]
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def values(facts: Any) -> dict[str, Any]:
    return {name: fact.value for name, fact in facts.items()}


def kind_of(facts: Published) -> str:
    return str(facts.text["model_type"].value) if facts.text else "bert"


def config(name: str, *, reduced: bool = True) -> Blip2Config:
    """The library's configuration from the published values, all of them given."""
    facts = published(name)
    kind = kind_of(facts)
    small = REDUCED if reduced else {"vision_config": {}, "qformer_config": {}, kind: {}}
    parts: dict[str, Any] = {
        "vision_config": values(facts.vision) | small["vision_config"] | {"initializer_range": 0.02},
        "qformer_config": values(facts.qformer) | small["qformer_config"],
    }
    if facts.text:
        parts["text_config"] = values(facts.text) | small[kind]
    return Blip2Config(**parts, **values(facts.top))


@torch.no_grad()
def build(name: str) -> Any:
    """A model whose outputs differ clearly between pictures and between texts."""
    settings = config(name)
    kind = kind_of(published(name))
    model: Any = (Blip2ForImageTextRetrieval if kind == "bert" else Blip2ForConditionalGeneration)(settings)
    if kind == "t5":
        output = model.language_model.lm_head
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
    generator = torch.Generator().manual_seed(len(name))
    for key, parameter in model.named_parameters():
        scale = 0.05 if "bias" in key else 0.3 if "embed" in key or "position" in key else 0.15
        if parameter.ndim > 1 or "bias" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    model.query_tokens.copy_(torch.randn(model.query_tokens.shape, generator=generator))
    layernorm = model.vision_model.post_layernorm
    layernorm.weight.copy_(1 + 0.3 * torch.randn(layernorm.weight.shape, generator=generator))
    if kind != "bert":
        # Only ids that the small tokenizer can write may win, or a text would tell nothing about its tokens.
        head = model.language_model.get_output_embeddings().weight
        known = torch.zeros(len(head), 1)
        vocabulary = tokenizer(kind, image_token=False).get_vocab()
        known[[number for piece, number in vocabulary.items() if piece.strip("\u2581\u0120").isascii()]] = 1
        head *= known
        head[settings.text_config.eos_token_id] *= 2.5 if kind == "opt" else 4
    return model.eval()


def built(name: str) -> Any:
    """The same, shared between tests: do not change it."""
    return _built(name, tokenizer)


@cache
def _built(name: str, _tokenizer: Any) -> Any:
    """Another one where a test puts other tokenizers into this module."""
    return build(name)


@cache
def tokenizer(kind: str, *, image_token: bool) -> Tokenizer:
    """A small tokenizer with the special ids of the published one."""
    return {"opt": _opt, "t5": _t5, "bert": _bert}[kind](image_token)


def _opt(image_token: bool) -> Tokenizer:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"Ċ"})
    vocabulary |= {letter: number for number, letter in enumerate(letters, 4)} | {"Ċ": 50118}
    if image_token:
        vocabulary["<image>"] = 50265
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<pad>", "</s>", *(["<image>"] if image_token else [])])
    made.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return made


def _t5(image_token: bool) -> Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(f"\u2581{word}", -3.0) for word in WORDS]
    pieces += [(chr(number), -6.0) for number in range(33, 127) if chr(number) not in "<{}~"]
    pieces += [(f"\u2581\u00b7{number}", -20.0) for number in range(32000 - len(pieces))]
    pieces += [(f"<extra_id_{99 - number}>", 0.0) for number in range(100)]
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>", *(["<image>"] if image_token else [])])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def _bert(image_token: bool) -> Tokenizer:
    vocabulary = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    letters = [chr(number) for number in range(97, 123)]
    entries = [*dict.fromkeys([*map(str.lower, WORDS), *letters, *(f"##{letter}" for letter in letters)])]
    vocabulary |= {entry: number for number, entry in enumerate(entries, 1000)} | {"[DEC]": 30522}
    if image_token:
        vocabulary["<image>"] = 30523
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *(["<image>"] if image_token else [])]
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    return made


NAMES = {
    "bert": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "bos_token": "[DEC]",
    },
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"},
    "t5": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
}


def save(name: str, folder: Path, layout: Layout, model: Any | None = None) -> Any:
    """Write the member's folder in the form that the hub had or has; the model that was saved."""
    facts = published(name)
    kind = kind_of(facts)
    model = model or built(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in _tokenizer_files(tokenizer, kind, image_token=layout != "2023").items():
        (folder / file).write_bytes(content)
    size = int(facts.vision["image_size"].value)
    image_processor = BlipImageProcessorPil(size={"height": size, "width": size}, **CLIP)
    if layout == "today":
        model.save_pretrained(folder)
        written = {
            "image_processor": image_processor.to_dict(),
            "num_query_tokens": 32,
            "processor_class": "Blip2Processor",
        }
        _write(folder / "processor_config.json", written)
        return model
    # As the hub has them: several files of weights, and a tied output layer that may be stored once more.
    model.save_pretrained(folder, max_shard_size="2MB" if kind == "opt" else "50GB")
    if layout == "2023" and kind == "opt":
        _store_tied_output(folder, model)
    _write(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, **CLIP,
        "image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": size, "width": size},
    })  # fmt: skip
    if layout == "2024":
        _write(folder / "processor_config.json", {"num_query_tokens": 32, "processor_class": "Blip2Processor"})
    _write(folder / "config.json", old_config(name) if layout == "2023" else hub_config(name))
    return model


@cache
def _tokenizer_files(made_by: Any, kind: str, *, image_token: bool) -> dict[str, bytes]:
    """The files of a tokenizer as the library saves them; thousands of entries, made once."""
    backend = Tokenizer.from_str(made_by(kind, image_token=image_token).to_str())
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=backend, **NAMES[kind]).save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def _store_tied_output(folder: Path, model: Any) -> None:
    from safetensors.torch import save_file

    shard = "model-00099-of-00099.safetensors"
    head = model.language_model.lm_head.weight.detach().clone()
    save_file({"language_model.lm_head.weight": head}, folder / shard, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["language_model.lm_head.weight"] = shard
    index.write_text(json.dumps(listed))


def old_config(name: str) -> dict[str, Any]:
    """As of early 2023: every value spelled out, no image token, the matcher's flag under its first name."""
    written = json.loads(config(name).to_json_string(use_diff=False))
    written.pop("image_token_index", None)
    for key in ("dtype", "transformers_version", "_name_or_path"):
        written.pop(key, None)
    written |= {"architectures": [architecture(name)], "torch_dtype": "float32", "transformers_version": "4.27.0.dev0"}
    if name.startswith("itm"):
        qformer = written["qformer_config"]
        qformer["qformer_text_input"] = qformer.pop("use_qformer_text_input")
    return written


def hub_config(name: str) -> dict[str, Any]:
    """As of 4.47: what equals a default is left out."""
    facts = published(name)
    kind = kind_of(facts)

    def part(group: Any, reduced: dict[str, Any], model_type: str) -> dict[str, Any]:
        given = {key: fact.value for key, fact in group.items() if fact.source != "defaults"}
        return given | reduced | {"model_type": model_type}

    vision = part(facts.vision, REDUCED["vision_config"], "blip_2_vision_model")
    if vision["image_size"] == 224:
        del vision["image_size"]
    return {
        "architectures": [architecture(name)],
        "image_text_hidden_size": 256,
        "image_token_index": facts.top["image_token_index"].value,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "model_type": "blip-2",
        "num_query_tokens": 32,
        "qformer_config": part(facts.qformer, REDUCED["qformer_config"], "blip_2_qformer")
        | {"classifier_dropout": None},
        "text_config": part(facts.text, REDUCED[kind], kind) if facts.text else {"model_type": "opt"},
        "torch_dtype": "float32",
        "transformers_version": "4.47.0.dev0",
        "use_decoder_only_language_model": kind != "t5",
        "vision_config": vision | {"dropout": 0.0, "initializer_factor": 1.0, "num_channels": 3, "projection_dim": 512},
    }


def architecture(name: str) -> str:
    return "Blip2ForImageTextRetrieval" if name.startswith("itm") else "Blip2ForConditionalGeneration"


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
