"""A table put into somebody else's TOML file, or taken out: as text, so that all the rest stays as it is."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip2tools.cli.jsonfile import nested
from blip2tools.cli.textfile import BOM, Edit, read
from blip2tools.errors import InvalidInputError

_TABLE = re.compile(r"^[ \t]*\[\[?[ \t]*([^\[\]\n]+?)[ \t]*\]\]?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def plan_table(path: Path, keys: Sequence[str], value: dict[str, Any] | None) -> Edit:
    """The change that makes `value` the table at `keys`, or takes that table out where there is no value.

    Raises:
        InvalidInputError: the file cannot be read, is not TOML, or has the table in a form that this cannot change.
    """
    path = path.resolve()
    before = read(path)
    text = (before or "").removeprefix(BOM)
    document = _parse(text, path)
    here: Any = document
    for key in keys[:-1]:
        here = here.get(key) if isinstance(here, dict) else None
    there = here.get(keys[-1]) if isinstance(here, dict) else None
    if there == value:
        return Edit(path, before, before)
    after = _without_table(text, keys)
    if value is not None:
        newline = "\r\n" if "\r\n" in text else "\n"
        gap = "" if not after.strip() else newline if after.endswith("\n") else newline * 2
        after += gap + _written(keys, value).replace("\n", newline)
    wanted = _without(document, keys) if value is None else _merged(_without(document, keys), nested(keys, value))
    try:
        found = tomllib.loads(after)
    except tomllib.TOMLDecodeError:
        found = None
    if found is None or _filled(found) != _filled(wanted):
        raise InvalidInputError(
            f"{path} has {'.'.join(keys)} in a form that this command cannot change, and was left alone; --print shows the entry."
        )
    return Edit(path, before, after)


def table(keys: Sequence[str], value: dict[str, Any]) -> str:
    """The table as it is pasted into a file."""
    return _written(keys, value)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not valid TOML and was left alone; repair it first.") from error


def _written(keys: Sequence[str], value: dict[str, Any]) -> str:
    lines = [f"[{'.'.join(keys)}]"]
    # A JSON string or list of strings is a TOML one, but for DEL, which no path has.
    lines += [
        f"{key} = {json.dumps(one, ensure_ascii=False)}" for key, one in value.items() if not isinstance(one, dict)
    ]
    for key, one in value.items():
        if isinstance(one, dict):
            lines += ["", _written([*keys, key], one).rstrip("\n")]
    return "\n".join(lines) + "\n"


def _without_table(text: str, keys: Sequence[str]) -> str:
    """The text without the table and those below it, up to the next header, comments above which stay."""
    headers = [(found.start(), _names(found[1])) for found in _TABLE.finditer(text)]
    ends = [*(start for start, _ in headers[1:]), len(text)][: len(headers)]
    kept = text[: headers[0][0]] if headers else text
    for (start, names), end in zip(headers, ends, strict=True):
        part = text[start:end]
        if names[: len(keys)] == list(keys):
            # What stands after an empty line belongs to what follows.
            *_, last = re.split(r"\r?\n[ \t]*\r?\n", part)
            part = last if len(part) > len(last) and all(line[:1] in ("", "#") for line in last.splitlines()) else ""
        kept += part
    if headers and headers[-1][1][: len(keys)] == list(keys):  # the empty line before it goes, too
        kept = kept.rstrip() + ("\r\n" if "\r\n" in text else "\n")
    return kept if kept.strip() else ""


def _names(header: str) -> list[str]:
    return [bare or quoted[1:-1] for quoted, bare in re.findall(r"(\"[^\"]*\"|'[^']*')|([^.\s\"']+)", header)]


def _without(document: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    if len(keys) == 1:
        return {key: one for key, one in document.items() if key != keys[0]}
    inner = document.get(keys[0])
    return document | ({keys[0]: _without(inner, keys[1:])} if isinstance(inner, dict) else {})


def _merged(document: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, one in more.items():
        there = merged.get(key)
        merged[key] = _merged(there, one) if isinstance(there, dict) and isinstance(one, dict) else one
    return merged


def _filled(document: dict[str, Any]) -> dict[str, Any]:
    """Without tables that are empty: whether one is written down makes no difference."""
    return {
        key: filled for key, one in document.items() if (filled := _filled(one) if isinstance(one, dict) else one) != {}
    }
