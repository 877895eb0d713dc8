"""Matrices of 8 and 4 bits: their values, their modules, and whole models of them beside full precision."""

import pytest
import torch

from blip2tools.model import Captioner, GenerationOptions, Matcher
from blip2tools.model.quantized import BLOCK, QuantizedLinear, bits_kept, dequantize, quantize
from tests.support import random_models as rm
from tests.support.quantized_models import ours


@pytest.mark.parametrize(("bits", "levels"), [(8, 254), (4, 14)])
def test_a_value_is_at_most_half_a_level_away(bits, levels):
    weight = torch.randn(1500, 96)
    weight[3] = 0
    kept = quantize(weight, bits)
    again = dequantize(**kept)
    widths = weight.view(1500, -1, 96 if bits == 8 else BLOCK)
    step = 2 * widths.abs().amax(2) / levels
    assert ((again.view_as(widths) - widths).abs() <= step[..., None] * 0.501).all()
    assert not again[3].any()
    assert sum(one.nbytes for one in kept.values()) < weight.nbytes / (3.8 if bits == 8 else 6)


@pytest.mark.parametrize(
    "weight", [torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, float("inf")]]), torch.ones(3)]
)
def test_what_is_no_finite_matrix_is_refused(weight):
    with pytest.raises(ValueError, match=r"matrix|finite"):
        quantize(weight, 8)


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
