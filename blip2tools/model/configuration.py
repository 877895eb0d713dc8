"""The values of a checkpoint's configuration that decide what is computed, with the library's defaults.

Files written by transformers leave out what equals a default, so the defaults here must be the library's
(tests/model/test_configuration.py). Values that only matter in training are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

# Activations by the library's names (`transformers.activations.ACT2FN`); a checkpoint with another one is left to the library.
ACTIVATIONS = ("gelu", "relu")


@dataclass(slots=True)
class Part:
    """One part of a configuration file."""

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """The values of a part of `config.json`; missing ones are the defaults.

        Raises:
            ValueError: a value of another type than the library takes.
        """
        made = cls()
        for one in fields(cls):
            if one.name in written:
                setattr(made, one.name, _checked(one.name, written[one.name], getattr(made, one.name)))
        return made


@dataclass(slots=True)
class VisionConfig(Part):
    """The vision tower."""

    hidden_size: int = 1408
    intermediate_size: int = 6144
    num_hidden_layers: int = 39
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True


@dataclass(slots=True)
class QFormerConfig(Part):
    """The Q-Former."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    cross_attention_frequency: int = 2
    encoder_hidden_size: int = 1408
    use_qformer_text_input: bool = False


@dataclass(slots=True)
class OptConfig(Part):
    """OPT. Its embeddings are its output layer."""

    model_type: str = "opt"
    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    word_embed_proj_dim: int = 0  # 0: as wide as the layers
    num_attention_heads: int = 12
    activation_function: str = "relu"
    pad_token_id: Any = 1
    bos_token_id: Any = 2
    eos_token_id: Any = 2
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether it is of the kind that the family has; others are left to the library."""
        return (
            self.do_layer_norm_before
            and not self._remove_final_layer_norm
            and self.word_embed_proj_dim in (0, self.hidden_size)
            and self.enable_bias
            and self.layer_norm_elementwise_affine
            and self.activation_function in ACTIVATIONS
        )


@dataclass(slots=True)
class T5Config(Part):
    """T5, of which FLAN-T5 is the kind with a gated activation and an output layer of its own."""

    model_type: str = "t5"
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 0  # 0: as many as the encoder has
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str = ""
    is_gated_act: bool = False
    scale_decoder_outputs: bool = True
    pad_token_id: Any = 0
    eos_token_id: Any = 1
    decoder_start_token_id: Any = None

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """See `Part.read`. Values that follow from others are derived as in the library, unless they are given."""
        aliases = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
        named = {aliases.get(name, name): value for name, value in written.items()}
        gate, _, activation = str(named.get("feed_forward_proj", "relu")).rpartition("-")
        derived = {
            "dense_act_fn": "gelu_new" if (gate, activation) == ("gated", "gelu") else activation,
            "is_gated_act": gate == "gated",
            # The library scales the logits of an original T5, which it recognises by its tied output layer.
            "scale_decoder_outputs": named.get("tie_word_embeddings") is not False,
        }
        # Not `super()`: a dataclass with slots is another class than the one that this method was defined in.
        made = Part.read.__func__(cls, derived | named)  # type: ignore[attr-defined]
        made.num_decoder_layers = made.num_decoder_layers or made.num_layers
        return made  # type: ignore[no-any-return]

    @property
    def is_plain(self) -> bool:
        """Whether it is of the kind that the family has; others are left to the library."""
        return self.is_gated_act and self.dense_act_fn in ACTIVATIONS


@dataclass(slots=True)
class OtherConfig(Part):
    """A language model that is neither OPT nor T5."""

    model_type: str = ""


@dataclass(slots=True)
class Blip2Config:
    """The whole model."""

    vision_config: VisionConfig = field(default_factory=VisionConfig)
    qformer_config: QFormerConfig = field(default_factory=QFormerConfig)
    text_config: OptConfig | T5Config | OtherConfig = field(default_factory=OptConfig)
    num_query_tokens: int = 32
    image_text_hidden_size: int = 256

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """The content of `config.json`.

        Raises:
            ValueError: a value of another type than the library takes.
        """
        parts = {name: written.get(name) or {} for name in ("vision_config", "qformer_config", "text_config")}
        if not all(isinstance(part, Mapping) for part in parts.values()):
            raise ValueError("a part of the configuration is not an object")
        text: Any = {"opt": OptConfig, "t5": T5Config}.get(parts["text_config"].get("model_type", "opt"), OtherConfig)
        made = cls(
            VisionConfig.read(parts["vision_config"]),
            QFormerConfig.read(parts["qformer_config"]),
            text.read(parts["text_config"]),
        )
        for name in ("num_query_tokens", "image_text_hidden_size"):
            if name in written:
                setattr(made, name, _checked(name, written[name], getattr(made, name)))
        made.qformer_config.encoder_hidden_size = made.vision_config.hidden_size
        return made

    @property
    def is_plain(self) -> bool:
        """Whether vision tower and Q-Former are of the kind that the family has; others are left to the library."""
        return {self.vision_config.hidden_act, self.qformer_config.hidden_act} <= set(ACTIVATIONS)


def _checked(name: str, value: Any, default: Any) -> Any:
    if default is None or value is None or name.endswith("_token_id"):
        return default if value is None and not name.endswith("_token_id") else value
    wanted = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, wanted) or isinstance(value, bool) is not isinstance(default, bool):
        raise ValueError(f"{name} is {value!r}")
    return value
