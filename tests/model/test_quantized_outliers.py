"""Quantized models beside full precision, with the outlier channels of large language models: each part, and all."""

from functools import cache

import pytest
import torch

from blip2tools.cli.bench.random_models import Size, build
from blip2tools.model import Captioner, Matcher
from blip2tools.model.quantized import prepare
from tests.support import outliers
from tests.support.quantized_models import ours

pytestmark = pytest.mark.slow
SIZE = Size((96, 6, 6), (64, 4, 4), (256, 8, 8, 1024), 1024, queries=16, image_size=56)
PROMPTS = {"opt": [[2], [2, 40, 41, 42]], "t5": [[1], [40, 41, 42, 1]]}
# T5's scores are not scaled, and its gate is a product: outliers that no weight balances would make a step function of it.
CASES = [("opt", "none"), ("opt", "balanced"), ("opt", "unbalanced"), ("t5", "none"), ("t5", "balanced")]
COSINE, SAME, CLEAR = 0.999, 0.98, 0.5


@cache
def pair(family, outlying):
    made = build(SIZE, family)
    language = made.captioner.language_model
    with torch.no_grad():  # random ones differ by 0.5 and by 22; those of a trained model by about 3
        language.get_output_embeddings().weight *= {"opt": 8, "t5": 1 / 7}[family]
    if family == "t5":
        made.captioner.config.text_config.dense_act_fn = "gelu"
    if outlying != "none":
        outliers.give(language, balanced=outlying == "balanced")
    return made


@cache
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 1, 1, generator=generator) + torch.randn(12, 3, 56, 56, generator=generator)


def made_ready(model):
    """Prepared; what was measured once holds for all tests."""
    for key, value in prepare(model, known()).items():
        known()[key] = known().get(key, {}) | value if isinstance(value, dict) else value


@cache
def known():
    return {}


def logits(model, family):
    captioner = Captioner(model)
    tokens = captioner.query(captioner.trunk.see(pictures()))
    return torch.cat([captioner.first_logits(tokens, [prompt] * len(tokens)) for prompt in PROMPTS[family]])


@cache
def whole(family, outlying):
    return logits(ours(pair(family, outlying).captioner), family)


def judged(found, wanted):
    """The worst cosine of centred logits, and the share of equal best tokens where the margin is clear."""
    best = wanted.topk(2).values
    clear = best[:, 0] - best[:, 1] > CLEAR
    assert clear.sum() >= 8
    same = (found.argmax(1) == wanted.argmax(1))[clear].float().mean().item()
    return torch.cosine_similarity(found, wanted).min().item(), same


@pytest.mark.parametrize(("family", "outlying"), CASES)
def test_8_bits_say_what_full_precision_says(family, outlying):
    for parts in ("vision_model",), ("qformer",), ("language_model",), ("",):
        model = ours(pair(family, outlying).captioner, 8, parts)
        made_ready(model)
        cosine, same = judged(logits(model, family), whole(family, outlying))
        assert cosine >= COSINE, parts
        assert same >= SAME, parts


@pytest.mark.parametrize("token", [False, True], ids=["a scale for all", "a scale for each token"])
@pytest.mark.parametrize(("family", "outlying"), [case for case in CASES if case[1] != "none"])
def test_the_outliers_are_such_that_plain_8_bits_fail(family, outlying, token):
    model = ours(pair(family, outlying).captioner)
    outliers.make_naive(model.language_model, token=token)
    cosine, _ = judged(logits(model, family), whole(family, outlying))
    assert cosine < COSINE


def test_without_outliers_they_would_pass():
    model = ours(pair("opt", "none").captioner)
    outliers.make_naive(model.language_model, token=True)
    cosine, _ = judged(logits(model, "opt"), whole("opt", "none"))
    assert cosine >= COSINE


def test_a_matcher_in_8_bits_gives_the_same_probabilities():
    stock = pair("opt", "none").matcher
    texts = [[2, *range(5, 5 + length), 3] for length in range(1, 9)]
    found = []
    for bits in (None, 8):
        model = ours(stock, bits)
        made_ready(model)
        matcher = Matcher(model)
        states = matcher.trunk.see(pictures()[:8])
        pairs = [matcher.match(states[row : row + 1], texts).softmax(1)[:, 1] for row in range(8)]
        found.append((torch.stack(pairs), matcher.text_features(texts), matcher.image_features(states)))
    (first, words, seen), (second, others, looked) = found
    assert (first - second).abs().mean() <= 0.01
    assert torch.cosine_similarity(words, others).min() > 0.999
    assert torch.cosine_similarity(seen, looked, dim=2).min() > 0.99
