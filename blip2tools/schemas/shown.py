"""Callers' texts and file names, made safe for messages."""

from __future__ import annotations

import unicodedata


def quoted(text: str, limit: int = 80) -> str:
    """A caller's text or a file's name for a message: in quotes, printable, on one line, bounded."""
    return f'"{printable(text, limit)}"'


def is_sayable(text: str) -> bool:
    """Whether a name has no control, format (bidi, zero-width), unassigned or line-breaking characters."""
    return not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in text)


def printable(text: str, limit: int) -> str:
    """`text` without control, invisible and undecodable characters, shortened in its middle to `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}"
    return "".join(char if char.isprintable() else "�" for char in text)
