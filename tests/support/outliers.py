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
        chosen = torch.randperm(len(norm.weight), generator=torch.Generator().manual_seed(seed))[:channels]
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


class Naive(nn.Module):
    """A linear layer in 8 bits as it is done first: a scale for each row of the weights, one for the states.

    Args:
        layer: what it stands for.
        token: whether each row of states has a scale of its own, instead of all of a call.
    """

    def __init__(self, layer: nn.Linear, *, token: bool) -> None:
        super().__init__()
        self.bias, self._token = layer.bias, token
        self.weight = _rounded(layer.weight.data, layer.weight.data.abs().amax(1, keepdim=True))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        largest = states.abs().amax(-1, keepdim=True) if self._token else states.abs().max()
        return nn.functional.linear(_rounded(states, largest), self.weight, self.bias)


def make_naive(language_model: Any, *, token: bool) -> None:
    """Put `Naive` into the place of every linear layer of our language model but the output layer."""
    for path, module in list(language_model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            language_model.set_submodule(path, Naive(module, token=token))


def _rounded(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    scale = (largest / 127).clamp(min=1e-30)
    return (values / scale).round() * scale
