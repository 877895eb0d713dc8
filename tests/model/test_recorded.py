"""Recorded work on a few rows in blocks of fixed shapes, as a GPU replays it: the same results as without."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from blip2tools.model import Captioner, GenerationOptions, Matcher
from blip2tools.model.captioner import _as_precise
from blip2tools.model.recorded import PLACES, ROWS, Recorded
from tests.model.test_model import rows
from tests.support import random_models as rm

GREEDY = GenerationOptions(num_beams=1)
BEAM = GenerationOptions(num_beams=3, length_penalty=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def doubled():
    calls = []

    def work(first, second):
        calls.append(len(first))
        return first * 2, second.sum(0, keepdim=True)

    return Recorded(work, given=(0, 1), gives=(0, 1)), calls


class TestRecorded:
    def test_the_smallest_that_holds_the_rows_and_as_many_results(self):
        recorded, calls = doubled()
        recorded.record([torch.zeros(8, 3), torch.zeros(2, 8)], None)
        for count in (1, 2, 3, 8, 9, 1):
            first, second = torch.randn(count, 3), torch.randn(2, count)
            twice, total = recorded(first, second)
            assert torch.equal(twice, first * 2)
            assert torch.equal(total, second.sum(0, keepdim=True))
        assert calls == [1, 2, 4, 8, 9, 1]

    def test_more_rows_than_any_holds_go_in_pieces(self):
        calls = []

        def work(first, second):
            calls.append(len(first))
            return first * 2, second + 1

        recorded = Recorded(work, given=(0, 1), gives=(0, 1), pieces=2)
        recorded.record([torch.zeros(4, 3), torch.zeros(2, 4)], None)
        assert recorded.holds(8)
        assert not recorded.holds(9)
        for number in (3, 4, 5, 8, 9):
            first, second = torch.randn(number, 3), torch.randn(2, number)
            twice, more = recorded(first, second)
            assert torch.equal(twice, first * 2)
            assert torch.equal(more, second + 1)
        assert calls == [4, 4, 4, 1, 4, 4, 9]

    def test_results_are_the_callers_own(self):
        recorded, _ = doubled()
        recorded.record([torch.zeros(2, 3), torch.zeros(2, 2)], None)
        first, _ = recorded(torch.ones(1, 3), torch.ones(2, 1))
        recorded(torch.zeros(1, 3), torch.ones(2, 1))
        assert torch.equal(first, torch.full((1, 3), 2.0))

    def test_other_shapes_unused_and_dropped_ones_are_done_as_they_are(self):
        recorded, calls = doubled()
        block = torch.zeros(4, 3)
        recorded.record([block, torch.zeros(2, 4)], None)
        recorded(torch.ones(3, 5), torch.ones(2, 3))
        recorded.used = False
        recorded(torch.ones(3, 3), torch.ones(2, 3))
        assert not recorded.holds(1)
        recorded.used = True
        assert recorded.holds(4)
        assert not recorded.holds(5)
        alive = weakref.ref(block.untyped_storage())
        recorded.drop()
        del block
        gc.collect()
        assert alive() is None
        recorded(torch.ones(3, 3), torch.ones(2, 3))
        assert calls == [3, 3, 3]


@pytest.mark.parametrize("family", ["opt", "t5"])
@pytest.mark.parametrize("count", [1, 3, 6, 18])
def test_a_captioner_sees_and_says_the_same(family, count):
    captioner = Captioner(rm.make_opt() if family == "opt" else rm.make_t5())
    pixels, prompts = rm.pixels(count), rows(family, [(0, 3, 7, 2, 11, 4)[n % 6] for n in range(count)])

    def shown():
        tokens = captioner.query(captioner.trunk.see(pixels))
        return tokens, [
            captioner.speak(tokens, prompts, options, max_new_tokens=[9] * count) for options in (GREEDY, BEAM)
        ]

    tokens, texts = shown()
    captioner.record(None, None)
    assert all(one.holds(1) for one in captioner.recordings)
    assert len(captioner.recordings) == (4 if family == "opt" else 2)
    for _ in range(2):
        again, said = shown()
        torch.testing.assert_close(again, tokens, atol=1e-5, rtol=1e-4)
        assert [[[text.ids for text in row] for row in texts] for texts in said] == [
            [[text.ids for text in row] for row in rows] for rows in texts
        ]


def test_prompts_get_the_width_that_is_recorded_and_longer_ones_their_own():
    captioner = Captioner(rm.make_opt())
    tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
    captioner.record(None, None)
    most = PLACES - captioner.num_queries - 1
    for length, places in ((0, 0), (2, most // 2), (most // 2 + 1, most), (most + 3, most + 3)):
        prompt = [captioner.bos, *[7] * length]
        with torch.inference_mode():
            held, _ = captioner._words.begin(tokens, [0], [prompt], 4)
        assert held.prompt.shape[4] == captioner.num_queries + 1 + places


def test_without_room_prompts_are_read_as_before():
    captioner = Captioner(rm.make_opt())
    captioner.record(None, 1000)
    assert [one.holds(1) for one in captioner.recordings] == [True, True, False, False]


@pytest.mark.parametrize(
    ("device", "dtype", "within"),
    [
        ("cuda", torch.float16, "high"),
        ("cuda", torch.bfloat16, "high"),
        ("cuda", torch.float32, "highest"),
        ("cpu", torch.bfloat16, "highest"),
    ],
)
def test_float32_is_as_precise_as_what_comes_in_and_goes_on(device, dtype, within):
    with _as_precise(torch.device(device), dtype):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_matcher_sees_the_same():
    matcher = Matcher(rm.make_matcher())
    states = matcher.trunk.see(rm.pixels(3))
    features = matcher.image_features(states)
    matcher.record(None)
    assert all(one.holds(ROWS[-1]) for one in matcher.recordings)
    torch.testing.assert_close(matcher.trunk.see(rm.pixels(3)), states, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(matcher.image_features(states), features, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_models_that_nobody_holds_are_gone_at_once(family):
    """Their memory is needed for the next one, and a full card cannot wait for garbage collection."""
    captioner, matcher = Captioner(rm.make_opt() if family == "opt" else rm.make_t5()), Matcher(rm.make_matcher())
    gone = [weakref.ref(one) for one in (captioner, captioner.trunk, captioner._words, matcher, matcher.trunk)]
    gc.collect()
    gc.disable()
    try:
        del captioner, matcher
        assert [one() for one in gone] == [None] * 5
    finally:
        gc.enable()
