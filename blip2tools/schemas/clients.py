"""What clients do to a model's arguments on their way to a tool, undone. The model's own mistakes stay as they are.

Frameworks add names of their own, write null or an empty value where nothing was given, turn every number into a float and
arrays into strings of JSON. A model can mend none of that. What it wrote itself stays strict: `"5"` is no number, and an
unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import from_json

from blip2tools.schemas.arguments import has_too_many_parts

ADDED_BY_CLIENTS: Final[Mapping[str, str]] = {
    "toolCallId": "n8n: github.com/n8n-io/n8n/issues/21500",
    "sessionId": "n8n, likewise",
    "action": "n8n, likewise",
    "chatInput": "n8n, likewise",
    "tool": "n8n, likewise",
    "random_string": "Cursor, for tools without arguments: github.com/mondaycom/mcp/pull/15",
    "task_progress": "Cline: github.com/cline/cline/issues/9684",
    "wait_for_previous": "Gemini CLI, which puts it into every tool's schema: seen in @google/gemini-cli-core 0.61.0",
}
"""Arguments that no model wrote, and who adds them. They are dropped where a tool has no argument of that name."""

_EMPTY: Final[tuple[Any, ...]] = ("", [], {})


def as_written(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as the model meant them, to be judged by the strict models.

    Args:
        arguments: as they came.
        schema: what the tool is shown as, see `wire.input_schema`.
    """
    names = schema.get("properties", {})
    kept = {name: value for name, value in arguments.items() if name in names or name not in ADDED_BY_CLIENTS}
    return _object(kept, schema)


def _object(value: Mapping[Any, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    names, required = schema.get("properties", {}), schema.get("required", ())
    found = {}
    for name, given in value.items():
        one = _fitted(given, names[name]) if name in names else given
        if name in required or name not in names or not _is_nothing(one):
            found[name] = one
    return found


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and value in _EMPTY)


def _fitted(value: Any, schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if isinstance(value, str) and kind in ("array", "object"):
        value = _parsed(value)
    if kind == "array" and isinstance(value, list | tuple):
        items = schema.get("items", {})
        return [_fitted(one, items) for one in value]
    if kind == "object" and isinstance(value, Mapping):
        return _object(value, schema)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # for JSON Schema 2.0 is an integer
    return value


def _parsed(text: str) -> Any:
    """An array, an object or null that a client turned into text; any other text as it is."""
    encoded = text.encode(errors="surrogatepass")
    if has_too_many_parts(encoded):
        return text
    try:
        value = from_json(encoded)
    except ValueError:
        return text
    return value if value is None or isinstance(value, list | dict) else text
