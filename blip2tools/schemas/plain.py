"""Text and values of callers, made plain: what can be shown, said again, and taken as arguments."""

from __future__ import annotations

import unicodedata


def quoted(text: str, limit: int = 80) -> str:
    """A caller's text or a file's name as a message may hold it: in quotes, printable, on one line, bounded."""
    return f'"{printable(text, limit)}"'


def is_sayable(text: str) -> bool:
    """Whether a name has no control, format (bidi, zero-width), unassigned or line-breaking characters."""
    return not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in text)


def printable(text: str, limit: int) -> str:
    """`text` without control, invisible and undecodable characters, shortened in its middle to `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}"
    return "".join(char if char.isprintable() else "�" for char in text)


MAX_PARTS = 100_000  # commas and brackets of a message; the longest lawful texts may hold 40,000


def plain(text: str) -> str:
    """Text without anything that a terminal, a log or a chat template could act on.

    NFC; control, format (bidi, zero-width), surrogate, private-use and unassigned characters removed, white space collapsed.
    """
    kept = (" " if char.isspace() else char for char in unicodedata.normalize("NFC", text))
    return " ".join("".join(char for char in kept if not unicodedata.category(char).startswith("C")).split())


def has_too_many_parts(message: bytes) -> bool:
    """Whether a JSON text could take many times its own size once it is parsed: each `[],` becomes an object of 60 bytes."""
    return sum(message.count(mark) for mark in (b",", b"[", b"{")) > MAX_PARTS
