"""An entry put into a map of somebody else's YAML file, or taken out: as text, so that comments and all the rest stay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from blip2tools.cli.textfile import BOM, Edit, read
from blip2tools.errors import InvalidInputError

_STEP = "  "


def plan_entry(path: Path, keys: tuple[str, str], value: dict[str, Any] | None) -> Edit:
    """The change that makes `value` the entry `keys[1]` of the map `keys[0]`, or takes it out where there is no value.

    Raises:
        InvalidInputError: the file cannot be read, is not YAML, or has the map in a form that this cannot change.
    """
    path = path.resolve()
    before = read(path)
    text = (before or "").removeprefix(BOM)
    document = _parse(text, path)
    outer, name = keys
    there = document.get(outer)
    if not isinstance(there, dict | None):
        raise InvalidInputError(f"'{outer}' in {path} is not a map, and the file was left alone.")
    if (there or {}).get(name) == value:
        return Edit(path, before, before)
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = _without_entry(text.splitlines(keepends=True), outer, name)
    if value is not None:
        lines = _with_entry(lines, outer, name, value, newline)
    after = "".join(lines)
    entries = {key: one for key, one in (there or {}).items() if key != name} | ({} if value is None else {name: value})
    if not _same(after, document | {outer: entries}):
        raise InvalidInputError(
            f"{path} has '{outer}' in a form that this command cannot change, and was left alone; --print shows the entry."
        )
    return Edit(path, before, after)


def entry(keys: tuple[str, str], value: dict[str, Any]) -> str:
    """The entry as it is pasted into a file."""
    return f"{keys[0]}:\n" + "".join(_written(keys[1], value, _STEP, "\n"))


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not valid YAML and was left alone; repair it first.") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInputError(f"{path} does not hold a map, and was left alone.")
    return document


def _same(text: str, wanted: dict[str, Any]) -> bool:
    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        return False
    # A map without entries may have gone, or be written as nothing.
    return {key: one for key, one in found.items() if one} == {key: one for key, one in wanted.items() if one}


def _written(name: str, value: dict[str, Any], indent: str, newline: str) -> list[str]:
    """Lines of one entry. JSON's strings and lists are YAML's, whatever is in them."""
    lines = [f"{indent}{name}:{newline}"]
    return lines + [
        f"{indent}{_STEP}{key}: {json.dumps(one, ensure_ascii=False)}{newline}" for key, one in value.items()
    ]


def _with_entry(lines: list[str], outer: str, name: str, value: dict[str, Any], newline: str) -> list[str]:
    at = _line_of(lines, outer)
    if at is None:
        if lines and not lines[-1].endswith("\n"):
            lines = [*lines[:-1], lines[-1] + newline]
        return [*lines, f"{outer}:{newline}", *_written(name, value, _STEP, newline)]
    # `outer: {}` and the like: an empty map becomes one with an entry.
    head = re.sub(r":[ \t]*(?:\{[ \t]*\}|null|~)(?=[ \t]*(?:#|\r?\n|$))", ":", lines[at], count=1)
    head = head if head.endswith("\n") else head + newline
    children = [line for line in lines[at + 1 : _end(lines, at)] if line.strip() and not line.lstrip().startswith("#")]
    indent = re.match(r"[ \t]*", children[0])[0] if children else _STEP  # type: ignore[index]
    return [*lines[:at], head, *_written(name, value, indent or _STEP, newline), *lines[at + 1 :]]


def _without_entry(lines: list[str], outer: str, name: str) -> list[str]:
    at = _line_of(lines, outer)
    if at is None:
        return lines
    for number in range(at + 1, _end(lines, at)):
        found = re.match(
            rf"([ \t]+)(?:{re.escape(name)}|\"{re.escape(name)}\"|'{re.escape(name)}')[ \t]*:", lines[number]
        )
        if found:
            return lines[:number] + lines[_end(lines, number, len(found[1])) :]
    return lines


def _line_of(lines: list[str], outer: str) -> int | None:
    return next((number for number, line in enumerate(lines) if re.match(rf"{re.escape(outer)}[ \t]*:", line)), None)


def _end(lines: list[str], at: int, depth: int = 0) -> int:
    """The line behind the last one that is indented deeper than the one at `at`; comments below belong to what follows."""
    end = at + 1
    for number in range(at + 1, len(lines)):
        line = lines[number]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) - len(line.lstrip()) <= depth:
            break
        end = number + 1
    return end
