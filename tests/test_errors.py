"""The closed set of codes, and the parts of a foreign exception that get out."""

import logging
import sys

import pytest

from blip2tools import errors
from blip2tools.errors import (
    ERROR_CODES,
    BusyError,
    InternalError,
    InvalidInputError,
    VisionError,
    forget_pictures,
    to_vision_error,
)


def test_every_code_has_one_class():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, VisionError)]
    codes = [cls.code for cls in classes if cls is not VisionError]
    assert sorted(codes) == sorted(ERROR_CODES)


def test_the_tree_in_the_docstring_is_complete():
    for code in ERROR_CODES:
        assert f" {code} " in errors.__doc__


def test_text_is_code_and_sentence():
    error = InvalidInputError("The argument 'x' is missing.")
    assert str(error) == "invalid_input: The argument 'x' is missing."
    assert error.message == "The argument 'x' is missing."


def test_our_own_errors_pass_unchanged():
    error = InvalidInputError("no")
    assert to_vision_error(error) is error


@pytest.mark.parametrize("foreign", [ValueError("/etc/secret at 0x7f"), MemoryError(), KeyError("k"), RecursionError()])
def test_foreign_text_stays_in_the_log(foreign, caplog):
    with caplog.at_level(logging.ERROR):
        error = to_vision_error(foreign)
    assert isinstance(error, InternalError)
    assert "secret" not in str(error)
    assert "0x" not in str(error)
    incident = error.message.split("id ")[1].split(")")[0]
    assert incident in caplog.text
    assert caplog.records[0].exc_info[1] is foreign


def test_an_error_lets_go_of_what_its_functions_held():
    class Held:
        pass

    def inner(held):
        raise KeyError

    def outer(held):
        try:
            inner(held)
        except KeyError as error:
            raise InvalidInputError("no") from error

    held = Held()
    before = sys.getrefcount(held)
    try:
        outer(held)
    except InvalidInputError as error:
        kept = error
    assert sys.getrefcount(held) > before
    forget_pictures(kept)
    assert sys.getrefcount(held) == before
    assert kept.__traceback__ is not None, "where it came from can still be told"


def test_an_error_that_is_its_own_cause_ends():
    error = BusyError("Later.")
    error.__cause__ = error
    forget_pictures(error)
