"""Matrices of 8 and 4 bits: their values, their modules, and whole models of them beside full precision."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from blip2tools.model import Captioner, GenerationOptions, Matcher, fingerprint
from blip2tools.model.quantized import (
    BLOCK,
    QuantizedLinear,
    bits_kept,
    dequantize,
    kernels,
    layers,
    prepare,
    prepared,
    quantize,
)
from blip2tools.model.quantized.kernels import FEW, Split
from blip2tools.model.quantized.layers import Way
from blip2tools.model.quantized.runtime import THREADS, Product
from tests.support import random_models as rm
from tests.support.quantized_models import ours


def test_a_value_is_at_most_half_a_level_away():
    weight = torch.randn(1500, 192)
    weight[3] = 0
    kept = quantize(weight, 8)
    again = dequantize(**kept)
    step = 2 * weight.abs().amax(1) / 254
    assert ((again - weight).abs() <= step[:, None] * 0.501).all()
    assert not again[3].any()
    assert sum(one.nbytes for one in kept.values()) < weight.nbytes / 3.8


def test_no_block_of_4_bits_loses_more_than_with_its_largest_value_as_it_is():
    weight = torch.randn(1500, 3 * BLOCK) * torch.rand(1500, 1)
    weight[3] = 0
    kept = quantize(weight, 4)
    again, blocks = dequantize(**kept), weight.view(1500, 3, BLOCK)
    largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    step = (largest / 8).where(largest != 0, 1.0)
    plain = (blocks / step).round().clamp(-7, 8) * step  # the sixteenth level is on the side of the largest value
    lost, others = ((one.view_as(blocks) - blocks).square().sum(2) for one in (again, plain))
    assert (lost <= others * 1.0001).all()
    assert lost.sum() < 0.1**2 * weight.square().sum() < others.sum()
    assert not again[3].any()
    assert sum(one.nbytes for one in kept.values()) < weight.nbytes / 7


@pytest.mark.parametrize(
    "weight", [torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, float("inf")]]), torch.ones(3)]
)
def test_what_is_no_finite_matrix_is_refused(weight):
    with pytest.raises(ValueError, match=r"matrix|finite"):
        quantize(weight, 8)


@pytest.mark.parametrize("size", [1e-20, 1e20, 1e37])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_size_of_weights_does_not_matter(bits, size):
    weight = torch.randn(64, 2 * BLOCK)
    again = dequantize(**quantize(weight * size, bits)).double() / size
    assert off(again, weight.double()) < (0.01 if bits == 8 else 0.11)


def test_rows_that_are_no_whole_blocks_keep_8_bits():
    assert bits_kept(48, 4) == 8
    assert QuantizedLinear(48, 3, bias=True, bits=4).bits == 8


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_captioner_says_what_its_plain_forward_says(family, bits):
    stock = rm.opt() if family == "opt" else rm.t5()
    captioner = Captioner(ours(stock, bits))
    states = captioner.trunk.see(rm.pixels(2))
    tokens = captioner.query(states)
    prompt = [rm.OPT_BOS, 40, 41] if family == "opt" else [40, 41, rm.T5_EOS]
    spoken = captioner.speak(tokens, [prompt] * 2, GenerationOptions(num_beams=2), max_new_tokens=[5, 5])
    for row, texts in enumerate(spoken):
        (best,) = texts
        logits = captioner.plain_logits(tokens[row : row + 1], prompt, [*best.ids, captioner.eos][: best.tokens])
        chosen = logits.log_softmax(-1).gather(1, torch.tensor([*best.ids, captioner.eos][: best.tokens])[:, None])
        assert chosen.mean().item() == pytest.approx(best.logprob, abs=2e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matcher_scores_as_before(bits):
    stock = rm.matcher()
    texts = [[rm.BERT_CLS, 5, 6, 7, rm.BERT_SEP], [rm.BERT_CLS, 9, rm.BERT_SEP]]
    scores = []
    for kept in (None, bits):
        matcher = Matcher(ours(stock, kept))
        states = matcher.trunk.see(rm.pixels(1))
        scores.append(matcher.match(states, texts).softmax(-1))
    assert (scores[0] - scores[1]).abs().max() < 0.02


def layer(bits=8, outputs=96, inputs=128, *, bias=True):
    made = QuantizedLinear(inputs, outputs, bias=bias, bits=bits)
    weight = torch.randn(outputs, inputs)
    for name, values in quantize(weight, bits).items():
        setattr(made, name, torch.nn.Parameter(values, requires_grad=False))
    if bias:
        made.bias = torch.nn.Parameter(torch.randn(outputs), requires_grad=False)
    return made


def off(made, wanted):
    return ((made.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("outlying", [False, True])
@pytest.mark.parametrize("rows", [1, 5, FEW, FEW + 1, 200])
@pytest.mark.parametrize(
    ("kind", "bits"),
    [("rows", 8), ("packed", 8), ("half", 8), ("rows", 16), ("packed", 16), ("blocks", 4), ("runtime", 4)],
)
def test_every_way_gives_the_product(kind, bits, rows, outlying):
    most = kernels.fits(kind) if kind in ("rows", "packed") else 127
    if most is None:
        pytest.skip(f"{kind} is not possible on this machine")
    if kind == "runtime":
        pytest.importorskip("onnxruntime")
    made, states = layer(bits), torch.randn(2, rows, 128)
    if outlying:
        states[..., [5, 77]] *= 60
    states[0, 0] = 0
    wanted = states.double() @ dequantize(made.weight, made.scale, made.columns).double().t() + made.bias.double()
    made.way = Way(kind, kind, kind, {kind: most})
    if kind in ("packed", "blocks", "runtime"):
        made.pack()
        assert not made.weight.numel()
    found = made(states)
    assert found.shape == (2, rows, 96)
    bound = {"half": 0.005, "blocks": 0.008, "runtime": 0.03 if outlying else 0.012}.get(
        kind, 0.001 if outlying or 2 * rows <= FEW else 0.012 * 127 / most
    )
    assert off(found, wanted) < bound


@pytest.mark.parametrize("rows", [1, FEW + 1])
def test_a_model_with_4_bits_rounds_twice_only_where_few_levels_are_left(rows):
    """Beside what 4 bits lose, one rounding of plain states is nothing; of outlier channels it is much."""
    model = ours(rm.opt(), 4)
    assert {part.twice for part in model.modules() if isinstance(part, QuantizedLinear)} == {0}
    plain = torch.randn(rows, 512)
    outlying = torch.cat([plain[:, 1:], torch.full((rows, 1), 60.0)], 1)
    assert Split(plain, 127, twice=0).bytes.shape == (rows, 512)
    assert Split(outlying, 127, twice=0).bytes.shape == (2 * rows, 512)
    both = Split(torch.cat([plain, outlying[:1]]), 127, twice=0)
    assert both.bytes.shape == both.values.shape == (rows + 2, 512)
    assert torch.equal(both.bytes.float(), both.values)


def test_onnxruntime_is_left_alone_where_each_matrix_would_have_many_threads(monkeypatch):
    pytest.importorskip("onnxruntime")
    kept = quantize(torch.randn(64, 128), 4)
    for threads, fits in ((THREADS, True), (THREADS + 1, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with contextlib.nullcontext() if fits else pytest.raises(RuntimeError, match="threads"):
            assert Product(kept["weight"], kept["scale"])(torch.ones(2, 128)).shape == (2, 64)


def test_without_onnxruntime_4_bits_are_multiplied_by_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError):
        Product(*(quantize(torch.randn(64, 128), 4)[name] for name in ("weight", "scale")))
    monkeypatch.setattr(prepared, "SMALL", 0)
    model = ours(rm.make_opt(hidden_size=128, word_embed_proj_dim=128, ffn_dim=256), 4)
    ways = {found[0] for name, found in prepare(model)["ways"].items() if name.endswith(" 4")}
    assert len(ways) == 1
    assert ways < {"blocks", "whole"}


def test_a_remembered_way_whose_library_no_longer_loads_is_measured_again(monkeypatch):
    monkeypatch.setattr(prepared, "SMALL", 0)
    small = {"hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 256}
    known = prepare(ours(rm.make_opt(**small), 4))
    known["ways"] |= {name: ["runtime"] * 3 for name in known["ways"] if name.endswith(" 4")}
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    again = prepare(ours(rm.make_opt(**small), 4), known)["ways"]
    assert {found[0] for name, found in again.items() if name.endswith(" 4")} <= {"blocks", "whole"}


def test_columns_far_from_the_rest_lose_no_digits():
    weight, states = torch.randn(64, 128), torch.randn(5, 128)
    weight[:, 3] /= 60
    weight[:, 9] = 0
    weight[:, 20] *= 100
    states[:, 3] *= 60
    states[:, 20] /= 100
    wanted = states.double() @ weight.double().t()
    for bits, bound in ((8, 0.01), (16, 1e-4), (4, 0.13)):
        kept = quantize(weight, bits)
        assert kept["columns"].nonzero().flatten().tolist() == [3, 20]
        made = QuantizedLinear(128, 64, bias=False, bits=bits)
        for name, values in kept.items():
            setattr(made, name, torch.nn.Parameter(values, requires_grad=False))
        assert off(made(states), wanted) < bound
        assert off(states @ dequantize(**kept).t(), wanted) < bound


def test_layers_that_take_the_same_states_give_what_each_gives_alone():
    parts, states = [layer(outputs=32), layer(outputs=16), layer(outputs=8, bits=16)], torch.randn(3, 7, 128)
    parts[1].columns = torch.nn.Parameter(torch.arange(128).remainder(3).to(torch.int8), requires_grad=False)
    alone = torch.cat([part(states) for part in parts], -1)
    assert torch.allclose(parts[0].together(parts[1:])(states), alone, atol=1e-5)


def test_a_matrix_is_packed_when_products_have_taken_long_enough():
    if (most := kernels.fits("packed")) is None:
        pytest.skip("nothing is packed on this machine")
    made = layer()
    made.way, packing = Way("packed", "whole", "whole", {"packed": most}), made.packing
    names = fingerprint(made.named_parameters())
    first = made(torch.ones(1, 128))
    assert made.weight.numel(), "nothing has been earned yet"
    packing.earn(1)
    made(torch.ones(FEW + 1, 128))
    assert made.weight.numel(), "many rows do not need it"
    assert torch.allclose(made(torch.ones(1, 128)), first, rtol=1e-3, atol=1e-3)
    assert not made.weight.numel()
    assert fingerprint(made.named_parameters()) == names
    assert made(torch.ones(FEW + 1, 128)).shape == (FEW + 1, 96)
    assert not packing.may(10**9)


def test_packing_takes_no_more_than_its_share():
    packing, spent, total = layers.Packing(), 0.0, 0.0
    packing.expect(int(2 / layers.Packing.PACE))  # two seconds' work
    packing.earn(1.9)
    assert not packing.may(1)
    packing.earn(0.1)
    for _ in range(1000):  # products of 10 ms, each of which packs if it may, for another 30
        packed = packing.may(1000)
        if packed:
            packing.spend(1000, 0.03)
            spent += 0.03
        packing.earn(0.01 + 0.03 * packed)
        total += 0.01
    assert 0.9 * layers.Packing.SHARE <= spent / total <= layers.Packing.SHARE


def test_what_serves_once_for_a_text_is_packed_after_what_serves_for_every_word():
    packing = layers.Packing()
    packing.expect(1000)
    packing.expect(1000, later=True)
    packing.earn(1)
    assert not packing.may(1000, later=True)
    assert packing.may(1000)
    packing.done(1000)
    assert packing.may(1000, later=True)


def test_what_was_measured_is_not_measured_again(monkeypatch):
    model = ours(rm.opt(), 8)
    first = json.loads(json.dumps(prepare(model)))
    assert not any(isinstance(one, QuantizedLinear) for one in model.modules()), "so small that float32 is quicker"
    monkeypatch.setattr(prepared, "_measured", lambda *a, **k: pytest.fail("measured again"))
    assert prepare(ours(rm.opt(), 8), first) == first


class Waiting(torch.nn.Module):
    """What takes so many seconds, and at its first call others."""

    in_features = 4

    def __init__(self, seconds, first):
        super().__init__()
        self.waits = iter([first])
        self.seconds = seconds

    def forward(self, states):
        began = time.thread_time()
        while time.thread_time() - began < next(self.waits, self.seconds):
            pass
        return states


def test_what_is_slow_at_its_first_product_alone_is_not_left_out():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trials = {"a": [Waiting(0.004, 0.004)] * 2, "b": [Waiting(0.002, 0.05)] * 2, "c": [Waiting(0.02, 0.02)] * 2}
    times = prepared._times(trials, 1)
    torch.set_num_threads(threads)
    assert times["b"] < times["a"] < times["c"]


@pytest.mark.parametrize("spoilt", ["another machine", "no list", "unknown", "packed until packed", "missing"])
def test_a_choice_that_does_not_fit_is_measured(spoilt):
    known = prepare(ours(rm.opt(), 8))
    ways = {name: ["rows", "rows", "rows"] for name in known["ways"]}
    if spoilt == "another machine":
        known["machine"] += " with something else"
    elif spoilt == "missing":
        ways = {}
    else:
        wrong = {"no list": 3, "unknown": ["fast"] * 3, "packed until packed": ["packed"] * 3}[spoilt]
        ways = dict.fromkeys(ways, wrong)
    known["ways"] = ways
    assert all(found == ["float"] * 3 for found in prepare(ours(rm.opt(), 8), known)["ways"].values())


WANT = """
import re, resource, torch
from blip2tools.model.quantized import kernels
torch.set_num_threads(1)
weight, scale = torch.ones(4096, 2048, dtype=torch.int8), torch.ones(4096)
kernels.pack(weight[:64], scale[:64])
said = set()
for more in range(4, 40, 2):
    size = int(re.search("VmSize: *\\t* *([0-9]+)", open("/proc/self/status").read()).group(1)) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + more * 2**20, resource.RLIM_INFINITY))
    try:
        kernels.pack(weight, scale)
        said.add("packed")
    except (RuntimeError, MemoryError):
        said.add("refused")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*sorted(said))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_packing_without_memory_is_an_error_and_not_the_end():
    """Of a process of its own: the library that packs writes to memory that it did not get."""
    if kernels.fits("packed") is None:
        pytest.skip("nothing is packed on this machine")
    done = subprocess.run([sys.executable, "-c", WANT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["packed", "refused"]


@pytest.mark.slow
def test_a_processor_that_cuts_off_sums_is_found_out():
    """Without VNNI instructions torch's product of 8-bit numbers is wrong and says nothing; the switch is oneDNN's own."""
    code = (
        "import torch; from blip2tools.model.quantized import kernels as k, storage as s\n"
        "torch.manual_seed(0); w, x = torch.randn(96, 128), torch.randn(5, 128); x[:, 3] *= 60\n"
        "kept = s.quantize(w, 8); most = k.fits('rows')\n"
        "made = k.rows(k.Split(x, most), kept['weight'], kept['scale'], None)\n"
        "wanted = x.double() @ s.dequantize(**kept).double().t()\n"
        "print(most, ((made - wanted).norm() / wanted.norm()).item())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}, capture_output=True, text=True
    )
    most, error = said.stdout.split()
    assert int(most) in (63, 127)
    assert float(error) < 0.002
