"""Matrices of 8 and 4 bits as plain tensors: what a safetensors file holds.

8 bits: `weight`, int8 (out, in), and `scale`, float32 (out,): one for each row.

4 bits: `weight`, int8 (out, in / 2), two values a byte, the first in the low half, each 8 more than it stands for, and `scale`,
float32 (out, in / BLOCK): one for each block of a row, because sixteen levels are too few for a whole row.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 32  # values of a row that share a scale in 4 bits
_HIGHEST: Final = {8: 127, 4: 7}
_ROWS: Final = 1024  # rows that are converted together: a copy in float32 of a table of words would be half a gigabyte


def bits_kept(inputs: int, bits: int) -> int:
    """The bits that a matrix with so many columns gets where `bits` are wanted: 8 where its rows are not whole blocks."""
    return 8 if inputs % BLOCK else bits


def quantize(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """The plain tensors of a full-precision matrix, each value rounded to the nearest that the bits can hold.

    Args:
        weight: (out, in), finite, of any floating dtype.
        bits: 8 or 4; see `bits_kept`.

    Raises:
        ValueError: another number of bits, not a matrix, or values that are not finite.
    """
    if bits not in _HIGHEST or weight.ndim != 2:
        raise ValueError("a matrix in 8 or 4 bits")
    bits = bits_kept(weight.shape[1], bits)
    parts = [_eight(rows.float()) if bits == 8 else _four(rows.float()) for rows in torch.split(weight, _ROWS)]
    values, scales = (torch.cat(one) for one in zip(*parts, strict=True))
    if not bool(scales.isfinite().all()):
        raise ValueError("weights that are not finite")
    return {"weight": values, "scale": scales}


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 matrix (out, in) that plain tensors stand for."""
    if scale.ndim == 1:
        return weight.float() * scale[:, None]
    blocks = levels(weight).view(len(weight), -1, BLOCK)
    return ((blocks.float() - 8) * scale[..., None]).flatten(1)


def levels(weight: Tensor) -> Tensor:
    """The numbers 0 to 15, uint8 (out, in), of a matrix that is kept in 4 bits."""
    pairs = weight.view(torch.uint8)
    return torch.stack([pairs & 15, pairs >> 4], -1).flatten(1)


def _eight(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = rows.abs().amax(1) / _HIGHEST[8]
    return (rows / _divisor(scale)[:, None]).round_().to(torch.int8), scale


def _four(rows: Tensor) -> tuple[Tensor, Tensor]:
    blocks = rows.view(len(rows), -1, BLOCK)
    scale = blocks.abs().amax(2) / _HIGHEST[4]
    kept = ((blocks / _divisor(scale)[..., None]).round_() + 8).to(torch.uint8).flatten(1)
    return (kept[:, ::2] | kept[:, 1::2] << 4).view(torch.int8), scale


def _divisor(scale: Tensor) -> Tensor:
    """The scales, and 1 in the place of 0: what is all zero stays so."""
    return torch.where(scale == 0, 1.0, scale)
