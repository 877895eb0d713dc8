"""Pictures inside messages: in blocks of every provider's form, and within text."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from blip2tools.errors import InvalidInputError, NotFoundError, VisionError
from blip2tools.pictures import formats

Reference: TypeAlias = str | bytes
Block: TypeAlias = Mapping[str, Any]

LONG: Final = 200  # characters of base64; more is never sent to a model

_PICTURE_TYPES: Final = ("image", "image_url", "input_image", "computer_screenshot", "image_generation_call")
_DATA_KEYS: Final = ("base64", "data", "blob", "bytes", "result", "file_data")
_KIND_KEYS: Final = ("mime_type", "media_type", "mimeType", "mediaType")
# Formats with a signature that other data do not begin with by chance.
_SURE: Final = frozenset({"PNG", "JPEG", "GIF", "WEBP", "TIFF", "AVIF", "HEIC", "PSD", "JPEG2000"})
_NO_DATA: Final = InvalidInputError("The message's picture holds no data that can be read; send it as base64.")
_FOREIGN_FILE: Final = NotFoundError(
    "The picture is only named by a file id, which only its provider can open; send it as base64."
)

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


def of_bytes(data: bytes) -> Found:
    if formats.kind_of(data) in _SURE:
        return Picture(data)
    return LeftOut(f"[data left out: {len(data):,} bytes that are not a picture]")


def of_text(text: str, of_tool: bool) -> Iterator[Found]:
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


def placeholder(handle: str, caption: str | None, confidence: float | None = None) -> str:
    """The text in place of a picture; without a caption, its handle alone."""
    if caption is None:
        return f"[image {handle}]"
    # The caption was read from a picture, which may be crafted to close the bracket and go on as someone else.
    words = caption.translate(str.maketrans("[]", "()")) or "no caption"
    sure = "" if confidence is None else f", confidence {confidence:.2f}"
    return f"[image {handle}: {words}{sure}]"


def unreadable(failure: VisionError) -> str:
    """What stands for a picture that cannot be looked at."""
    return f"[image unreadable: {failure}]"


# How base64 of a sure format begins, in lower case: also where the alphabet is that of URLs, or JSON hides the slashes. The box
# `ftyp` of AVIF and HEIC has its size before it.
_BEGINNINGS: Final = (
    *("data:", "ivborw0kggo", "/9j", "_9j", "r0lgod", "uklgr", "sukqa", "sukra", "tu0ak", "z0ex", "oejqu"),
    *("aaaadgpq", "/0//", "_0__", "\\/0\\/"),
)


def may_hold_picture(text: str) -> bool:
    """Whether `of_text` could find a picture. Costs a hundredth of it, since nearly all text holds none."""
    low = text.lower()
    return any(beginning in low for beginning in _BEGINNINGS)


def may_hold_pictures(message: bytes) -> bool:
    """Whether JSON could hold a picture, in a block of any form or in a text, judged without parsing it."""
    low = message.lower()
    # Behind `\u00` any letter of the words that are looked for may hide.
    return any(word in low for word in (b"image", b"screenshot", b"\\u00", *map(str.encode, _BEGINNINGS)))
