"""Small BLIP-2 models with random weights, from the real configuration classes, and tokenizers built in code.

Random weights prove algebra, not quality. As they come from the library, `query_tokens` are zero and the vision tower's
initial range is 1e-10, so that all pictures look the same: both are set here.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

IMAGE_SIZE = 28
QUERIES = 8
VOCABULARY = 320

OPT_BOS, OPT_PAD, OPT_EOS, OPT_IMAGE = 2, 1, 9, 3  # the end of sequence is an ordinary token, as OPT's newline is
T5_PAD, T5_EOS, T5_IMAGE = 0, 1, 319
BERT_PAD, BERT_CLS, BERT_SEP = 0, 2, 3


def vision_config(**changes: Any) -> Blip2VisionConfig:
    values: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 7,
        "initializer_range": 0.02,
    }
    return Blip2VisionConfig(**values | changes)


def qformer_config(**changes: Any) -> Blip2QFormerConfig:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "encoder_hidden_size": 32,
    }
    return Blip2QFormerConfig(**values | changes)


def opt_config(**changes: Any) -> OPTConfig:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 96,
        "word_embed_proj_dim": 32,
        "bos_token_id": OPT_BOS,
        "pad_token_id": OPT_PAD,
        "eos_token_id": OPT_EOS,
    }
    return OPTConfig(**values | changes)


def t5_config(**changes: Any) -> T5Config:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
        "decoder_start_token_id": T5_PAD,
        "bos_token_id": T5_EOS,
        "eos_token_id": T5_EOS,
        "pad_token_id": T5_PAD,
    }
    return T5Config(**values | changes)


def config(text_config: Any, image_token: int | None, **changes: Any) -> Blip2Config:
    values: dict[str, Any] = {
        "vision_config": vision_config(),
        "qformer_config": qformer_config(),
        "text_config": text_config,
        "num_query_tokens": QUERIES,
        "image_text_hidden_size": 16,
        "image_token_index": image_token,
    }
    return Blip2Config(**values | changes)


@torch.no_grad()
def _enliven(model: Any, seed: int) -> Any:
    """Make outputs differ clearly between pictures and texts, in each part of the model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 0.3 if "embed" in name or "position" in name else 0.15
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        elif "bias" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.query_tokens.copy_(torch.randn(model.query_tokens.shape, generator=generator))
    layernorm = model.vision_model.post_layernorm
    layernorm.weight.copy_(1 + 0.3 * torch.randn(layernorm.weight.shape, generator=generator))
    if hasattr(model, "language_model"):
        # Texts shall end by themselves now and then.
        gain = 2.5 if model.config.text_config.model_type == "opt" else 6
        model.language_model.get_output_embeddings().weight[model.config.text_config.eos_token_id] *= gain
    return model.eval()


@cache
def opt(seed: int = 2) -> Any:
    """A captioner with an OPT language model. Shared between tests: do not change it."""
    return make_opt(seed)


@cache
def t5(seed: int = 2) -> Any:
    """A captioner with a T5 language model. Shared between tests: do not change it."""
    return make_t5(seed)


@cache
def matcher(seed: int = 2) -> Any:
    """An image-text matcher. Shared between tests: do not change it."""
    return make_matcher(seed)


def make_opt(seed: int = 2, **changes: Any) -> Any:
    return _enliven(Blip2ForConditionalGeneration(config(opt_config(**changes), OPT_IMAGE)), seed)


def make_t5(seed: int = 2, **changes: Any) -> Any:
    model: Any = Blip2ForConditionalGeneration(config(t5_config(**changes), T5_IMAGE))
    # The library ties FLAN-T5's output layer to the embeddings at first; the published weights have their own.
    output = model.language_model.lm_head
    output.weight = torch.nn.Parameter(output.weight.detach().clone())
    return _enliven(model, seed)


def make_matcher(seed: int = 2, image_token: int | None = None) -> Any:
    settings = config(opt_config(), image_token, qformer_config=qformer_config(use_qformer_text_input=True))
    return _enliven(Blip2ForImageTextRetrieval(settings), seed + 1)


def pixels(count: int, seed: int = 0, size: int = IMAGE_SIZE) -> torch.Tensor:
    """Clearly different pictures."""
    generator = torch.Generator().manual_seed(1000 + seed)
    base = torch.randn(count, 3, 1, 1, generator=generator)
    return base + torch.randn(count, 3, size, size, generator=generator)


def image_processor(size: int = IMAGE_SIZE) -> BlipImageProcessorPil:
    return BlipImageProcessorPil(size={"height": size, "width": size})


def opt_tokenizer() -> Tokenizer:
    """Byte-level BPE without merges, as GPT-2's and OPT's are with many."""
    special = ["<s>", "<pad>", "</s>", "<image>"]
    vocabulary = {token: number for number, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    template = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", OPT_BOS)])
    tokenizer.post_processor = template
    return tokenizer


def t5_tokenizer() -> Tokenizer:
    """Unigram with its special tokens among the pieces, as sentencepiece makes it."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words = [
        "question",
        "Question",
        "answer",
        "Answer",
        "Short",
        "what",
        "is",
        "red",
        "a",
        "photo",
        "of",
        "dog",
        "yes",
        "no",
    ]
    pieces += [(f"\u2581{word}", -3.0) for word in words]
    pieces += [(chr(number), -6.0) for number in range(33, 127) if chr(number) not in "<{}~"]  # T5 has no "<"
    pieces += [(f"<extra_id_{number}>", 0.0) for number in range(3)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<image>", *(f"<extra_id_{n}>" for n in range(3))])
    template = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", T5_EOS)])
    tokenizer.post_processor = template
    return tokenizer


def bert_tokenizer() -> Tokenizer:
    """WordPiece over letters, lower-casing."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "a",
        "red",
        "circle",
        "dog",
        "frisbee",
        "with",
        "on",
        "the",
        "photo",
        "of",
        "cat",
        "mask",
        "sep",
        "it's",
        "?",
    ]
    letters = [chr(number) for number in range(97, 123)] + list(",.'-?[]()<>/0123456789")
    entries = list(dict.fromkeys([*special, *words, *letters, *(f"##{chr(n)}" for n in range(97, 123))]))
    tokenizer = Tokenizer(models.WordPiece(dict(zip(entries, range(len(entries)), strict=True)), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*special, AddedToken("[DEC]"), AddedToken("<image>")])
    single = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.post_processor = single
    return tokenizer


def save(model: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint folder in the form of the hub's, with tokenizer and image processor."""
    family = "bert" if isinstance(model, Blip2ForImageTextRetrieval) else model.config.text_config.model_type
    backend = {"bert": bert_tokenizer, "opt": opt_tokenizer, "t5": t5_tokenizer}[family]()
    names = {
        "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        "opt": {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
        "t5": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    }[family]
    model.to(dtype).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    image_processor(model.config.vision_config.image_size).save_pretrained(folder)
    return folder
