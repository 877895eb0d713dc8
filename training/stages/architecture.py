"""How large the demo models are, and untrained ones of that size: plain classes of transformers, nothing of our own."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
)

SIDE: Final = 80  # pixels
PATCH: Final = 8
GRID: Final = SIDE // PATCH
WIDTH: Final = 128
HEADS: Final = 4
TRUNK_LAYERS: Final = 4
CAPTIONER_QUERIES: Final = 16
CAPTIONER_LAYERS: Final = 2
SPEAKER_LAYERS: Final = 3  # of the language model
POSITIONS: Final = 256  # image tokens, prompt and answer
MATCHER_QUERIES: Final = 8
MATCHER_LAYERS: Final = 4
CONTRAST_WIDTH: Final = 64  # of ITC features


def vision_config() -> Any:
    """The vision tower's configuration; the same for both models."""
    return Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=TRUNK_LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="relu",
        initializer_range=0.02,  # the class's own default, 1e-10, leaves the tower dead
        qkv_bias=True,
    )


def qformer_config(*, layers: int, vocabulary: int | None = None) -> Any:
    """A Q-Former's configuration: with a vocabulary it reads text too."""
    return Blip2QFormerConfig(
        vocab_size=vocabulary or 1,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=64,
        cross_attention_frequency=1,
        encoder_hidden_size=WIDTH,
        use_qformer_text_input=vocabulary is not None,
    )


def new_captioner(vocabulary: int, image_token: int, seed: int) -> Any:
    """An untrained `Blip2ForConditionalGeneration`.

    Args:
        vocabulary: size of the tokenizer.
        image_token: id of its `<image>`.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    text = OPTConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=SPEAKER_LAYERS,
        ffn_dim=3 * WIDTH,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    config = Blip2Config(
        vision_config=vision_config(),
        qformer_config=qformer_config(layers=CAPTIONER_LAYERS),
        text_config=text,
        num_query_tokens=CAPTIONER_QUERIES,
        image_text_hidden_size=CONTRAST_WIDTH,
        image_token_index=image_token,
    )
    model: Any = Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=1.0)  # the library leaves zeros, with which all queries would be the same
    return model


def new_matcher(vocabulary: int, image_token: int, seed: int) -> Any:
    """An untrained `Blip2ForImageTextRetrieval`, except for its vision tower, which is to be copied from the captioner.

    Args:
        vocabulary: size of the BERT tokenizer.
        image_token: id of its `<image>`.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    # The class has no language model but wants a configuration of one.
    text = OPTConfig(
        vocab_size=8, hidden_size=32, num_hidden_layers=1, ffn_dim=32, num_attention_heads=1, max_position_embeddings=8
    )
    config = Blip2Config(
        vision_config=vision_config(),
        qformer_config=qformer_config(layers=MATCHER_LAYERS, vocabulary=vocabulary),
        text_config=text,
        num_query_tokens=MATCHER_QUERIES,
        image_text_hidden_size=CONTRAST_WIDTH,
        image_token_index=image_token,
    )
    model: Any = Blip2ForImageTextRetrieval(config)
    nn.init.normal_(model.query_tokens, std=1.0)
    return model
