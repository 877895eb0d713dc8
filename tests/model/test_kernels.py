"""Kernels of our own against torch's operations in double precision, run by Triton's interpreter: no GPU is needed."""

from __future__ import annotations

import os

import pytest
import torch

from blip2tools.model import Captioner, GenerationOptions, kernels, language
from blip2tools.model.compiled import Shape
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


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("rows", [1, 5, 17, kernels.FEW + 1])
@pytest.mark.parametrize(("width", "count"), [(96, 200), (640, 130)])
@pytest.mark.parametrize("options", ["", "norm", "relu", "plus", "norm relu", "relu plus"])
@torch.inference_mode()
def test_products(dtype, rows, width, count, options):
    states, weight, bias, more = (
        torch.randn(shape).to(dtype) for shape in ((rows, width), (count, width), (count,), (rows, count))
    )
    norm = torch.nn.LayerNorm(width)
    norm.weight.data, norm.bias.data = torch.randn(width), torch.randn(width)
    norm = norm.to(dtype) if "norm" in options else None
    found = kernels.linear(
        states, weight, bias, norm=norm, relu="relu" in options, plus=more if "plus" in options else None
    )
    right = (states if norm is None else norm(states)).double() @ weight.double().t() + bias.double()
    right = right.relu() if "relu" in options else right
    assert distance(found, right + more.double() if "plus" in options else right) < NEAR[dtype]


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("rows", "sequences"), [(1, 1), (1, 5), (3, 2)])
@pytest.mark.parametrize(("places", "room", "at"), [(37, 16, 0), (70, 40, 33), (200, 64, 63)])
@torch.inference_mode()
def test_attention(dtype, rows, sequences, places, room, at):
    every, heads, size = rows * sequences, 3, 20
    prompt, own = torch.randn(2, rows, heads, places, size), torch.randn(2, every, heads, room, size)
    query, prompt, own = torch.randn(every, 3 * heads * size).to(dtype), prompt.to(dtype), own.to(dtype)
    mask = torch.zeros(rows, 1, 1, places, dtype=dtype)
    mask[-1, ..., 33:36] = float("-inf")
    bias = torch.zeros(every, 1, 1, room, dtype=dtype)
    bias[..., at + 1 :] = float("-inf")
    bias[-1, ..., : at // 2] = float("-inf")
    asked, key, value = query.view(every, 3, heads, size).unbind(1)
    kept = own.clone()
    kept[0][:, :, at], kept[1][:, :, at] = key, value
    keys, values = (torch.cat([prompt[n].repeat_interleave(sequences, 0), kept[n]], 2).double() for n in (0, 1))
    added = torch.cat([mask.repeat_interleave(sequences, 0), bias], 3).double()
    right = ((asked[:, :, None].double() * 0.3) @ keys.transpose(2, 3) + added).softmax(-1) @ values
    own[:, :, :, at] = float("nan")  # what lies where the token's own keys come must not count
    found = kernels.attend(query, prompt, mask, own, torch.tensor([at]), bias, 0.3)
    assert distance(found, right[:, :, 0].flatten(1)) < NEAR[dtype]
    assert torch.equal(own, kept)


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(num_beams=1),
        GenerationOptions(num_beams=3, length_penalty=0.0),
        GenerationOptions(num_beams=1, do_sample=True, num_return_sequences=3, seed=7),
    ],
    ids=["greedy", "beams", "samples"],
)
@pytest.mark.parametrize("hasty", [False, True])
def test_steps_say_the_same(options, hasty, monkeypatch):
    """Rows of all lengths, of which some end before the others, with layers of these kernels in blocks."""
    monkeypatch.setattr(language, "JOINED", ("cpu", "cuda"))
    monkeypatch.setattr(kernels, "available", lambda weight: True)
    captioner = Captioner(rm.make_opt())
    for part in captioner._words._layers.modules():
        if isinstance(part, torch.nn.Linear):  # as on a GPU
            part.weight.data = part.weight.data.contiguous()
    bos, lengths = captioner.bos, (0, 3, 7)
    prompts = [[bos, *range(5, 5 + length)] for length in lengths]
    tokens = captioner.query(captioner.trunk.see(rm.pixels(len(prompts))))
    eager = captioner.speak(tokens, prompts, options, max_new_tokens=[9, 4, 12])
    made = []
    quick = captioner._words._quick_layer
    monkeypatch.setattr(captioner._words, "_quick_layer", lambda *given: made.append(1) or quick(*given))
    wanted = [Shape(4, width, 24, 16) for width in (1, 3)]
    captioner.steps.record(wanted, None, lambda done, of: None, compiler=False)
    captioner.steps.recorded, captioner.steps.hasty = True, hasty
    captioner.steps.count.clear()
    made.clear()
    fast = captioner.speak(tokens, prompts, options, max_new_tokens=[9, 4, 12])
    assert len(made) == 2 * captioner.steps.count["recorded"] > 0
    assert captioner.steps.count["eager"] == 0
    assert [[(text.ids, text.finish) for text in row] for row in fast] == [
        [(text.ids, text.finish) for text in row] for row in eager
    ]
    for mine, theirs in zip(fast, eager, strict=True):
        assert [text.logprob for text in mine] == pytest.approx([text.logprob for text in theirs], abs=1e-4)
