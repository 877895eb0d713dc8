"""Matrices of 8 and 4 bits as plain tensors: what a safetensors file holds.

8 bits: `weight`, int8 (out, in), and `scale`, float32 (out,): one for each row.

4 bits: `weight`, int8 (out, in / 2), two values a byte, the first in the low half, each 8 more than it stands for, and `scale`,
float32 (out, in / BLOCK): one for each block of a row, because sixteen levels are too few for a whole row.

16 bits, for matrices that decide more than others: `weight`, int8 (2, out, in), and `scale`, float32 (2, out): 8 bits, and 8 more
for what those left.

All: `columns`, int8 (in,): a column is 2 to the power of that times what the others say. A trained model reads its outlier
channels with weights that are as much smaller, and a scale that suits the rest of a row would leave them without digits. What
reads the matrix moves the powers to the states, whose outliers are then gone (as SmoothQuant does, arXiv 2211.10438, but from the
weights alone).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 128  # values of a row that share a scale in 4 bits: kernels are a third quicker than with 32
_HIGHEST: Final = {16: 127, 8: 127}
# Of the scale with which the largest value of a block is kept as it is: a smaller one cuts that off and suits the rest better.
# With these three, normal values in blocks of 128 lose 0.098 of their norm; in blocks of 32 with levels from -7 to 7, 0.097.
_SHARES: Final = (1.0, 0.9, 0.8)
_FAR, _FARTHEST = (
    2,
    30,
)  # powers of a column that are worth moving: it is a quarter of the rest or less, or four times or more
_ROWS: Final = 128  # that are converted together: they stay in the processor's cache


def bits_kept(inputs: int, bits: int) -> int:
    """The bits that a matrix with so many columns gets where `bits` are wanted: not 4 where its rows are not whole blocks."""
    return 8 if bits == 4 and inputs % BLOCK else bits


def quantize(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """The plain tensors of a full-precision matrix, each value rounded to the nearest that the bits can hold.

    Args:
        weight: (out, in), finite, of any floating dtype.
        bits: 16, 8 or 4; see `bits_kept`.

    Raises:
        ValueError: another number of bits, not a matrix, or values that are not finite.
    """
    if bits not in (16, 8, 4) or weight.ndim != 2:
        raise ValueError("a matrix in 16, 8 or 4 bits")
    bits = bits_kept(weight.shape[1], bits)
    pieces, kept = torch.split(weight, _ROWS), {16: _sixteen, 8: _eight, 4: _four}[bits]
    columns = _powers(torch.stack([rows.float().square().sum(0) for rows in pieces]).sum(0))
    even = torch.exp2(-columns.float()) if bool(columns.any()) else None
    values, scales = (
        torch.cat(one, -2 if one[0].ndim == 3 else -1 if bits == 16 else 0)
        for one in zip(*(kept(rows.float() if even is None else rows * even) for rows in pieces), strict=True)
    )
    if not bool(scales.isfinite().all()):
        raise ValueError("weights that are not finite")
    return {"weight": values, "scale": scales, "columns": columns}


def dequantize(weight: Tensor, scale: Tensor, columns: Tensor | None = None) -> Tensor:
    """The float32 matrix (out, in) that plain tensors stand for; without `columns`, what it is times moved states."""
    if weight.ndim == 3:
        made = (weight.float() * scale[..., None]).sum(0)
    elif scale.ndim == 1:
        made = weight.float() * scale[:, None]
    else:
        blocks = levels(weight).view(len(weight), -1, BLOCK)
        made = ((blocks.float() - 8) * scale[..., None]).flatten(1)
    return made if columns is None else made * torch.exp2(columns.float())


def levels(weight: Tensor) -> Tensor:
    """The numbers 0 to 15, uint8 (out, in), of a matrix that is kept in 4 bits."""
    pairs = weight.view(torch.uint8)
    return torch.stack([pairs & 15, pairs >> 4], -1).flatten(1)


def _eight(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = rows.abs().amax(1) / _HIGHEST[8]
    return (rows / _divisor(scale)[:, None]).round_().to(torch.int8), scale


def _sixteen(rows: Tensor) -> tuple[Tensor, Tensor]:
    values, scale = _eight(rows)
    rest, finer = _eight(rows - values.float() * scale[:, None])
    return torch.stack([values, rest]), torch.stack([scale, finer])


def _four(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers -8 to 7: the largest value has the sign of which there is one more."""
    blocks = rows.view(len(rows), -1, BLOCK)
    largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True)) / -8
    scale, least = largest, torch.full_like(largest, torch.inf)
    values = torch.zeros_like(blocks)
    for share in _SHARES:
        tried = largest * share
        exact = blocks / _divisor(tried)
        rounded = exact.round().clamp_(-8, 7)
        off = (
            exact.sub_(rounded).mul_(share).square_().sum(2, keepdim=True)
        )  # of numbers near 1: large weights overflow
        better = off < least
        values, scale = torch.where(better, rounded, values), torch.where(better, tried, scale)
        least = torch.minimum(off, least)
    kept = (values + 8).to(torch.uint8).flatten(1)
    return (kept[:, ::2] | kept[:, 1::2] << 4).view(torch.int8), scale[..., 0]


def _powers(squares: Tensor) -> Tensor:
    """The powers of columns, from the sum of their squares: 0 for all that are about as large as most."""
    ratios = (squares / squares.median()).log2().div(2)
    far = (ratios.abs() >= _FAR) & (squares > 0)
    return torch.where(far, ratios, 0).nan_to_num_(0).round().clamp(-_FARTHEST, _FARTHEST).to(torch.int8)


def _divisor(scale: Tensor) -> Tensor:
    """The scales, and 1 in the place of 0: what is all zero stays so."""
    return torch.where(scale == 0, 1.0, scale)
