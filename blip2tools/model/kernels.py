"""A decoding step's operations as kernels of our own, for the few rows that a step has.

Behind every product with a weight come a bias, an activation or a sum, and around attention a dozen small operations. For one
row each of them takes a GPU longer to begin than to do; here they are part of the product, and attention is one kernel:

    norm, product, bias ─► attention to prompt and own tokens ─► product, bias, sum
        ─► norm, product, bias, ReLU ─► product, bias, sum

They are written in Triton, which comes with torch where torch has CUDA; where it is not there, `available` says so.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from blip2tools.model import kernel_code as code
except ImportError:  # torch without CUDA comes without Triton
    code = cast(Any, None)

WIDEST = 16384  # numbers of one row that are normalized in a program's registers
FEW = 64  # rows up to which a product waits for its weights alone
BLOCK = 32  # places that are looked at together
KINDS = (torch.float16, torch.bfloat16)
# Outputs of a program, and how much of a row it multiplies at once: (outputs, numbers, warps, stages).
ONE, SEVERAL = (4, 4096, 8, 1), (16, 256, 4, 4)


def available(weight: Tensor) -> bool:
    """Whether products with weights like this one can be done here."""
    return code is not None and weight.is_cuda and weight.dtype in KINDS


def linear(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: nn.LayerNorm | None = None,
    relu: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """States (R, K) times a weight (N, K), plus a bias (N,): (R, N).

    Args:
        norm: applied to the states before.
        relu: whether negative results become 0.
        plus: (R, N), added at last.
    """
    rows, width = states.shape
    if rows > FEW:
        result = functional.linear(states if norm is None else norm(states), weight, bias)
        result = result.relu_() if relu else result
        return result if plus is None else result + plus
    if rows == 1 and width <= WIDEST:
        return _one(states, weight, bias, norm, relu, plus)
    return _several(states if norm is None else norm(states), weight, bias, relu, plus)


def attend(
    query: Tensor, prompt: Tensor, mask: Tensor, own: Tensor, at: Tensor, bias: Tensor, scaling: float
) -> Tensor:
    """Attention of each sequence's newest token to its row's prompt and its own tokens: (R, heads * size).

    The token's keys and values are put at their place of `own`.

    Args:
        query: query, keys and values of the newest tokens side by side, (R, 3 * heads * size).
        prompt: keys and values of B rows, (2, B, heads, places, size); R is a multiple of B.
        mask: (B, 1, 1, places), added to the scores.
        own: keys and values of each sequence's tokens, (2, R, heads, room, size).
        at: (1,) the newest token's place.
        bias: (1 or R, 1 or heads, 1, room), added to the scores.
        scaling: of the query.
    """
    _, sequences, heads, room, size = own.shape
    seen = query.new_empty(sequences, heads * size)
    bias = bias.expand(sequences, heads, 1, room)
    code.attend_kernel[(sequences, heads)](
        query,
        prompt,
        mask,
        own,
        at,
        bias,
        seen,
        scaling,
        sequences // prompt.shape[1],
        heads,
        prompt.shape[3],
        room,
        *prompt.stride()[:4],
        *own.stride()[:4],
        mask.stride(0),
        *bias.stride()[:2],
        bias.stride(3),
        SIZE=size,
        WIDTH=_power_of_two(size),
        BLOCK=BLOCK,
        PROMPT=_whole(prompt.shape[3]),
        OWN=_whole(room),
        num_warps=4,
    )
    return seen


def _one(
    states: Tensor, weight: Tensor, bias: Tensor, norm: nn.LayerNorm | None, relu: bool, plus: Tensor | None
) -> Tensor:
    count, width = weight.shape
    outputs, numbers, warps, _ = ONE
    whole = min(numbers, _power_of_two(width))
    if norm is not None:
        whole = _power_of_two(width)
    result = states.new_empty(1, count)
    scale, shift, eps = (norm.weight, norm.bias, norm.eps) if norm is not None else (states, states, 0.0)
    code.one_kernel[(-(-count // outputs),)](
        states,
        weight,
        bias,
        states if plus is None else plus,
        scale,
        shift,
        result,
        count,
        eps,
        WIDTH=width,
        OUTPUTS=outputs,
        NUMBERS=whole,
        NORM=norm is not None,
        RELU=relu,
        PLUS=plus is not None,
        num_warps=warps,
    )
    return result


def _several(states: Tensor, weight: Tensor, bias: Tensor, relu: bool, plus: Tensor | None) -> Tensor:
    rows, width = states.shape
    count = len(weight)
    outputs, numbers, warps, stages = SEVERAL
    result = states.new_empty(rows, count)
    code.several_kernel[(-(-count // outputs),)](
        states,
        weight,
        bias,
        states if plus is None else plus,
        result,
        rows,
        count,
        WIDTH=width,
        ROWS=max(16, _power_of_two(rows)),
        OUTPUTS=outputs,
        NUMBERS=min(numbers, _power_of_two(width)),
        RELU=relu,
        PLUS=plus is not None,
        num_warps=warps,
        num_stages=stages,
    )
    return result


def _power_of_two(number: int) -> int:
    """The next one, at least the number itself."""
    return 1 << (number - 1).bit_length()


def _whole(places: int) -> int:
    """Places in whole blocks."""
    return -(-places // BLOCK) * BLOCK
