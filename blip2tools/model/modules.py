"""The parts of BLIP-2 as containers of weights, with names and order of transformers' own, so that files and digests fit.

Only what is the same however it is reached is computed here: norms and feed-forward layers. The way through the parts is that
of `trunk`, `qformer`, `encoder` and `language`, which takes the library's modules as well: quantized, offloaded and spread
models, and those that an adapter changes, are loaded by the library.

They are made without memory or values (`torch.device("meta")`); `checkpoints.weights` fills them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.model.configuration import Blip2Config, OptConfig, QFormerConfig, T5Config, VisionConfig
from blip2tools.model.weights import side_by_side

_OPT_OFFSET = 2  # rows of OPT's table of positions before the first, as fairseq left them


def activation(name: str) -> nn.Module:
    """An activation by the library's name."""
    kinds: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
    return kinds[name]()


def _values(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _table(rows: int, width: int) -> nn.Embedding:
    """A table without first values: to draw them, torch would import its compiler (3 s), even where there is no memory."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


# ---- vision tower ----


class VisionTower(nn.Module):
    """The whole tower; `Trunk` is all of it but the last norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Patches(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Patches(nn.Module):
    """Embeddings of patches, of [CLS] and of their positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.num_positions = (config.image_size // config.patch_size) ** 2 + 1
        self.class_embedding = _values(1, 1, config.hidden_size)
        self.position_embedding = _values(1, self.num_positions, config.hidden_size)
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)


class VisionLayer(nn.Module):
    """One layer of the tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_attn = nn.Module()
        self.self_attn.num_heads, self.self_attn.head_dim = _heads(width, config.num_attention_heads)  # type: ignore[assignment]
        self.self_attn.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.self_attn.projection = nn.Linear(width, width)
        self.layer_norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = VisionFeedForward(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)


class VisionFeedForward(nn.Module):
    """The feed-forward part of a layer of the tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation_fn = activation(config.hidden_act)

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.fc2(self.activation_fn(self.fc1(states)))
        return made


# ---- Q-Former ----


class QFormer(nn.Module):
    """Queries that look at a picture, and with `use_qformer_text_input` read a text too."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(QFormerLayer(config, number) for number in range(config.num_hidden_layers))


class QFormerLayer(nn.Module):
    """One layer of the Q-Former: queries and texts have feed-forward parts of their own."""

    def __init__(self, config: QFormerConfig, number: int) -> None:
        super().__init__()
        self.has_cross_attention = number % config.cross_attention_frequency == 0
        self.attention = QFormerAttention(config, config.hidden_size)
        if self.has_cross_attention:
            self.crossattention = QFormerAttention(config, config.encoder_hidden_size)
        if config.use_qformer_text_input:
            self.intermediate, self.output = Intermediate(config), _Output(config, config.intermediate_size)
        self.intermediate_query, self.output_query = Intermediate(config), _Output(config, config.intermediate_size)


class QFormerAttention(nn.Module):
    """Projections of one attention, and of its result."""

    def __init__(self, config: QFormerConfig, seen: int) -> None:
        super().__init__()
        self.attention = nn.Module()
        heads, size = _heads(config.hidden_size, config.num_attention_heads)
        self.attention.num_attention_heads, self.attention.attention_head_size = heads, size  # type: ignore[assignment]
        self.attention.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention.key = nn.Linear(seen, config.hidden_size)
        self.attention.value = nn.Linear(seen, config.hidden_size)
        self.output = _Output(config, config.hidden_size)


class Intermediate(nn.Module):
    """The wide half of a feed-forward part."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = activation(config.hidden_act)

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.intermediate_act_fn(self.dense(states))
        return made


class _Output(nn.Module):
    """The projection back to the layer's width; the norm comes after the sum."""

    def __init__(self, config: QFormerConfig, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class TextEmbeddings(nn.Module):
    """Words and their positions, for the matcher."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.word_embeddings = _table(config.vocab_size, config.hidden_size)
        self.position_embeddings = _table(config.max_position_embeddings, config.hidden_size)


# ---- language models ----


class OptModel(nn.Module):
    """OPT with its output layer."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        self.config = config
        decoder = nn.Module()
        decoder.embed_tokens = _table(config.vocab_size, config.hidden_size)
        decoder.embed_positions = _table(config.max_position_embeddings + _OPT_OFFSET, config.hidden_size)
        decoder.embed_positions.offset = _OPT_OFFSET  # type: ignore[assignment]
        decoder.final_layer_norm = nn.LayerNorm(config.hidden_size)
        decoder.layers = nn.ModuleList(OptLayer(config) for _ in range(config.num_hidden_layers))
        decoder.project_in = None  # type: ignore[assignment]
        self.model = nn.Module()
        self.model.decoder = decoder
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> Any:
        """The table of words."""
        return self.model.decoder.embed_tokens  # type: ignore[union-attr]


class OptLayer(nn.Module):
    """One layer of OPT."""

    def __init__(self, config: OptConfig) -> None:
        super().__init__()
        width = config.hidden_size
        attention = nn.Module()
        heads, size = _heads(width, config.num_attention_heads)
        attention.num_heads, attention.head_dim, attention.scaling = heads, size, size**-0.5  # type: ignore[assignment]
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            attention.add_module(name, nn.Linear(width, width))
        self.self_attn = attention
        self.activation_fn = activation(config.activation_function)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)


class T5Model(nn.Module):
    """T5 with its output layer."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = _table(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config, config.num_layers, decoder=False)
        self.decoder = T5Stack(config, config.num_decoder_layers, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of words, which encoder and decoder share."""
        return self.shared


class T5Stack(nn.Module):
    """Encoder or decoder."""

    def __init__(self, config: T5Config, layers: int, *, decoder: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(T5Block(config, decoder=decoder, first=number == 0) for number in range(layers))
        self.final_layer_norm = RootMeanSquareNorm(config)


class T5Block(nn.Module):
    """One layer of T5. The first of a stack has the table of relative positions for all of them."""

    def __init__(self, config: T5Config, *, decoder: bool, first: bool) -> None:
        super().__init__()
        itself, cross, forward = nn.Module(), nn.Module(), T5FeedForward(config)
        itself.SelfAttention, cross.EncDecAttention = T5Attention(config, positions=first), T5Attention(config)
        itself.layer_norm, cross.layer_norm = RootMeanSquareNorm(config), RootMeanSquareNorm(config)
        self.layer = nn.ModuleList([itself, cross, forward] if decoder else [itself, forward])


class T5Attention(nn.Module):
    """Projections of one attention."""

    def __init__(self, config: T5Config, *, positions: bool = False) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.n_heads, self.key_value_proj_dim = config.num_heads, config.d_kv
        self.relative_attention_num_buckets = config.relative_attention_num_buckets
        self.relative_attention_max_distance = config.relative_attention_max_distance
        for name in ("q", "k", "v"):
            self.add_module(name, nn.Linear(config.d_model, inner, bias=False))
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if positions:
            self.relative_attention_bias = _table(config.relative_attention_num_buckets, config.num_heads)


class T5FeedForward(nn.Module):
    """A gated feed-forward part (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        dense = nn.Module()
        dense.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        dense.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        dense.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        dense.act = activation(config.dense_act_fn)
        self.DenseReluDense: Any = dense
        self.layer_norm = RootMeanSquareNorm(config)

    def forward(self, states: Tensor) -> Tensor:
        dense, ready = self.DenseReluDense, self.layer_norm(states)
        gate, wide = side_by_side([dense.wi_0, dense.wi_1])(ready)
        made: Tensor = states + dense.wo(dense.act(gate) * wide)
        return made


class RootMeanSquareNorm(nn.Module):
    """A norm without mean and bias (Zhang and Sennrich 2019); the mean square is float32 whatever the weights are."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = _values(config.d_model)
        self.variance_epsilon = config.layer_norm_epsilon

    def forward(self, states: Tensor) -> Tensor:
        if states.dtype == self.weight.dtype == torch.float32:  # the same numbers in a third less time
            return functional.rms_norm(states, self.weight.shape, self.weight, self.variance_epsilon)
        square = states.float().square().mean(-1, keepdim=True)
        return self.weight * (states * torch.rsqrt(square + self.variance_epsilon)).to(self.weight.dtype)


# ---- whole models ----


class CaptionerModel(nn.Module):
    """The parts of `Captioner`."""

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        text = config.text_config
        if not isinstance(text, OptConfig | T5Config):
            raise ValueError("the language model is neither OPT nor T5")
        self.config = config
        self.vision_model = VisionTower(config.vision_config)
        self.query_tokens = _values(1, config.num_query_tokens, config.qformer_config.hidden_size)
        self.qformer = QFormer(config.qformer_config)
        width = text.hidden_size if isinstance(text, OptConfig) else text.d_model
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, width)
        self.language_model = OptModel(text) if isinstance(text, OptConfig) else T5Model(text)

    def get_input_embeddings(self) -> Any:
        """The language model's table of words."""
        return self.language_model.get_input_embeddings()


class MatcherModel(nn.Module):
    """The parts of `Matcher`."""

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        width = config.qformer_config.hidden_size
        self.config = config
        self.vision_model = VisionTower(config.vision_config)
        self.query_tokens = _values(1, config.num_query_tokens, width)
        self.embeddings = TextEmbeddings(config.qformer_config)
        self.qformer = QFormer(config.qformer_config)
        self.vision_projection = nn.Linear(width, config.image_text_hidden_size)
        self.text_projection = nn.Linear(width, config.image_text_hidden_size)
        self.itm_head = nn.Linear(width, 2)


def _heads(width: int, heads: int) -> tuple[int, int]:
    if width % heads:
        raise ValueError(f"{heads} heads do not share {width} numbers")
    return heads, width // heads
