"""Finding pictures in messages: in blocks of every provider's form, in nested blocks, and in text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from blip2tools.errors import InvalidInputError
from blip2tools.pictures.inline import Block, Found, LeftOut, Picture, of_bytes, of_text, picture_of

MAX_DEPTH: Final = 24  # of blocks inside of blocks

_TEXT_TYPES: Final = ("text", "input_text", "output_text")
# Blocks in a model's own messages that only its provider understands; it must get them back unchanged.
_PROTOCOL: Final = re.compile(r".*(tool_use|tool_call|function_call|reasoning|thinking)")
_TOO_DEEP: Final = InvalidInputError("The message is nested too deeply to be read.")


def lines_of(message: BaseMessage, block: Any) -> list[list[Found]] | None:
    """A block's texts and pictures in order, a list for each text; or None for a block that stays as it is.

    Args:
        message: the one that the block belongs to. A tool message becomes text altogether; of others only what holds a
            picture does, since models may be able to read or hear the rest.
        block: a string, or a dict of any form.
    """
    of_tool = isinstance(message, ToolMessage)
    if isinstance(block, Mapping):
        kind = block.get("type")
        if isinstance(message, AIMessage) and isinstance(kind, str) and _PROTOCOL.match(kind):
            return None
    found = list(_lines(block, of_tool, 0))
    if any(isinstance(piece, Picture | LeftOut) for line in found for piece in line):
        return found
    if isinstance(block, str) or not of_tool or (isinstance(block, Mapping) and block.get("type") in _TEXT_TYPES):
        return None
    return found


def _lines(node: Any, of_tool: bool, depth: int) -> Iterator[list[Found]]:
    if depth > MAX_DEPTH:
        yield [Picture(_TOO_DEEP)]
    elif isinstance(node, str):
        yield list(of_text(node, of_tool))
    elif isinstance(node, Sequence) and not isinstance(node, bytes | bytearray):
        for inner in node:
            yield from _lines(inner, of_tool, depth + 1)
    elif isinstance(node, Mapping):
        yield from _of_block(node, of_tool, depth)
    elif isinstance(node, bytes | bytearray):
        yield [of_bytes(bytes(node))]
    elif node is not None:
        yield [str(node)]


def _of_block(block: Block, of_tool: bool, depth: int) -> Iterator[list[Found]]:
    if (picture := picture_of(block)) is not None:
        yield [Picture(picture)]
        return
    if block.get("type") in _TEXT_TYPES and isinstance(block.get("text"), str):
        yield list(of_text(block["text"], of_tool))
        return
    nested = [value for value in block.values() if isinstance(value, Mapping | list | tuple | bytes | bytearray)]
    texts = [block[key] for key in ("text", "output", "content", "result") if isinstance(block.get(key), str)]
    if not nested and not texts:
        # Nothing is nested in it: all of it becomes text.
        yield list(of_text(json.dumps(dict(block), default=str, ensure_ascii=False), of_tool))
        return
    for inner in (*texts, *nested):
        yield from _lines(inner, of_tool, depth + 1)
