"""The small checkpoints as folders that `Vision.load(model=folder)` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.reference.lavis import small

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def save(name: str, folder: Path, **entries: Any) -> Path:
    """Write the folder of a small checkpoint; `entries` go into its config.json."""
    folder.mkdir(parents=True)
    one = small.MODELS[name]
    save_file(small.weights(name), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config(one), **entries}))
    {"opt": opt_tokenizer, "t5": t5_tokenizer, "bert": bert_tokenizer}[one.kind]().save(str(folder / "tokenizer.json"))
    size = {"height": one.image_size, "width": one.image_size}
    written = {
        "image_processor_type": "BlipImageProcessor",
        "size": size,
        "resample": 3,
        "rescale_factor": 1 / 255,
        **CLIP,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(written))
    return folder


def config(one: small.Small) -> dict[str, Any]:
    text: dict[str, Any] = {"model_type": "opt"}
    if one.kind == "opt":
        text = {**small.opt_config(), "eos_token_id": small.opt_newline()}
    elif one.kind == "t5":
        text = {
            **small.t5_config(),
            "dense_act_fn": "gelu",
            "scale_decoder_outputs": False,
            "bos_token_id": small.T5_EOS,
        }
    return {
        "model_type": "blip-2",
        "architectures": ["Blip2ForImageTextRetrieval" if one.kind == "bert" else "Blip2ForConditionalGeneration"],
        "num_query_tokens": small.QUERIES,
        "image_text_hidden_size": small.PROJECTED,
        "image_token_index": None,
        "text_config": text,
        "vision_config": {
            "model_type": "blip_2_vision_model", "hidden_size": small.WIDTH, "intermediate_size": small.INNER,
            "num_hidden_layers": small.LAYERS, "num_attention_heads": small.HEADS, "image_size": one.image_size,
            "patch_size": small.PATCH, "layer_norm_eps": 1e-6, "qkv_bias": True, "hidden_act": "gelu",
        },
        "qformer_config": {
            **small.qformer_config(), "model_type": "blip_2_qformer", "cross_attention_frequency": 2,
            "encoder_hidden_size": small.WIDTH, "use_qformer_text_input": one.kind == "bert",
        },
    }  # fmt: skip


def opt_tokenizer() -> Tokenizer:
    vocabulary, merges = small.opt_vocabulary()
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    return made


def t5_tokenizer() -> Tokenizer:
    made = Tokenizer(models.Unigram(small.t5_pieces(), unk_id=small.T5_UNKNOWN, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", small.T5_EOS)])
    return made


def bert_tokenizer() -> Tokenizer:
    words = [*small.bert_words(), "[DEC]"]
    made = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(
        [AddedToken(f"[{name}]", special=True) for name in ("PAD", "UNK", "CLS", "SEP", "MASK", "DEC")]
    )
    return made
