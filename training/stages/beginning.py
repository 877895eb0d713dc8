"""The first weights of a vision tower: it sees edges, and each patch attends to its neighbours.

Both could be learned, but it takes a tower that begins without either tens of thousands of pictures to find out where what is
(as Trockman and Kolter 2023, "Mimetic initialization of self-attention layers", saw on photographs). These are weights
like any others, and learn from the first step on.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from blip2tools.demo.world import World
from training.stages.architecture import GRID, WIDTH
from training.stages.samples import whitened_patches

_PLACE: Final = 32  # of a patch's numbers tell where it is, the others what it shows
_AXIS: Final = _PLACE // 2
_WAVES: Final = _AXIS // 2  # sine and cosine of each
_SHARP: Final = 8.0  # by how much, before the softmax, a neighbour is preferred to distant patches
_MIXING: Final = (0.08, 0.05)  # deviation of the weights of values and of what is made of them
# Where the heads of each layer look, in patches; later layers start at random.
_LOOKS: Final = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (1, 1), (-1, 1), (1, -1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)


@torch.no_grad()
def begin(tower: Any, world: World, seed: int) -> None:
    """Set the first weights of a `Blip2VisionModel`.

    Args:
        tower: untrained.
        world: whose patches it is to see.
        seed: of the pictures that they are taken from.
    """
    embeddings = tower.embeddings
    weight, bias = whitened_patches(world, seed)
    weight[WIDTH - _PLACE :], bias[WIDTH - _PLACE :] = 0, 0
    embeddings.patch_embedding.weight.copy_(weight)
    embeddings.patch_embedding.bias.copy_(bias)
    embeddings.position_embedding.zero_()
    embeddings.position_embedding[0, 1:, WIDTH - _PLACE :] = _places()
    embeddings.class_embedding.normal_(std=0.2)[..., WIDTH - _PLACE :] = 0
    for layer, looks in zip(tower.encoder.layers, _LOOKS, strict=False):
        attention = layer.self_attn
        queries, keys, values = attention.qkv.weight.chunk(3)
        for head, (across, down) in enumerate(looks):
            rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            queries[rows] += _moved(across, down, attention.head_dim)
            keys[rows] += _moved(0, 0, attention.head_dim)
        values.normal_(std=_MIXING[0])
        attention.projection.weight.normal_(std=_MIXING[1])


def _waves() -> Tensor:
    """Radians a patch."""
    lengths = torch.logspace(math.log10(4.0), math.log10(4.0 * GRID), _WAVES)
    return 2 * math.pi / lengths


def _places() -> Tensor:
    """(P, 32): sines and cosines of a patch's column, then of its row (Vaswani et al. 2017, 3.5)."""
    angles = torch.arange(GRID)[:, None] * _waves()
    along = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([along.expand(GRID, GRID, _AXIS), along[:, None].expand(GRID, GRID, _AXIS)], -1).reshape(
        GRID * GRID, _PLACE
    )


def _moved(across: int, down: int, width: int) -> Tensor:
    """(width, D): a patch's place → the place so many patches away. Its product with another place is largest there."""
    turn = torch.zeros(width, WIDTH)
    size = math.sqrt(_SHARP * math.sqrt(width) / _AXIS)
    for axis, distance in enumerate((across, down)):
        for wave, radians in enumerate(_waves().tolist()):
            sine, cosine = axis * _AXIS + wave, axis * _AXIS + _WAVES + wave
            source = WIDTH - _PLACE
            turn[sine, source + sine] = turn[cosine, source + cosine] = size * math.cos(radians * distance)
            turn[sine, source + cosine] = size * math.sin(radians * distance)
            turn[cosine, source + sine] = -size * math.sin(radians * distance)
    return turn
