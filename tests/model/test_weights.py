"""Products of large float32 layers on a processor: oneDNN's in the place of PyTorch's choice, with the same numbers."""

import pytest
import torch
from torch import nn

from blip2tools.model import Captioner, GenerationOptions, weights
from tests.support import random_models as rm
from tests.support.quantized_models import ours

PROMPTS = {"opt": [[rm.OPT_BOS, 40, 41], [rm.OPT_BOS]], "t5": [[40, 41, rm.T5_EOS], [rm.T5_EOS]]}


@pytest.fixture
def quick(monkeypatch):
    """Whether layers are quickened, however small they are."""
    monkeypatch.setattr(weights, "LARGE", 0)

    def switch(on):
        monkeypatch.setattr(weights, "_is_better", lambda part: on)

    return switch


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_the_words_are_the_same_alone_and_together(family, quick):
    said = []
    for on in (False, True):
        quick(on)
        captioner = Captioner(ours(rm.opt() if family == "opt" else rm.t5()))
        changed = [part for part in captioner._language_model.modules() if "forward" in vars(part)]
        assert bool(changed) == on
        options, tokens = GenerationOptions(num_beams=3), captioner.query(captioner.trunk.see(rm.pixels(2)))
        together = captioner.speak(tokens, PROMPTS[family], options, max_new_tokens=[6, 6])
        alone = [
            captioner.speak(tokens[row : row + 1], [prompt], options, max_new_tokens=[6])[0]
            for row, prompt in enumerate(PROMPTS[family])
        ]
        assert [[text.ids for text in row] for row in together] == [[text.ids for text in row] for row in alone]
        said.append([[text.ids for text in row] for row in together])
    assert said[0] == said[1]


def test_only_plain_float32_layers_are_changed(quick):
    quick(True)
    layer, half, other, hooked = nn.Linear(8, 4), nn.Linear(8, 4).half(), nn.LayerNorm(8), nn.Linear(8, 4)
    hooked._hf_hook = object()
    weights.quicken([layer, half, other, hooked])
    assert [("forward" in vars(part)) for part in (layer, half, other, hooked)] == [True, False, False, False]
    with torch.inference_mode():
        for rows in (1, 2, 5, 70):
            states = torch.randn(rows, 3, 8)
            assert torch.allclose(layer(states), nn.functional.linear(states, layer.weight, layer.bias), atol=1e-6)
    assert layer(torch.ones(2, 8)).requires_grad, "what is trained keeps its gradients"


def test_small_models_are_not_tried(monkeypatch):
    monkeypatch.setattr(weights, "_is_better", lambda part: pytest.fail("tried"))
    weights.quicken([nn.Linear(100, 100)])


def test_trying_says_yes_or_no():
    assert weights._is_better(nn.Linear(64, 64)) in (True, False)
