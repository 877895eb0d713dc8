"""LangChain tools for chat models that cannot see.

tools.py         `Blip2Toolkit`: the catalogue as tools
ingest.py        `ingest`, `aingest`: replace pictures in messages by words
middleware.py    `VisionMiddleware`: the same inside `create_agent`, with the tools and a memory
retrieval.py     `Blip2Embeddings`, `ImageRetriever`: search over pictures
stores.py        `Blip2VectorStore`: the same as a vector store

All need `langchain-core`; the middleware alone needs `langchain` too, and is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from blip2tools.langchain_tools.ingest import aingest, ingest
    from blip2tools.langchain_tools.retrieval import Blip2Embeddings, ImageRetriever
    from blip2tools.langchain_tools.stores import Blip2VectorStore
    from blip2tools.langchain_tools.tools import Blip2Toolkit
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "langchain_core":
        raise
    raise ImportError("The LangChain tools need an extra: pip install 'blip2tools[langchain]'") from error

if TYPE_CHECKING:
    from blip2tools.langchain_tools.middleware import VisionMiddleware

__all__ = [
    "Blip2Embeddings",
    "Blip2Toolkit",
    "Blip2VectorStore",
    "ImageRetriever",
    "VisionMiddleware",
    "aingest",
    "ingest",
]


def __getattr__(name: str) -> Any:
    if name != "VisionMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from blip2tools.langchain_tools.middleware import VisionMiddleware
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("langchain", "langgraph"):
            raise
        raise ImportError("VisionMiddleware needs an extra: pip install 'blip2tools[langchain]'") from error
    return VisionMiddleware


def __dir__() -> list[str]:
    return __all__
