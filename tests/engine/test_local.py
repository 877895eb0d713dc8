"""The engine with the real demo checkpoint: one load, one worker, and every way that a request can end."""

import copy
import dataclasses
import gc
import threading
import time
import weakref
from functools import partial

import pytest
import torch
from PIL import Image

from blip2tools import checkpoints
from blip2tools.engine.cache import FeatureCache, Spill
from blip2tools.engine.line import Job, Work
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.memory import modules, second_tier, settle
from blip2tools.engine.metrics import Metrics
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    ChoiceRequest,
    FeatureRequest,
    MatchRequest,
    Question,
    Sight,
    WarmRequest,
)
from blip2tools.engine.stages import Stages
from blip2tools.errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    InternalError,
    InvalidInputError,
    ModelUnavailableError,
    OutOfMemoryError,
)
from blip2tools.model.options import Generation
from blip2tools.model.quantized import kernels, layers, prepared
from blip2tools.settings import Settings

TEMPLATE = "Question: {question} Answer:"


@pytest.fixture(scope="module")
def loaded():
    return checkpoints.load(Settings(model="demo", threads=1))


@pytest.fixture
def engine(loaded):
    running = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**24)
    yield running
    running.close()


@pytest.fixture
def sight(picture):
    return Sight("a", Image.open(picture.path).convert("RGB"))


def caption(sight, **options):
    return CaptionRequest(sight, Generation(**options))


def later(seconds):
    return time.monotonic() + seconds


