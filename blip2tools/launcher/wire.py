"""Lines of the protocol over two pipes: read up to a limit, each with the id that its answer needs."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any, BinaryIO, Tuple, Union

TAIL = 512
MARGIN = 2**20  # bytes of a message besides its picture

_PIECE = 2**16
_MAX_TOKENS = 20_000
# JSON's tokens; a quotation mark alone is a string without an end.
_TOKEN = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]:,"]|[^\s{}\[\]:,"]++'
if sys.version_info < (3, 11):  # which knows no possessive quantifiers; they save memory, nothing else
    _TOKEN = _TOKEN.replace(b"*+", b"*").replace(b"++", b"+")
_TOKENS = re.compile(_TOKEN, re.DOTALL)
_ID = rb'-?[0-9]{1,18}|"[^"\\]{0,200}"'
_LAST_ID = re.compile(rb',\s*"id"\s*:\s*(' + _ID + rb")\s*\}\s*\Z")

Line = Union[bytes, Tuple[bytes, bytes]]


def longest_line(picture: int) -> int:
    """Bytes of the longest message that is read: its arguments hold a picture of `picture` bytes, as base64."""
    return (picture + 2) // 3 * 4 + MARGIN


def next_line(source: BinaryIO, limit: int) -> Line:
    """The next line; if it is above the limit, only its beginning and its end; empty at the end of the input."""
    line = source.readline(limit + 1)
    if len(line) <= limit or line.endswith(b"\n"):
        return line
    tail = b""
    while piece := source.readline(_PIECE):
        tail = (tail + piece)[-TAIL:]
        if piece.endswith(b"\n"):
            break
    return line[:_PIECE], tail


def written(sink: BinaryIO, line: bytes) -> bool:
    """Write a line; returns whether all of it could be written."""
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[sink.write(rest) :]
    except OSError:
        return False
    return True


def claim_stdin() -> BinaryIO:
    """Keep standard input for the protocol: whatever else reads descriptor 0, here or in a child, sees the end of the file."""
    source = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return source


def claim_stdout() -> BinaryIO:
    """Keep standard output for the protocol: from here on, whatever writes to descriptor 1 lands on standard error.

    Called before heavy imports: a library that prints when it is imported, or a C extension, would break the
    framing. It stays so until the process ends, since prints at exit are as harmful.
    """
    sys.stdout.flush()
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return wire


def encoded(message: dict[str, Any]) -> bytes:
    """A message as a line of JSON, written as the server writes it."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def too_large(limit: int) -> str:
    """Sentence that answers a message above the limit."""
    return f"too_large: The message is above the limit of {limit:,} bytes; pass the path of a picture, not its data."


def id_of(head: bytes, tail: bytes) -> str | int | None:
    """The id of a message that cannot be parsed, if it is certain to be that of the outermost object.

    An answer with a wrong id would be taken for the answer to another request.
    """
    found = _id_of_object(head) or (last[1] if (last := _LAST_ID.search(tail)) else None)
    if found is None:
        return None
    return found[1:-1].decode(errors="replace") if found.startswith(b'"') else int(found)


def _id_of_object(text: bytes) -> bytes | None:
    depth = 0
    before: tuple[bytes, bytes] = (b"", b"")
    for number, match in enumerate(_TOKENS.finditer(text)):
        token = match[0]
        if number > _MAX_TOKENS or token == b'"' or (number == 0 and token != b"{"):
            return None
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and before == (b'"id"', b":"):
            return token if re.fullmatch(_ID, token) else None
        before = (before[1], token)
    return None
