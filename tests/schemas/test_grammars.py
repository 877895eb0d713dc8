"""Every valid call can be written under a grammar, in the engines that local servers use; the server judges the bounds.

The engines are the extra `grammars` and, for node-llama-cpp, `make grammars`; those that are not installed are skipped.
"""

import importlib.util
import json
import time

import pytest

from blip2tools.errors import InvalidInputError
from blip2tools.schemas import parse
from blip2tools.schemas.arguments import as_written
from blip2tools.toolset import BY_NAME, TOOLS
from tests.support import grammars

SECONDS = 0.2  # to compile one tool; counted as processor time, the best of a few: other programs run beside this

TEXTS = [
    'a "quoted" word',
    "C:\\Users\\x\\photo.png",
    "two\nlines",
    "an é, a 猫 and a 🐈",
    "50 % of {curly} [square] <b>",
    "a/b, 'single', `back`",
    "q" * 512,
]
TURN = {"question": 'What is "it"?', "answer": "a dog"}
REGION = [0, 0.25, 0.5, 1]

# What one may want to say: a tool and the arguments that are meant.
WISHES = [
    *(("caption_image", {"image": text}) for text in TEXTS),
    ("caption_image", {"image": "data:image/png;base64," + "iVBORw0KGgo" * 100}),
    *(("caption_image", {"image": "a.png", "num_captions": count}) for count in range(1, 6)),
    *(("caption_image", {"image": "a.png", "prompt": text}) for text in TEXTS),
    ("caption_image", {"image": "a.png", "region": REGION}),
    ("caption_image", {"image": "a.png", "region": [0, 0, 1, 1], "prompt": "a photo of", "num_captions": 5}),
    *(("ask_image", {"image": "a.png", "question": text}) for text in TEXTS),
    ("ask_image", {"image": "a.png", "question": "q", "choices": ["yes", "no"]}),
    ("ask_image", {"image": "a.png", "question": "q", "choices": [*TEXTS[:6], *"abcdefghijklmn"]}),
    ("ask_image", {"image": "a.png", "question": "q", "history": [TURN]}),
    ("ask_image", {"image": "a.png", "question": "q", "history": [TURN] * 8}),
    ("ask_image", {"image": "a.png", "question": "q", "region": [0.1, 0.2, 0.30000001, 0.4]}),
    ("ask_image", {"image": "a.png", "question": "q", "choices": ["a", "b"], "history": [TURN], "region": REGION}),
    ("ask_image", {"question": "q", "images": ["a.png", "img_0123456789abcdef"]}),
    ("ask_image", {"question": "q", "images": TEXTS[:6] + [f"{number}.png" for number in range(10)], "region": REGION}),
    *(("match_image_text", {"image": "a.png", "texts": [text]}) for text in TEXTS),
    ("match_image_text", {"image": "a.png", "texts": [f"statement {number}" for number in range(64)]}),
    ("match_image_text", {"image": "a.png", "texts": ["a dog"], "region": REGION}),
    *(("survey_image", {"image": "a.png", "rows": rows, "columns": 5 - rows}) for rows in range(1, 5)),
    ("survey_image", {"image": "a.png"}),
    *(("compare_images", {"images": TEXTS[:count]}) for count in (2, 3, 4)),
    *(("list_images", {"limit": limit}) for limit in (1, 9, 10, 20, 99, 100)),
    ("list_images", {"folder": TEXTS[1], "limit": 20}),
    ("list_images", {}),
    *(("search_images", {"query": text}) for text in TEXTS[:6]),
    ("search_images", {"image": "a.png", "folder": TEXTS[1], "limit": 50}),
    ("vision_status", {}),
]
# What a grammar may let through, and what the server then says.
BEYOND = [
    ("caption_image", {"image": "a.png", "num_captions": 6}, "'num_captions' must be at most 5"),
    ("caption_image", {"image": "a.png", "region": [0, 0, 1]}, "'region' must have at least 4 entries"),
    ("caption_image", {"image": ""}, "'image' must have at least 1 characters"),
    ("ask_image", {"image": "a.png", "question": "q" * 513}, "'question' must have at most 512 characters"),
    ("ask_image", {"image": "a.png", "question": "q", "choices": ["a"]}, "'choices' must have at least 2 entries"),
    ("ask_image", {"image": "a.png", "question": "q", "choices": ["a"] * 21}, "'choices' must have at most 20 entries"),
    ("ask_image", {"image": "a.png", "question": "q", "history": [TURN] * 9}, "'history' must have at most 8 entries"),
    ("match_image_text", {"image": "a.png", "texts": ["a"] * 65}, "'texts' must have at most 64 entries"),
    ("match_image_text", {"image": "a.png", "texts": ["a" * 513]}, "'texts[0]' must have at most 512 characters"),
    ("survey_image", {"image": "a.png", "rows": 0}, "'rows' must be at least 1"),
    ("list_images", {"limit": 101}, "'limit' must be at most 100"),
    ("search_images", {"query": "a", "limit": 51}, "'limit' must be at most 50"),
    ("search_images", {"query": "", "image": ""}, "'query' is missing"),
    ("search_images", {"query": "a", "image": "a.png"}, "Only one of the arguments 'query' and 'image'"),
]


