"""The engine with the real demo checkpoint: one load, one worker, and every way that a request can end."""

import dataclasses
import threading
import time

import pytest
import torch
from PIL import Image

from blip2tools import checkpoints
from blip2tools.engine import (
    AnswerRequest,
    CaptionRequest,
    ChoiceRequest,
    Generation,
    LocalEngine,
    MatchRequest,
    Question,
    Sight,
    WarmRequest,
)
from blip2tools.errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    InternalError,
    InvalidInputError,
    ModelUnavailableError,
    OutOfMemoryError,
)
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
    return Sight(Image.open(picture.path).convert("RGB"), "a")


def caption(sight, **options):
    return CaptionRequest(sight, Generation(**options))


def later(seconds):
    return time.monotonic() + seconds


class Gate:
    """A load that waits to be let through."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.open = threading.Event()
        self.calls = 0

    def __call__(self, progress):
        self.calls += 1
        progress("reading weights", 0.5)
        assert self.open.wait(20)
        return self.loaded


def answer(job):
    return job.future.result(timeout=30)


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
    assert sum(shares) == pytest.approx(1)
    assert shares[2] == max(shares)
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
    waiting = [engine.submit(caption(sight), deadline=None) for _ in range(3)]
    with pytest.raises(BusyError, match="3 requests"):
        engine.submit(caption(sight), deadline=None)
    gate.open.set()
    for job in (running, *waiting):
        answer(job)
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

    hook = loaded.captioner._language_model.register_forward_pre_hook(step)
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

    hook = loaded.captioner._language_model.register_forward_pre_hook(slow_step)
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


def test_an_answer_that_comes_after_the_end_is_dropped(engine):
    job = engine.submit(WarmRequest(), deadline=None)
    answer(job)
    assert job.answer("again") is False
    assert job.fail(CancelledError("no")) is False
