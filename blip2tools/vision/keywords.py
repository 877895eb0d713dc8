"""Keywords of the Python verbs, as types for checkers and editors."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ForwardRef, TypeAlias, TypedDict, TypeGuard, TypeVar, Union

from blip2tools.model.options import BeamRule
from blip2tools.vision.styles import Score, Style

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

F = TypeVar("F", bound=Callable[..., Any])


class GenerationKeywords(TypedDict, total=False):
    """Options of every verb that speaks: each overrides the setting of the same name."""

    num_beams: int
    max_new_tokens: int | None
    min_new_tokens: int
    length_penalty: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int
    do_sample: bool
    temperature: float
    top_p: float
    seed: int | None
    beam_rule: BeamRule


class CaptionOptions(GenerationKeywords, total=False):
    """Keywords of `caption`; a generation option overrides the setting of the same name.

    `style` is a prompt with options that belong to it, see `blip2tools.vision.styles.STYLES`; options that are given separately
    win.
    """

    style: Style
    best_of: int
    abstain_below: float
    prompt: str | None
    region: Sequence[float] | None
    num_captions: int
    return_errors: bool


class AskOptions(GenerationKeywords, total=False):
    """Keywords of `ask`; a generation option overrides the setting of the same name."""

    vqa_template: str | None
    abstain_below: float
    choices: Sequence[str] | None
    history: Sequence[tuple[str, str]] | None
    region: Sequence[float] | None
    return_errors: bool


class LookOptions(TypedDict, total=False):
    """Keywords of every verb that looks at one picture."""

    region: Sequence[float] | None
    return_errors: bool


class MatchOptions(LookOptions, total=False):
    """Keywords of `match`; `score` decides the order: see `blip2tools.vision.styles.Score`."""

    score: Score


class SurveyOptions(GenerationKeywords, total=False):
    """Keywords of `survey`; a generation option overrides the setting of the same name."""

    rows: int
    columns: int
    return_errors: bool


if TYPE_CHECKING:
    ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image | ndarray[Any, Any]"
    ImageList: TypeAlias = (
        "list[str] | list[Path] | list[bytes] | list[Image] | list[ndarray[Any, Any]] | list[ImageInput]"
    )
else:
    # Pillow and numpy take long to import: only who asks for the types (`typing.get_type_hints`) gets them.
    _IMAGE, _ARRAY = ForwardRef("__import__('PIL.Image').Image.Image"), ForwardRef("__import__('numpy').ndarray")
    ImageInput = Union[str, os.PathLike[str], bytes, bytearray, memoryview, _IMAGE, _ARRAY]  # noqa: UP007 - of references
    ImageList = list[ImageInput]


class _NotGiven:
    """Stands in a signature for the value of an option that is not given: a setting's, or what the verb's help says."""

    def __repr__(self) -> str:
        return "..."


NOT_GIVEN: Final = _NotGiven()


def spelled_out(verb: F) -> F:
    """Give a verb a signature in which every option is a keyword, its own before those of decoding, for `help` and editors."""
    plain = inspect.signature(verb)
    *others, options = plain.parameters.values()
    kind: str = options.annotation  # Unpack[CaptionOptions]
    named = globals()[kind.removeprefix("Unpack[").removesuffix("]")].__annotations__
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=NOT_GIVEN, annotation=one.__forward_arg__)
        for name, one in sorted(named.items(), key=lambda item: item[0] in GenerationKeywords.__annotations__)
    ]
    verb.__signature__ = plain.replace(parameters=[*others, *keywords])  # type: ignore[attr-defined]
    return verb


def label_of(image: object) -> str:
    """What stands in a result for an image that has no name."""
    bare = isinstance(image, bytes | bytearray | memoryview)
    return "bytes" if bare else "numpy.ndarray" if is_array(image) else "PIL.Image"


def is_array(image: object) -> TypeGuard[ndarray[Any, Any]]:
    """Whether an image is a numpy array. Who has one has numpy loaded: this does not load it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(image, numpy.ndarray)
