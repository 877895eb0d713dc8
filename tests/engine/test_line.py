"""The order of service and the batches: callers take turns, and a batch holds only requests that can share work."""

import random

import pytest

from blip2tools.engine.line import Job, Line, Work, group, rows
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    ChoiceRequest,
    MatchRequest,
    Question,
    Sight,
    TextFeatureRequest,
    WarmRequest,
)
from blip2tools.model.options import Generation

SIGHT = Sight("a", None)


def caption(count=1, **generation):
    return CaptionRequest(SIGHT, Generation(**generation), count=count)


def ask(**generation):
    return AnswerRequest(SIGHT, Question("q", (), None), Generation(**generation))


def work(request=None, caller="", deadline=None):
    return Work(Job(request or caption(num_beams=1), deadline, caller))


def line_of(*works):
    line = Line()
    for one in works:
        line.add(one)
    return line


def test_in_order_for_one_caller():
    works = [work() for _ in range(5)]
    line = line_of(*works)
    assert line.take(3) == works[:3]
    assert line.take(3) == works[3:]
    assert len(line) == 0


def test_callers_take_turns():
    greedy = [work(caller="greedy") for _ in range(500)]
    line = line_of(*greedy, lone := work(caller="lone"))
    batch = line.take(4)
    assert lone in batch
    assert batch[0] is greedy[0]


def test_a_caller_with_other_work_leads_the_next_batch():
    line = line_of(
        *[work(caller="greedy") for _ in range(50)], lone := work(MatchRequest(SIGHT, ("t",)), caller="lone")
    )
    line.take(4)
    assert line.take(4) == [lone]


def test_a_batch_is_bounded_in_rows_but_never_empty():
    line = line_of(*[work(caption(num_beams=5)) for _ in range(4)])
    assert len(line.take(12)) == 2
    assert len(line.take(1)) == 1


def test_only_one_group_in_a_batch():
    requests = [
        caption(num_beams=1),
        caption(num_beams=5),
        ask(num_beams=1),
        MatchRequest(SIGHT, ("t",)),
        WarmRequest(),
    ]
    line = line_of(*[work(request) for request in requests for _ in range(3)])
    while len(line):
        assert len({one.group for one in line.take(100)}) == 1


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (caption(num_beams=1), caption(num_beams=1, max_new_tokens=20), True),
        (caption(num_beams=1), caption(num_beams=1, max_new_tokens=100), False),
        (caption(num_beams=1, max_new_tokens=12), ask(num_beams=1), True),
        (caption(num_beams=1), caption(num_beams=1, length_penalty=2.0), True),
        (caption(num_beams=5), caption(num_beams=5, length_penalty=2.0), False),
        (caption(max_new_tokens=10), ask(), False),  # their default length penalties differ
        (caption(num_beams=5), caption(num_beams=4), False),
        (caption(num_beams=1), caption(count=2, num_beams=1), False),
        (caption(num_beams=1), caption(num_beams=1, repetition_penalty=1.5), False),
        (caption(do_sample=True), caption(do_sample=True, num_beams=3), True),
        (caption(do_sample=True), caption(do_sample=True, temperature=0.5), False),
        (MatchRequest(SIGHT, ("a",)), MatchRequest(Sight("b", None), ("b", "c")), True),
        (MatchRequest(SIGHT, ("a",)), TextFeatureRequest(("a",)), False),
    ],
)
def test_groups(one, other, together):
    assert (group(one) == group(other)) is together


def test_rows():
    assert rows(caption(num_beams=5)) == 5
    assert rows(caption(num_beams=1, count=3)) == 3
    assert rows(caption(do_sample=True, count=2)) == 2
    assert rows(MatchRequest(SIGHT, ("a",) * 7)) == 7
    assert rows(ChoiceRequest(SIGHT, Question("q", (), None), ("a", "b"))) == 2
    assert rows(WarmRequest()) == 1


def test_the_stopped_are_dropped():
    works = [work() for _ in range(4)]
    line = line_of(*works)
    works[1].jobs[0].cancel()
    assert line.drop_stopped() == [works[1]]
    assert list(line) == [works[0], works[2], works[3]]
    assert line.clear() == [works[0], works[2], works[3]]
    assert len(line) == 0


def test_nobody_waits_longer_than_all_others_together():
    """Random callers, kinds and sizes: everything is served once, and each turn serves the caller that waited longest."""
    chance = random.Random(3)
    requests = [caption(num_beams=1), caption(num_beams=5), MatchRequest(SIGHT, ("t",)), ask()]
    works = [work(chance.choice(requests), caller=str(chance.randrange(5))) for _ in range(300)]
    line = line_of(*works)
    served = []
    waited = {str(number): 0 for number in range(5)}
    while len(line):
        batch = line.take(chance.choice((1, 4, 16)))
        served += batch
        present = {one.caller for one in line}
        for caller in waited:
            waited[caller] = (
                0 if caller in {one.caller for one in batch} or caller not in present else waited[caller] + 1
            )
            assert waited[caller] < 5
    assert sorted(map(id, served)) == sorted(map(id, works))


def anybody(work):
    return True


def test_whose_turn_it_is_may_join_a_batch_of_its_group():
    first, second, other = work(), work(), work(MatchRequest(SIGHT, ("a",)))
    line = line_of(first, other, second)
    assert line.join(first.group, 8, anybody) == [first, second]
    assert line.join(first.group, 8, anybody) == []  # the match is first in line now
    assert line.take(8) == [other]
    assert line.join(first.group, 8, anybody) == []  # and now nobody waits


def test_nobody_joins_a_batch_without_room_for_him():
    wide = work(caption(num_beams=5))
    line = line_of(wide)
    assert line.join(wide.group, 4, anybody) == []
    assert line.join(wide.group, 5, anybody) == [wide]


def test_who_does_not_fit_is_not_overtaken_for_ever():
    works = [work(caller=caller) for caller in "abc"]
    line = line_of(*works)
    assert line.join(works[0].group, 8, lambda one: one is not works[1]) == [works[0], works[2]]
    line.add(work(caller="d"))
    assert line.join(works[0].group, 8, lambda one: one is not works[1]) == []
