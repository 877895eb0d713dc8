"""Arguments are strict and every refusal names the argument; results say the same in text and in fields."""

import json
import math
import time

import pytest

from blip2tools.errors import InvalidInputError
from blip2tools.schemas import (
    MAX_TEXT,
    Alternative,
    AnswerResult,
    AskArguments,
    CaptionArguments,
    CaptionResult,
    Choice,
    ImageInfo,
    Match,
    MatchArguments,
    MatchResult,
    StatusArguments,
    TextMatch,
    Turn,
    parse,
    plain,
)

IMAGE = ImageInfo(handle="img_0123456789abcdef", width=640, height=480, source="a.png")

REFUSED = [
    (CaptionArguments, {}, "'image' is missing"),
    (CaptionArguments, None, "'image' is missing"),
    (CaptionArguments, {"img": "x"}, "no argument 'img'; this tool takes image, region, prompt, num_captions"),
    (CaptionArguments, {"image": None}, "'image' must be a string, not null"),
    (CaptionArguments, {"image": 5}, "'image' must be a string, not an integer"),
    (CaptionArguments, {"image": ["x"]}, "'image' must be a string, not an array"),
    (CaptionArguments, {"image": ""}, "'image' must have at least 1 characters"),
    (CaptionArguments, {"image": "x", "num_captions": "5"}, "'num_captions' must be an integer, not a string"),
    (CaptionArguments, {"image": "x", "num_captions": True}, "'num_captions' must be an integer, not a boolean"),
    (CaptionArguments, {"image": "x", "num_captions": 2.5}, "'num_captions' must be an integer, not a number"),
    (CaptionArguments, {"image": "x", "num_captions": 10**30}, "'num_captions' must be at most 5"),
    (CaptionArguments, {"image": "x", "num_captions": 0}, "'num_captions' must be at least 1"),
    (CaptionArguments, {"image": "x", "region": [0, 0, 1]}, "'region' must have at least 4 entries"),
    (CaptionArguments, {"image": "x", "region": "0,0,1,1"}, "'region' must be an array, not a string"),
    (CaptionArguments, {"image": "x", "region": [True, 0, 1, 1]}, "'region[0]' must be a number, not a boolean"),
    (CaptionArguments, {"image": "x", "region": [0, 0, math.nan, 1]}, "'region[2]' must be a finite number"),
    (CaptionArguments, {"image": "x", "region": [0.5, 0, 0.1, 1]}, "'region' must be [left, top, right, bottom]"),
    (CaptionArguments, {"image": "x", "region": [0, 0, 1.5, 1]}, "'region' must be [left, top, right, bottom]"),
    (AskArguments, {"image": "x"}, "'question' is missing"),
    (AskArguments, {"image": "x", "question": "q" * (MAX_TEXT + 1)}, "'question' must have at most 512 characters"),
    (AskArguments, {"image": "x", "question": " \u200b\x00 "}, "'question' holds no readable text"),
    (AskArguments, {"image": "x", "question": "a\ud800"}, "'question' holds characters that are not valid Unicode"),
    (AskArguments, {"image": "x", "question": "q", "choices": ["a"]}, "'choices' must have at least 2 entries"),
    (AskArguments, {"image": "x", "question": "q", "choices": ["a", 1]}, "'choices[1]' must be a string"),
    (AskArguments, {"image": "x", "question": "q", "history": [5]}, "'history[0]' must be an object"),
    (AskArguments, {"image": "x", "question": "q", "history": [{"question": "q"}]}, "'history[0].answer' is missing"),
    (
        AskArguments,
        {"image": "x", "question": "q", "history": [{"question": "q", "answer": "a", "z": 1}]},
        "'history[0].z'",
    ),
    (MatchArguments, {"image": "x", "texts": []}, "'texts' must have at least 1 entries"),
    (MatchArguments, {"image": "x", "texts": ["t"] * 65}, "'texts' must have at most 64 entries"),
    (MatchArguments, {"image": "x", "texts": "t"}, "'texts' must be an array, not a string"),
    (StatusArguments, {"verbose": True}, "no argument 'verbose'; this tool takes no arguments"),
]


