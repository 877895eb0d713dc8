r"""Names as people, shells and models write them, and names that look alike.

A model that retypes a name loses what cannot be seen: the narrow space of a Mac's screenshot, the form of an accent, a
typographic quote. Names are therefore compared by a folded form where none matches exactly. A folded name never becomes a
path: it is only compared with the names that a folder really has.

A name that cannot be shown is written with escapes, `\u202e` for a character and `\xff` for a byte that is not UTF-8; the
escaped name leads back to its file.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from urllib.parse import unquote

_SINGLE = "\u2018\u2019\u201a\u201b\u2032\u2035\u2039\u203a\u02b9\u02bb\u02bc\u02bd\u02c8\u00b4\u1fef\u1ffd\u1fbd\uff07"
_DOUBLE = "\u201c\u201d\u201e\u201f\u2033\u2036\u00ab\u00bb\u301d\u301e\u301f\uff02"
_DASHES = "\u2212\u2043\u02d7\u2796"  # besides those that Unicode classes as dashes
_SPACES = "\u1680\u2028\u2029\u3164\u2800"  # besides those that NFKD turns into a space
_LOOKS = {
    ord(char): plain
    for chars, plain in ((_SINGLE, "'"), (_DOUBLE, '"'), (_DASHES, "-"), (_SPACES, " "))
    for char in chars
}

# Selectors of a variant (text or emoji) and the grapheme joiner: marks that are invisible themselves.
_SILENT = re.compile("[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_JOINERS = "\u200c\u200d"  # letters of Persian, Indic and emoji names need them
_MARKS_OF_SPELLING = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2}))")

_QUOTES = {
    '"': '"',
    "'": "'",
    "`": "`",
    "\u201c": "\u201d",
    "\u2018": "\u2019",
    "\u201e": "\u201c",
    "\u00ab": "\u00bb",
    "<": ">",
}
_BEGINS_WRAPPED = frozenset("![<" + "".join(_QUOTES))
_LINK = re.compile(r"!?\[[^\[\]]{0,2000}\]\((?P<to>.*)\)", re.DOTALL)
_EMBED = re.compile(r"!?\[\[(?P<to>[^\[\]|]{1,2000})(?:\|[^\[\]]*)?\]\]")
_TAG = re.compile(
    r"<(?:img|a)\b[^>]{0,2000}?\b(?:src|href)\s*=\s*(?:\"(?P<a>[^\"]*)\"|'(?P<b>[^']*)')[^>]*>(?:</a>)?", re.I | re.S
)
_ANSI_C = re.compile(r"\$'((?:[^'\\]|\\.)*)'")  # how `ls` and shells write what cannot be shown
_ANSI_C_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|.)", re.DOTALL)
_ANSI_C_CHARS = {"a": 7, "b": 8, "e": 27, "E": 27, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_DRIVE = re.compile(r"[A-Za-z]:(?:[\\/]|$)")


def fold(name: str) -> str:
    """A name without the differences that are lost when it is retyped.

    Compatibility forms (NFKD), case (`str.casefold`), kinds of space, dash and quote, invisible characters, doubled spaces.
    """
    if name.isascii():
        return " ".join(name.replace("`", "'").casefold().split())
    # Before NFKD makes a space and an accent of an acute accent, and after it has made primes of double and triple ones.
    name = unicodedata.normalize("NFKD", name.translate(_LOOKS)).casefold()
    name = unicodedata.normalize("NFKD", name).translate(_LOOKS)
    kept = (char for char in _SILENT.sub("", name) if unicodedata.category(char) != "Cf")
    return " ".join("".join("-" if unicodedata.category(char) == "Pd" else char for char in kept).split())


def spelled(name: str) -> str:
    """A name, with escapes for characters that would reorder, break or vanish from a text; joiners of letters stay."""
    return _spell(name, lambda char: not (char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"))


def printably(name: str) -> str:
    """A name with escapes for everything that a message must not hold."""
    return _spell(name, lambda char: not char.isprintable())


def distinctly(name: str) -> str:
    """A name with escapes for every character that looks like another one."""
    return _spell(name, _is_lookalike)


def lookalikes(names: Iterable[str]) -> list[str]:
    """The meaning of the escapes of `distinctly`, such as `\\u202f is NARROW NO-BREAK SPACE`."""
    found = dict.fromkeys(char for name in names for char in name if _is_lookalike(char))
    return [f"{_escape(char)} is {unicodedata.name(char)}" for char in found if unicodedata.name(char, "")]


def _is_lookalike(char: str) -> bool:
    if char.isascii():
        return not char.isprintable()
    return (
        not char.isprintable()
        or ord(char) in _LOOKS
        or unicodedata.category(char) in ("Pd", "Mn", "Zs")
        or unicodedata.normalize("NFKD", char) != char
    )


def _spell(name: str, hides: Callable[[str], bool]) -> str:
    if not any(map(hides, name)):
        return name
    # A literal backslash would make the escapes ambiguous.
    return "".join("\\\\" if char == "\\" else _escape(char) if hides(char) else char for char in name)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte of a name that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def unspelled(text: str) -> str:
    """The text with its escapes, which a model may have doubled, turned into characters."""
    if "\\" not in text:
        return text

    def char(match: re.Match[str]) -> str:
        code = int(next(filter(None, match.groups())), 16)
        return chr(code) if code <= 0x10FFFF else match[0]

    plain = _MARKS_OF_SPELLING.sub(char, text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs of \ud83d\ude00


class Likeness:
    """Compares the names in a folder with one that was written."""

    def __init__(self, written: str) -> None:
        self._written = written
        self._escaped = "\\" in written
        self._plain = unspelled(written)
        self._folded = {fold(written), fold(self._plain)} - {""}

    def is_same(self, name: str) -> bool:
        """Whether a name is exactly what was written, in any of its spellings."""
        if name in (self._written, self._plain):
            return True
        return self._escaped and self._written in (spelled(name), printably(name), distinctly(name))

    def is_like(self, name: str) -> bool:
        """Whether a name looks like what was written."""
        return fold(name) in self._folded


def unwrapped(reference: str) -> str:
    """A reference without quotes, angle brackets, or the markdown or HTML around it."""
    for _ in range(3):
        stripped = reference.strip()
        if not stripped or stripped[0] not in _BEGINS_WRAPPED:
            return stripped
        inner = _inside(stripped)
        if inner is None:
            return stripped
        reference = inner
    return reference


def _inside(text: str) -> str | None:
    if embed := _EMBED.fullmatch(text):
        return embed["to"]
    if link := _LINK.fullmatch(text):
        return _without_title(link["to"].strip())
    if tag := _TAG.fullmatch(text):
        return tag["a"] or tag["b"] or None
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1]
    return None


def _without_title(destination: str) -> str:
    """The destination of a link, without the title that may follow (CommonMark, 6.3)."""
    for opening, closing in ('""', "''", "()"):
        begun = destination.find(f" {opening}")
        if begun > 0 and destination.endswith(closing) and begun + 2 < len(destination):
            return destination[:begun].rstrip()
    return destination


def readings(reference: str) -> list[str]:
    """The possible readings of a file's name: as written, unwrapped, without a shell's escapes, with slashes for backslashes.

    All of them are judged by the same rules.
    """
    inner = unwrapped(reference)
    found = [reference, inner]
    if inner != reference.strip() and "%" in inner and _LINK.fullmatch(reference.strip()):
        found.append(unquote(inner))  # a link's destination is percent-encoded
    found += [_without_shell(text) for text in (reference.strip(), inner)]
    if os.sep == "/":
        found += [text.replace("\\", "/") for text in found if "\\" in text and not _DRIVE.match(text)]
    return list(dict.fromkeys(text for text in found if text))


def _without_shell(text: str) -> str:
    """A shell word as the program would get it; the text itself where it is not a single word."""
    if not any(char in text for char in "\\'\""):
        return text
    text = _ANSI_C.sub(lambda match: "'" + _ansi_c(match[1]) + "'", text)
    word, quote, position = [], "", 0
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'" and position + 1 < len(text) and not text[position + 1].isalnum():
            position += 1
            word.append(text[position])
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            word.append(char)
        position += 1
    return text if quote else "".join(word)  # an apostrophe is not a quote


def _ansi_c(text: str) -> str:
    """The inside of `$'...'`, whose octal and hexadecimal escapes are bytes."""
    found = bytearray()
    position = 0
    for match in _ANSI_C_ESCAPE.finditer(text):
        found += os.fsencode(text[position : match.start()])
        code, position = match[1], match.end()
        if code[0] in "01234567":
            found.append(int(code, 8) & 0xFF)
        elif code[0] == "x" and len(code) > 1:
            found.append(int(code[1:], 16))
        elif code[0] in "uU" and len(code) > 1:
            found += chr(min(int(code[1:], 16), 0x10FFFF)).encode("utf-8", "replace")
        else:
            found += bytes([_ANSI_C_CHARS[code]]) if code in _ANSI_C_CHARS else os.fsencode(code)
    return os.fsdecode(bytes(found + os.fsencode(text[position:])))
