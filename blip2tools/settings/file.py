"""The user's own settings: `config.toml` in the platform's place, or where `BLIP2TOOLS_CONFIG` says.

One line for each setting, by its name; no tables. Reading is the standard library's. Writing changes one line and leaves the
others, comments included, as they are.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from blip2tools.errors import InvalidInputError

VARIABLE = "BLIP2TOOLS_CONFIG"
NAME = "config.toml"
LARGEST = 2**20


def place(environ: Mapping[str, str]) -> Path:
    """Where the file is, or would be."""
    named = environ.get(VARIABLE, "").strip()
    return Path(named).expanduser() if named else user_config_path("blip2tools", appauthor=False) / NAME


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the file holds; nothing where there is none in the platform's place.

    Raises:
        InvalidInputError: it cannot be read or is no TOML, or a variable names one that is not there.
    """
    path = place(environ)
    text = text_of(path)
    if text is None:
        if environ.get(VARIABLE, "").strip():
            raise InvalidInputError(f"There is no file {str(path)!r}, which {VARIABLE} names.")
        return {}
    return parsed(text, path)


def content_of(path: Path, most: int) -> bytes:
    """At most so many bytes of a file that somebody names; a pipe, whose reader could wait for ever, is refused.

    Raises:
        OSError: it cannot be read, or is a pipe.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as stream:
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe, not a file")
        return stream.read(most)


def text_of(path: Path) -> str | None:
    """The file's text, without a byte order mark; None where there is no file.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        content = content_of(path, LARGEST + 1)
        if len(content) > LARGEST:
            raise InvalidInputError(f"The settings file {str(path)!r} is larger than {LARGEST >> 20} MiB.")
        return content.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"The settings file {str(path)!r} is not in UTF-8.") from error
    except OSError as error:
        raise InvalidInputError(f"The settings file {str(path)!r} cannot be read ({error.strerror}).") from error


def parsed(text: str, path: Path) -> dict[str, Any]:
    """Its values.

    Raises:
        InvalidInputError: it is no TOML.
    """
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line \d+", str(error))
        where = f", {at[0]}" if at else ""
        raise InvalidInputError(f"The settings file {str(path)!r} is no TOML{where}: correct it there.") from error


def toml(value: Any) -> str:
    """A value as TOML: text, number, truth or list."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def changed(text: str, name: str, value: Any | None) -> str:
    """The text with another value of a setting, or without it (None); everything else as it was.

    Raises:
        InvalidInputError: the file is written in a way that cannot be changed without reading it as a whole.
    """
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.replace("\r\n", "\n").splitlines(keepends=True)
    before = tomllib.loads("".join(lines))
    after = {**before, name: value} if value is not None else {key: old for key, old in before.items() if key != name}
    first = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    start = next((n for n, line in enumerate(lines[:first]) if _begins(line, name)), None)
    if start is None:
        if value is not None:
            if first and not lines[first - 1].endswith("\n"):
                lines[first - 1] += "\n"
            lines.insert(first, f"{name} = {toml(value)}\n")
    else:
        end = _end(lines, start)
        comment = _comment("".join(lines[start:end]))
        lines[start:end] = [] if value is None else [f"{name} = {toml(value)}{comment}\n"]
    made = "".join(lines)
    with suppress(tomllib.TOMLDecodeError):
        if value is not None:
            after[name] = tomllib.loads(f"value = {toml(value)}")["value"]
        if tomllib.loads(made) == after:
            return made.replace("\n", ending)
    raise InvalidInputError(
        f"The setting {name!r} stands in the file in a way that only you can change; edit it there."
    )


def write(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all. A new file is its user's alone: it may hold a token.

    Raises:
        InvalidInputError: it cannot be written.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        with tempfile.NamedTemporaryFile("wb", dir=target.parent, suffix=".part", delete=False) as stream:
            stream.write(text.encode("utf-8"))
        made = Path(stream.name)
        try:
            made.chmod(mode)
            made.replace(target)
        except OSError:
            made.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidInputError(f"The settings file {str(path)!r} cannot be written ({error.strerror}).") from error


def _begins(line: str, name: str) -> bool:
    return re.match(rf"""\s*(["']?){re.escape(name)}\1\s*=""", line) is not None


def _end(lines: Sequence[str], start: int) -> int:
    """Behind the last line of a value, which a list or a long text spreads over several."""
    for end in range(start + 1, len(lines) + 1):
        with suppress(tomllib.TOMLDecodeError):
            tomllib.loads("".join(lines[start:end]))
            return end
    return len(lines)


def _comment(entry: str) -> str:
    """What is said behind a value of one line, with the space before it."""
    whole, line = tomllib.loads(entry), entry.rstrip("\n")
    if "\n" in line:
        return ""
    for at in (number for number, letter in enumerate(line) if letter == "#"):
        with suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(line[:at]) == whole:
                space = len(line[:at]) - len(line[:at].rstrip())
                return line[at - space :]
    return ""
