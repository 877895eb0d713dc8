"""Modules that stand in the place of linear layers and tables of words, with quantized weights under the same names."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.model.quantized.storage import BLOCK, bits_kept, dequantize

# Parts that hold nearly all weights; what lies outside is small, and decides more: projections and heads.
PARTS: Final = ("vision_model.encoder", "qformer", "language_model")
TABLES: Final = ("embed_tokens", "shared", "word_embeddings")
OUTPUT: Final = "lm_head"  # 8 bits at least: it chooses the words, and may be one with their table


class QuantizedLinear(nn.Module):
    """A linear layer with a weight of 8 or 4 bits; parameters as `storage` has them, and the bias in float32.

    Args:
        in_features: width of what it takes.
        out_features: width of what it gives.
        bias: whether there is one.
        bits: 8 or 4.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits_kept(in_features, bits)
        for name, values in _empty(out_features, in_features, self.bits).items():
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, states: Tensor) -> Tensor:
        """States (..., out) of states (..., in), float32."""
        return functional.linear(states, dequantize(self.weight, self.scale), self.bias)


class QuantizedEmbedding(nn.Module):
    """A table of words in 8 bits, a scale for each."""

    bits = 8
    weight: Tensor
    scale: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        for name, values in _empty(num_embeddings, embedding_dim, self.bits).items():
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))

    def forward(self, ids: Tensor) -> Tensor:
        """Float32 rows (..., width) of ids."""
        return functional.embedding(ids, self.weight).float() * self.scale[ids][..., None]


def replace_linears(model: nn.Module, bits: int) -> None:
    """Put quantized layers without values into the place of a model's linear layers and tables of words.

    Norms, biases, positions, query tokens, the patch embedding, and the small projections and heads between the parts stay as
    they are. A table of words and the output layer have 8 bits in any case, in the same form, so that they can be tied.

    Args:
        model: a `modules.CaptionerModel` or `modules.MatcherModel`, made without memory (`torch.device("meta")`).
        bits: 8, or 4 for the language model's layers; parts that see many rows at once get 8 in both cases, because with
            those the time goes into the products, not into reading the weights.
    """
    for path, module in list(model.named_modules()):
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and name in TABLES:
            made: nn.Module = QuantizedEmbedding(module.num_embeddings, module.embedding_dim)
        elif isinstance(module, nn.Linear) and path.startswith(PARTS):
            few = path.startswith("language_model") and name != OUTPUT
            made = QuantizedLinear(
                module.in_features, module.out_features, bias=module.bias is not None, bits=bits if few else 8
            )
        else:
            continue
        model.set_submodule(path, made)


def _empty(rows: int, columns: int, bits: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        if bits == 8:
            return {"weight": torch.empty(rows, columns, dtype=torch.int8), "scale": torch.empty(rows)}
        return {
            "weight": torch.empty(rows, columns // 2, dtype=torch.int8),
            "scale": torch.empty(rows, columns // BLOCK),
        }


def quantized(model: nn.Module) -> dict[str, Any]:
    """The quantized layers of a model by their paths."""
    return {path: one for path, one in model.named_modules() if isinstance(one, QuantizedLinear | QuantizedEmbedding)}
