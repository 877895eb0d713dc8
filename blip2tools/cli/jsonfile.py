"""Setting a member of a foreign JSON file: as text, so that all the rest keeps its order, spelling and layout."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blip2tools.errors import InvalidInputError

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
BOM = "\ufeff"


class CommentsError(InvalidInputError):
    """The file is JSON with comments or trailing commas: rewriting it could lose them."""


@dataclass(frozen=True)
class Edit:
    """A planned change of a file."""

    path: Path
    before: str | None
    after: str

    @property
    def drops_mark(self) -> bool:
        """Whether a byte order mark is removed, which no line of the diff shows."""
        return (self.before or "").startswith(BOM)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self.before != self.after

    def diff(self) -> str:
        """The change as a unified diff."""
        old = (self.before or "").removeprefix(BOM).splitlines()
        new = self.after.removeprefix(BOM).splitlines()
        origin = str(self.path) if self.before is not None else os.devnull
        return "\n".join(difflib.unified_diff(old, new, origin, str(self.path), lineterm=""))


def plan_member(path: Path, keys: Sequence[str], value: Any) -> Edit:
    """The change that sets the member at `keys`, objects on the way included; everything else stays byte for byte.

    Raises:
        CommentsError: the file is JSON only without its comments or trailing commas.
        InvalidInputError: the file cannot be read, is not JSON, or has something else than an object on the way.
    """
    # A dotfile manager's link must stay one: the file behind it is what changes.
    path = path.resolve()
    before = _read(path)
    if before is None or not before.removeprefix(BOM).strip():
        fresh = json.dumps(nested(keys, value), indent=2, ensure_ascii=False) + "\n"
        return Edit(path, before, fresh)
    # The mark is not written again: clients parse the file as it is, and JSON may not begin with one (RFC 8259, 8.1).
    text = before.removeprefix(BOM)
    document = _parse(text, path)
    after = _with_member(text, document, keys, value, path)
    _set(document, keys, value)
    # The result is parsed and compared before anything is written.
    if json.loads(after) != document:
        raise InvalidInputError(f"{path} could not be changed safely, and was left alone.")
    return Edit(path, before, after)


def write(edit: Edit, now: datetime | None = None) -> Path | None:
    """Make the change, all of it or nothing, and keep a copy of the file that was there.

    Returns:
        The backup, or `None` for a file that is new.

    Raises:
        InvalidInputError: the file changed since the plan was made, or cannot be written.
    """
    path = edit.path
    if _read(path) != edit.before:
        raise InvalidInputError(f"{path} has changed in the meantime and was left alone; run the command again.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    backup = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if edit.before is not None:
            backup = _backup(path, now or datetime.now(UTC))
        try:
            # Other servers' entries can hold keys: no other user may read the new file before it has the old one's mode.
            _create(temporary, edit.after.encode(), 0o666 if backup is None else 0o600)
            if backup is not None:
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be written: {error.strerror or 'unknown reason'}.") from error
    return backup


def _create(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _backup(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.{now:%Y%m%dT%H%M%SZ}"
    for number in range(100):
        backup = path.with_name(f"{stem}{f'-{number}' if number else ''}.bak")
        with contextlib.suppress(FileExistsError):
            _create(backup, path.read_bytes(), 0o600)
            shutil.copymode(path, backup)
            return backup
    raise FileExistsError(17, "too many backups of one second")


def _read(path: Path) -> str | None:
    try:
        data = path.read_bytes()
        # As an older PowerShell writes with `>`; its mark stays, so that the change is seen as one.
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
            if text.lstrip()[:1] in ("{", ""):
                return BOM + text
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text, and was left alone.") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or 'unknown reason'}.") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise InvalidInputError(f"{path} is nested too deeply, and was left alone.") from error
    except json.JSONDecodeError as error:
        if _is_json(_without_comments(text)):
            raise CommentsError(
                f"{path} has comments or trailing commas, which this command cannot keep, so it was left alone."
            ) from error
        raise InvalidInputError(
            f"{path} is not valid JSON (line {error.lineno}, column {error.colno}) and was left alone; repair it first."
        ) from error
    if not isinstance(document, dict):
        raise InvalidInputError(f"{path} does not hold a JSON object, and was left alone.")
    return document


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _without_comments(text: str) -> str:
    """JSON with comments as plain JSON: strings are kept, comments and trailing commas become spaces."""
    tokens = r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/'
    plain = re.sub(tokens, lambda found: found[1] or " ", text, flags=re.S)
    return re.sub(r'("(?:[^"\\\n]|\\.)*")|,(?=\s*[}\]])', lambda found: found[1] or " ", plain, flags=re.S)


# ---- text of a document that is known to be valid ----


@dataclass(frozen=True)
class _Member:
    key: str
    start: int
    end: int


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _members(text: str, at: int) -> Iterator[_Member]:
    """The members of the object that opens at `at`, with the spans of their values."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield _Member(key, start, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _with_member(text: str, document: dict[str, Any], keys: Sequence[str], value: Any, path: Path) -> str:
    indent = _indent(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _skip(text, 0)
    here: Any = document
    for depth, key in enumerate(keys, start=1):
        rest = keys[depth:]
        found = [member for member in _members(text, at) if member.key == key]
        if not found:
            return _inserted(text, at, key, nested(rest, value), indent, depth, newline)
        here = here[key]
        at = found[-1].start  # the last of several wins for every reader
        if rest and not isinstance(here, dict):
            raise InvalidInputError(f'"{key}" in {path} is not an object, and the file was left alone.')
    if here == value:
        return text
    return text[:at] + _dump(value, indent, len(keys), newline) + text[found[-1].end :]


def _inserted(text: str, at: int, key: str, value: Any, indent: str, depth: int, newline: str) -> str:
    """The text with one more member at the end of the object that opens at `at`."""
    member = f"{newline}{indent * depth}{json.dumps(key)}: {_dump(value, indent, depth, newline)}"
    others = list(_members(text, at))
    end = others[-1].end if others else at + 1
    close = _skip(text, end)
    tail = text[end:] if "\n" in text[end:close] else f"{newline}{indent * (depth - 1)}{text[close:]}"
    return f"{text[:end]}{',' if others else ''}{member}{tail}"


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
