"""Sight for text-only agents: BLIP-2 captions, answers and image-text match.

Importing this package loads neither torch nor pydantic, Pillow, mcp or langchain: each comes with the first use that needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blip2tools.__version__ import __version__
from blip2tools.errors import VisionError

if TYPE_CHECKING:
    from blip2tools.schemas import (
        AnswerResult,
        AnswersResult,
        CaptionResult,
        CompareResult,
        ImageFeatures,
        ImageInfo,
        IndexResult,
        ListResult,
        MatchResult,
        ReadResult,
        Result,
        RetrievalResult,
        SearchResult,
        StatusResult,
        SurveyResult,
    )
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

__all__ = [
    "AnswerResult",
    "AnswersResult",
    "CaptionResult",
    "CompareResult",
    "ImageFeatures",
    "ImageInfo",
    "IndexResult",
    "ListResult",
    "MatchResult",
    "ReadResult",
    "Result",
    "RetrievalResult",
    "SearchResult",
    "Settings",
    "StatusResult",
    "SurveyResult",
    "Vision",
    "VisionError",
    "__version__",
]

# Of the names above; all others are results, whose parts are in `blip2tools.schemas`. All errors are in `blip2tools.errors`.
_PLACES = {"Settings": "settings", "Vision": "vision"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"blip2tools.{_PLACES.get(name, 'schemas')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
