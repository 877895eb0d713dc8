"""Arguments of the tools, strictly checked. `"5"` is not a number, `true` is not 1, and an unknown argument is refused by name.

Changes that clients make to a model's arguments are undone first (`as_written`): frameworks add names of their own, send null
or an empty value where nothing was given, and turn numbers into floats and arrays into strings of JSON. A model cannot fix
that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from blip2tools.errors import InvalidInputError

MAX_FOLDER = 4096
MAX_NAME = 255
MAX_OFFSET = 100_000
MAX_TEXT = 512  # characters of one question, choice, prompt or statement

A = TypeVar("A", bound="Arguments")


MAX_PARTS = 100_000  # commas and brackets of a message; the longest valid texts may hold 40,000


def plain(text: str) -> str:
    """Text without anything that a terminal, a log or a chat template could act on.

    NFC; control, format (bidi, zero-width), surrogate, private-use and unassigned characters removed, white space collapsed.
    """
    kept = (" " if char.isspace() else char for char in unicodedata.normalize("NFC", text))
    return " ".join("".join(char for char in kept if not unicodedata.category(char).startswith("C")).split())


def has_too_many_parts(message: bytes) -> bool:
    """Whether a JSON text could take many times its own size once it is parsed: each `[],` becomes an object of 60 bytes."""
    return sum(message.count(mark) for mark in (b",", b"[", b"{")) > MAX_PARTS


def _words(text: str) -> str:
    cleaned = plain(text)
    if not cleaned:
        raise ValueError("holds no readable text")
    return cleaned


def _region(value: list[float]) -> list[float]:
    left, top, right, bottom = value
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            "must be [left, top, right, bottom] as fractions from 0 to 1, with left < right and top < bottom"
        )
    return [float(edge) for edge in value]


def given(value: object) -> object:
    """Treat an empty text as not given: models fill in arguments that they mean to leave out."""
    return None if isinstance(value, str) and not value.strip() else value


Words = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_words)]

Reference = Annotated[str, Field(min_length=1, max_length=2**27)]
ImageReference = Annotated[
    Reference,
    Field(
        description=(
            "A path or name in an allowed folder, a handle (img_...) of an earlier result, 'latest' for the "
            "newest, or a data: or http(s) URI. Never invent one. Example: holiday.jpg"
        ),
    ),
]

Region = Annotated[
    Annotated[list[float], Field(min_length=4, max_length=4), AfterValidator(_region)] | None,
    Field(
        description=(
            "Zoom in: [left, top, right, bottom], fractions 0 to 1, e.g. [0, 0, 0.5, 0.5]: the top left quarter."
        )
    ),
]


class Arguments(BaseModel):
    """Base of all tool arguments: strict types, nothing unknown, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    alternatives: ClassVar[tuple[str, ...]] = ()
    """Arguments of which exactly one must be given."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        found = [name for name in self.alternatives if getattr(self, name) is not None]
        if self.alternatives and not found:
            raise ValueError(f"The argument '{self.alternatives[0]}' is missing")
        if len(found) > 1:
            raise ValueError(f"Only one of the arguments '{found[0]}' and '{found[1]}' may be given")
        return self


class Turn(Arguments):
    """One earlier question about the picture and the answer that was given."""

    question: Words = Field(description="At most 512 characters.")
    answer: Words = Field(description="At most 512 characters.")


class CaptionArguments(Arguments):
    """Arguments of `caption_image`."""

    image: ImageReference
    region: Region = None
    prompt: Annotated[Words | None, BeforeValidator(given)] = Field(
        None,
        description=(
            "Rarely needed: the caption's beginning, which the model continues, e.g. 'a photo of'; at most 512 characters."
        ),
    )
    num_captions: int = Field(1, ge=1, le=5, description="How many different captions, 1 to 5, the likeliest first.")


class AskArguments(Arguments):
    """Arguments of `ask_image`: one picture, or several."""

    alternatives = ("image", "images")

    image: Annotated[
        Reference | None,
        Field(
            description="Which picture, named as for the other tools: a path, a handle or 'latest'. Example: holiday.jpg"
        ),
    ] = None
    question: Words = Field(
        description=(
            "One short question in English about what can be seen, e.g. 'What color is the car?'; at most 512 characters."
        )
    )
    choices: Annotated[list[Words], Field(min_length=2, max_length=20)] | None = Field(
        None,
        description=("2 to 20 possible answers to score, each at most 512 characters, e.g. ['yes', 'no']."),
    )
    history: Annotated[list[Turn], Field(max_length=8)] | None = Field(
        None,
        description=(
            "Up to 8 earlier turns about this picture, oldest first, e.g. "
            "[{'question': 'What animal is it?', 'answer': 'a dog'}]."
        ),
    )
    region: Region = None
    images: Annotated[list[Reference], Field(min_length=2, max_length=16)] | None = Field(
        None, description="2 to 16 pictures for the same question, instead of image; e.g. ['a.jpg', 'b.jpg']."
    )


class MatchArguments(Arguments):
    """Arguments of `match_image_text`."""

    image: ImageReference
    texts: Annotated[list[Words], Field(min_length=1, max_length=64)] = Field(
        description=(
            "1 to 64 statements in English, each at most 512 characters, e.g. ['a dog on a sofa', 'a cat on a sofa']."
        )
    )
    region: Region = None


class SurveyArguments(Arguments):
    """Arguments of `survey_image`."""

    image: ImageReference
    rows: int = Field(2, ge=1, le=4, description="Tiles from top to bottom, 1 to 4.")
    columns: int = Field(2, ge=1, le=4, description="Tiles from left to right, 1 to 4.")


class CompareArguments(Arguments):
    """Arguments of `compare_images`."""

    images: Annotated[list[Reference], Field(min_length=2, max_length=4)] = Field(
        description=(
            "2 to 4 pictures, named as for the other tools: paths, handles, 'latest' or URIs. "
            "Example: ['before.jpg', 'after.jpg']"
        )
    )


class ListArguments(Arguments):
    """Arguments of `list_images`."""

    folder: Annotated[str, Field(min_length=1, max_length=MAX_FOLDER)] | None = Field(
        None,
        description=("An allowed folder or one inside it, e.g. 'holiday'; all of them if left out."),
    )
    limit: int = Field(20, ge=1, le=100, description="How many pictures at most, 1 to 100.")
    offset: int = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="How many of the newest to skip, 0 to 100000.",
    )
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] | None = Field(
        None,
        description="Only names that hold this, e.g. 'ring', or fit it where it has * or ?; at most 255 characters.",
    )


class ReadArguments(Arguments):
    """Arguments of `read_text`."""

    image: ImageReference
    region: Region = None


class ThumbnailArguments(Arguments):
    """Arguments of the verb `thumbnail`, which is not a tool."""

    image: ImageReference
    side: int = Field(320, ge=16, le=1024, description="Pixels of the longer side, 16 to 1024.")


class FeatureArguments(Arguments):
    """Arguments of the verb `features`, which is not a tool."""

    image: ImageReference
    region: Region = None


class StatusArguments(Arguments):
    """`vision_status` takes no arguments."""


def parse(model: type[A], arguments: Mapping[str, Any] | None) -> A:
    """Validate a tool call's arguments.

    Raises:
        InvalidInputError: one sentence that names the first argument that is wrong and what it should be.
    """
    try:
        return model.model_validate({} if arguments is None else dict(arguments))
    except ValidationError as error:
        raise InvalidInputError(explain(error, model)) from error
    except RecursionError as error:
        raise InvalidInputError("The arguments are nested too deeply.") from error


_KINDS = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array", dict: "an object"}
_WANTED = {
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "list_type": "an array",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "bool_type": "a boolean",
}


def explain(error: ValidationError, model: type[Arguments]) -> str:
    """The first problem of a refused call as one sentence that names the argument."""
    # Unknown names first: they are often the cause of a missing one (`img` for `image`).
    problems = error.errors(include_url=False)
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    kind, context = problem["type"], problem.get("ctx", {})
    name = _location(problem["loc"])
    if kind == "extra_forbidden":
        known = ", ".join(model.model_fields) or "no arguments"
        return f"There is no argument {name}; this tool takes {known}."
    if kind == "missing":
        return f"The argument {name} is missing."
    if kind in _WANTED:
        got = "null" if problem["input"] is None else _KINDS.get(type(problem["input"]), "something else")
        return f"The argument {name} must be {_WANTED[kind]}, not {got}."
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"The argument {name} must have {bound} entries."
    if kind in ("string_too_short", "string_too_long"):
        bound = (
            f"at least {context['min_length']}" if kind == "string_too_short" else f"at most {context['max_length']}"
        )
        return f"The argument {name} must have {bound} characters."
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if kind == "greater_than_equal" else f"at most {context['le']}"
        return f"The argument {name} must be {bound}."
    if kind == "literal_error":
        return f"The argument {name} must be {context['expected']}."
    if kind == "finite_number":
        return f"The argument {name} must be a finite number."
    if kind == "string_unicode":
        return f"The argument {name} holds characters that are not valid Unicode."
    if kind == "value_error" and not problem["loc"]:  # about several arguments: a whole sentence
        return f"{context['error']}."
    if kind == "value_error":  # raised by our own validators above, so the words are ours
        return f"The argument {name} {context['error']}."
    return f"The argument {name} is not valid."


def _location(loc: tuple[int | str, ...]) -> str:
    if not loc:
        return "list"
    # An unknown name comes from the caller: without control characters, and short.
    steps = [f"[{step}]" if isinstance(step, int) else f".{plain(step)[:64]}" for step in loc]
    return f"'{''.join(steps).removeprefix('.')}'"


ADDED_BY_CLIENTS: Final[Mapping[str, str]] = {
    "toolCallId": "n8n: github.com/n8n-io/n8n/issues/21500",
    "sessionId": "n8n, likewise",
    "action": "n8n, likewise",
    "chatInput": "n8n, likewise",
    "tool": "n8n, likewise",
    "random_string": "Cursor, for tools without arguments: github.com/mondaycom/mcp/pull/15",
    "task_progress": "Cline: github.com/cline/cline/issues/9684",
    "wait_for_previous": "Gemini CLI, which puts it into every tool's schema: seen in @google/gemini-cli-core 0.61.0",
}
"""Arguments that clients add, and which client does. They are dropped where a tool has no argument of that name."""

EMPTY: Final[tuple[Any, ...]] = ("", [], {})
"""What, like null, stands for an argument that was not given."""


def as_written(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as the model meant them, to be judged by the strict models.

    Args:
        arguments: as received.
        schema: the tool's schema as clients see it, see `wire.input_schema`.
    """
    names = schema.get("properties", {})
    kept = {name: value for name, value in arguments.items() if name in names or name not in ADDED_BY_CLIENTS}
    return _object(kept, schema)


def _object(value: Mapping[Any, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    names, required = schema.get("properties", {}), schema.get("required", ())
    found = {}
    for name, given in value.items():
        one = _fitted(given, names[name]) if name in names else given
        if name in required or name not in names or not _is_nothing(one):
            found[name] = one
    return found


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and value in EMPTY)


def _fitted(value: Any, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(value, str) and kind in ("array", "object"):
        value = _parsed(value)
    if kind == "array" and isinstance(value, list | tuple):
        items = schema.get("items", {})
        return [_fitted(one, items) for one in value]
    if kind == "object" and isinstance(value, Mapping):
        return _object(value, schema)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # for JSON Schema 2.0 is an integer
    return value


def _parsed(text: str) -> Any:
    """An array, an object or null that a client turned into text; any other text as it is."""
    encoded = text.encode(errors="surrogatepass")
    if has_too_many_parts(encoded):
        return text
    try:
        value = from_json(encoded)
    except ValueError:
        return text
    return value if value is None or isinstance(value, list | dict) else text
