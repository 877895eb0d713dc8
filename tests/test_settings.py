"""Settings: arguments win over variables, variables over defaults, and every refusal names its source."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from blip2tools.errors import InvalidInputError
from blip2tools.settings import PREFIX, Settings, variable


def test_defaults_without_environment():
    settings = Settings.load({})
    assert settings == Settings()
    assert settings.model == "auto"
    assert settings.allow_urls is False
    assert settings.allowed_dirs is None


def test_frozen():
    with pytest.raises(ValidationError):
        Settings().max_queue = 1


def test_arguments_win_over_variables_and_variables_over_defaults():
    environ = {"BLIP2TOOLS_MAX_QUEUE": "7", "BLIP2TOOLS_NUM_BEAMS": "3"}
    settings = Settings.load(environ, num_beams=2)
    assert (settings.max_queue, settings.num_beams, settings.top_p) == (7, 2, 0.9)


def test_none_and_empty_leave_the_default():
    assert Settings.load({"BLIP2TOOLS_NUM_BEAMS": " "}, model=None).num_beams == 5


@pytest.mark.parametrize(("text", "value"), [("1", True), ("0", False), ("true", True), ("no", False)])
def test_booleans(text, value):
    assert Settings.load({"BLIP2TOOLS_ALLOW_URLS": text}).allow_urls is value


def test_lists():
    environ = {
        "BLIP2TOOLS_ALLOWED_DIRS": os.pathsep.join(["/a", "/b c"]),
        "BLIP2TOOLS_FORMATS": "png, tiff",
        "BLIP2TOOLS_URL_HOSTS": "CDN.Example.com.,b.org",
    }
    settings = Settings.load(environ)
    assert settings.allowed_dirs == (Path("/a"), Path("/b c"))
    assert settings.formats == ("PNG", "TIFF")
    assert settings.url_hosts == ("cdn.example.com", "b.org")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"no_such": 1}, "'no_such'"),
        ({"num_beams": 9}, "'num_beams'"),
        ({"num_beams": "many"}, "'num_beams'"),
        ({"top_p": 0}, "'top_p'"),
        ({"temperature": float("nan")}, "'temperature'"),
        ({"deadline_s": float("inf")}, "'deadline_s'"),
        ({"device": "gpu"}, "'device'"),
        ({"formats": ("PNG", "EPS")}, "'formats'"),
        ({"vqa_template": "no slot"}, "'vqa_template'"),
        ({"vqa_template": "{question} {question.x}"}, "'vqa_template'"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens"),
    ],
)
def test_refusals_name_the_argument(arguments, named):
    with pytest.raises(InvalidInputError) as refused:
        Settings.load({}, **arguments)
    assert named in refused.value.message
    assert "pydantic" not in refused.value.message


def test_refusals_name_the_variable():
    with pytest.raises(InvalidInputError, match="BLIP2TOOLS_MAX_QUEUE"):
        Settings.load({"BLIP2TOOLS_MAX_QUEUE": "-1"})


def test_every_setting_has_words_for_the_readme_and_a_variable():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert variable(name) == PREFIX + name.upper()


def test_check_takes_exactly_the_values_given():
    assert Settings.check({"num_beams": 1}).num_beams == 1
    with pytest.raises(InvalidInputError, match="'num_beams'"):
        Settings.check({"num_beams": 0})
