"""Kernels of our own against torch's operations in double precision, run by Triton's interpreter: no GPU is needed."""

from __future__ import annotations

import os

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5LayerNorm

from blip2tools.model import Captioner, GenerationOptions, kernels, language
from blip2tools.model.compiled import Shape
from tests.model.test_model import rows
from tests.support import random_models as rm

pytest.importorskip("triton")
if not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("with a GPU the test at load compares them", allow_module_level=True)
NEAR = {torch.float32: 1e-5, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def distance(found, right):
    return float((found.double() - right).norm() / right.norm())


def made_norm(kind, width, dtype):
    norm = torch.nn.LayerNorm(width) if kind == "opt" else T5LayerNorm(width, eps=1e-3)
    for part in norm.parameters():
        part.data = torch.randn(width)
    return norm.to(dtype)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("width", "count"), [(40, 121), (4200, 5)])
@pytest.mark.parametrize("options", ["", "bias plus", "opt bias relu", "t5 plus"])
@torch.inference_mode()
def test_products(dtype, rows, width, count, options):
    states, weight, bias, more = (
        torch.randn(shape).to(dtype) for shape in ((rows, width), (count, width), (count,), (rows, count))
    )
    norm = next((made_norm(kind, width, dtype) for kind in ("opt", "t5") if kind in options), None)
    found = kernels.multiplied(
        states,
        weight,
        bias if "bias" in options else None,
        norm=norm,
        relu="relu" in options,
        plus=more if "plus" in options else None,
    )
    right = (states if norm is None else norm(states)).double() @ weight.double().t()
    right = right + bias.double() if "bias" in options else right
    right = right.relu() if "relu" in options else right
    assert distance(found, right + more.double() if "plus" in options else right) < NEAR[dtype]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", ["opt", "t5"])
@torch.inference_mode()
def test_sum_and_norm(dtype, kind):
    states, more = (torch.randn(3, 40).to(dtype) for _ in range(2))
    norm = made_norm(kind, 40, dtype)
    total, found = kernels.normed(states, norm, plus=more)
    assert torch.equal(total, states + more)
    assert distance(found, norm(total).double()) < NEAR[dtype]
    assert kernels.normed(states, norm)[0] is states


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("rows", "sequences"), [(1, 1), (2, 3)])
@pytest.mark.parametrize(("places", "room", "at"), [(37, 16, 0), (200, 64, 33), (64, 32, 31), (40, 0, 0), (0, 40, 20)])
@torch.inference_mode()
def test_attention(dtype, rows, sequences, places, room, at):
    every, heads, size = rows * sequences, 2, 20
    kinds = 3 if room else 1
    query = torch.randn(every, kinds * heads * size).to(dtype)
    asked, *new = query.view(every, kinds, heads, size).unbind(1)
    scores, values, given, kept = [], [], {}, None
    if places:
        prompt, mask = torch.randn(2, rows, heads, places, size).to(dtype), torch.zeros(rows, 1, 1, places).to(dtype)
        mask[-1, ..., 33:36] = float("-inf")
        each = prompt.clone().repeat_interleave(sequences, 1).double()
        scores.append(asked[:, :, None].double() @ each[0].transpose(2, 3) * 0.3 + mask.repeat_interleave(sequences, 0))
        values.append(each[1])
        prompt[:, -1, :, 33:36] = float("nan")  # what is masked is not even looked at
        given["prompt"] = prompt, mask
    if room:
        own, bias = torch.randn(2, every, heads, room, size).to(dtype), torch.randn(every, heads, 1, room).to(dtype)
        bias[..., at + 1 :] = float("-inf")
        bias[-1, ..., : at // 2] = float("-inf")
        kept = own.clone()
        kept[0][:, :, at], kept[1][:, :, at] = new
        scores.append(asked[:, :, None].double() @ kept[0].double().transpose(2, 3) * 0.3 + bias)
        values.append(kept[1].double())
        own[:, :, :, at] = float("nan")
        given["own"] = own, torch.tensor([at]), bias
    right = torch.cat(scores, 3).softmax(-1) @ torch.cat(values, 2)
    found = kernels.attended(query, heads, 0.3, **given)
    assert distance(found, right[:, :, 0].flatten(1)) < NEAR[dtype]
    assert not room or torch.equal(own, kept)


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("beams", [1, 2])
def test_steps_say_the_same(family, count, beams, monkeypatch):
    """Rows of which one ends before the others, with layers of these kernels in blocks."""
    monkeypatch.setattr(language, "JOINED", ("cpu", "cuda"))
    monkeypatch.setattr(kernels, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(kernels, "KINDS", (torch.float32,))
    captioner = Captioner(rm.make_opt() if family == "opt" else rm.make_t5())
    assert captioner._words.quick() is None  # here weights lie column by column
    for part in captioner._words._layers.modules():
        if isinstance(part, torch.nn.Linear):  # as on a GPU
            part.weight.data = part.weight.data.contiguous()
    prompts, caps = rows(family, (7, 0)[:count]), [4, 2][:count]
    options = GenerationOptions(num_beams=beams, min_new_tokens=9)
    tokens = captioner.query(captioner.trunk.see(rm.pixels(count)))
    eager = captioner.speak(tokens, prompts, options, max_new_tokens=caps)
    made = []
    quick = captioner._words._quick_layer
    monkeypatch.setattr(captioner._words, "_quick_layer", lambda *given: made.append(1) or quick(*given))
    captioner.steps.record([Shape(count, beams, 24, 8)], None, lambda done, of: None, compiler=False)
    captioner.steps.recorded = True
    made.clear()
    captioner.steps.count.clear()
    fast = captioner.speak(tokens, prompts, options, max_new_tokens=caps)
    assert captioner.steps.count == {"recorded": 3}
    assert len(made) == 3 * len(captioner._words._layers)
    assert [[text.ids for text in row] for row in fast] == [[text.ids for text in row] for row in eager]
    for mine, theirs in zip(fast, eager, strict=True):
        assert [text.logprob for text in mine] == pytest.approx([text.logprob for text in theirs], abs=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_a_trunk_sees_the_same(count, monkeypatch):
    monkeypatch.setattr(kernels, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(kernels, "KINDS", (torch.float32,))
    trunk = Captioner(rm.make_opt()).trunk
    states = trunk.see(rm.pixels(count))
    calls, norm = [], kernels.normed
    monkeypatch.setattr(kernels, "normed", lambda *given, **more: calls.append(1) or norm(*given, **more))
    trunk.record(None)
    torch.testing.assert_close(trunk.see(rm.pixels(count)), states, atol=1e-5, rtol=1e-4)
    assert len(calls) == 2 * len(trunk.encoder.layers)


def test_without_a_compiler_for_c_or_once_found_wrong_they_are_not_used(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    monkeypatch.setattr(kernels, "KINDS", (torch.float32,))
    layer = torch.nn.Linear(4, 4)
    assert kernels.available([layer])
    assert not kernels.available([layer, torch.nn.LayerNorm(4)])
    assert not kernels.available([torch.nn.Linear(4, 4, dtype=torch.float64)])

    def failing(*given):
        raise RuntimeError("Failed to find C compiler")

    kernels._runs.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "_product", failing)
        assert not kernels.available([layer])
    assert [record.message for record in caplog.records] == ["decoding steps do not use our own kernels (RuntimeError)"]
    kernels._runs.cache_clear()
    assert kernels.available([layer])
    monkeypatch.setattr(kernels, "trusted", True)
    kernels.distrust()
    assert not kernels.available([layer])
