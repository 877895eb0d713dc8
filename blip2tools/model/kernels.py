"""A decoding step's operations as kernels of our own, for the few rows that a step has.

Around each product with a weight stand a norm, a bias, an activation and a sum, and around attention a dozen small operations.
For one row each of them takes a GPU longer to start than to run. Here they are fused with their neighbours:

    one row:     norm, product, bias ─► attention ─► product, bias, sum ─► norm, product, bias, ReLU ─► product, bias, sum
    more rows:   the library's products, between them attention, and sum and norm as one

The kernels are written in Triton, which comes with torch where torch has CUDA; where it is not there, `available` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from blip2tools.model import kernel_code as code
except ImportError:  # torch without CUDA comes without Triton
    code = cast(Any, None)

logger = logging.getLogger(__name__)

trusted = True  # until they fail a test
DEVICES = ("cuda",)
KINDS = (torch.float16, torch.bfloat16)
WIDEST = 4096  # numbers of a row that a program normalizes or multiplies in one piece
BLOCK, WARPS = (
    64,
    2,
)  # places of a prompt that are looked at together, and by how many warps: the quickest of six on an H100


def available(layers: Iterable[Any]) -> bool:
    """Whether a step through these can be done here: all are the library's own, whole and in one piece of memory."""
    layers = list(layers)
    return trusted and all(
        type(layer) is nn.Linear
        and layer.weight.device.type in DEVICES
        and layer.weight.dtype in KINDS
        and layer.weight.is_contiguous()
        and not hasattr(layer, "_hf_hook")
        and _runs(layer.weight.device)
        for layer in layers
    )


def distrust() -> bool:
    """Stop using these kernels, because their results were wrong; returns whether that changes anything here."""
    global trusted
    before, trusted = trusted, False
    return before and code is not None and torch.cuda.is_available()


@cache
def _runs(device: torch.device) -> bool:
    """Whether a kernel can be made and run there: that takes a compiler for C, and a card that Triton knows."""
    if code is None:
        return False
    states, weight = (torch.ones(rows, 16, device=device) for rows in (1, 4))
    try:
        return torch.equal(_product(states, weight, None, None, False, None), torch.full_like(states[:, :4], 16.0))
    except Exception as error:  # noqa: BLE001 - of a compiler, a driver or Triton: the library's own way is always there
        logger.warning("decoding steps do not use our own kernels (%s)", type(error).__name__)
        return False


def multiplied(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm: Any = None,
    relu: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """States (R, K) times a weight (N, K), plus a bias (N,): (R, N).

    Args:
        norm: applied to the states before: a LayerNorm, or T5's, which has no mean and no bias.
        relu: whether negative results become 0.
        plus: (R, N), added at last.
    """
    if len(states) == 1 and (norm is None or states.shape[1] <= WIDEST):
        return _product(states, weight, bias, norm, relu, plus)
    states = states if norm is None else normed(states, norm)[1]
    result = functional.linear(states, weight, bias)
    result = result.relu_() if relu else result
    return result if plus is None else result.add_(plus)


def normed(states: Tensor, norm: Any, plus: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum of states (R, K) and `plus`, and its norm."""
    rows, width = states.shape
    result = torch.empty_like(states)
    total = states if plus is None else torch.empty_like(states)
    scale, shift, eps = _parts(norm, states)
    code.norm_kernel[(rows,)](
        states,
        states if plus is None else plus,
        scale,
        shift,
        total,
        result,
        width,
        eps,
        WIDTH=_power_of_two(width),
        CENTERED=shift is not states,
        PLUS=plus is not None,
        num_warps=8 if width > WIDEST // 2 else 4,
    )
    return total, result


def attended(
    query: Tensor,
    heads: int,
    scaling: float,
    *,
    prompt: tuple[Tensor, Tensor] | None = None,
    own: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention of each sequence's newest token to its row's prompt, to its own tokens, or to both: (R, heads * size).

    Args:
        query: of the newest tokens, (R, heads * size); with `own` their keys and values behind, (R, 3 * heads * size).
        heads: of attention.
        scaling: of the query.
        prompt: keys and values (2, B, heads, places, size), where R is a multiple of B, and a mask (B, 1, 1, places), which
            is added to the scores.
        own: keys and values (2, R, heads, room, size) of each sequence's tokens, where those of the newest are put at the
            place (1,), and what is added to the scores, (1 or R, 1 or heads, 1, room).
    """
    rows = len(query)
    size = query.shape[1] // (heads if own is None else 3 * heads)
    seen = query.new_empty(rows, heads * size)
    told, mask = prompt or (query, query)
    kept, at, bias = own or (query, query, query)
    places, room = told.shape[3] if prompt else 0, kept.shape[3] if own else 0
    bias = bias.expand(rows, heads, 1, room) if own else bias
    code.attention_kernel[(rows, heads)](
        query,
        told,
        mask,
        kept,
        at,
        bias,
        seen,
        scaling,
        rows // told.shape[1] if prompt else 1,
        heads,
        places,
        query.stride(0),
        *(told.stride()[:4] if prompt else (0, 0, 0, 0)),
        mask.stride(0),
        *(kept.stride()[:4] if own else (0, 0, 0, 0)),
        *((bias.stride(0), bias.stride(1), bias.stride(3)) if own else (0, 0, 0)),
        SIZE=size,
        WIDTH=_power_of_two(size),
        BLOCK=BLOCK,
        PROMPT=-(-places // BLOCK) * BLOCK,
        OWN=max(16, _power_of_two(room)) if own else 0,
        num_warps=WARPS,
    )
    return seen


def _product(states: Tensor, weight: Tensor, bias: Tensor | None, norm: Any, relu: bool, plus: Tensor | None) -> Tensor:
    count, width = weight.shape
    result = states.new_empty(1, count)
    scale, shift, eps = (states, states, 0.0) if norm is None else _parts(norm, states)
    # Measured on an H100: sizes that keep enough of the weights in flight.
    outputs, numbers, warps = (4, WIDEST // 2, 4) if width > WIDEST else (8 if count >= 3 * width else 4, WIDEST, 8)
    code.product_kernel[(-(-count // outputs),)](
        states,
        weight,
        states if bias is None else bias,
        states if plus is None else plus,
        scale,
        shift,
        result,
        count,
        eps,
        WIDTH=width,
        OUTPUTS=outputs,
        NUMBERS=min(numbers, _power_of_two(width)),
        BIAS=bias is not None,
        NORM=norm is not None,
        CENTERED=shift is not states,
        RELU=relu,
        PLUS=plus is not None,
        num_warps=warps,
    )
    return result


def _parts(norm: Any, states: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weight, bias and epsilon of a norm; the states in the place of a bias where there is none, nor a mean."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight, norm.bias, norm.eps
    return norm.weight, states, norm.variance_epsilon


def _power_of_two(number: int) -> int:
    """The next one, at least the number itself."""
    return 1 << (number - 1).bit_length()
