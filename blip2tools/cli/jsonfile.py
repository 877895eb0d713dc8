"""A member put into somebody else's JSON file: as text, so that all the rest keeps its order, spelling, layout and comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip2tools.cli.textfile import BOM, Edit, read
from blip2tools.errors import InvalidInputError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def plan_member(path: Path, keys: Sequence[str], value: Any) -> Edit:
    """The change that sets the member at `keys`, objects on the way included; everything else stays byte for byte.

    Comments and trailing commas, which some clients allow, stay too.

    Raises:
        InvalidInputError: the file cannot be read, is not JSON, or has something else than an object on the way.
    """
    # A dotfile manager's link must stay one: the file behind it is what changes.
    path = path.resolve()
    before = read(path)
    if before is None or not before.removeprefix(BOM).strip():
        fresh = json.dumps(nested(keys, value), indent=2, ensure_ascii=False) + "\n"
        return Edit(path, before, fresh)
    # The mark is not written again: clients parse the file as it is, and JSON may not begin with one (RFC 8259, 8.1).
    text = before.removeprefix(BOM)
    document = _parse(text, path)
    after = _with_member(text, document, keys, value, path)
    _set(document, keys, value)
    return _checked(Edit(path, before, after), document)


def plan_removal(path: Path, keys: Sequence[str]) -> Edit:
    """The change that takes the member at `keys` out, if it is there.

    Raises:
        InvalidInputError: the file cannot be read, or is not JSON.
    """
    path = path.resolve()
    before = read(path)
    if before is None or not before.removeprefix(BOM).strip():
        return Edit(path, before, before)
    text = before.removeprefix(BOM)
    document = _parse(text, path)
    here: Any = document
    for key in keys[:-1]:
        here = here.get(key) if isinstance(here, dict) else None
    if not isinstance(here, dict) or keys[-1] not in here:
        return Edit(path, before, before)
    after = _without_member(text, keys)
    del here[keys[-1]]
    return _checked(Edit(path, before, after), document)


def _checked(edit: Edit, document: Any) -> Edit:
    """The change, after a second opinion."""
    if json.loads(_plain(edit.after or "")) != document:
        raise InvalidInputError(f"{edit.path} could not be changed safely, and was left alone.")
    return edit


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_plain(text))
    except RecursionError as error:
        raise InvalidInputError(f"{path} is nested too deeply, and was left alone.") from error
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{path} is not valid JSON (line {error.lineno}, column {error.colno}) and was left alone; repair it first."
        ) from error
    if not isinstance(document, dict):
        raise InvalidInputError(f"{path} does not hold a JSON object, and was left alone.")
    return document


_STRING = r'("(?:[^"\\\n]|\\.)*")'


def _without_comments(text: str) -> str:
    """The same text with spaces in the place of comments, character for character."""
    return re.sub(_STRING + r"|//[^\n]*|/\*.*?\*/", lambda found: found[1] or _spaces(found[0]), text, flags=re.S)


def _plain(text: str) -> str:
    """Likewise, and without the commas that may follow a last member."""
    return re.sub(_STRING + r"|,(?=\s*[}\]])", lambda found: found[1] or " ", _without_comments(text), flags=re.S)


def _spaces(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)


# ---- text of a document that is known to be valid ----


@dataclass(frozen=True)
class _Member:
    key: str
    begin: int  # of the key
    start: int  # of the value
    end: int


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _members(text: str, at: int) -> Iterator[_Member]:
    """The members of the object that opens at `at`, with the spans of their values."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        begin = at
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield _Member(key, begin, start, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _with_member(text: str, document: dict[str, Any], keys: Sequence[str], value: Any, path: Path) -> str:
    plain = _plain(text)
    indent = _indent(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _skip(plain, 0)
    here: Any = document
    for depth, key in enumerate(keys, start=1):
        rest = keys[depth:]
        found = [member for member in _members(plain, at) if member.key == key]
        if not found:
            return _inserted(text, plain, at, key, nested(rest, value), (indent, depth, newline))
        here = here[key]
        at = found[-1].start  # the last of several wins for every reader
        if rest and not isinstance(here, dict):
            raise InvalidInputError(f'"{key}" in {path} is not an object, and the file was left alone.')
    if here == value:
        return text
    return text[:at] + _dump(value, indent, len(keys), newline) + text[found[-1].end :]


def _inserted(text: str, plain: str, at: int, key: str, value: Any, layout: tuple[str, int, str]) -> str:
    """The text with one more member at the end of the object that opens at `at`."""
    indent, depth, newline = layout
    member = f"{newline}{indent * depth}{json.dumps(key)}: {_dump(value, indent, depth, newline)}"
    others = list(_members(plain, at))
    end = others[-1].end if others else at + 1
    close = _skip(plain, end)
    comma = "," if others and "," not in _without_comments(text)[end:close] else ""
    stop = len(text[:close].rstrip())  # behind what is said about the last member
    tail = text[stop:] if "\n" in text[stop:close] else f"{newline}{indent * (depth - 1)}{text[close:]}"
    return f"{text[:end]}{comma}{text[end:stop]}{member}{tail}"


def _without_member(text: str, keys: Sequence[str]) -> str:
    """The text without the member at `keys`, which is there; each time that it is."""
    while True:
        plain, commas = _plain(text), _without_comments(text)
        at = _skip(plain, 0)
        for key in keys[:-1]:
            at = [member for member in _members(plain, at) if member.key == key][-1].start
        members = list(_members(plain, at))
        found = [number for number, member in enumerate(members) if member.key == keys[-1]]
        if not found:
            return text
        number = found[-1]
        begin, end = members[number].begin, members[number].end
        if (behind := _skip(commas, end)) < len(text) and commas[behind] == ",":
            end = behind + 1
        elif number:
            comma = commas.rindex(",", members[number - 1].end, begin)
            text = text[:comma] + text[comma + 1 :]
            begin, end = begin - 1, end - 1
        # A line of its own goes as a whole.
        start, stop = len(text[:begin].rstrip(" \t")), end + len(text[end:]) - len(text[end:].lstrip(" \t"))
        if text[:start].endswith("\n") and re.match(r"\r?\n", text[stop:]):
            newline = re.match(r"\r?\n", text[stop:])
            begin, end = start, stop + (newline.end() if newline else 0)
        text = text[:begin] + text[end:]


def _dump(value: Any, indent: str, depth: int, newline: str) -> str:
    lines = json.dumps(value, indent=indent, ensure_ascii=False).split("\n")
    return f"{newline}{indent * depth}".join(lines)


def _indent(text: str) -> str:
    found = re.search(r'\n([ \t]+)"', text)
    return found[1] if found else "  "


def nested(keys: Sequence[str], value: Any) -> Any:
    """`value` inside one object for each of `keys`, outermost first."""
    for key in reversed(keys):
        value = {key: value}
    return value


def _set(document: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        document = document.setdefault(key, {})
    document[keys[-1]] = value
