"""Compiled steps over blocks of fixed shapes: the same tokens as eager steps, and eager where no shape fits."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import count

import pytest
import torch

from blip2tools import Vision, checkpoints
from blip2tools.checkpoints.selftest import compiling
from blip2tools.checkpoints.selftest.samples import PICTURES
from blip2tools.model import Asked, Captioner, GenerationOptions, compiled, kernels
from blip2tools.model.compiled import Shape, shapes
from blip2tools.model.language import Rows
from blip2tools.model.recorded import COUNTS, ROWS
from blip2tools.server.http import metrics
from blip2tools.server.http.metrics import render
from blip2tools.settings import Settings
from tests.model.test_model import rows
from tests.support import random_models as rm

GREEDY = GenerationOptions(num_beams=1)
TO_THE_END = GenerationOptions(num_beams=1, min_new_tokens=99)
BEAM = GenerationOptions(num_beams=3, length_penalty=0.0)
SAMPLED = GenerationOptions(num_beams=1, do_sample=True, num_return_sequences=3, seed=7)
SHAPES = [Shape(most, width, 24, room) for width in (1, 3) for most in (1, 2, 8) for room in (16, 32)]
LENGTHS = (0, 3, 7, 2, 11, 4)
CAPS = (12, 6, 14, 5, 12, 9)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(family, wanted, limit=None):
    captioner = Captioner(rm.make_opt() if family == "opt" else rm.make_t5())
    captioner.steps.record(wanted, limit, lambda done, of: None, compiler=True)
    return captioner


@pytest.fixture
def uncompiled():
    """Everything real except the compiler, which takes seconds for each kind of shape."""
    with torch.compiler.set_stance("force_eager"):
        yield


@cache
def whole(family):
    return made(family, SHAPES)


@pytest.fixture(params=["opt", "t5"])
def captioner(request, uncompiled):
    """With every shape."""
    return whole(request.param)


def both_ways(captioner, options, lengths=LENGTHS, caps=CAPS, **more):
    """The words of eager and compiled decoding, and the compiled and eager steps of the latter."""
    prompts = rows(captioner.family, lengths)
    tokens = captioner.query(captioner.trunk.see(rm.pixels(len(prompts))))
    said = []
    for way in (False, True):
        captioner.steps.recorded = way
        captioner.steps.count.clear()
        said.append(captioner.speak(tokens, prompts, options, max_new_tokens=caps, **more))
    return *said, dict(captioner.steps.count)


def same(one, other):
    assert [[(text.ids, text.finish) for text in row] for row in one] == [
        [(text.ids, text.finish) for text in row] for row in other
    ]
    for mine, theirs in zip(one, other, strict=True):
        assert [text.logprob for text in mine] == pytest.approx([text.logprob for text in theirs], abs=1e-4)


@pytest.mark.parametrize("options", [GREEDY, BEAM, SAMPLED], ids=["greedy", "beams", "samples"])
class TestSameTokens:
    def test_rows_of_all_lengths(self, captioner, options):
        eager, fast, steps = both_ways(captioner, options)
        same(eager, fast)
        assert set(steps) == {"compiled"}

    def test_one_row(self, captioner, options):
        eager, fast, steps = both_ways(captioner, options, (5,), (14,))
        same(eager, fast)
        assert set(steps) == {"compiled"}

    def test_rows_that_leave_and_rows_that_are_stopped(self, captioner, options):
        def stop_after(tokens):
            left = {0: tokens, 3: tokens + 2}

            def stop(row):
                left[row] = left.get(row, 99) - 1
                return left[row] <= 0

            return stop

        said = []
        for way in (False, True):
            captioner.steps.recorded = way
            prompts = rows(captioner.family, LENGTHS)
            tokens = captioner.query(captioner.trunk.see(rm.pixels(len(prompts))))
            said.append(captioner.speak(tokens, prompts, options, max_new_tokens=[15] * 6, stop=stop_after(2)))
        same(*said)
        assert max(text.tokens for text in said[1][0]) <= 2

    def test_rows_that_join(self, captioner, options):
        prompts = rows(captioner.family, LENGTHS)
        tokens = captioner.query(captioner.trunk.see(rm.pixels(len(prompts))))
        said = []
        for way in (False, True):
            captioner.steps.recorded = way
            captioner.steps.count.clear()
            steps = count()

            def more(steps=steps):
                at = {2: [2], 5: [3, 4, 5]}.get(next(steps), [])
                return Asked(tokens[at], [prompts[row] for row in at], [CAPS[row] for row in at]) if at else None

            said.append(captioner.speak(tokens[:2], prompts[:2], options, max_new_tokens=CAPS[:2], more=more))
        assert len(said[0]) == 6
        same(*said)
        assert set(captioner.steps.count) == {"compiled"}

    @pytest.fixture
    def hasty(self, captioner, monkeypatch):
        """As on a GPU, whose next step begins before the last token is known."""
        monkeypatch.setattr(captioner.steps, "hasty", True)

    def test_steps_that_begin_before_the_last_is_read(self, captioner, options, hasty):
        same(*both_ways(captioner, options)[:2])
        same(*both_ways(captioner, options, (3,) * 6, (2, 2, 2, 2, 14, 16))[:2])

    def test_such_steps_with_rows_that_leave_and_rows_that_are_stopped(self, captioner, options, hasty):
        self.test_rows_that_leave_and_rows_that_are_stopped(captioner, options)

    def test_such_steps_with_rows_that_join(self, captioner, options, hasty):
        self.test_rows_that_join(captioner, options)

    def test_one_wait_for_the_device_a_token(self, captioner, options, monkeypatch):
        waits = []

        def counted(name):
            right = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, lambda held, *more: waits.append(name) or right(held, *more))

        # A mode that sees every operation would be simpler, but in inference mode it sees none.
        for name in ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero"):
            counted(name)
        prompts = rows(captioner.family, (3, 3))
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        for way in (False, True):
            captioner.steps.recorded = way
            captioner.steps.count.clear()
            waits.clear()
            captioner.speak(tokens, prompts, options, max_new_tokens=[9, 9])
            read = 1 if captioner.family == "t5" else 0  # the library's encoder asks whether anything is padded
            assert Counter(waits) == Counter(tolist=captioner.steps.count.total() + 1, __bool__=read)

    def test_after_a_decoding_that_broke_off(self, captioner, options):
        def broken(row, texts):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            both_ways(captioner, options, said=broken)
        same(*both_ways(captioner, options)[:2])
        same(*both_ways(captioner, options, (0, 2), (5, 9))[:2])


def test_the_step_after_the_last_token_is_not_begun(captioner, monkeypatch):
    monkeypatch.setattr(captioner.steps, "hasty", True)
    eager, fast, steps = both_ways(captioner, TO_THE_END, (3, 5), (9, 6))
    same(eager, fast)
    assert steps == {"compiled": 8}


def test_rows_that_join_when_all_others_have_just_ended(captioner, monkeypatch):
    """The step that was begun for them is wasted, and its result is dropped."""
    prompts = rows(captioner.family, (3, 7, 2))
    tokens = captioner.query(captioner.trunk.see(rm.pixels(3)))
    said = []
    for way in (False, True):
        captioner.steps.recorded = way
        monkeypatch.setattr(captioner.steps, "hasty", way)
        steps = count()

        def more(steps=steps):
            return Asked(tokens[1:], prompts[1:], [6, 9]) if next(steps) == 1 else None

        # It is told to stop at its third token, which is known no sooner than the others have joined.
        left = iter([False, False, True])
        said.append(
            captioner.speak(
                tokens[:1],
                prompts[:1],
                TO_THE_END,
                max_new_tokens=[14],
                more=more,
                stop=lambda row, left=left: row == 0 and next(left),
            )
        )
    assert [row[0].tokens for row in said[1]] == [3, 6, 9]
    same(*said)


class TestShapes:
    def test_a_batch_moves_into_a_smaller_shape_when_its_rows_fit(self, captioner, monkeypatch):
        taken = []
        original = compiled._Graph.taken

        def recorded(graph, held):
            taken.append(len(graph._ids))
            return original(graph, held)

        monkeypatch.setattr(compiled._Graph, "taken", recorded)
        eager, fast, steps = both_ways(captioner, TO_THE_END, (3,) * 6, (2, 2, 2, 2, 14, 16))
        same(eager, fast)
        assert taken == [8, 2, 1]
        assert steps == {"compiled": 15}

    @pytest.mark.parametrize(
        ("options", "lengths", "caps"),
        [
            (TO_THE_END, (3,) * 9, (6,) * 9),
            (GREEDY, (3,), (33,)),
            (GREEDY, (20,), (6,)),
            (GenerationOptions(num_beams=4), (3,), (6,)),
        ],
        ids=["rows", "tokens", "places", "beams"],
    )
    def test_what_fits_nowhere_is_said_the_eager_way(self, captioner, options, lengths, caps):
        eager, fast, steps = both_ways(captioner, options, lengths, caps)
        same(eager, fast)
        assert set(steps) == {"eager"}

    def test_a_batch_too_large_at_first_goes_on_compiled(self, captioner):
        eager, fast, steps = both_ways(captioner, TO_THE_END, (3,) * 10, (3,) * 8 + (14, 16))
        same(eager, fast)
        assert steps == {"eager": 2, "compiled": 13}

    def test_numbers_that_are_none_stay_where_they_were(self, captioner):
        """A row that overflowed leaves its numbers in the blocks; the next rows there must not see them."""
        for graph in captioner.steps._graphs.values():
            for block in (graph._rows.prompt, graph._rows.own):
                with torch.inference_mode():
                    block.fill_(float("nan"))
        same(*both_ways(captioner, BEAM)[:2])

    def test_those_that_do_not_fit_in_memory_are_left_out(self, uncompiled):
        small = made("opt", SHAPES, limit=200_000).steps
        assert 0 < len(small.shapes) < len(SHAPES)
        assert sum(block.untyped_storage().nbytes() for block in blocks(small)) <= 200_000
        assert made("opt", SHAPES, limit=10).steps.shapes == []

    def test_the_usual_ones(self):
        found = shapes([1, 5], most=160)
        assert found == sorted(found)
        assert len(found) == 28
        assert {Shape(1, 5, 64, 32), Shape(32, 5, 192, 64), Shape(128, 1, 64, 32)} < set(found)
        assert shapes([1, 1], most=1) == [Shape(1, 1, 64, 32), Shape(1, 1, 192, 64)]
        assert {shape.rows for shape in shapes([5], most=2)} == {1}


def blocks(steps):
    graph = next(iter(steps._graphs.values()))
    return graph._rows.prompt, graph._rows.own


def test_dropped_the_memory_is_free_and_every_step_eager(uncompiled):
    captioner = made("t5", SHAPES[:3])
    alive = [weakref.ref(block.untyped_storage()) for block in blocks(captioner.steps)]
    assert both_ways(captioner, GREEDY, (3,), (6,))[2] == {"compiled": 5}
    captioner.steps.drop()
    gc.collect()
    assert [storage() for storage in alive] == [None, None]
    tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
    captioner.speak(tokens, rows("t5", (3,)), GREEDY, max_new_tokens=[6])
    assert captioner.steps.count == {"compiled": 5, "eager": 5}


@pytest.mark.parametrize("family", ["opt", pytest.param("t5", marks=pytest.mark.slow)])
def test_one_compilation_serves_every_layer_and_every_place(family, monkeypatch):
    """Through the compiler, without code that is generated for this processor."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(compiled, "BACKEND", "eager")
    counters.clear()
    captioner = made(family, [Shape(2, 1, 24, 16), Shape(8, 1, 24, 16), Shape(8, 1, 24, 24)])
    assert counters["stats"]["unique_graphs"] == 1
    same(*both_ways(captioner, GREEDY)[:2])
    assert counters["stats"]["unique_graphs"] == 1
    weight = weakref.ref(captioner._language_model.lm_head.weight)
    del captioner
    gc.collect()
    assert weight() is None  # a model that is unloaded must not stay in memory for its compiled steps


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_generated_code_gives_the_same_tokens(family):
    """Slow the first time on a machine; the code is then kept by the compiler."""
    captioner = made(family, SHAPES)
    for options in (GREEDY, BEAM, SAMPLED):
        same(*both_ways(captioner, options)[:2])
        same(*both_ways(captioner, options, (5,), (14,))[:2])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A captioner and a matcher with random weights, the demo's in miniature."""
    folder = tmp_path_factory.mktemp("small")
    captioner, matcher = rm.save(rm.make_opt(), folder / "captioner"), rm.save(rm.make_matcher(), folder / "matcher")
    return {"model": str(captioner), "matcher": str(matcher)}


