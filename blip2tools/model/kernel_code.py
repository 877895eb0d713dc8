"""The kernels of `kernels`, in Triton. Capitals are constants that a kernel is compiled for."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product_kernel(
    states,
    weight,
    bias,
    plus,
    scale,
    shift,
    result,
    count,
    eps,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    NUMBERS: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    CENTERED: tl.constexpr,
    RELU: tl.constexpr,
    PLUS: tl.constexpr,
):
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS, NUMBERS), tl.float32)
    for start in tl.static_range(0, WIDTH, NUMBERS):
        number = start + tl.arange(0, NUMBERS)
        inside = number < WIDTH
        each = tl.load(
            weight + output[:, None] * WIDTH + number[None, :],
            (output[:, None] < count) & inside[None, :],
            0.0,
            eviction_policy="evict_first",
        )
        row = tl.load(states + number, inside, 0.0).to(tl.float32)
        if NORM:  # a row is in one piece then
            if CENTERED:
                row = tl.where(inside, row - tl.sum(row, 0) / WIDTH, 0.0)
            row = row * tl.rsqrt(tl.sum(row * row, 0) / WIDTH + eps)
            row = row * tl.load(scale + number, inside, 0.0).to(tl.float32)
            if CENTERED:
                row = row + tl.load(shift + number, inside, 0.0).to(tl.float32)
            row = row.to(states.dtype.element_ty).to(tl.float32)  # as the norm itself would have given it
        total += each.to(tl.float32) * row[None, :]
    found = tl.sum(total, 1)
    if BIAS:
        found += tl.load(bias + output, output < count, 0.0).to(tl.float32)
    if RELU:
        found = tl.maximum(found, 0.0)
    if PLUS:
        found += tl.load(plus + output, output < count, 0.0).to(tl.float32)
    tl.store(result + output, found, output < count)


@triton.jit
def norm_kernel(
    states,
    plus,
    scale,
    shift,
    total,
    result,
    width,
    eps,
    WIDTH: tl.constexpr,
    CENTERED: tl.constexpr,
    PLUS: tl.constexpr,
):
    at = tl.program_id(0) * width
    number = tl.arange(0, WIDTH)
    inside = number < width
    row = tl.load(states + at + number, inside, 0.0).to(tl.float32)
    if PLUS:
        row += tl.load(plus + at + number, inside, 0.0).to(tl.float32)
        tl.store(total + at + number, row, inside)
        row = row.to(states.dtype.element_ty).to(tl.float32)
    if CENTERED:
        row = tl.where(inside, row - tl.sum(row, 0) / width, 0.0)
    row = row * tl.rsqrt(tl.sum(row * row, 0) / width + eps)
    row = row * tl.load(scale + number, inside, 0.0).to(tl.float32)
    if CENTERED:
        row = row + tl.load(shift + number, inside, 0.0).to(tl.float32)
    tl.store(result + at + number, row, inside)


@triton.jit
def attention_kernel(
    query,
    prompt,
    mask,
    own,
    at,
    bias,
    seen,
    scaling,
    sequences,
    heads,
    places,
    query_row,
    prompt_kind,
    prompt_row,
    prompt_head,
    prompt_place,
    mask_row,
    own_kind,
    own_row,
    own_head,
    own_place,
    bias_row,
    bias_head,
    bias_place,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PROMPT: tl.constexpr,
    OWN: tl.constexpr,
):
    sequence, head = tl.program_id(0), tl.program_id(1)
    number = tl.arange(0, WIDTH)
    inside = number < SIZE
    mine = query + sequence * query_row + head * SIZE + number
    asked = tl.load(mine, inside, 0.0).to(tl.float32) * scaling
    if OWN > 0:  # loaded while the prompt is attended to
        key = tl.load(mine + heads * SIZE, inside, 0.0)
        value = tl.load(mine + 2 * heads * SIZE, inside, 0.0)
        newest = tl.load(at).to(tl.int32)
        added = bias + sequence * bias_row + head * bias_head
        late = tl.arange(0, OWN)
        # None is behind the newest; its own keys are here and not yet there.
        extra = tl.load(added + late * bias_place, late < newest, float("-inf")).to(tl.float32)
        kept = own + sequence * own_row + head * own_head
        there = (extra > float("-inf"))[:, None] & inside[None, :]
        own_keys = tl.load(kept + late[:, None] * own_place + number[None, :], there, 0.0)
        own_values = tl.load(kept + own_kind + late[:, None] * own_place + number[None, :], there, 0.0)
        newest_bias = tl.load(added + newest * bias_place).to(tl.float32)
    highest = tl.full((), -1e30, tl.float32)  # a number, for what is masked altogether
    share = tl.zeros((), tl.float32)
    found = tl.zeros((WIDTH,), tl.float32)
    row = sequence // sequences
    told = prompt + row * prompt_row + head * prompt_head
    for start in tl.static_range(0, PROMPT, BLOCK):
        place = start + tl.arange(0, BLOCK)
        more = tl.load(mask + row * mask_row + place, place < places, float("-inf")).to(tl.float32)
        both = (more > float("-inf"))[:, None] & inside[None, :]  # what is masked need not be read
        each = place[:, None] * prompt_place + number[None, :]
        keys = tl.load(told + each, both, 0.0).to(tl.float32)
        values = tl.load(told + prompt_kind + each, both, 0.0)
        score = tl.sum(keys * asked[None, :], 1) + more
        higher = tl.maximum(highest, tl.max(score, 0))
        weight, fade = tl.exp(score - higher), tl.exp(highest - higher)
        found = found * fade + tl.sum(weight[:, None] * values.to(tl.float32), 0)
        share = share * fade + tl.sum(weight, 0)
        highest = higher
    if OWN > 0:
        score = tl.sum(own_keys.to(tl.float32) * asked[None, :], 1) + extra
        last = tl.sum(key.to(tl.float32) * asked, 0) + newest_bias
        higher = tl.maximum(tl.maximum(highest, last), tl.max(score, 0))
        weight, fade, newly = tl.exp(score - higher), tl.exp(highest - higher), tl.exp(last - higher)
        found = found * fade + tl.sum(weight[:, None] * own_values.to(tl.float32), 0) + newly * value.to(tl.float32)
        share = share * fade + tl.sum(weight, 0) + newly
        tl.store(kept + newest * own_place + number, key, inside)
        tl.store(kept + own_kind + newest * own_place + number, value, inside)
    tl.store(seen + sequence * heads * SIZE + head * SIZE + number, found / share, inside)
