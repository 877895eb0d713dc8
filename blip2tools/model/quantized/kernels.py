"""Products of float32 states and quantized matrices, by operators of torch that every build for processors has.

Whole numbers times whole numbers are several times as quick as floats, but states must become whole numbers first, and language
models have a few channels that are 20 to 100 times as large as the rest (LLM.int8(), arXiv 2208.07339): one scale for a row then
leaves a handful of levels for all others. So a row is rounded twice where it needs that: to whole numbers of up to `levels`, and
what the rounding left, magnified, to as many again. Both are rows of one product, whose cost for a few rows is that of reading
the matrix. Nothing is calibrated, and no channel is singled out.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional

from blip2tools.model.quantized.storage import BLOCK, dequantize, levels

Kind: TypeAlias = Literal["rows", "packed", "half", "blocks", "runtime", "whole"]
"""Ways to multiply. `rows`: whole numbers, the matrix as it is kept. `packed`: the same, quicker for a few rows, but every value
must be moved first, which takes as long as dozens of products. `half`: bfloat16 states, 8 bits. `blocks`: the same, 4 bits, also
moved first. `runtime`: 4 bits, by onnxruntime, also moved first. `whole`: the matrix becomes float32 for each product."""

FEW: Final = 64  # up to so many rows, all are rounded twice: the cost is small
CREST: Final = 12.0  # largest value of a row over the mean of all, from which on it is rounded twice among many rows
ENGINE: Final = "fbgemm"
WIDE, NARROW = 127, 63  # largest whole numbers of 8 and 7 bits
_PACKED: Final = 256  # rows that are moved together, in whole steps of the 64 that the form keeps side by side
_ROOM: Final = 2**22  # bytes beside those of the values
_TINY: Final = 1e-30  # the scale of a row of zeros
_OPS: Any = torch.ops.quantized
_ENGINE = threading.Lock()

Splits: TypeAlias = "Callable[[int], Split]"


class Split:
    """Rows (R, in) of states as whole numbers: the first rounding of all, then the second of those that need it.

    Args:
        states: float32.
        most: the largest whole number.
        twice: up to so many rows, all are rounded twice.
    """

    def __init__(self, states: Tensor, most: int, twice: int = FEW) -> None:
        self.most, self.rows = most, len(states)
        sizes = states.abs()
        largest = sizes.amax(1, keepdim=True)
        self._again: Tensor | None = None  # which rows are rounded twice, where not all are
        second = self.rows
        if self.rows > twice:
            again = _far(sizes, largest, CREST * most / WIDE)
            if (second := len(again)) < self.rows:
                self._again = torch.tensor(again)
        self.scale = largest.div_(most).clamp_(min=_TINY)
        # As few steps as can be: with a few rows each takes longer to be begun than to be done.
        if not second:
            self._numbers = states / self.scale
            return
        # One matrix that is changed in its place: another large one takes as long to be had as to be filled.
        self._numbers = torch.empty(self.rows + second, states.shape[1])
        first, rest = self._numbers[: self.rows], self._numbers[self.rows :]
        if self._again is None:
            torch.div(states, self.scale, out=rest)
            torch.round(rest, out=first)
            rest.sub_(first).mul_(2 * most)
        else:
            torch.div(states, self.scale, out=first)
            torch.index_select(first, 0, self._again, out=rest)
            first.round_()
            rest.sub_(first[self._again]).mul_(2 * most)

    @property
    def exact(self) -> Tensor:
        """The numbers before they are rounded, for a product that does it: no further than a half from `values`."""
        return self._numbers

    @cached_property
    def values(self) -> Tensor:
        """The numbers."""
        return self._numbers.round_()

    @cached_property
    def bytes(self) -> Tensor:
        """The numbers in 8 bits."""
        return self.values.to(torch.int8)

    @cached_property
    def lowered(self) -> Tensor:
        """The numbers in 8 bits, each so much less that none is positive."""
        return (self.values - (self.most + 1)).to(torch.int8)

    def joined(self, products: Tensor) -> Tensor:
        """Products (R, out) of the states, from those of the numbers; changes these."""
        if len(products) == self.rows:
            return products.mul_(self.scale)
        first, rest, share = products[: self.rows], products[self.rows :], 0.5 / self.most
        if self._again is None:
            first.add_(rest, alpha=share)
        else:
            first.index_add_(0, self._again, rest, alpha=share)
        return first.mul_(self.scale)


def _far(sizes: Tensor, largest: Tensor, crest: float) -> list[int]:
    """The numbers of those rows whose largest value is so many times the mean of their sizes."""
    each = zip(largest.flatten().tolist(), sizes.sum(1).tolist(), strict=True)
    return [row for row, (most, total) in enumerate(each) if most * sizes.shape[1] > total * crest]


def rows(split: Split, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(R, out): states times a matrix as it is kept, 8 bits.

    Processors without VNNI instructions add pairs of products in 16 bits and cut off what does not fit, and the operator does
    not say so. It adds 128 to the states, so that 7 bits fit if none of them is positive; see `fits`.
    """
    if split.most == WIDE:
        whole = torch._int_mm(split.bytes, weight.t())
    else:
        lines = weight.sum(1, dtype=torch.int32).mul_(split.most + 1)
        whole = torch._int_mm(split.lowered, weight.t()).add_(lines)
    made = split.joined(whole.float())
    return made.mul_(scale) if bias is None else torch.addcmul(bias, made, scale, out=made)