def spellings(name, meant):
    """Ways to write a call: missing arguments left out, empty, or null; and with the white space that models write."""
    properties = BY_NAME[name].input_schema()["properties"]
    empty = {
        key: {"array": [], "string": ""}.get(schema["type"], schema.get("default"))
        for key, schema in properties.items()
    }
    ways = [
        {key: meant[key] for key in properties if key in meant},
        {key: meant.get(key, empty[key]) for key in properties},
        {key: meant.get(key) for key in properties},
    ]
    for way in ways:
        for separators in ((",", ":"), (", ", ": ")):
            for ascii_only in (True, False):
                yield json.dumps(way, separators=separators, ensure_ascii=ascii_only)


def understood(name, text):
    """The server's reading of a written call."""
    spec = BY_NAME[name]
    return parse(spec.arguments, as_written(json.loads(text), spec.input_schema()))


@pytest.mark.parametrize(("name", "meant"), WISHES, ids=lambda value: str(value)[:50])
def test_every_spelling_means_the_same(name, meant):
    wanted = parse(BY_NAME[name].arguments, meant)
    for text in spellings(name, meant):
        assert understood(name, text) == wanted


@pytest.mark.parametrize(("name", "arguments", "sentence"), BEYOND, ids=lambda value: str(value)[:50])
def test_the_server_judges_what_a_grammar_lets_through(name, arguments, sentence):
    for text in spellings(name, arguments):
        with pytest.raises(InvalidInputError) as refused:
            understood(name, text)
        assert sentence in refused.value.message


def unsaid(accepts):
    """The calls of which no spelling passes."""
    return [(name, meant) for name, meant in WISHES if not any(map(accepts[name], spellings(name, meant)))]


@pytest.mark.grammars
@pytest.mark.parametrize("engine", ["xgrammar", "llguidance", "lm_format_enforcer", "outlines_core"])
def test_every_call_can_be_said(engine):
    package = {"lm_format_enforcer": "lmformatenforcer"}.get(engine, engine)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{engine} is not installed: pip install 'blip2tools[grammars]'")
    build = getattr(grammars, engine)
    accepts = {}
    for spec in TOOLS:
        times = []
        for _ in range(3):
            begun = time.process_time()
            accepts[spec.name] = build(spec.input_schema())
            times.append(time.process_time() - begun)
        assert min(times) <= SECONDS, (spec.name, times)
    assert unsaid(accepts) == []
    for name, wrong in (("caption_image", '{"image": 5}'), ("caption_image", '{"imag": "x"}'), ("list_images", "[]")):
        assert not accepts[name](wrong)


@pytest.mark.grammars
def test_every_call_can_be_said_in_node_llama_cpp():
    if not (grammars.NODE_MODULES / "node-llama-cpp").is_dir():
        pytest.skip("node-llama-cpp is not installed: make grammars")
    texts = {spec.name: [] for spec in TOOLS}
    for name, meant in WISHES:
        texts[name] += spellings(name, meant)
    jobs = [{"schema": spec.input_schema(), "texts": [*texts[spec.name], "5"]} for spec in TOOLS]
    accepted = {}
    for spec, job, answer in zip(TOOLS, jobs, grammars.node_llama_cpp(jobs), strict=True):
        assert answer["seconds"] <= SECONDS
        assert answer["accepted"][-1] is False
        accepted[spec.name] = dict(zip(job["texts"], answer["accepted"], strict=True))
    assert unsaid({name: said.get for name, said in accepted.items()}) == []
