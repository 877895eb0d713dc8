"""What `help`, editors and type checkers learn of the verbs at run time: the real types and every option."""

import inspect
import os
import pydoc
import subprocess
import sys
import typing

import numpy
import PIL.Image
import pytest

import blip2tools
from blip2tools import AnswerResult, CaptionResult, Vision
from blip2tools.vision.keywords import AskOptions, CaptionOptions, GenerationKeywords

PUBLIC = [name for name in dir(Vision) if not name.startswith("_") and callable(getattr(Vision, name))]
IMAGES = {str, bytes, bytearray, memoryview, PIL.Image.Image, numpy.ndarray, os.PathLike[str]}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_type_can_be_resolved(name):
    verb = getattr(Vision, name)
    hints = typing.get_type_hints(verb)
    assert "return" in hints
    if name not in ("run", "load", "in_pool"):
        told = [hint for key, hint in hints.items() if key != "options"]
        assert typing.Any not in told, hints
    assert set(inspect.signature(verb).parameters) >= set(hints) - {"return", "options"}


@pytest.mark.parametrize(
    ("name", "options", "result"),
    [("caption", CaptionOptions, CaptionResult), ("ask", AskOptions, AnswerResult)],
)
def test_a_verb_names_its_options_and_results(name, options, result):
    for verb in (getattr(Vision, name), getattr(Vision, f"a{name}")):
        hints = typing.get_type_hints(verb)
        assert set(typing.get_args(hints["return"])) == {result, list[result]}
        assert set(typing.get_args(hints["image"])) >= IMAGES
        parameters = inspect.signature(verb).parameters
        assert set(typing.get_type_hints(options)) <= set(parameters)
        assert all(parameters[key].kind is inspect.Parameter.KEYWORD_ONLY for key in options.__annotations__)
        assert repr(parameters["num_beams"]) == "<Parameter \"num_beams: 'int' = ...\">"
        order = list(parameters)
        assert order.index("region") < order.index("num_beams"), "its own options come first"
        assert set(GenerationKeywords.__annotations__) <= set(parameters)
        overloads = typing.get_overloads(verb)
        assert [typing.get_type_hints(one)["return"] for one in overloads] == [result, list[result]]
    shown = pydoc.plain(pydoc.render_doc(getattr(Vision, name)))
    assert "region: 'Sequence[float] | None' = ..." in shown
    assert result.__name__ in shown


def test_results_have_names_at_the_top(vision, picture):
    results = (
        vision.caption(picture.path),
        vision.ask(picture.path, "what is there?"),
        vision.match(picture.path, ["a ring"]),
        vision.list_images(),
        vision.features(picture.path),
        vision.status(),
    )
    for result in results:
        assert getattr(blip2tools, type(result).__name__) is type(result)
        assert type(result).__name__ in blip2tools.__all__
    returned = {typing.get_type_hints(getattr(Vision, name))["return"] for name in PUBLIC if name != "run"}
    kinds = {one for hint in returned for one in (hint, *typing.get_args(hint)) if hasattr(one, "structured")}
    assert {one.__name__ for one in kinds} <= set(blip2tools.__all__)
    assert len(kinds) > 8


def test_asking_for_the_package_s_names_is_light():
    code = (
        "import sys, blip2tools; assert 'pydantic' not in sys.modules\n"
        "from blip2tools import CaptionResult, MatchResult\n"
        "print(sorted({'torch', 'PIL', 'numpy', 'blip2tools.vision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
