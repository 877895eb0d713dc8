"""How well statements fit a picture: with an answer, in the same batch, once for each picture and statement."""

import json

import pytest
from PIL import Image

from blip2tools import checkpoints
from blip2tools.checkpoints.confidence import FILE, Premises, premises_rule, read, write_premises
from blip2tools.checkpoints.family import demo_folder
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.requests import AnswerRequest, ChoiceRequest, FitRequest, MatchRequest, Question, Sight
from blip2tools.errors import ModelUnavailableError
from blip2tools.model.options import Generation
from blip2tools.settings import Settings


@pytest.fixture(scope="module")
def loaded():
    return checkpoints.load(Settings(model="demo", threads=1))


@pytest.fixture
def engine(loaded):
    running = LocalEngine(lambda progress: loaded, max_queue=32, cache_bytes=2**24)
    yield running
    running.close()


@pytest.fixture
def sight(picture):
    return Sight("a", Image.open(picture.path).convert("RGB"))


def answer(engine, request):
    return engine.submit(request, deadline=None).future.result(timeout=100)


def test_statements_are_judged_beside_the_answer(engine, sight, picture):
    shape = picture.scene.things[0].shape
    texts = (f"a {shape}", "a star" if shape != "star" else "a ring", "a mermaid")
    question = Question("how many objects are there?", (), None)
    said = answer(engine, AnswerRequest(sight, question, Generation(), texts))
    ranked = answer(engine, ChoiceRequest(sight, question, ("one", "two"), texts))
    alone = answer(engine, FitRequest(sight, texts))
    matched = answer(engine, MatchRequest(sight, texts))
    assert said.fits == ranked.fits == alone
    assert [fit.probability for fit in alone] == pytest.approx([score.probability for score in matched], abs=1e-5)
    assert alone[0].odds > 3 > -3 > alone[1].odds
    assert [fit.unread for fit in alone] == [False, False, True]
    assert 0 < ranked.said <= 1
    assert answer(engine, AnswerRequest(sight, question, Generation())).fits == ()


def test_a_statement_is_judged_once_for_each_picture(engine, loaded, sight, picture, monkeypatch):
    read_together = []
    match = type(loaded.matcher).match_kept
    monkeypatch.setattr(
        type(loaded.matcher), "match_kept", lambda *given: read_together.append(given[2]) or match(*given)
    )
    for number in range(3):
        question = Question(f"where is the star, {number}?", (), None)
        answer(engine, AnswerRequest(sight, question, Generation(num_beams=1), ("a star", "a ring")))
    assert [len(texts) for texts in read_together] == [2]
    answer(engine, FitRequest(Sight("b", sight.image), ("a star",)))
    assert [len(texts) for texts in read_together] == [2, 1]


def test_what_texts_attend_to_is_computed_once_for_a_picture_and_counted(engine, loaded, sight, monkeypatch):
    computed = []
    keys = type(loaded.matcher).keys
    monkeypatch.setattr(type(loaded.matcher), "keys", lambda *given: computed.append(keys(*given)) or computed[-1])
    answer(engine, FitRequest(sight, ("a star",)))
    before = engine.status().cache
    assert before.bytes_limit == 2**24
    assert before.bytes_used > computed[0].nbytes > 0
    answer(engine, FitRequest(sight, ("a ring",)))
    answer(engine, MatchRequest(sight, ("a red ring",)))
    assert len(computed) == 1
    assert engine.status().cache.hits > before.hits
    engine._unload()
    assert engine.status().cache.entries == 0


def test_without_room_for_what_texts_attend_to_fits_are_the_same(loaded, engine, sight):
    small = LocalEngine(lambda progress: loaded, max_queue=8, cache_bytes=2**17)
    try:
        assert answer(small, FitRequest(sight, ("a star",))) == answer(engine, FitRequest(sight, ("a star",)))
        assert small.status().cache.bytes_used <= 2**17
    finally:
        small.close()


def test_without_a_matcher_there_are_none(picture, sight):
    plain = checkpoints.load(Settings(model="demo", matcher="none", threads=1))
    running = LocalEngine(lambda progress: plain, max_queue=8, cache_bytes=2**24)
    try:
        assert answer(running, FitRequest(sight, ("a star",))) is None
        question = Question("how many objects are there?", (), None)
        assert answer(running, AnswerRequest(sight, question, Generation(), ("a star",))).fits is None
    finally:
        running.close()


def test_how_scores_are_read_stands_beside_the_weights(tmp_path):
    own = premises_rule(demo_folder("captioner"))
    assert own.known
    assert "a star" in own.others
    assert premises_rule(tmp_path) == Premises()  # the cautious default
    write_premises(tmp_path / FILE, own, {"premises": {"seed": 1}})
    assert premises_rule(tmp_path) == own
    assert json.loads((tmp_path / FILE).read_text())["fitted"] == {"premises": {"seed": 1}}
    assert read(tmp_path / FILE).answer is None
    (tmp_path / FILE).write_text('{"premises": {"margin": -1}}')
    with pytest.raises(ModelUnavailableError):
        premises_rule(tmp_path)


def test_a_failing_premise_lowers_a_confidence_by_its_odds():
    rule = premises_rule(demo_folder("captioner"))
    assert rule.factor(-9.0) < rule.factor(-3.0) < rule.factor(0.0) < 1
    assert rule.factor(-9.0) < 0.01
