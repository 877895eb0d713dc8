"""The world of the demo model: texts about a scene are checked by readers that share no code with their writers.

The readers below take a text apart with regular expressions and judge it by nothing but shapes, colours, sizes and
positions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import blip2tools.demo
from blip2tools.cli.demo.quiz import make_quiz
from blip2tools.cli.evaluate.mixture import FOR_ANSWERS, FOR_CAPTIONS, Degrees, _turned
from blip2tools.demo.draw import draw
from blip2tools.demo.questions import QUESTION_KINDS, QuestionKind, ask, sample_questions
from blip2tools.demo.statements import EDITS, Description, Edit, Statement, falsify, true_statement
from blip2tools.demo.words import caption, phrase
from blip2tools.demo.world import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    OPPOSITE,
    PAINT,
    PLACES,
    SHAPES,
    Background,
    Scene,
    Thing,
    sample_scene,
)

SHAPE = "circle|square|triangle|star|heart|cross|ring|diamond|sign"
COLOR = "red|orange|yellow|green|cyan|blue|purple|pink"
BACKGROUND = "white|black|gray|brown|striped|checkered|gradient|textured"
PLACE = "top left|top right|top|left|center|right|bottom left|bottom right|bottom"
RELATION = "to the left of|to the right of|above|below"
PLURAL = "circles|squares|triangles|stars|hearts|crosses|rings|diamonds|signs"
NAME = rf"(?:(?:{COLOR}) )?(?:{SHAPE})"
COUNTS = ["zero", "one", "two", "three", "four", "five"]

DEMO = Path(blip2tools.demo.__file__).parent


def scenes(number: int, seed: int = 1) -> list[Scene]:
    rng = random.Random(seed)
    return [sample_scene(rng) for _ in range(number)]


def make_scene(*things: tuple[str, str, str, float, float], background: str = "white") -> Scene:
    """A scene of (size, colour, shape, x, y), without randomness."""
    made = tuple(
        Thing(shape, color, size, x, y, 0.11 if size == "small" else 0.18, 0, PAINT[color])  # type: ignore[arg-type,index]
        for size, color, shape, x, y in things
    )
    return Scene(made, Background(background, ((245, 245, 245), (185, 185, 185)), 6, 0.0, True))  # type: ignore[arg-type]


# Readers


def place_of(thing: Thing) -> str:
    """The cell of the grid, clear or not."""
    row = ["top", "", "bottom"][int(thing.y * 3)]
    column = ["left", "", "right"][int(thing.x * 3)]
    return f"{row} {column}".strip() or "center"


def clear_of_lines(value: float, margin: float) -> bool:
    return abs(value - 1 / 3) >= margin and abs(value - 2 / 3) >= margin


def lies(first: Thing, words: str, second: Thing) -> bool:
    return {
        "to the left of": first.x < second.x,
        "to the right of": first.x > second.x,
        "above": first.y < second.y,
        "below": first.y > second.y,
    }[words]


def singular(plural: str) -> str:
    return "cross" if plural == "crosses" else plural.removesuffix("s")


def fits(words: str, thing: Thing) -> bool:
    """Whether `a small red star`, with any part left out, fits a thing."""
    found = re.fullmatch(rf"(an?) ?(small|large)? ?({COLOR})? ?({SHAPE}|object)(?: saying (.))?", words)
    assert found, words
    article, size, color, noun, said = found.groups()
    assert article == ("an" if words.split()[1][0] in "aeiou" else "a"), words
    assert said is None or noun == "sign", words
    traits = ((size, thing.size), (color, thing.color), (said, thing.character))
    return all(told in (None, true) for told, true in traits) and noun in ("object", thing.shape)


def only(scene: Scene, name: str) -> Thing:
    """The one thing of that name."""
    color, _, shape = name.rpartition(" ")
    matching = [thing for thing in scene.things if thing.shape == shape and color in ("", thing.color)]
    assert len(matching) == 1, (name, scene)
    return matching[0]


def holds(text: str, scene: Scene) -> bool:
    """Whether a statement is true."""
    if found := re.fullmatch(rf"({'|'.join(COUNTS)}) (?:(objects?)|({PLURAL})|({SHAPE}))", text):
        count, anything, plural, shape = found.groups()
        assert (count == "one") == (shape is not None or anything == "object"), text
        wanted = shape or (singular(plural) if plural else None)
        return COUNTS.index(count) == sum(wanted in (None, thing.shape) for thing in scene.things)
    if found := re.fullmatch(rf"a ({BACKGROUND}) background", text):
        return found[1] == scene.background.name
    if found := re.fullmatch(rf"(.*) (?:on|of) a ({BACKGROUND}) background", text):
        text = found[1]
        if found[2] != scene.background.name:
            return False
    if found := re.fullmatch(rf"(.*) (in|at) the ({PLACE})", text):
        assert (found[2] == "in") == (found[3] == "center"), text
        return any(fits(found[1], thing) and place_of(thing) == found[3] for thing in scene.things)
    if found := re.fullmatch(rf"(.*) ({RELATION}) (.*)", text):
        pairs = itertools.permutations(scene.things, 2)
        return any(fits(found[1], one) and fits(found[3], two) and lies(one, found[2], two) for one, two in pairs)
    parts = re.split(", | and ", text)
    return any(
        all(fits(part, thing) for part, thing in zip(parts, things, strict=True))
        for things in itertools.permutations(scene.things, len(parts))
    )


def answer(text: str, scene: Scene) -> str:  # noqa: C901 - one branch for each kind of question
    """The answer of a person who reads the question and sees the scene."""

    def yes(truth: bool) -> str:
        return "yes" if truth else "no"

    if re.fullmatch(r"how many (objects|shapes) are (there|in the picture)\?", text):
        return COUNTS[len(scene.things)]
    if found := re.fullmatch(rf"how many ({PLURAL}) are (there|in the picture)\?", text):
        return COUNTS[sum(thing.shape == singular(found[1]) for thing in scene.things)]
    if found := re.fullmatch(rf"how many ({COLOR}) (objects|shapes) are there\?", text):
        return COUNTS[sum(thing.color == found[1] for thing in scene.things)]
    if re.fullmatch(r"what [a-z ]*background[a-z ]*\?", text):
        return scene.background.name
    if found := re.fullmatch(rf"(?:what color is|what is the color of|which color is) the ({SHAPE})\?", text):
        return only(scene, found[1]).color
    if found := re.fullmatch(
        rf"(?:what shape is the ({COLOR}) object|what is the ({COLOR}) (?:object|shape)|which shape is ({COLOR}))\?",
        text,
    ):
        (shape,) = [thing.shape for thing in scene.things if thing.color in found.groups()]
        return shape
    if found := re.fullmatch(rf"what size is the ({NAME})\?|is the ({NAME}) (?:small or large|large or small)\?", text):
        return only(scene, found[1] or found[2]).size
    if found := re.fullmatch(
        rf"(?:is there|does the picture contain) (an? (?:{COLOR}) (?:{SHAPE}))(?: in the picture)?\?", text
    ):
        return yes(any(fits(found[1], thing) for thing in scene.things))
    if found := re.fullmatch(rf"is there a ({SHAPE})(?: in the picture)?\?|are there any ({PLURAL})\?", text):
        return yes(any(thing.shape == (found[1] or singular(found[2])) for thing in scene.things))
    if found := re.fullmatch(rf"where (?:in the picture )?is the ({NAME})\?", text):
        return place_of(only(scene, found[1]))
    if found := re.fullmatch(rf"is the ({NAME}) ({RELATION}) the ({NAME})\?", text):
        return yes(lies(only(scene, found[1]), found[2], only(scene, found[3])))
    if found := re.fullmatch(rf"what (?:object )?is ({RELATION}) the ({NAME})\?", text):
        anchor = only(scene, found[2])
        there = [thing for thing in scene.things if thing is not anchor and lies(thing, found[1], anchor)]
        assert len(there) <= 1, (text, scene)
        return (
            f"{'an' if there[0].color == 'orange' else 'a'} {there[0].color} {there[0].shape}" if there else "nothing"
        )
    if found := re.fullmatch(rf"which is (bigger|larger|smaller), the ({NAME}) or the ({NAME})\?", text):
        wanted = "small" if found[1] == "smaller" else "large"
        (name,) = [name for name in found.groups()[1:] if only(scene, name).size == wanted]
        return f"the {name}"
    if found := re.fullmatch(rf"are the ({SHAPE}) and the ({SHAPE}) the same color\?", text):
        return yes(only(scene, found[1]).color == only(scene, found[2]).color)
    if found := re.fullmatch(
        rf"what does the ({NAME}) say\?|which (digit|letter) is on the ({NAME})\?|what is on the ({NAME})\?", text
    ):
        said = only(scene, found[1] or found[3] or found[4]).character
        assert said
        assert found[2] in (None, "digit" if said.isdigit() else "letter"), text
        return said
    found = re.fullmatch(rf"are there more ({PLURAL}) than ({PLURAL})\?", text)
    assert found, text
    many, few = (sum(thing.shape == singular(plural) for thing in scene.things) for plural in found.groups())
    return yes(many > few)


# Scenes


def test_a_seed_gives_the_same_scenes_again() -> None:
    assert scenes(50, seed=3) == scenes(50, seed=3)
    assert scenes(50, seed=3) != scenes(50, seed=4)


@pytest.mark.parametrize(
    ("seed", "said", "x", "paint"),
    [
        (
            0,
            "a large blue star, a small green heart and a small orange cross on a brown background",
            0.24007,
            (38, 78, 201),
        ),
        (1, "a large orange heart at the bottom of a white background", 0.49288, (255, 142, 20)),
        (
            2,
            "a small red square, a large cyan ring and a small blue star on a checkered background",
            0.30445,
            (212, 32, 41),
        ),
        (2026, "a large green square at the top left of a striped background", 0.20890, (55, 177, 69)),
    ],
)
def test_the_world_is_the_one_the_weights_learned(seed: int, said: str, x: float, paint: tuple[int, int, int]) -> None:
    scene = sample_scene(random.Random(seed))
    assert caption(scene) == said
    assert scene.things[0].x == pytest.approx(x, abs=1e-5)
    assert scene.things[0].paint == paint


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_number_of_things_can_be_chosen(number: int) -> None:
    rng = random.Random(number)
    assert all(len(sample_scene(rng, number).things) == number for _ in range(50))


@pytest.mark.parametrize("number", [0, 4, -1])
def test_other_numbers_of_things_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="holds 1 to 3 things"):
        sample_scene(random.Random(0), number)


def test_things_keep_apart_and_inside_the_picture() -> None:
    for scene in scenes(500):
        for thing in scene.things:
            assert thing.radius < thing.x < 1 - thing.radius
            assert thing.radius < thing.y < 1 - thing.radius
            assert (thing.size == "large") == (thing.radius > 0.15)
            assert all(abs(drawn - pure) <= 16 for drawn, pure in zip(thing.paint, PAINT[thing.color], strict=True))
        for one, other in itertools.combinations(scene.things, 2):
            assert ((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5 > one.radius + other.radius


def test_no_scene_can_be_described_in_two_ways() -> None:
    for scene in scenes(1500):
        things = scene.things
        if len(things) == 1:
            assert clear_of_lines(things[0].x, 0.03)
            assert clear_of_lines(things[0].y, 0.03)
        elif len(things) == 2:
            across, down = abs(things[0].x - things[1].x), abs(things[0].y - things[1].y)
            assert abs(across - down) > 0.06
            assert (things[0].x < things[1].x) if across > down else (things[0].y < things[1].y)
        else:
            assert things[0].x + 0.05 < things[1].x
            assert things[1].x + 0.05 < things[2].x


def test_everything_occurs_about_as_often_as_it_should() -> None:
    many = scenes(4000)
    numbers = Counter(len(scene.things) for scene in many)
    assert [numbers[number] / 4000 for number in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.4], abs=0.03)
    backgrounds = Counter(scene.background.name for scene in many)
    assert [backgrounds[name] / 4000 for name in BACKGROUNDS] == pytest.approx([1 / 6] * 6, abs=0.03)
    things = [thing for scene in many for thing in scene.things]
    shapes, colors = Counter(thing.shape for thing in things), Counter(thing.color for thing in things)
    assert [shapes[shape] / len(things) for shape in SHAPES] == pytest.approx([1 / 8] * 8, abs=0.02)
    assert [colors[color] / len(things) for color in COLORS] == pytest.approx([1 / 8] * 8, abs=0.02)
    assert len({(thing.color, thing.shape) for thing in things}) == 64
    # Large things find room less often, and three of them seldom.
    assert 0.35 < sum(thing.size == "large" for thing in things) / len(things) < 0.5
    alone = Counter(scene.things[0].place for scene in many if len(scene.things) == 1)
    assert set(alone) == set(PLACES)
    assert {scene.background.upright for scene in many} == {True, False}


def test_direction_and_offset_agree() -> None:
    for scene in scenes(400):
        for one, other in itertools.permutations(scene.things, 2):
            direction = one.direction_from(other)
            reverse = other.direction_from(one)
            assert reverse == (OPPOSITE[direction] if direction else None)
            if direction:
                assert one.offset(direction, other) == max(one.offset(each, other) for each in DIRECTIONS) > 0


# Pictures


@pytest.mark.parametrize("size", [16, 64, 224, 511])
def test_a_picture_has_the_size_asked_for(size: int) -> None:
    picture = draw(scenes(1)[0], size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))


def test_a_picture_is_drawn_the_same_again() -> None:
    for scene in scenes(12):
        assert draw(scene, 96).tobytes() == draw(scene, 96).tobytes()
    assert len({draw(scene, 96).tobytes() for scene in scenes(12)}) == 12


@pytest.mark.parametrize("smoothing", [1, 3])
def test_paint_is_where_the_scene_says(smoothing: int) -> None:
    side = 224
    for scene in scenes(100):
        picture = draw(scene, side, smoothing=smoothing)
        for thing in scene.things:
            # The middle of a ring's band; every other shape covers its own centre.
            x = thing.x - (0.8 * thing.radius if thing.shape == "ring" else 0)
            pixel = picture.getpixel((round(x * side), round(thing.y * side)))
            assert isinstance(pixel, tuple)
            assert max(abs(a - b) for a, b in zip(pixel, thing.paint, strict=True)) <= 3, thing
        corner = picture.getpixel((1, 1))
        assert isinstance(corner, tuple)
        assert (
            min(max(abs(a - b) for a, b in zip(corner, paint, strict=True)) for paint in scene.background.paints) <= 40
        )


def test_patterns_show_both_colours() -> None:
    for scene in scenes(60):
        empty = draw(replace(scene, things=()), 120, smoothing=1)
        colors = empty.getcolors(120 * 120)
        assert colors is not None
        assert {color for _, color in colors} == set(scene.background.paints)
        if len(colors) == 2:
            assert all(0.3 < count / 120**2 < 0.7 for count, _ in colors)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_has_its_own_silhouette(shape: str) -> None:
    def covered(name: str) -> bytes:
        scene = make_scene(("large", "red", name, 0.5, 0.5))
        return draw(scene, 64, smoothing=1).tobytes()

    assert sum(covered(shape) == covered(other) for other in SHAPES) == 1


# Captions


def test_captions_are_true_and_complete() -> None:
    for scene in scenes(1500):
        said = caption(scene)
        assert holds(said, scene), said
        assert len(re.findall(rf"(?:small|large) (?:{COLOR}) (?:{SHAPE})", said)) == len(scene.things)
        assert said.endswith(f"a {scene.background.name} background")


def test_a_caption_fits_no_other_scene_of_its_kind() -> None:
    said: dict[str, object] = {}
    for scene in scenes(800):
        facts = tuple((thing.size, thing.color, thing.shape) for thing in scene.things), scene.background.name
        assert said.setdefault(caption(scene), facts) == facts


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (
            make_scene(("large", "orange", "ring", 0.5, 0.5)),
            "a large orange ring in the center of a white background",
        ),
        (
            make_scene(("small", "red", "cross", 0.2, 0.5), ("large", "red", "heart", 0.7, 0.6), background="striped"),
            "a small red cross to the left of a large red heart on a striped background",
        ),
        (
            make_scene(("small", "red", "cross", 0.5, 0.2), ("large", "red", "heart", 0.4, 0.7), background="black"),
            "a small red cross above a large red heart on a black background",
        ),
    ],
)
def test_captions_read_like_this(scene: Scene, said: str) -> None:
    assert caption(scene) == said


def test_articles() -> None:
    assert phrase(color="orange", shape="star") == "an orange star"
    assert phrase(size="small", color="orange") == "a small orange object"
    assert phrase() == "an object"


# Questions


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_every_answer_is_true(kind: QuestionKind) -> None:
    rng = random.Random(kind)
    asked: Counter[str] = Counter()
    while asked.total() < 400:
        scene = sample_scene(rng)
        question = ask(scene, kind, rng)
        if question:
            assert question.kind == kind
            assert question.answer == answer(question.text, scene), (question, scene)
            asked[question.answer] += 1
    assert len(asked) > 1
    assert asked.most_common(1)[0][1] < 340, "almost always the same answer"


@pytest.mark.parametrize(
    ("kind", "wordings"),
    [
        *(("count", 3), ("color", 3), ("shape", 4), ("size", 3), ("exists", 3), ("shape_exists", 3), ("place", 2)),
        *(("background", 4), ("neighbor", 2), ("bigger", 3), ("count_shape", 2), ("count_color", 2)),
    ],
)
def test_questions_come_in_several_wordings(kind: QuestionKind, wordings: int) -> None:
    rng = random.Random(5)
    patterns = set()
    for scene in scenes(300):
        if question := ask(scene, kind, rng):
            patterns.add(
                re.sub(rf"\b({PLURAL}|{RELATION}|{SHAPE}|{COLOR}|an?)\b", "", question.text).replace("  ", " ")
            )
    assert len({" ".join(pattern.split()) for pattern in patterns}) >= wordings


def test_some_scenes_have_no_such_question() -> None:
    rng = random.Random(0)
    alone = make_scene(("small", "red", "star", 0.5, 0.5))
    twins = make_scene(("small", "red", "star", 0.2, 0.5), ("small", "red", "star", 0.8, 0.5))
    for _ in range(20):
        assert all(ask(alone, kind, rng) is None for kind in ("relation", "neighbor", "bigger", "same_color", "more"))
        assert all(ask(twins, kind, rng) is None for kind in ("color", "shape", "size", "place", "relation", "bigger"))


def test_things_at_one_height_are_neither_above_nor_below() -> None:
    rng = random.Random(0)
    level = make_scene(("small", "red", "star", 0.2, 0.5), ("small", "blue", "ring", 0.8, 0.52))
    texts = [question.text for _ in range(300) if (question := ask(level, "relation", rng))]
    texts += [question.text for _ in range(300) if (question := ask(level, "neighbor", rng))]
    assert texts
    assert not [text for text in texts if "above" in text or "below" in text]


def test_sampled_questions_are_different_and_of_the_kinds_asked_for() -> None:
    rng = random.Random(8)
    kinds: Counter[str] = Counter()
    for scene in scenes(400):
        questions = sample_questions(scene, 5, rng)
        assert 1 <= len(questions) <= 5
        assert len({question.text for question in questions}) == len(questions)
        kinds.update(question.kind for question in questions)
        assert {question.kind for question in sample_questions(scene, 3, rng, kinds=("count", "place"))} <= {
            "count",
            "place",
        }
    assert set(kinds) == set(QUESTION_KINDS)


# Statements


def test_true_statements_are_true() -> None:
    rng = random.Random(6)
    kinds: Counter[str] = Counter()
    for scene in scenes(2500):
        statement = true_statement(scene, rng)
        assert statement.truth(scene) is True
        assert holds(statement.text, scene), (statement.text, scene)
        kinds[statement.kind] += 1
    assert set(kinds) == {"caption", "summary", "one", "two", "relation", "place", "number", "background"}
    assert kinds["caption"] / 2500 == pytest.approx(4 / 12.5, abs=0.04)


def test_both_orders_of_a_pair_are_told() -> None:
    rng = random.Random(6)
    pairs = [scene for scene in scenes(300) if len(scene.things) == 2]
    said = Counter(true_statement(scene, rng, "caption").relation for scene in pairs)
    assert all(said[direction] > len(pairs) / 10 for direction in DIRECTIONS)


@pytest.mark.parametrize("edit", EDITS)
def test_one_edit_makes_it_false(edit: Edit) -> None:
    rng = random.Random(edit)
    made = 0
    while made < 300:
        scene = sample_scene(rng)
        truth = true_statement(scene, rng)
        falsified = falsify(truth, scene, rng, edit)
        if falsified is None:
            continue
        false, reported = falsified
        made += 1
        assert reported == edit
        assert false.text != truth.text
        assert not holds(false.text, scene), (truth.text, false.text, scene)
        changed = {
            "color": {"things"},
            "shape": {"things"},
            "size": {"things"},
            "swap": {"things"},
            "addition": {"things", "relation"},
        }.get(edit, {edit})
        assert replace(false, **{name: getattr(truth, name) for name in changed}) == truth


def test_edits_are_drawn_from_all() -> None:
    rng = random.Random(4)
    edits: Counter[str] = Counter()
    for scene in scenes(1500):
        if found := falsify(true_statement(scene, rng), scene, rng):
            edits[found[1]] += 1
    assert set(edits) == set(EDITS)


def test_what_is_too_close_to_call_is_neither_true_nor_false() -> None:
    level = make_scene(("small", "red", "star", 0.2, 0.5), ("small", "blue", "ring", 0.8, 0.52))
    star, ring = Description(shape="star"), Description(shape="ring")
    assert Statement("relation", (star, ring), relation="above").truth(level) is None
    assert Statement("relation", (star, ring), relation="left").truth(level) is True
    assert Statement("relation", (star, ring), relation="right").truth(level) is False
    near_a_line = make_scene(("small", "red", "star", 0.34, 0.5))
    assert Statement("place", (star,), place="center").truth(near_a_line) is None


def test_one_clear_reading_is_enough() -> None:
    """Of two stars one is level with the ring, the other clearly above it: "a star above a ring" is true."""
    scene = make_scene(
        ("small", "red", "star", 0.2, 0.5), ("small", "red", "star", 0.5, 0.2), ("small", "blue", "ring", 0.8, 0.52)
    )
    statement = Statement("relation", (Description(shape="star"), Description(shape="ring")), relation="above")
    assert statement.truth(scene) is True


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (Statement("number", number=1), "one object"),
        (Statement("number", number=2), "two objects"),
        (Statement("number", (Description(shape="cross"),), number=0), "zero crosses"),
        (Statement("number", (Description(shape="cross"),), number=1), "one cross"),
        (Statement("background", background="gray"), "a gray background"),
        (Statement("one", (Description(color="orange"),)), "an orange object"),
        (
            Statement("place", (Description(shape="ring"),), place="center", background="gray"),
            "a ring in the center of a gray background",
        ),
        (
            Statement("relation", (Description(shape="ring"), Description("small", "red", "star")), relation="right"),
            "a ring to the right of a small red star",
        ),
    ],
)
def test_statements_read_like_this(statement: Statement, text: str) -> None:
    assert statement.text == text


# The quiz


def test_a_quiz_can_be_repeated_and_extended() -> None:
    assert make_quiz(5, 4) == make_quiz(5, 4)
    assert make_quiz(5, 6)[:4] == make_quiz(5, 4)
    assert make_quiz(5, 4) != make_quiz(6, 4)


def test_a_quiz_asks_what_has_one_right_answer() -> None:
    for exhibit in make_quiz(17, 300):
        scene = exhibit.scene
        assert holds(exhibit.caption, scene)
        assert len(exhibit.questions) == 2
        for question in (*exhibit.questions, exhibit.choice_question):
            assert question.answer == answer(question.text, scene)
        assert len({question.kind for question in (*exhibit.questions, exhibit.choice_question)}) == 3
        assert len(set(exhibit.choices)) == 4
        assert exhibit.choices.count(exhibit.choice_question.answer) == 1
        assert [holds(claim.text, scene) for claim in exhibit.claims].count(True) == 1
        assert all(holds(claim.text, scene) == (claim.edit is None) for claim in exhibit.claims)
        assert len({claim.edit for claim in exhibit.claims}) == 4


def test_the_right_choice_stands_anywhere() -> None:
    places = Counter(exhibit.choices.index(exhibit.choice_question.answer) for exhibit in make_quiz(3, 400))
    claims = Counter([claim.edit for claim in exhibit.claims].index(None) for exhibit in make_quiz(3, 400))
    assert min(places[index] for index in range(4)) > 60
    assert min(claims[index] for index in range(4)) > 60


# The files beside the code


@pytest.mark.parametrize("part", ["captioner", "matcher"])
def test_the_card_names_the_weights_that_are_here(part: str) -> None:
    digest = hashlib.sha256((DEMO / part / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (DEMO / "CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("degrees", [FOR_CAPTIONS, FOR_ANSWERS])
def test_what_is_true_of_a_turned_picture_is_what_it_shows(degrees: Degrees) -> None:
    """Where a filled thing should be there is its colour, in the picture that was turned as a whole."""
    chance, found = random.Random(4), 0
    for _ in range(20):
        image, scene = _turned(degrees, chance)
        side = image.width
        for thing in scene.things:
            if scene.style == "filled" and thing.shape not in ("ring", "sign"):
                pixel = image.getpixel((round(thing.x * side), round(thing.y * side)))
                assert math.dist(pixel, thing.paint) < 20
                found += 1
    assert found >= 5