def pack(weight: Tensor, scale: Tensor) -> Any:
    """The form that `packed` multiplies by. Takes a few nanoseconds for each value.

    Raises:
        RuntimeError: too little memory.
    """
    zeros, maker = torch.zeros(len(scale), dtype=torch.long), cast(Any, torch._make_per_channel_quantized_tensor)
    with _engine():
        given = maker(weight, scale.double().clamp_(min=_TINY), zeros, 0)
        # The library does not look whether it got its memory, and ends the process where it did not. This asks for more than
        # it will, and raises.
        torch.empty(2 * weight.numel() + _ROOM, dtype=torch.uint8)
        return _OPS.linear_prepack(given, None)


def packed(split: Split, matrix: Any, bias: Tensor | None) -> Tensor:
    """(R, out): states times a matrix from `pack`. Without VNNI, 7 bits fit if no number is negative; see `fits`."""
    products = _OPS.linear_with_input_q_dq_qweight_dq_output_fp32(split.exact, 1.0, split.most + 1, matrix)
    made = split.joined(products)
    return made if bias is None else made.add_(bias)


def half(states: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(R, out): states in bfloat16 times a matrix as it is kept, 8 bits."""
    ones = torch.ones(len(scale), dtype=torch.bfloat16)
    made: Tensor = torch.ops.aten._weight_int8pack_mm(states.bfloat16(), weight, ones).float()
    return made.mul_(scale) if bias is None else torch.addcmul(bias, made, scale, out=made)


def pack_blocks(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The form that `blocks` multiplies by."""
    convert = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    values = torch.cat([convert(levels(rows).to(torch.int32), 1) for rows in torch.split(weight, _PACKED)])
    return values, torch.stack([scale, torch.zeros_like(scale)], -1).transpose(0, 1).contiguous().bfloat16()


def blocks(states: Tensor, matrix: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """(R, out): states in bfloat16 times a matrix from `pack_blocks`, 4 bits."""
    values, scales = matrix
    made: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(states.bfloat16(), values, BLOCK, scales).float()
    return made if bias is None else made.add_(bias)


def whole(states: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """(R, out): states times the float32 matrix, which is made for this."""
    return functional.linear(states, dequantize(weight, scale), bias)


def fits(kind: Kind) -> int | None:
    """The largest whole number with which products of this kind are exact here; None if there is none.

    Tried with numbers whose products are as large as they can be, and with ones of both signs.
    """
    for most in (WIDE, NARROW):
        if all(_exact(kind, most, count) for count in (1, 5, FEW + 1)):
            return most
    return None


def _exact(kind: Kind, most: int, count: int) -> bool:
    inputs, outputs = 256, 48
    signs = torch.arange(inputs * outputs).view(outputs, inputs).mul(7).remainder(3).sub(1)
    weight = torch.where(torch.arange(outputs)[:, None] < 3, 1, signs).mul(WIDE).to(torch.int8)
    states = torch.ones(count, inputs)
    states[1::2] = -1
    states[2::3, ::5] = -1
    wanted = states.double() @ weight.double().t()
    try:
        split, ones = Split(states, most), torch.ones(outputs)
        made = rows(split, weight, ones, None) if kind == "rows" else packed(split, pack(weight, ones), None)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return torch.allclose(made.double(), wanted, rtol=1e-5, atol=1e-2)


@contextmanager
def _engine() -> Iterator[None]:
    """Let torch pack for the one library that `packed` is an operator of. The choice is the process's."""
    with _ENGINE, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)  # of a future release
        backend: Any = torch.backends.quantized
        before, backend.engine = backend.engine, ENGINE
        try:
            yield
        finally:
            backend.engine = before
