"""Finding pictures in messages: in blocks of every provider's form, in nested blocks, and in text."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from blip2tools.errors import InvalidInputError, NotFoundError, VisionError
from blip2tools.pictures import formats

Reference: TypeAlias = str | bytes
Block: TypeAlias = Mapping[str, Any]

MAX_DEPTH: Final = 24  # of blocks inside of blocks
LONG: Final = 200  # characters of base64; more is never sent to a model

_PICTURE_TYPES: Final = ("image", "image_url", "input_image", "computer_screenshot", "image_generation_call")
_TEXT_TYPES: Final = ("text", "input_text", "output_text")
# Keys that hold other blocks, or pictures in a form of their own.
_DATA_KEYS: Final = ("base64", "data", "blob", "bytes", "result", "file_data")
_KIND_KEYS: Final = ("mime_type", "media_type", "mimeType", "mediaType")
# Blocks in a model's own messages that only its provider understands; it must get them back unchanged.
_PROTOCOL: Final = re.compile(r".*(tool_use|tool_call|function_call|reasoning|thinking)")
# Formats with a signature that other data do not begin with by chance.
_SURE: Final = frozenset({"PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF", "HEIC", "PSD", "JPEG2000"})
_NO_DATA: Final = InvalidInputError("The message's picture holds no data that can be read; send it as base64.")
_FOREIGN_FILE: Final = NotFoundError(
    "The picture is only named by a file id, which only its provider can open; send it as base64."
)
_TOO_DEEP: Final = InvalidInputError("The message is nested too deeply to be read.")

_LINE = r"(?:\\r)?(?:\\n|\r?\n)[ \t]*"  # an end of line, also as JSON writes it
_CHAR = r"(?:[A-Za-z0-9+/_-]|\\/)"  # some encoders of JSON write a slash with a backslash
_RUN = (
    rf"{_CHAR}{{40,}}(?:{_LINE}{_CHAR}{{40,}})*"
    rf"(?:{_LINE}{_CHAR}+(?=={{0,2}}(?:[^\w ]|\Z)))?={{0,2}}"  # the last line is shorter
)
_DATA_URI: Final = re.compile(
    rf"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[\w.+:\"-]*)*;base64,\s?(?P<data>{_RUN}|(?:{_CHAR}|=)*)",
    re.ASCII | re.IGNORECASE,
)
_BASE64: Final = re.compile(rf"(?<![A-Za-z0-9+/_-]){_RUN}", re.ASCII)
_MIXED: Final = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])", re.DOTALL)  # no long word, no digest in hexadecimal


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was found: a reference, or why there is none."""

    source: Reference | VisionError


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Long data that are not a picture, and the words in their place."""

    words: str


Found: TypeAlias = str | LeftOut | Picture


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


def picture_of(block: Any) -> Reference | VisionError | None:
    """A content block's picture as a reference; an error if it has none; or None for a block of another kind."""
    if not isinstance(block, Mapping):
        return None
    source = _source(block)
    kind = next((source[key] for key in _KIND_KEYS if isinstance(source.get(key), str)), "")
    data = next((source[key] for key in _DATA_KEYS if isinstance(source.get(key), str | bytes) and source[key]), None)
    declared = kind.lower().startswith("image/") or _declares(data)
    if block.get("type") not in _PICTURE_TYPES and not (declared and (data or block.get("type") in ("file", "media"))):
        return None
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data if data[:5].lower() == "data:" else f"data:{kind};base64,{''.join(data.split())}"
    address = block.get("image_url", source.get("url"))
    if isinstance(address, Mapping):
        address = address.get("url")
    if isinstance(address, str) and address:
        return address
    named = source.get("file_id") or (source.get("source_type") == "id" and source.get("id"))
    return _FOREIGN_FILE if named else _NO_DATA


def _source(block: Block) -> Block:
    """The part of a block that holds its data: Anthropic, MCP (`resource`), OpenAI (`file`), Google and Bedrock nest them."""
    for key in ("source", "resource", "file", "inline_data", "inlineData"):
        if isinstance(block.get(key), Mapping):
            return _source_of_bedrock(block[key])
    image = block.get("image")
    return _source_of_bedrock(image) if isinstance(image, Mapping) else block


def _source_of_bedrock(inner: Block) -> Block:
    """Bedrock: `{"format": "png", "source": {"bytes": ...}}`."""
    if isinstance(inner.get("source"), Mapping):
        return {"mime_type": f"image/{inner.get('format', '')}", **inner["source"]}
    return inner


def _declares(data: Any) -> bool:
    return isinstance(data, str) and data[:11].lower() == "data:image/"


def _lines(node: Any, of_tool: bool, depth: int) -> Iterator[list[Found]]:
    if depth > MAX_DEPTH:
        yield [Picture(_TOO_DEEP)]
    elif isinstance(node, str):
        yield list(_of_text(node, of_tool))
    elif isinstance(node, Sequence) and not isinstance(node, bytes | bytearray):
        for inner in node:
            yield from _lines(inner, of_tool, depth + 1)
    elif isinstance(node, Mapping):
        yield from _of_block(node, of_tool, depth)
    elif isinstance(node, bytes | bytearray):
        yield [_of_bytes(bytes(node))]
    elif node is not None:
        yield [str(node)]


def _of_block(block: Block, of_tool: bool, depth: int) -> Iterator[list[Found]]:
    if (picture := picture_of(block)) is not None:
        yield [Picture(picture)]
        return
    if block.get("type") in _TEXT_TYPES and isinstance(block.get("text"), str):
        yield list(_of_text(block["text"], of_tool))
        return
    nested = [value for value in block.values() if isinstance(value, Mapping | list | tuple | bytes | bytearray)]
    texts = [block[key] for key in ("text", "output", "content", "result") if isinstance(block.get(key), str)]
    if not nested and not texts:
        # Nothing is nested in it: all of it becomes text.
        yield list(_of_text(json.dumps(dict(block), default=str, ensure_ascii=False), of_tool))
        return
    for inner in (*texts, *nested):
        yield from _lines(inner, of_tool, depth + 1)


def _of_bytes(data: bytes) -> Found:
    if formats.kind_of(data) in _SURE:
        return Picture(data)
    return LeftOut(f"[data left out: {len(data):,} bytes that are not a picture]")


def _of_text(text: str, of_tool: bool) -> Iterator[Found]:
    """A text, split at the pictures in it."""
    rest = 0
    for match in re.finditer(f"{_DATA_URI.pattern}|(?P<bare>{_BASE64.pattern})", text, re.ASCII | re.IGNORECASE):
        found = _of_match(match, of_tool)
        if found is None:
            continue
        if before := text[rest : match.start()]:
            yield before
        yield found
        rest = match.end()
    if last := text[rest:]:
        yield last


def _of_match(match: re.Match[str], of_tool: bool) -> Picture | LeftOut | None:
    bare = match["bare"]
    data = "".join((bare or match["data"]).replace("\\r", "").replace("\\n", "").replace("\\/", "/").split())
    kind = (match["kind"] or "").lower()
    if bare is None and kind.startswith("image/") and data:
        return Picture(f"data:{kind};base64,{data}")
    if len(data) < LONG:
        return None
    if _is_picture(data):
        return Picture(f"data:;base64,{data}")
    if of_tool and (bare is None or _MIXED.match(data)):
        return LeftOut(f"[data left out: {len(data):,} characters of base64 that are not a picture]")
    return None


def _is_picture(data: str) -> bool:
    try:
        start = binascii.a2b_base64(data[:64].translate(str.maketrans("-_", "+/")))
    except ValueError:
        return False
    return formats.kind_of(start) in _SURE
