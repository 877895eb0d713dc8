"""T5's encoder, and the biases of encoder and decoder for distances between tokens."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from blip2tools.model.weights import side_by_side

MASKED = float("-inf")


class Encoder:
    """The encoder: rows of embeddings that are read in both directions.

    Args:
        stack: the encoder of a loaded language model.
    """

    def __init__(self, stack: Any) -> None:
        self._blocks, self._last_norm = stack.block, stack.final_layer_norm
        self._attention = stack.block[0].layer[0].SelfAttention
        attentions = [block.layer[0].SelfAttention for block in stack.block]
        self._projections = [side_by_side([one.q, one.k, one.v]) for one in attentions]

    def __call__(self, embeds: Tensor, filled: Tensor) -> Tensor:
        """Hidden states (B, L, D) of embeddings (B, L, D).

        Args:
            embeds: of image tokens and words.
            filled: (B, L), false at padding.
        """
        hidden, (rows, places, _) = embeds, embeds.shape
        bias = relative_bias(self._attention, places, embeds.device, both_ways=True)
        if not bool(filled.all()):
            bias = bias.masked_fill(~filled[:, None, None], MASKED)
        heads, size = self._attention.n_heads, self._attention.key_value_proj_dim
        for block, projected in zip(self._blocks, self._projections, strict=True):
            itself, feed_forward = block.layer
            attention = itself.SelfAttention
            query, keys, values = (
                part.view(rows, places, heads, size).transpose(1, 2) for part in projected(itself.layer_norm(hidden))
            )
            seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
            hidden = feed_forward(hidden + attention.o(seen.transpose(1, 2).reshape(rows, places, -1)))
        return cast(Tensor, self._last_norm(hidden))


def relative_bias(attention: Any, places: int, device: torch.device, *, both_ways: bool) -> Tensor:
    """(1, heads, places, places), added to scores: the bias of a token's distance (Raffel et al. 2020, 2.1).

    Small distances have a row of the table each, larger ones share rows that grow with the logarithm, and all from a largest one
    on share the last.

    Args:
        attention: the first of its stack, with the table.
        places: tokens.
        device: where the tokens are.
        both_ways: whether a token also sees those behind it, which then have half of the rows.
    """
    at = torch.arange(places, device=device)
    distance = at[None] - at[:, None]
    rows = attention.relative_attention_num_buckets
    behind: Tensor | int = 0
    if both_ways:
        rows //= 2
        behind, distance = (distance > 0) * rows, distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    alone = rows // 2
    # In single precision and this order, as in training: at a boundary the last digit matters.
    growth = torch.log(distance.float() / alone) / math.log(attention.relative_attention_max_distance / alone)
    shared = alone + (growth * (rows - alone)).clamp(min=0).long()
    row = torch.where(distance < alone, distance, shared.clamp(max=rows - 1)) + behind
    return cast(Tensor, attention.relative_attention_bias(row)).permute(2, 0, 1)[None]
