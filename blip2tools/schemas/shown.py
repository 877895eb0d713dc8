"""Callers' texts and file names, made safe for messages."""

from __future__ import annotations


def quoted(text: str, limit: int = 80) -> str:
    """A caller's text or a file's name for a message: in quotes, printable, on one line, bounded."""
    return f'"{printable(text, limit)}"'


def printable(text: str, limit: int) -> str:
    """`text` without control, invisible and undecodable characters, shortened in its middle to `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit // 2 - 1]}…{text[-(limit // 2) :]}"
    return "".join(char if char.isprintable() else "�" for char in text)
