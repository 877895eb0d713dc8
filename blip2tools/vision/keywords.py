"""Keywords of the Python verbs, as types for checkers and editors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeGuard

from blip2tools.vision.styles import Score, Style

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

    from blip2tools.model.options import BeamRule


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


ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image | ndarray[Any, Any]"


ImageList: TypeAlias = "list[str] | list[Path] | list[bytes] | list[Image] | list[ndarray[Any, Any]] | list[ImageInput]"


def label_of(image: object) -> str:
    """What stands in a result for an image that has no name."""
    bare = isinstance(image, bytes | bytearray | memoryview)
    return "bytes" if bare else "numpy.ndarray" if is_array(image) else "PIL.Image"


def is_array(image: object) -> TypeGuard[ndarray[Any, Any]]:
    """Whether an image is a numpy array. Who has one has numpy loaded: this does not load it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(image, numpy.ndarray)
