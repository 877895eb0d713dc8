"""The wide world: more things, signs, styles, backgrounds that look like photographs, overlap, turned pictures.

What is said is judged by the readers of `test_demo_world`, which share no code with what says it.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from PIL import ImageChops, ImageStat

from blip2tools.demo.draw import draw, silhouettes
from blip2tools.demo.glyphs import glyph
from blip2tools.demo.questions import ALL_QUESTION_KINDS, QuestionKind, ask, kinds_of, sample_questions
from blip2tools.demo.statements import ALL_EDITS, Edit, edits_of, falsify, true_statement
from blip2tools.demo.words import caption
from blip2tools.demo.world import CHARACTERS, COLORS, STUDY, STYLES, WIDE, Scene, sample_scene, turned
from tests.demo.test_world import answer, holds, make_scene
from training.coverage import covers
from training.wording import reword


def scenes(number: int, seed: int = 1, things: int | None = None) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng, things, WIDE) for _ in range(number)]


def test_everything_occurs() -> None:
    many = scenes(1500)
    assert {len(scene.things) for scene in many} == {1, 2, 3, 4, 5}
    assert {scene.style for scene in many} == set(STYLES)
    assert {scene.background.name for scene in many} == set(WIDE.backgrounds)
    things = [thing for scene in many for thing in scene.things]
    assert {thing.character for thing in things if thing.shape == "sign"} == set(CHARACTERS)
    assert {thing.shape for thing in things} == set(WIDE.shapes)
    assert all((thing.character is None) == (thing.shape != "sign") for thing in things)
    assert max(scene.number(shape="sign") for scene in many) == 2
    turns = [scene.background.turn for scene in many if scene.background.turn]
    assert 0.15 < len(turns) / len(many) < 0.45
    assert max(map(abs, turns)) <= 15


def test_things_stay_inside_and_hardly_cover_each_other() -> None:
    touching = 0
    for scene in scenes(800):
        for thing in scene.things:
            assert min(thing.x, thing.y, 1 - thing.x, 1 - thing.y) > thing.radius - 0.011
        for one, other in itertools.combinations(scene.things, 2):
            apart = math.hypot(one.x - other.x, one.y - other.y) / (one.radius + other.radius)
            assert apart > 0.899
            touching += apart < 1
    assert touching > 40


def test_overlap_is_a_few_per_cent() -> None:
    shares = []
    for scene in scenes(160, things=5):
        for one, other in itertools.combinations(scene.things, 2):
            if math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius:
                continue
            first, second = (silhouettes([replace(thing, shape="circle")], 200) for thing in (one, other))
            both = ImageStat.Stat(ImageChops.multiply(first, second)).sum[0]
            shares.append(both / min(ImageStat.Stat(mask).sum[0] for mask in (first, second)))
    assert 0.01 < max(shares) < 0.09


def test_a_turned_scene_is_told_alike_or_refused() -> None:
    rng = random.Random(2)
    refused = 0
    for scene in scenes(400, 5):
        degrees = rng.uniform(-15, 15)
        other = turned(scene, degrees)
        if other is None:
            refused += 1
            continue
        assert caption(other) == caption(scene)
        back = turned(other, -degrees)
        assert back is not None
        assert all(abs(one.x - two.x) < 1e-9 for one, two in zip(scene.things, back.things, strict=True))
    assert 0 < refused < 200


def test_turning_is_that_of_the_picture() -> None:
    scene = make_scene(("small", "red", "star", 0.25, 0.5), ("large", "blue", "ring", 0.75, 0.52))
    other = turned(scene, 12)
    assert other is not None
    expected = draw(scene, 300, smoothing=1).rotate(-12, fillcolor=scene.background.paints[0])
    changed = ImageStat.Stat(ImageChops.difference(draw(other, 300, smoothing=1), expected)).mean
    assert max(changed) < 1.5


def test_pairs_can_be_kept_out() -> None:
    world = replace(WIDE, missing=frozenset({("red", "star"), ("blue", "heart")}))
    rng = random.Random(3)
    for _ in range(300):
        scene = sample_scene(rng, world=world)
        assert not world.missing & {(thing.color, thing.shape) for thing in scene.things}
        for question in sample_questions(scene, 4, rng):
            assert "red star" not in question.text
            assert "blue heart" not in question.text


# Pictures


@pytest.mark.parametrize("style", STYLES)
def test_every_style_shows_the_colour_where_the_thing_is(style: str) -> None:
    rng = random.Random(style)
    for _ in range(12):
        scene = replace(sample_scene(rng, 1), style=style)
        thing, picture = scene.things[0], draw(scene, 160)
        empty = draw(replace(scene, things=()), 160)
        changed = ImageChops.difference(picture, empty).convert("L").point([0] * 25 + [255] * 231)
        inside = silhouettes([replace(thing, radius=thing.radius * 1.25, shape="circle")], 160)
        outside = ImageChops.invert(inside)
        assert ImageStat.Stat(changed, inside).mean[0] > 10
        assert ImageStat.Stat(changed, outside).mean[0] < 3, style
        red, green, blue = ImageStat.Stat(picture, changed).mean
        assert all(abs(mean - paint) < 75 for mean, paint in zip((red, green, blue), thing.paint, strict=True))


def test_a_picture_is_drawn_the_same_again_and_each_differently() -> None:
    some = scenes(16, 9)
    assert [draw(scene, 64).tobytes() for scene in some] == [draw(scene, 64).tobytes() for scene in some]
    assert len({draw(scene, 64).tobytes() for scene in some}) == 16


def test_characters_look_different() -> None:
    shown = {character: glyph(character).resize((24, 32)) for character in CHARACTERS}
    for one, other in itertools.combinations(shown.values(), 2):
        assert ImageStat.Stat(ImageChops.difference(one, other)).mean[0] > 10
    assert not {"I", "O"} & set(CHARACTERS)


# Language


def test_captions_are_true_short_and_tell_all() -> None:
    for scene in scenes(1200, 4):
        said = caption(scene)
        assert holds(said, scene), said
        assert len(re.findall(r"[\w]+|,", said)) < 29, said
        assert len(re.findall(r"\ban? (?:small |large )?(?:" + "|".join(COLORS) + ")", said)) == len(scene.things)
        assert ("large" in said or "small" in said) == (len(scene.things) <= 3)
        assert re.findall(r"saying (.)", said) == [thing.character for thing in scene.things if thing.character]


@pytest.mark.parametrize("kind", ALL_QUESTION_KINDS)
def test_every_answer_is_true(kind: QuestionKind) -> None:
    rng = random.Random(kind)
    asked: Counter[str] = Counter()
    while asked.total() < 120:
        scene = sample_scene(rng, world=WIDE)
        question = ask(scene, kind, rng)
        if question:
            assert question.answer == answer(question.text, scene), (question, scene)
            asked[question.answer] += 1
    assert asked.most_common(1)[0][1] < 100, "almost always the same answer"


def test_yes_and_no_are_balanced_on_request() -> None:
    rng = random.Random(7)
    said = Counter(
        question.answer
        for scene in scenes(500, 7)
        for question in sample_questions(scene, 3, rng, kinds=("exists", "relation", "shape_exists"), balanced=True)
    )
    assert 0.45 < said["yes"] / said.total() < 0.55


def test_only_worlds_with_signs_ask_about_them() -> None:
    assert set(kinds_of(WIDE)) - set(kinds_of(STUDY)) == {"character"}
    assert set(edits_of(WIDE)) - set(edits_of(STUDY)) == {"character"}


def test_rewording_keeps_what_is_asked() -> None:
    rng = random.Random(1)
    content = re.compile(r"\b(?:red|blue|green|star|ring|cross|heart|sign|square|yellow|small|smaller|same|more)s?\b")
    seen: set[str] = set()
    for scene in scenes(400, 8):
        for question in sample_questions(scene, 2, rng):
            said = reword(question.text, rng)
            assert sorted(content.findall(said.lower())) == sorted(content.findall(question.text)), (question, said)
            seen.add(said)
    assert any("colour" in said for said in seen)
    assert any(not said.endswith("?") for said in seen)
    assert any(said[0].isupper() for said in seen)
    assert any(re.search(r"(?<!the )left of", said) for said in seen)


@pytest.mark.parametrize("edit", ALL_EDITS)
def test_one_edit_makes_it_false(edit: Edit) -> None:
    rng = random.Random(edit)
    made = 0
    while made < 60:
        scene = sample_scene(rng, world=WIDE)
        truth = true_statement(scene, rng)
        falsified = falsify(truth, scene, rng, edit)
        if falsified:
            made += 1
            assert holds(truth.text, scene), (truth.text, scene)
            assert not holds(falsified[0].text, scene), (falsified[0].text, scene)


def test_words_alone_tell_little_about_the_truth() -> None:
    """The share of true statements is near a half for every word that is frequent in pairs of true and false ones."""
    rng = random.Random(12)
    said: dict[str, Counter[bool]] = {}
    for scene in scenes(2000, 12):
        truth = true_statement(scene, rng)
        falsified = falsify(truth, scene, rng)
        if falsified is None:
            continue
        for text, true in ((truth.text, True), (falsified[0].text, False)):
            for word in {*text.split(), f"{len(truth.things)} things" if len(truth.things) > 3 else "few"}:
                said.setdefault(word, Counter())[true] += 1
    often = {word: counts for word, counts in said.items() if counts.total() > 100}
    assert len(often) > 40
    for word, counts in often.items():
        assert 0.35 < counts[True] / counts.total() < 0.65, (word, counts)


def test_it_says_what_it_covers() -> None:
    text = covers(WIDE)
    for word in (*WIDE.shapes, *COLORS, *WIDE.backgrounds, *STYLES, "1 to 5", "15 degrees"):
        assert word in text, word
    assert "sign" not in covers(STUDY)
