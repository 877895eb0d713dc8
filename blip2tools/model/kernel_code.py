"""The kernels of `kernels`, in Triton. Capitals are constants that a kernel is compiled for."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def one_kernel(
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
    NORM: tl.constexpr,
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
            mean = tl.sum(row, 0) / WIDTH
            away = tl.where(inside, row - mean, 0.0)
            row = away * tl.rsqrt(tl.sum(away * away, 0) / WIDTH + eps)
            row = row * tl.load(scale + number, inside, 0.0).to(tl.float32)
            row = row + tl.load(shift + number, inside, 0.0).to(tl.float32)
            row = row.to(states.dtype.element_ty).to(tl.float32)  # as the norm itself would have given it
        total += each.to(tl.float32) * row[None, :]
    found = tl.sum(total, 1) + tl.load(bias + output, output < count, 0.0).to(tl.float32)
    if RELU:
        found = tl.maximum(found, 0.0)
    if PLUS:
        found += tl.load(plus + output, output < count, 0.0).to(tl.float32)
    tl.store(result + output, found, output < count)


@triton.jit
def several_kernel(
    states,
    weight,
    bias,
    plus,
    result,
    rows,
    count,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    NUMBERS: tl.constexpr,
    RELU: tl.constexpr,
    PLUS: tl.constexpr,
):
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, WIDTH, NUMBERS):
        number = start + tl.arange(0, NUMBERS)
        left = tl.load(
            states + row[:, None] * WIDTH + number[None, :], (row[:, None] < rows) & (number[None, :] < WIDTH), 0.0
        )
        right = tl.load(
            weight + output[:, None] * WIDTH + number[None, :],
            (output[:, None] < count) & (number[None, :] < WIDTH),
            0.0,
            eviction_policy="evict_first",
        )
        total = tl.dot(left, tl.trans(right), total, input_precision="ieee")
    total += tl.load(bias + output, output < count, 0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0)
    at = row[:, None] * count + output[None, :]
    inside = (row[:, None] < rows) & (output[None, :] < count)
    if PLUS:
        total += tl.load(plus + at, inside, 0.0).to(tl.float32)
    tl.store(result + at, total, inside)


@triton.jit
def attend_kernel(
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
    room,
    prompt_kind,
    prompt_row,
    prompt_head,
    prompt_place,
    own_kind,
    own_row,
    own_head,
    own_place,
    mask_row,
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
    row = sequence // sequences
    number = tl.arange(0, WIDTH)
    inside = number < SIZE
    mine = query + sequence * 3 * heads * SIZE + head * SIZE + number
    asked = tl.load(mine, inside, 0.0).to(tl.float32) * scaling
    key = tl.load(mine + heads * SIZE, inside, 0.0)
    value = tl.load(mine + 2 * heads * SIZE, inside, 0.0)
    newest = tl.load(at).to(tl.int32)
    kept = own + sequence * own_row + head * own_head
    tl.store(kept + newest * own_place + number, key, inside)
    tl.store(kept + own_kind + newest * own_place + number, value, inside)

    highest = tl.full((), -1e30, tl.float32)  # a number, for what is masked altogether
    share = tl.zeros((), tl.float32)
    found = tl.zeros((WIDTH,), tl.float32)
    told = prompt + row * prompt_row + head * prompt_head
    for start in range(0, PROMPT, BLOCK):
        place = start + tl.arange(0, BLOCK)
        there = place < places
        each = place[:, None] * prompt_place + number[None, :]
        both = there[:, None] & inside[None, :]
        keys = tl.load(told + each, both, 0.0).to(tl.float32)
        values = tl.load(told + prompt_kind + each, both, 0.0).to(tl.float32)
        score = tl.sum(keys * asked[None, :], 1) + tl.load(mask + row * mask_row + place, there, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 0))
        weight, fade = tl.exp(score - higher), tl.exp(highest - higher)
        found = found * fade + tl.sum(weight[:, None] * values, 0)
        share = share * fade + tl.sum(weight, 0)
        highest = higher
    for start in range(0, OWN, BLOCK):
        place = start + tl.arange(0, BLOCK)
        there = place < room
        each = place[:, None] * own_place + number[None, :]
        new = place[:, None] == newest
        both = there[:, None] & inside[None, :] & (place[:, None] != newest)
        keys = tl.where(new, key[None, :], tl.load(kept + each, both, 0.0)).to(tl.float32)
        values = tl.where(new, value[None, :], tl.load(kept + own_kind + each, both, 0.0)).to(tl.float32)
        more = tl.load(bias + sequence * bias_row + head * bias_head + place * bias_place, there, float("-inf"))
        score = tl.sum(keys * asked[None, :], 1) + more.to(tl.float32)
        higher = tl.maximum(highest, tl.max(score, 0))
        weight, fade = tl.exp(score - higher), tl.exp(highest - higher)
        found = found * fade + tl.sum(weight[:, None] * values, 0)
        share = share * fade + tl.sum(weight, 0)
        highest = higher
    tl.store(seen + sequence * heads * SIZE + head * SIZE + number, found / share, inside)