@pytest.mark.parametrize(("model", "arguments", "sentence"), REFUSED, ids=[case[2][:50] for case in REFUSED])
def test_refusals(model, arguments, sentence):
    with pytest.raises(InvalidInputError) as refused:
        parse(model, arguments)
    assert sentence in refused.value.message
    assert "pydantic" not in refused.value.message
    assert "\n" not in refused.value.message


def test_an_unknown_name_is_shown_without_control_characters():
    with pytest.raises(InvalidInputError) as refused:
        parse(CaptionArguments, {"image": "x", "\x1b[31m" + "n" * 999: 1})
    assert "\x1b" not in refused.value.message
    assert len(refused.value.message) < 200


def test_a_megabyte_is_refused_without_being_read():
    huge = "q" * 1_000_000
    started = time.process_time()
    for _ in range(20):
        with pytest.raises(InvalidInputError):
            parse(AskArguments, {"image": "x", "question": huge})
    assert time.process_time() - started < 1  # about 3 ms here; cleaning it first would take many seconds


def test_good_arguments():
    arguments = parse(
        AskArguments,
        {
            "image": "x",
            "question": "  What\n is \u202ethis\u202c? ",
            "region": [0, 0, 0.5, 1],
            "history": [{"question": "a", "answer": "b"}],
        },
    )
    assert arguments.question == "What is this?"
    assert arguments.region == [0.0, 0.0, 0.5, 1.0]
    assert arguments.history == [Turn(question="a", answer="b")]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("e\u0301", "\u00e9"),
        ("a\tb\r\nc", "a b c"),
        ("\x1b[31mred", "[31mred"),
        ("\u202eabc\u2066", "abc"),
        ("zero\u200bwidth", "zerowidth"),
        ("\ue000private", "private"),
        ("\ud800lone", "lone"),
        ("日本 ünï", "日本 ünï"),
    ],
)
def test_plain(text, cleaned):
    assert plain(text) == cleaned


def test_caption_text_block_says_all_that_matters():
    result = CaptionResult(
        image=IMAGE,
        region=[0, 0, 0.5, 0.5],
        model="demo",
        warnings=["only shapes"],
        text="a red circle",
        confidence=0.987,
        match=Match(probability=0.91, cosine=0.5),
        alternatives=[Alternative(text="a pink circle", confidence=0.5, match=None)],
    )
    assert result.text_block() == (
        "caption: a red circle\n"
        "confidence: 0.99, match 0.91 (cosine 0.50)\n"
        "or: a pink circle (confidence: 0.50)\n"
        "image: img_0123456789abcdef (640 x 480 px, region [0.0, 0.0, 0.5, 0.5]), a.png\n"
        "warning: only shapes"
    )


def test_answer_and_match_text_blocks():
    answer = AnswerResult(
        image=IMAGE,
        region=None,
        model="demo",
        warnings=[],
        answer="red",
        confidence=0.75,
        choices=[Choice(text="red", probability=0.75), Choice(text="blue", probability=0.25)],
    )
    assert answer.text_block().splitlines()[:3] == ["answer: red", "confidence: 0.75", "choices: red 0.75; blue 0.25"]
    match = MatchResult(
        image=IMAGE,
        region=None,
        model="demo",
        warnings=[],
        matches=[TextMatch(text="a dog", probability=0.9, cosine=0.4)],
    )
    assert "0.90 (cosine 0.40) a dog" in match.text_block()


def test_results_are_finite_json():
    with pytest.raises(ValueError, match="finite"):
        Match(probability=math.nan, cosine=0)
    json.dumps(IMAGE.model_dump(mode="json"), allow_nan=False)
