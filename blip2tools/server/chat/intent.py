"""Choice of the tool for a text about a picture: the text decides, since chat programs have no other way to choose."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from blip2tools.schemas import MAX_TEXT

MOST_CHOICES: Final = 20

_READ: Final = re.compile(
    r"\b(?:ocr|transcribe|transcription)\b"
    r"|\b(?:read|extract|recogni[sz]e|copy|list|return|give|output)\b[^.?!\n]{0,60}\b(?:text|words|letters|writing|label|sign)\b"
    r"|\bwhat(?:'s| is| does)\b[^.?!\n]{0,40}\b(?:written|say|text)\b",
    re.I,
)
_PICTURE: Final = r"(?:image|picture|photo|photograph|screenshot|this|here)"
_TELL: Final = re.compile(
    r"\b(?:describe|description|captions?|summari[sz]e|alt[ -]text|beschreib\w*|décri\w*|descri\w*|descrev\w*)\b", re.I
)
# Bridges of other countries send prompts in their own language; these are the words of those that were met.
_READ_ELSEWHERE: Final = re.compile(r"(?:提取|识别|读取|转录)[^。]{0,12}(?:文字|文本|代码)|OCR")
_DESCRIBE: Final = re.compile(
    rf"{_TELL.pattern}"
    rf"|\bwhat(?:'s| is| are)\b[^.?!\n]{{0,12}}\b(?:in|on)\b[^.?!\n]{{0,20}}\b{_PICTURE}\b"
    rf"|\btell me (?:about|what)\b[^.?!\n]{{0,12}}\b(?:{_PICTURE}|you see)\b"
    r"|\bwhat do you see\b"
    r"|\bwhat(?:'s| is) (?:this|that|it|shown|going on|happening)\s*[?.!]*\s*$",
    re.I,
)
# "Choose from: red, blue" · "One of: red, blue or green" · "Options: red / blue"
_LISTED: Final = re.compile(
    r"\b(?:choose|pick|select|one of|options|choices|candidates)\b[^:\n]{0,40}:\s*(?P<list>[^\n]+)",
    re.I,
)
_CHOOSES: Final = re.compile(r"\?|\b(?:which|choose|pick|select|one of|options|choices|candidates)\b", re.I)
_ROW: Final = re.compile(r"^\s*(?:[-*•]|\(?(?:[A-Ta-t]|\d{1,2})[.):])\s+(?P<text>\S.*?)\s*$", re.M)
_SPLIT: Final = re.compile(r"\s*(?:[,;|]|\s/\s)\s*(?:or\s+)?|\s+or\s+", re.I)
_QUESTION: Final = re.compile(r"[^.?!\n]*\?")
_ASKS: Final = re.compile(
    r"^\s*(?:who|what|which|where|when|why|how|is|are|was|were|does|do|did|can|could|has|have|will|would|should)\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Intent:
    """A tool and its arguments besides the picture."""

    tool: str
    arguments: dict[str, Any]


def intent_of(text: str, tools: Collection[str]) -> Intent:
    """The tool that a text asks for, with its arguments.

    A list of choices makes a question with choices. Words such as "transcribe" or "read the text" ask for `read_text`, where it
    is among the `tools`; "describe" or "what is in this picture", or no text at all, for a caption. All else is a question.
    """
    text = text.strip()
    choices, rest = _choices(text)
    if len(choices) >= 2:
        question = _question(rest)
        # Choices without a question: what they are said of.
        return Intent("ask_image", {"question": question or "what is it?", "choices": choices})
    is_foreign = sum(char.isalpha() and not char.isascii() for char in text) > sum(map(str.isascii, text)) / 2
    if "read_text" in tools and (_READ_ELSEWHERE if is_foreign else _READ).search(text):
        return Intent("read_text", {})
    if is_foreign:
        return Intent("caption_image", {})  # BLIP-2 answers English: a question that it cannot read is no question
    if not text or _DESCRIBE.search(text):
        return Intent("caption_image", {})
    question = _question(text)
    return Intent("ask_image", {"question": question}) if question else Intent("caption_image", {})


def _choices(text: str) -> tuple[list[str], str]:
    """A list of choices in a text, and the text without it."""
    rows = list(_ROW.finditer(text))
    rest = text[: rows[0].start()] if rows else ""
    # Rows without a question are what a description is to be about.
    if 2 <= len(rows) <= MOST_CHOICES and _CHOOSES.search(rest) and not _TELL.search(rest):
        found = [row["text"].rstrip(".;,") for row in rows]
    elif listed := _LISTED.search(text):
        words = re.split(r"(?<=[^\d])\.(?:\s|$)", listed["list"])[0]
        found = [part.strip(" .'\"“”") for part in _SPLIT.split(words)]
        rest = text[: listed.start()]
    else:
        return [], text
    found = list(dict.fromkeys(part for part in found if 0 < len(part) <= MAX_TEXT))
    return (found, rest) if 2 <= len(found) <= MOST_CHOICES else ([], text)


def _question(text: str) -> str:
    """The question in a text: its last one; the whole text if it has none and is short; else nothing."""
    asked = [found.group().strip() for found in _QUESTION.finditer(text)]
    fitting = [one for one in asked if 3 < len(one) <= MAX_TEXT]
    if fitting:
        return next((one for one in reversed(fitting) if _ASKS.search(one)), fitting[-1])
    text = " ".join(text.split()).rstrip(":")
    return text if len(text) <= MAX_TEXT else ""