class Gate:
    """A load that waits until a test lets it go on."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.open = threading.Event()
        self.calls = 0

    def __call__(self, progress):
        progress("reading weights", 0.5)
        self.calls += 1  # last, as tests look at what was told once it has counted
        assert self.open.wait(100)
        return self.loaded


def answer(job):
    return job.future.result(timeout=100)


def test_caption_answer_choice_match(engine, sight, picture):
    thing = picture.scene.things[0]
    question = Question(f"what color is the {thing.shape}?", (), TEMPLATE)
    jobs = [
        engine.submit(request, deadline=None)
        for request in (
            caption(sight),
            AnswerRequest(sight, question, Generation()),
            ChoiceRequest(sight, question, ("red", "cyan", thing.color)),
            MatchRequest(sight, (picture.caption, "two stars")),
        )
    ]
    captions, said, shares, scores = [answer(job) for job in jobs]
    assert [one.text for one in captions] == [picture.caption]
    assert captions[0].finish == "eos"
    assert said.text == thing.color
    assert sum(shares.shares) == pytest.approx(1)
    assert shares.shares[2] == max(shares.shares)
    assert scores[0].probability > 0.9 > scores[1].probability
    assert engine.status().completed == 4


def test_features_are_computed_once_for_a_picture(engine, loaded, sight, monkeypatch):
    seen = []
    see = type(loaded.captioner.trunk).see
    monkeypatch.setattr(type(loaded.captioner.trunk), "see", lambda trunk, pixels: seen.append(1) or see(trunk, pixels))
    question = Question("how many objects are there?", (), TEMPLATE)
    for request in (caption(sight), MatchRequest(sight, ("a star",)), AnswerRequest(sight, question, Generation())):
        answer(engine.submit(request, deadline=None))
    assert loaded.shared_trunk
    assert len(seen) == 1
    assert engine.status().cache.hits >= 2


def test_same_words_without_a_cache(loaded, sight, picture):
    engine = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=0)
    first, second = [answer(engine.submit(caption(sight), deadline=None))[0] for _ in range(2)]
    assert first == second
    assert first.text == picture.caption
    assert engine.status().cache.entries == 0
    engine.close()


def test_two_first_calls_load_once(loaded, sight):
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=8, cache_bytes=2**20)
    jobs = [engine.submit(caption(sight), deadline=None) for _ in range(2)]
    while not gate.calls:
        time.sleep(0.01)
    assert engine.status().loading
    assert "reading weights (50%)" in engine.status().state
    gate.open.set()
    assert answer(jobs[0]) == answer(jobs[1])
    assert gate.calls == 1
    assert engine.status().state == "ready"
    engine.close()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ModelUnavailableError("not here"), ModelUnavailableError),
        (RuntimeError("0xdead"), InternalError),
        (MemoryError(), ModelUnavailableError),
        (torch.OutOfMemoryError(), ModelUnavailableError),
    ],
)
def test_a_failed_load_is_told_and_tried_again(loaded, sight, fault, code):
    faults = [fault]

    def load(progress):
        if faults:
            raise faults.pop()
        return loaded

    engine = LocalEngine(load, max_queue=8, cache_bytes=2**20)
    with pytest.raises(code) as told:
        answer(engine.submit(WarmRequest(), deadline=None))
    assert "0x" not in str(told.value)
    assert "unavailable" in engine.status().state
    assert not engine.status().loaded
    assert answer(engine.submit(caption(sight), deadline=None))
    engine.close()


def test_a_full_queue_is_busy_at_once_and_drains(loaded, sight):
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=3, cache_bytes=2**20)
    running = engine.submit(WarmRequest(), deadline=None)
    while not gate.calls:
        time.sleep(0.01)
    waiting = [engine.submit(caption(sight, max_new_tokens=number), deadline=None) for number in (5, 6, 7)]
    with pytest.raises(BusyError, match="3 requests"):
        engine.submit(caption(sight), deadline=None)
    same = engine.submit(caption(sight, max_new_tokens=5), deadline=None)  # needs no place of its own
    gate.open.set()
    for job in (running, *waiting):
        answer(job)
    assert answer(same) is answer(waiting[0])
    assert answer(engine.submit(caption(sight), deadline=None))
    engine.close()


def test_those_that_nobody_waits_for_give_up_their_place(loaded, sight):
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=2, cache_bytes=2**20)
    engine.submit(WarmRequest(), deadline=None)
    while not gate.calls:
        time.sleep(0.01)
    left = [engine.submit(caption(sight), deadline=None) for _ in range(2)]
    for job in left:
        job.cancel()
        with pytest.raises(CancelledError):
            answer(job)
    stays = engine.submit(caption(sight), deadline=None)
    gate.open.set()
    assert answer(stays)
    assert engine.status().cancelled == 2
    engine.close()


def test_an_overdue_request_is_not_even_begun(loaded, sight, monkeypatch):
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=8, cache_bytes=2**20)
    job = engine.submit(caption(sight), deadline=later(0.05))
    time.sleep(0.1)
    spoken = []
    monkeypatch.setattr(type(loaded.captioner), "speak", lambda *_, **__: spoken.append(1))
    gate.open.set()
    with pytest.raises(DeadlineError):
        answer(job)
    engine.close()
    assert not spoken


def test_a_running_row_ends_at_the_next_token(engine, loaded, sight):
    answer(engine.submit(WarmRequest(), deadline=None))
    steps = []
    submitted = threading.Event()

    def step(*_):
        steps.append(1)
        if len(steps) == 5:
            assert submitted.wait(5)
            job.cancel()

    hook = loaded.captioner._language_model.lm_head.register_forward_pre_hook(step)
    job = engine.submit(caption(sight, num_beams=1, min_new_tokens=90, max_new_tokens=90), deadline=None)
    submitted.set()
    with pytest.raises(CancelledError):
        answer(job)
    healthy = engine.submit(WarmRequest(), deadline=None)
    answer(healthy)
    hook.remove()
    assert 5 <= len(steps) <= 6
    assert engine.status().cancelled == 1


def test_the_deadline_stops_a_running_row(engine, loaded, sight):
    answer(engine.submit(WarmRequest(), deadline=None))
    steps = []

    def slow_step(*_):
        steps.append(1)
        time.sleep(0.02)

    hook = loaded.captioner._language_model.lm_head.register_forward_pre_hook(slow_step)
    job = engine.submit(caption(sight, num_beams=1, min_new_tokens=90, max_new_tokens=90), deadline=later(0.3))
    with pytest.raises(DeadlineError):
        answer(job)
    hook.remove()
    assert len(steps) < 80


def test_out_of_memory_is_tried_once_more_then_told_and_the_next_call_works(
    engine, loaded, sight, picture, monkeypatch
):
    speak = type(loaded.captioner).speak
    faults = [torch.OutOfMemoryError()]

    def short_of_memory(*arguments, **options):
        if faults:
            raise faults.pop()
        return speak(*arguments, **options)

    monkeypatch.setattr(type(loaded.captioner), "speak", short_of_memory)
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption
    faults += [torch.OutOfMemoryError(), MemoryError()]
    with pytest.raises(OutOfMemoryError):
        answer(engine.submit(caption(sight), deadline=None))
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption
    assert engine.status().failed == 1


def test_main_memory_that_torch_cannot_get_is_memory_too(engine, loaded, sight, picture, monkeypatch):
    """On a CPU torch raises a plain `RuntimeError`, here a real one."""
    speak, faults = type(loaded.captioner).speak, [True, True, False, True]

    def short_of_memory(*arguments, **options):
        if faults.pop():
            torch.empty(2**60, dtype=torch.uint8)
        return speak(*arguments, **options)

    monkeypatch.setattr(type(loaded.captioner), "speak", short_of_memory)
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption
    with pytest.raises(OutOfMemoryError):
        answer(engine.submit(caption(sight), deadline=None))


def test_the_worker_outlives_any_fault(engine, loaded, sight, picture, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(loaded.captioner), "speak", lambda *_, **__: 1 / 0)
        with pytest.raises(InternalError):
            answer(engine.submit(caption(sight), deadline=None))
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption


def test_a_choice_without_readable_text_is_refused(engine, loaded, sight, monkeypatch):
    monkeypatch.setattr(type(loaded.words), "candidate", lambda words, text: ())
    with pytest.raises(InvalidInputError, match="'red'"):
        answer(engine.submit(ChoiceRequest(sight, Question("q", (), TEMPLATE), ("red", "blue")), deadline=None))


def test_without_a_matcher_there_is_no_score(loaded, sight):
    blind = dataclasses.replace(loaded, matcher=None, matcher_pixels=None, matcher_words=None, matcher_name=None)
    engine = LocalEngine(lambda progress: blind, max_queue=8, cache_bytes=2**20)
    assert answer(engine.submit(MatchRequest(sight, ("a star",)), deadline=None)) is None
    engine.close()


def test_closing_ends_everything(loaded, sight):
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=8, cache_bytes=2**20)
    jobs = [engine.submit(caption(sight), deadline=None) for _ in range(3)]
    while not gate.calls:
        time.sleep(0.01)
    worker = engine._worker
    threading.Timer(0.1, gate.open.set).start()
    engine.close()
    engine.close()
    for job in jobs:
        with pytest.raises(CancelledError):
            answer(job)
    assert not worker.is_alive()
    assert engine.status().state == "closed"
    with pytest.raises(CancelledError, match="closed"):
        engine.submit(caption(sight), deadline=None)


class Held:
    """An engine whose worker waits inside its first request until it is let go, so that a queue can form."""

    def __init__(self, loaded, **options):
        self.gate = Gate(loaded)
        self.engine = LocalEngine(self.gate, **{"max_queue": 256, "cache_bytes": 2**24, **options})
        self.engine.submit(WarmRequest(), deadline=None)
        while not self.gate.calls:
            time.sleep(0.01)

    def __enter__(self):
        return self.engine, self.gate.open.set

    def __exit__(self, *_):
        self.gate.open.set()
        self.engine.close()


@pytest.fixture
def sights(pictures):
    return [Sight(str(number), Image.open(drawn.path).convert("RGB")) for number, drawn in enumerate(pictures)]


def test_what_waits_is_served_together_and_says_the_same_as_alone(loaded, engine, sights, pictures):
    question = Question("how many objects are there?", (), None)
    requests = [CaptionRequest(sight, Generation(num_beams=beams)) for sight in sights for beams in (1, 3)]
    requests += [AnswerRequest(sight, question, Generation(num_beams=1)) for sight in sights]
    requests += [
        MatchRequest(sight, (drawn.caption, "two stars")) for sight, drawn in zip(sights, pictures, strict=True)
    ]
    requests += [ChoiceRequest(sight, question, ("one", "two", "three")) for sight in sights]
    requests += [FeatureRequest(sight) for sight in sights]
    alone = [answer(engine.submit(request, deadline=None)) for request in requests]
    with Held(loaded) as (busy, let_go):
        jobs = [busy.submit(request, deadline=None) for request in requests]
        let_go()
        together = [answer(job) for job in jobs]
        batches = busy.status().batches
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, list) and hasattr(one[0], "text"):
            assert [said.text for said in one] == [said.text for said in other]
            assert [said.logprob for said in one] == pytest.approx([said.logprob for said in other], abs=1e-4)
        elif hasattr(one, "text"):
            assert one.text == other.text
        elif isinstance(one, list) and hasattr(one[0], "probability"):
            assert [score.probability for score in one] == pytest.approx(
                [score.probability for score in other], abs=1e-5
            )
            assert [score.cosine for score in one] == pytest.approx([score.cosine for score in other], abs=1e-5)
        elif hasattr(one, "shares"):
            assert one.shares == pytest.approx(other.shares, abs=1e-5)
        else:
            assert torch.tensor(one) == pytest.approx(torch.tensor(other), abs=1e-5)
    assert sum(size * times for size, times in batches.items()) == len(requests) + 1
    assert max(batches) >= 6
    assert sum(batches.values()) < len(requests) / 3


def test_identical_requests_are_done_once(loaded, sight):
    with Held(loaded) as (engine, let_go):
        jobs = [engine.submit(caption(sight), deadline=None) for _ in range(5)]
        jobs[0].cancel()  # the others still wait for it
        sampled = [engine.submit(caption(sight, do_sample=True), deadline=None) for _ in range(2)]
        let_go()
        assert len({id(answer(job)) for job in jobs[1:]}) == 1
        assert answer(sampled[0]) is not answer(sampled[1])
        status = engine.status()
    assert status.joined == 4
    assert status.cancelled == 1
    assert status.completed == 1 + 4 + 2


def test_kept_answers_need_no_model(loaded, sight, monkeypatch):
    engine = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**20, kept_answers=2)
    first = answer(engine.submit(caption(sight), deadline=None))
    with monkeypatch.context() as patch:
        patch.setattr(type(loaded.captioner), "speak", lambda *_, **__: 1 / 0)
        assert answer(engine.submit(caption(sight), deadline=None)) is first
    # What is kept must not keep pictures: neither images nor the pixels made of them.
    assert all(kept.sight.image is None and not kept.sight.pixels for kept in engine._answers)
    for tokens in (3, 4):
        answer(engine.submit(caption(sight, max_new_tokens=tokens), deadline=None))
    assert answer(engine.submit(caption(sight), deadline=None)) is not first  # the oldest had to go
    engine.close()


def test_only_the_failing_request_of_a_batch_fails(loaded, sights, pictures, monkeypatch):
    speak = type(loaded.captioner).speak

    def fragile(captioner, tokens, prompts, options, *, max_new_tokens, **more):
        if 7 in max_new_tokens:
            raise RuntimeError("device-side assert at 0x7f")
        return speak(captioner, tokens, prompts, options, max_new_tokens=max_new_tokens, **more)

    monkeypatch.setattr(type(loaded.captioner), "speak", fragile)
    with Held(loaded) as (engine, let_go):
        bad = 7
        lengths = [16, 16, bad, 16, 16, 16]
        jobs = [
            engine.submit(caption(s, num_beams=1, max_new_tokens=n), deadline=None)
            for s, n in zip(sights, lengths, strict=True)
        ]
        let_go()
        for job, length, drawn in zip(jobs, lengths, pictures, strict=True):
            if length == bad:
                with pytest.raises(InternalError):
                    answer(job)
            else:
                assert drawn.caption.startswith(answer(job)[0].text[:20])
        assert engine.status().failed == 1


def test_out_of_memory_halves_the_batch(loaded, sights, monkeypatch):
    speak = type(loaded.captioner).speak
    sizes = []

    def small_device(captioner, tokens, prompts, *arguments, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return speak(captioner, tokens, prompts, *arguments, **options)

    monkeypatch.setattr(type(loaded.captioner), "speak", small_device)
    with Held(loaded) as (engine, let_go):
        jobs = [engine.submit(caption(sight), deadline=None) for sight in sights]
        let_go()
        assert all(answer(job) for job in jobs)
    assert sizes[0] == 6
    assert sorted(set(sizes[1:])) == [1, 2, 3]
    assert engine._max_batch == 7  # rows: half of what three requests with five beams take


@pytest.fixture
def packable(monkeypatch, tmp_path):
    """The demo in 8 bits as on a machine where all of its language model is packed in pauses, with few or no products."""
    if kernels.fits("packed") is None:
        pytest.skip("nothing is packed on this machine")
    monkeypatch.setattr(
        prepared, "_measured", lambda *a, packing, **k: ["packed" if packing else "rows", "rows", "rows"]
    )
    monkeypatch.setattr(layers.Packing, "may", lambda *a, **k: False)
    return checkpoints.load(Settings(model="demo", threads=1, quantize="8bit", cache_dir=str(tmp_path)))


def waiting(loaded):
    return len(prepared.unpacked(modules(loaded)))


def test_pauses_are_used_for_packing(packable, sight, picture):
    engine, before = (
        LocalEngine(lambda progress: packable, max_queue=8, cache_bytes=2**24, pause_s=0.05),
        waiting(packable),
    )
    assert before > 10
    time.sleep(0.2)
    assert waiting(packable) == before, "nothing was asked yet"
    assert [one.text for one in answer(engine.submit(caption(sight), deadline=None))] == [picture.caption]
    end = later(60)
    while waiting(packable) and time.monotonic() < end:
        time.sleep(0.02)
    assert not waiting(packable)
    assert [one.text for one in answer(engine.submit(caption(sight, num_beams=2), deadline=None))] == [picture.caption]
    engine.close()


def test_full_precision_has_nothing_to_settle(loaded):
    assert not list(settle(loaded))


def test_a_request_does_not_wait_until_all_is_packed(packable, sight, picture, monkeypatch):
    pack = layers.QuantizedLinear.pack
    monkeypatch.setattr(layers.QuantizedLinear, "pack", lambda layer: (time.sleep(0.2), pack(layer)))
    engine = LocalEngine(lambda progress: packable, max_queue=8, cache_bytes=2**24, pause_s=0.05)
    answer(engine.submit(caption(sight), deadline=None))
    before, end = waiting(packable), later(60)
    while waiting(packable) == before and time.monotonic() < end:
        time.sleep(0.02)
    assert [one.text for one in answer(engine.submit(caption(sight), deadline=None))] == [picture.caption]
    assert 0 < waiting(packable) < before
    engine.close()
    assert waiting(packable) > 0, "nor does the end"


def test_what_cannot_be_packed_works_as_it_is(packable, sight, picture, monkeypatch):
    tried = threading.Event()

    def pack(layer):
        tried.set()
        raise MemoryError

    monkeypatch.setattr(layers.QuantizedLinear, "pack", pack)
    engine = LocalEngine(lambda progress: packable, max_queue=8, cache_bytes=2**24, pause_s=0.05)
    answer(engine.submit(caption(sight), deadline=None))
    assert tried.wait(60)
    assert [one.text for one in answer(engine.submit(caption(sight), deadline=None))] == [picture.caption]
    engine.close()


def test_an_idle_model_is_unloaded_and_comes_back(loaded, sight, picture):
    loads = []
    engine = LocalEngine(lambda progress: loads.append(1) or loaded, max_queue=8, cache_bytes=2**20, idle_unload_s=0.1)
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption
    limit = time.monotonic() + 10
    while engine.status().loaded and time.monotonic() < limit:
        time.sleep(0.02)
    assert "unloaded" in engine.status().state
    assert engine.status().cache.entries == 0
    assert answer(engine.submit(caption(sight), deadline=None))[0].text == picture.caption
    assert len(loads) == 2
    engine.close()


class TestMemory:
    @pytest.fixture
    def no_search(self):
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    def test_a_model_that_was_used_is_gone_at_once(self, sight, no_search, monkeypatch):
        monkeypatch.setattr(gc, "collect", lambda: pytest.fail("garbage was collected"))
        engine = LocalEngine(
            lambda progress: checkpoints.load(Settings(model="demo", threads=1)), max_queue=8, cache_bytes=2**20
        )
        question = Question("what color is it?", (), TEMPLATE)
        for request in (
            caption(sight),
            AnswerRequest(sight, question, Generation(), ("a star",)),
            MatchRequest(sight, ("two stars",)),
        ):
            answer(engine.submit(request, deadline=None))
        weights = [weakref.ref(tensor) for _, tensor in engine._loaded.captioner.trunk.named_tensors()]
        weights += [weakref.ref(tensor) for tensor in engine._loaded.captioner._language_model.parameters()]
        weights.append(weakref.ref(engine._loaded.matcher._query_tokens))
        words = weakref.ref(engine._loaded.matcher_words)
        engine.close()
        assert not any(weight() is not None for weight in weights)
        assert words() is None

    @pytest.mark.parametrize("part", ["captioner", "matcher"])
    def test_one_that_forms_a_circle_is_gone_too(self, sight, no_search, part):
        loaded = [checkpoints.load(Settings(model="demo", threads=1))]
        module = list(getattr(loaded[0], part).modules())[2]
        module.forward = partial(module.forward)  # as hooks of other libraries do
        engine = LocalEngine(lambda progress: loaded.pop(), max_queue=8, cache_bytes=2**20)
        answer(engine.submit(caption(sight), deadline=None))
        left = weakref.ref(module)
        del module
        assert left() is not None
        engine.close()
        assert left() is None


def test_a_prepared_sight_needs_no_image(engine, sight, picture):
    assert engine.prepare(sight) is sight  # nothing is loaded yet
    first = answer(engine.submit(caption(sight), deadline=None))
    ready = engine.prepare(Sight("another key", sight.image))
    assert ready.image is None
    assert answer(engine.submit(caption(ready), deadline=None)) == first


def test_statistics_add_up(engine, sights):
    for sight in sights:
        answer(engine.submit(caption(sight), deadline=None))
    engine.close()  # an answer is given before its batch has ended, and a stage's time is known when it has
    status = engine.status()
    assert status.completed == len(sights)
    assert status.batches == {1: len(sights)}
    assert status.tokens > 6 * len(sights)
    assert set(status.seconds) == {"wait", "see", "query", "speak", "request"}
    for count, total, median, worst in status.seconds.values():
        assert count == len(sights)
        assert 0 < median <= worst <= total
    waited, spoke, whole = (status.seconds[stage][1] for stage in ("wait", "speak", "request"))
    assert waited + spoke < whole


def test_a_model_that_arrives_after_the_end_is_let_go(loaded, monkeypatch):
    monkeypatch.setattr("blip2tools.engine.local.JOIN_SECONDS", 0.05)
    gate = Gate(loaded)
    engine = LocalEngine(gate, max_queue=8, cache_bytes=2**20)
    job = engine.submit(WarmRequest(), deadline=None)
    while not gate.calls:
        time.sleep(0.01)
    engine.close()
    gate.open.set()
    with pytest.raises(CancelledError):
        answer(job)
    engine._worker.join(10)
    assert not engine._worker.is_alive()
    assert not engine.status().loaded
    assert engine.status().state == "closed"


def test_an_answer_that_comes_after_the_end_is_dropped(engine):
    job = engine.submit(WarmRequest(), deadline=None)
    answer(job)
    assert job.answer("again") is False
    assert job.fail(CancelledError("no")) is False


def test_features_that_moved_to_main_memory_give_the_same_words(loaded, sights, pictures, monkeypatch):
    """The first tier holds one picture, so that all others wait in the second, which a copy stands for on a CPU."""
    monkeypatch.setattr(
        "blip2tools.engine.memory.second_tier", lambda device, budget: Spill(budget, torch.clone, torch.clone)
    )
    seen = []
    see = type(loaded.captioner.trunk).see
    monkeypatch.setattr(
        type(loaded.captioner.trunk), "see", lambda trunk, pixels: seen.append(len(pixels)) or see(trunk, pixels)
    )
    engine = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**15, spill_bytes=2**24)
    for beams in (1, 5):
        for sight, drawn in zip(sights, pictures, strict=True):
            assert answer(engine.submit(caption(sight, num_beams=beams), deadline=None))[0].text == drawn.caption
    use = engine.status().cache
    assert sum(seen) == len(sights)
    assert use.returned >= len(sights) - 1
    assert 0 < use.spilled_bytes <= use.spilled_limit == 2**24
    assert use.bytes_used <= use.bytes_limit
    assert use.evicted == 0
    engine.close()
    assert engine.status().cache.spilled_entries == 0


@pytest.mark.parametrize(
    ("device", "budget", "tiers"), [("cuda:0", 100, 2), ("cuda:0", 0, 1), ("cpu", 100, 1), ("mps", 100, 1)]
)
def test_a_second_tier_stands_behind_memory_of_its_own_only(device, budget, tiers):
    spill = second_tier(device, budget)
    assert (spill is not None) is (tiers == 2)
    if spill is not None:
        assert spill.budget_bytes == budget
        assert spill.away(torch.ones(2)).device.type == "cpu"


def test_features_are_kept_by_picture_region_preprocessing_weights_and_precision(loaded, sight):
    """Whatever changes a feature changes its key: with one cache for all, every change is computed again."""
    half = checkpoints.load(Settings(model="demo", threads=1, dtype="bfloat16"))
    other = copy.copy(loaded.pixels)
    other.key = f"{other.key}:another"
    cache = FeatureCache(2**24)
    for model, looked in (
        (loaded, sight),
        (loaded, Sight("b", sight.image)),
        (loaded, Sight("a:0.1,0.1,0.5,0.5", sight.image)),
        (dataclasses.replace(loaded, pixels=other), sight),
        (half, sight),
    ):
        before = cache.use().misses
        Stages(model, cache, Metrics()).answer(
            [Work(Job(caption(looked, num_beams=1), None))], lambda work, answer: None, lambda fits: ()
        )
        assert cache.use().misses == before + 2, model.dtype
        Stages(model, cache, Metrics()).answer(
            [Work(Job(caption(looked, num_beams=1), None))], lambda work, answer: None, lambda fits: ()
        )
        assert cache.use().misses == before + 2


def test_a_row_is_answered_when_it_ends_not_when_its_batch_does(loaded, sights):
    """Short and long answers of one batch: the short ones arrive while the long one is still being decoded."""
    order = []
    with Held(loaded) as (engine, let_go):
        jobs = {}
        for number, (sight, tokens) in enumerate(zip(sights, (64, 33, 40, 36), strict=False)):
            request = caption(sight, num_beams=1, min_new_tokens=33, max_new_tokens=tokens)
            jobs[number] = engine.submit(request, deadline=None)
            jobs[number].future.add_done_callback(lambda _, n=number: order.append((n, engine.status().running)))
        let_go()
        for job in jobs.values():
            assert len(answer(job)) == 1
        status = engine.status()
    assert status.batches == {1: 1, 4: 1}
    assert order[0][0] == 1
    assert order[0][1] > 0  # the others were still running
    assert status.completed == 5
    assert status.tokens >= 4 * 33


class Paused:
    """Stops the worker before the third token of its first text until it is let go."""

    def __init__(self, loaded, monkeypatch):
        self.speaking, self.go_on = threading.Event(), threading.Event()
        words = type(loaded.captioner._words)
        extend, steps = words.extend, []

        def paused(*arguments):
            steps.append(1)
            if len(steps) == 2:
                self.speaking.set()
                assert self.go_on.wait(100)
            return extend(*arguments)

        monkeypatch.setattr(words, "extend", paused)


def test_who_comes_while_a_batch_speaks_joins_it(loaded, engine, sights, monkeypatch):
    long = caption(sights[0], num_beams=1, min_new_tokens=20, max_new_tokens=30)
    short = [caption(sight, num_beams=1, min_new_tokens=20, max_new_tokens=20) for sight in sights[1:4]]
    alone = [answer(engine.submit(request, deadline=None)) for request in (long, *short)]
    running = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**24)
    for sight in sights[:3]:  # the last one has not been seen when it comes
        answer(running.submit(AnswerRequest(sight, Question("how many?", (), None), Generation()), deadline=None))
    paused, order = Paused(loaded, monkeypatch), []
    jobs = [running.submit(long, deadline=None)]
    assert paused.speaking.wait(100)
    jobs += [running.submit(request, deadline=None) for request in short]
    for number, job in enumerate(jobs):
        job.future.add_done_callback(lambda _, n=number: order.append(n))
    paused.go_on.set()
    together = [answer(job) for job in jobs]
    assert [said.text for [said] in together] == [said.text for [said] in alone]
    running.close()
    status = running.status()
    # Those about pictures that are known join; the one about a new picture would hold the others up, and is next.
    assert status.batches == {1: 5, 2: 1}
    assert order[-1] == 3


def test_a_batch_takes_in_no_more_than_its_rows_in_all(loaded, sights, monkeypatch):
    """Cancelled rows free no room: a batch that is joined for ever would keep all its pictures."""
    running = LocalEngine(lambda progress: loaded, max_queue=8, max_batch=2, cache_bytes=2**24)
    paused, order = Paused(loaded, monkeypatch), []
    jobs = []
    for number, tokens in enumerate((16, 3, 4)):  # a whole caption: joining it, the last would be done before
        request = caption(sights[0], num_beams=1, min_new_tokens=3, max_new_tokens=tokens)
        jobs.append(running.submit(request, deadline=None))
        jobs[-1].future.add_done_callback(lambda _, n=number: order.append(n))
        assert paused.speaking.wait(100)
    paused.go_on.set()
    for job in jobs:
        answer(job)
    running.close()
    assert order == [1, 0, 2]


def test_nobody_joins_while_it_is_the_turn_of_others(loaded, sights, monkeypatch):
    """A match is first in the queue: a caption after it must not prolong the batch that holds the match up."""
    running = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**24)
    paused, order = Paused(loaded, monkeypatch), []
    requests = [
        caption(sights[0], num_beams=1, min_new_tokens=8, max_new_tokens=9),
        MatchRequest(sights[1], ("a star",)),
        caption(sights[0], num_beams=1, min_new_tokens=8, max_new_tokens=8),
    ]
    jobs = [running.submit(requests[0], deadline=None)]
    assert paused.speaking.wait(100)
    jobs += [running.submit(request, deadline=None) for request in requests[1:]]
    for number, job in enumerate(jobs):
        job.future.add_done_callback(lambda _, n=number: order.append(n))
    paused.go_on.set()
    for job in jobs:
        answer(job)
    running.close()
    assert order == [0, 1, 2]


def test_who_joined_a_batch_that_fails_is_answered_too(loaded, sights, monkeypatch):
    running = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**24)
    paused = Paused(loaded, monkeypatch)
    join, joined = type(loaded.captioner._words).join, []

    def fails_once(*arguments):
        joined.append(1)
        if len(joined) == 1:
            raise RuntimeError("a device error in the middle of a batch")
        return join(*arguments)

    monkeypatch.setattr(type(loaded.captioner._words), "join", fails_once)
    jobs = [running.submit(caption(sights[0], num_beams=1), deadline=None)]
    assert paused.speaking.wait(100)
    jobs += [running.submit(caption(sights[0], num_beams=1, max_new_tokens=most), deadline=None) for most in (28, 29)]
    paused.go_on.set()
    assert all(answer(job)[0].text for job in jobs)
    running.close()
    assert joined
    assert running.status().completed == 3
    assert running.status().failed == 0


def test_what_was_answered_early_is_not_done_again_when_the_batch_fails(loaded, sights, monkeypatch):
    """Memory runs out after the first row has ended: that row keeps its answer, the others are tried again."""
    speak = type(loaded.captioner).speak
    sizes = []

    def fails_late(captioner, tokens, prompts, *arguments, said, **options):
        sizes.append(len(prompts))

        def then_fail(row, texts):
            said(row, texts)
            if len(prompts) > 1:
                raise torch.OutOfMemoryError

        return speak(captioner, tokens, prompts, *arguments, said=then_fail, **options)

    monkeypatch.setattr(type(loaded.captioner), "speak", fails_late)
    with Held(loaded) as (engine, let_go):
        jobs = [engine.submit(caption(sight, num_beams=1), deadline=None) for sight in sights]
        let_go()
        assert all(answer(job) for job in jobs)
        status = engine.status()
    assert sizes[0] == len(sights)
    assert sum(sizes) < sum(range(len(sights) + 1))
    assert status.completed == len(sights) + 1
    assert status.failed == status.cancelled == 0
