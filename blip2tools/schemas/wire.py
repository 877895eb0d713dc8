"""JSON Schemas for clients: flat, short, and such that every grammar engine can write every valid call.

Local servers hold a model's tool calls to the schema by a grammar, and they treat keywords differently. So a schema here
has no string lengths (with them xgrammar allows no escapes, and others unroll them), no unions with null (node-llama-cpp
keeps only the null), and no minimum length of an optional array (engines that always write every property need `[]`). An
optional argument is its plain type, and its empty value means "not given". The models in `arguments` judge all bounds.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, cast

from pydantic import BaseModel

_LENGTHS = ("minLength", "maxLength")


def input_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's arguments, required ones first."""
    return deepcopy(shared_input_schema(model))


@cache
def shared_input_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The same, shared between callers, who must not change it."""
    return cast("dict[str, Any]", _sayable(_flat(model.model_json_schema(mode="validation"))))


def output_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a tool's structured result: names, types and bounds; the tool's description explains them."""
    return cast("dict[str, Any]", _bare(_flat(model.model_json_schema(mode="serialization"))))


def _flat(schema: dict[str, Any]) -> Any:
    """The schema without `$ref`, which some clients do not follow, and without the titles that pydantic makes from names."""
    definitions = schema.pop("$defs", {})
    schema.pop("description", None)  # the class's docstring: for readers of the code

    def resolve(node: Any, *, named: bool = False) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = dict(definitions[node["$ref"].rsplit("/", 1)[-1]])
            target.pop("description", None)
            return resolve({**target, **{key: value for key, value in node.items() if key != "$ref"}})
        # Inside `properties` every key is the name of a field, even "title".
        return {
            key: resolve(value, named=key == "properties") for key, value in node.items() if named or key != "title"
        }

    return resolve(schema)


def _sayable(node: Any) -> Any:
    if isinstance(node, list):
        return [_sayable(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _sayable(value) for key, value in node.items() if key not in _LENGTHS}
    if isinstance(properties := found.get("properties"), dict):
        required = found.get("required", [])
        first = sorted(properties, key=lambda name: name not in required)  # stable
        found["properties"] = {
            name: properties[name] if name in required else _optional(properties[name]) for name in first
        }
    return found


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """An optional argument's schema as its plain type."""
    kinds = [kind for kind in schema.pop("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) == 1:
        schema = {**kinds[0], **schema}
    if schema.get("default", 0) is None:
        del schema["default"]
    schema.pop("minItems", None)
    return schema


def _bare(node: Any, *, named: bool = False, inside: bool = False) -> Any:
    """Names, types and bounds alone; `required` is kept only for the result's own fields."""
    if isinstance(node, list):
        return [_bare(item, inside=inside) for item in node]
    if not isinstance(node, dict):
        return node
    left_out = () if named else ("description", "default", "additionalProperties", *(("required",) if inside else ()))
    return {
        key: _bare(value, named=key == "properties" and not named, inside=inside or named)
        for key, value in node.items()
        if key not in left_out
    }