class TestAtTheStart:
    """The setting `compile`, through `Vision` and the demo."""

    @pytest.fixture
    def options(self, tmp_path, uncompiled):
        return {
            "model": "demo",
            "device": "cpu",
            "compile": True,
            "max_batch": 2,
            "num_beams": 2,
            "keep_answers": 0,
            "self_test": False,
            "cache_dir": tmp_path,
        }

    def test_the_same_captions_and_steps_that_are_counted(self, options):
        pictures = [picture.open() for picture in PICTURES]
        with Vision.load(**options | {"compile": False}) as vision:
            eager = [vision.caption(picture).text for picture in pictures]
            status = vision.status()
            assert not status.compiled
            assert status.queue.eager_steps > 0
            assert status.queue.compiled_steps == 0
        with Vision.load(**options) as vision:
            assert [caption.text for caption in vision.caption(pictures)] == eager
            status = vision.status()
            assert status.compiled
            assert status.queue.compiled_steps > 0
            assert status.queue.eager_steps == 0
            vision.caption(pictures[0], max_new_tokens=80, min_new_tokens=70, num_beams=1)
            after = vision.status()
            assert after.queue.eager_steps > 0
            assert f"decoding steps: {after.queue.compiled_steps} compiled, {after.queue.eager_steps} eager" in (
                after.text_block()
            )
            told = render(metrics.engine(after))
            assert "blip2tools_decoding_compiled 1\n" in told
            assert f'steps_total{{way="compiled"}} {after.queue.compiled_steps}\n' in told

    def test_many_callers_some_of_whom_give_up(self, options):
        pictures = [picture.open() for picture in PICTURES]

        async def calls(vision):
            asked = [asyncio.create_task(vision.aask(pictures[n % 3], f"is there a thing {n}?")) for n in range(12)]
            await asyncio.sleep(0.05)
            for task in asked[::3]:
                task.cancel()
            return await asyncio.gather(*asked, return_exceptions=True)

        said = []
        for compile in (False, True):
            with Vision.load(**options | {"compile": compile}) as vision:
                answers = vision.run(calls(vision))
                said.append([answers[n].answer for n in range(12) if n % 3])
        assert said[0] == said[1]

    def test_in_half_precision_near_ties_may_fall_otherwise(self, options):
        with Vision.load(**options, dtype="bfloat16") as vision:
            assert vision.status().compiled
            assert "red circle" in vision.caption(PICTURES[0].open()).text

    @pytest.mark.parametrize(
        ("wrong", "dtype"),
        [
            pytest.param(lambda logits: logits.roll(1, -1), "float32", id="another word"),
            pytest.param(lambda logits: logits.roll(1, -1), "bfloat16", id="another word in half precision"),
            pytest.param(lambda logits: logits * 0.5, "float32", id="another confidence"),
            pytest.param(lambda logits: logits * float("nan"), "bfloat16", id="no numbers"),
        ],
    )
    def test_a_wrong_step_is_found_and_nothing_is_compiled(self, options, wrong, dtype, monkeypatch, caplog):
        right = compiled._Graph.step
        monkeypatch.setattr(compiled._Graph, "step", lambda self, ids, place: wrong(right(self, ids, place)))
        self.stays_eager(options | {"dtype": dtype}, "they give other words than eager steps", caplog)

    def test_kernels_of_our_own_that_are_wrong_are_given_up_first(self, options, monkeypatch, caplog):
        """As on a GPU; the second try works without them."""
        right, trusted = compiled._Graph.step, [True]

        def step(graph, ids, place):
            logits = right(graph, ids, place)
            return logits.roll(1, -1) if trusted else logits

        monkeypatch.setattr(compiled._Graph, "step", step)
        monkeypatch.setattr(kernels, "distrust", lambda: bool(trusted and trusted.pop()))
        with Vision.load(**options) as vision:
            assert "red circle" in vision.caption(PICTURES[0].open()).text
            assert vision.status().compiled
        assert [record.message for record in caplog.records if "kernels" in record.message] == [
            "decoding steps do not use our own kernels: they give other words than eager steps"
        ]

    def test_beams_that_are_not_put_in_order_are_found(self, options, monkeypatch, caplog):
        right = Rows.reorder

        def forgetful(held, parents):
            if held.own.shape[4] != compiled.USUAL[1]:  # of no shape
                right(held, parents)

        monkeypatch.setattr(Rows, "reorder", forgetful)
        self.stays_eager(options | {"num_beams": 5}, "they give other words than eager steps", caplog)

    def test_a_compiler_that_fails(self, options, monkeypatch, caplog):
        def failing(*args, **options):
            raise RuntimeError("nvcc at /somewhere")

        monkeypatch.setattr(torch, "compile", failing)
        warning = self.stays_eager(options, "they cannot be compiled here (RuntimeError)", caplog)
        assert "/somewhere" not in warning

    def test_graphs_that_cannot_be_recorded(self, options):
        """As on a GPU whose driver or library fails: here there is no GPU at all."""
        chosen = Settings.load({}, **options | {"compile": False})
        loaded = replace(checkpoints.load(chosen), device="cuda:63")
        found = compiling.switch_on(loaded, chosen)
        assert (found.recorded, found.compiled) == (False, False)
        assert re.fullmatch(
            r"decoding steps are not recorded \(`cuda_graphs`\), only slower: they cannot be recorded here \(\w+\)",
            found.uncompiled,
        )
        assert compiling.switch_on(loaded, chosen.model_copy(update={"cuda_graphs": False})) == loaded

    @pytest.mark.parametrize("compile", [False, True])
    def test_recorded_as_on_a_gpu(self, options, compile, monkeypatch):
        """Everything but the graphs, with a compiler that fails: then eager steps are recorded."""

        def failing(*args, **options):
            raise RuntimeError

        monkeypatch.setattr(torch, "compile", failing)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(compiling, "_limit", lambda loaded: None)
        chosen = Settings.load({}, **options | {"compile": compile, "max_batch": 4})
        here = checkpoints.load(chosen)
        found = compiling.switch_on(replace(here, device="cuda:0"), chosen)
        assert (found.recorded, found.compiled) == (True, False)
        assert (found.uncompiled is not None) == compile
        assert all(one.holds(1) for one in compiling.recordings(found))
        pixels = found.pixels([picture.open() for picture in PICTURES])
        tokens = found.captioner.query(found.captioner.trunk.see(pixels))
        found.captioner.speak(tokens, [found.words.caption().ids] * 3, GREEDY, max_new_tokens=[9] * 3)
        assert set(found.captioner.steps.count) == {"recorded"}
        compiling.drop(found)
        assert not any(one.holds(1) for one in compiling.recordings(found))

    @pytest.mark.parametrize(
        ("part", "rows"),
        [(part, rows) for part in ("_see", "_look") for rows in ROWS]
        + [("_query", rows) for rows in COUNTS]
        + [(part, rows) for part in ("_pictures", "_texts") for rows in (*ROWS, 16)],
    )
    def test_a_wrong_recording_is_found(self, options, small, part, rows, monkeypatch):
        """Each by itself: every number of rows is a graph of its own."""
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(compiling, "_limit", lambda loaded: None)
        chosen = Settings.load({}, **options | small | {"compile": False, "max_batch": 10})
        loaded = replace(checkpoints.load(chosen), device="cuda:0")
        owner, name = {
            "_see": (loaded.captioner.trunk, "_states"),
            "_query": (loaded.captioner, "_image_tokens"),
            "_look": (loaded.matcher, "_queries"),
            "_pictures": (loaded.captioner._words, "_pictures_read"),
            "_texts": (loaded.captioner._words, "_texts_read"),
        }[part]
        held, right = getattr(owner, part), getattr(owner, name)

        def wrong(*given):
            found = right(*given)
            false = held._recordings and len(found[-1]) == rows
            return tuple(one.roll(1, -1) for one in found) if false else found

        held._work = lambda: wrong
        found = compiling.switch_on(loaded, chosen)
        assert not found.recorded
        assert found.uncompiled.endswith("they give other features than eager steps")
        assert not any(one.holds(1) for one in compiling.recordings(found))

    @pytest.mark.parametrize("change", [{"device": "spread"}, {"quantize": "8bit"}])
    def test_what_cannot_be_compiled(self, options, change):
        chosen = Settings.load({}, **options)
        loaded = checkpoints.load(chosen)
        if "quantize" in change:
            loaded = replace(loaded, quantize="8bit")
        found = compiling.switch_on(loaded, chosen.model_copy(update=change))
        assert not found.compiled
        assert found.uncompiled.endswith("only slower: a quantized or spread model cannot be")
        assert loaded.captioner.steps.shapes == []

    def test_no_memory(self, options, monkeypatch, caplog):
        monkeypatch.setattr(compiling, "free_memory", lambda: 1000)
        self.stays_eager(options, "there is not enough free memory for it", caplog)

    def stays_eager(self, options, reason, caplog):
        with Vision.load(**options) as vision:
            caption = vision.caption(PICTURES[0].open())
            assert "red circle" in caption.text
            status = vision.status()
        assert not status.compiled
        assert status.queue.compiled_steps == 0
        (warning,) = [warning for warning in status.warnings if "compile" in warning]
        assert warning == f"decoding steps are not compiled (`compile`), only slower: {reason}"
        assert warning not in caption.warnings
        assert [record.message for record in caplog.records if record.message.startswith("decoding steps")] == [
            f"decoding steps are not compiled: {reason}"
        ]
        return warning
