"""Outlier channels, as large language models have them: a few hidden channels far larger than the rest, for all tokens.

LLM.int8() (arXiv 2208.07339) and SmoothQuant (arXiv 2211.10438, figure 4) found them in OPT: always the same channels, from some
layer on in the whole residual stream, about 20 to 100 times the others. Random weights have none, so that a random model proves
nothing about quantized states until it is given some.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

FIRST = 3  # the layer that they begin in


@torch.no_grad()
def give(language_model: Any, *, channels: int = 4, size: float = 60.0, balanced: bool, seed: int = 0) -> None:
    """Give a stock OPT or T5 outlier channels, in the states that its projections read from layer `FIRST` on.

    Args:
        language_model: changed in place.
        channels: how many.
        size: the largest's factor over the rest; others have down to a third of it.
        balanced: whether the weights that read them are as much smaller, as a trained model's are.
        seed: of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    for norm, readers in _readings(language_model):
        width = len(norm.weight)
        chosen = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:channels]
        factors = size * (1 / 3 + 2 / 3 * torch.rand(channels, generator=generator))
        factors[0] = size
        norm.weight[chosen] *= factors
        if getattr(norm, "bias", None) is not None:
            # A sign of their own: the channels are large for every token, not only where the token makes them so.
            norm.bias[chosen] += factors * (2 * torch.randint(0, 2, (channels,), generator=generator) - 1)
        if balanced:
            for reader in readers:
                reader.weight[:, chosen] /= factors


def _readings(language_model: Any) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """Each norm whose states get outliers, with the layers that read them."""
    if language_model.config.model_type == "opt":
        layers = language_model.model.decoder.layers[FIRST:]
        found: list[Any] = []
        for layer in layers:
            attention = layer.self_attn
            found += [
                (layer.self_attn_layer_norm, [attention.q_proj, attention.k_proj, attention.v_proj]),
                (layer.final_layer_norm, [layer.fc1]),
            ]
        return found
    found = []
    for stack in (language_model.encoder, language_model.decoder):
        for block in stack.block[FIRST:]:
            itself, feed = block.layer[0], block.layer[-1]
            own, dense = itself.SelfAttention, feed.DenseReluDense
            found += [(itself.layer_norm, [own.q, own.k, own.v]), (feed.layer_norm, [dense.wi_0, dense.wi_1])]
    return found
