"""Sight for text-only agents: BLIP-2 captions, answers and image-text match.

Importing this package loads neither torch nor Pillow, mcp or langchain: each comes with the first use that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blip2tools.__version__ import __version__
from blip2tools.errors import VisionError

if TYPE_CHECKING:
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

__all__ = ["Settings", "Vision", "VisionError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Vision":
        from blip2tools.vision import Vision

        return Vision
    if name == "Settings":
        from blip2tools.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
