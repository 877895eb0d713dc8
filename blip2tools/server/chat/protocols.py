"""The protocols by the paths of their requests."""

from __future__ import annotations

from typing import Final

from blip2tools.server.chat.completions import Completions
from blip2tools.server.chat.dialect import Dialect
from blip2tools.server.chat.messages import Messages
from blip2tools.server.chat.responses import Responses

DIALECTS: Final[tuple[Dialect, ...]] = (Completions(), Responses(), Messages())


def dialect_of(path: str) -> Dialect:
    """The protocol of a path, or of what is below it; Chat Completions, in whose form most servers speak, elsewhere."""
    found = (one for one in DIALECTS if f"{path}/".endswith(f"{one.path}/") or f"{one.path}/" in path)
    return next(found, DIALECTS[0])
