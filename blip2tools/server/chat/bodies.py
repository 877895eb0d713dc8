"""Bodies of chat requests: compressed ones are unpacked up to a limit, and a name that is twice in a JSON object is noticed."""

from __future__ import annotations

import json
import sys
import zlib
from typing import Any, Final

from blip2tools.errors import InvalidInputError, TooLargeError
from blip2tools.server.chat.errors import UnknownCodingError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BODY: Final = 64 * 2**20  # bytes, unpacked: a conversation with a dozen photographs
MAX_PARTS: Final = 1_000_000  # commas and brackets: more could take gigabytes once they are parsed


def unpacked(body: bytes, coding: str, limit: int = MAX_BODY) -> bytes:
    """A body without its content coding (RFC 9110, 8.4.1): gzip, deflate or zstd.

    Raises:
        UnknownCodingError: another coding.
        InvalidInputError: it is damaged.
        TooLargeError: it is longer than `limit`; no more than that is unpacked.
    """
    name = coding.strip().lower()
    try:
        match name:
            case "" | "identity":
                found = body
            case "gzip" | "x-gzip":
                found = _inflated(body, 31, limit)
            case "deflate":
                found = _inflated(body, 15, limit)
            case "zstd":
                found = _of_zstd(body, limit)
            case _:
                raise UnknownCodingError("The body's coding is not one of gzip, deflate and zstd.")
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        raise InvalidInputError(f"The body is not {name} that can be read.") from error
    if len(found) > limit:
        raise TooLargeError(f"The request's body is above the limit of {limit:,} bytes.")
    return found


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    found = unpacker.decompress(body, limit + 1)
    if len(found) <= limit and not unpacker.eof:
        raise EOFError
    return found


def _of_zstd(body: bytes, limit: int) -> bytes:
    found, rest = b"", body
    while rest and len(found) <= limit:  # frames may follow each other (RFC 8878, 3.1)
        unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
        piece = unpacker.decompress(rest, limit + 1 - len(found))
        found += piece
        if not unpacker.eof:
            if len(found) <= limit:
                raise EOFError
            break
        rest = unpacker.unused_data
    return found


class _TwiceError(ValueError):
    pass


def parsed(body: bytes) -> tuple[dict[str, Any], bool]:
    """A JSON object, and whether its bytes mean just that for every parser.

    If a name is there twice, parsers differ in which value they take (RFC 8259, 4): such a body must not be passed on as it is.

    Raises:
        InvalidInputError: it is no JSON object, or holds too many values.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_PARTS:
        raise InvalidInputError("The request's body holds too many values.")
    try:
        try:
            found, plain = json.loads(body, object_pairs_hook=_once), True
        except _TwiceError:
            found, plain = json.loads(body), False
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("The body is not JSON.") from error
    if not isinstance(found, dict):
        raise InvalidInputError("The body must be one JSON object.")
    return found, plain


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def written(body: dict[str, Any]) -> bytes:
    """A JSON object as bytes.

    Raises:
        InvalidInputError: a number that JSON does not have.
    """
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("The body holds a number that JSON does not have.") from error
