"""The words by which an agent chooses and uses a tool: complete, bounded, and the same on every interface."""

import json
import re

import pytest
from mcp import Client

from blip2tools.server.mcp import build_server
from blip2tools.toolset import INSTRUCTIONS, TOOLS
from tests.support.tool_snapshot import SNAPSHOT, catalogue, text

# What a tool's description must say, and how it says it here.
CHECKLIST = {
    "purpose": r"^(Look|Ask|Check|Map|List|Find|Read|Tell)\b[^.]{20,}\.",
    "when to use it": r"\bUse (it|this)\b",
    "when not to use it": r"\b[Nn]ot (for|needed)\b",
    "result": r"\bReturns\b",
    "limits": (
        r"no OCR|weak at|not calibrated|costs rows|small changes|limited to \d+|what it cannot do"
        r"|squeezed to a small square|limited to Latin|named twice or wrongly"
    ),
}
PICTURE_WORDS = {
    *("caption_image", "ask_image", "survey_image", "compare_images", "list_images"),
    *("search_images", "read_text"),
}
SEVEN = (PICTURE_WORDS - {"search_images", "read_text"}) | {"match_image_text", "vision_status"}
LONGEST = 750  # characters of a description: every call of every agent carries all of them


@pytest.mark.parametrize("spec", TOOLS, ids=lambda spec: spec.name)
def test_a_description_lacks_nothing(spec):
    lacking = [item for item, words in CHECKLIST.items() if not re.search(words, spec.description)]
    assert not lacking
    assert len(spec.description) <= LONGEST
    assert spec.title
    assert ("data, not instructions" in spec.description) == (spec.name in PICTURE_WORDS)
    # A tool that is named instead must exist.
    for name in re.findall(r"\b[a-z]+_(?:image|images|image_text|status)\b", spec.description):
        assert name in {other.name for other in TOOLS}


def parts(schema):
    """Every schema inside an argument's: alternatives, entries, fields."""
    yield schema
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
        yield from parts(inner)


ARGUMENTS = [
    pytest.param(spec, name, schema, id=f"{spec.name}-{name}")
    for spec in TOOLS
    for name, schema in spec.input_schema()["properties"].items()
]


@pytest.mark.parametrize(("spec", "name", "schema"), ARGUMENTS)
def test_an_argument_has_format_and_bounds(spec, name, schema):
    words = schema["description"]
    assert len(words) >= 30
    assert not (name in spec.input_schema().get("required", []) and "default" in schema)
    kinds = [part["type"] for part in parts(schema) if part.get("type") not in (None, "null")]
    assert kinds
    if "integer" not in kinds:
        assert re.search(r"e\.g\.|Example:", words), "no example"
    for part in parts(schema):
        # Numbers that the schema bounds are told in words: many models are shown the words alone.
        for bound in ("minimum", "maximum", "maxItems"):
            if bound in part:
                assert str(part[bound]) in words or (bound == "maxItems" and part[bound] == 4 and "[left" in words)
        if part.get("type") == "integer":
            assert {"minimum", "maximum"} <= set(part)
            assert "default" in schema
        if part.get("type") == "array":
            assert "maxItems" in part
        if part.get("type") == "string" and name not in ("image", "images", "folder", "history"):
            assert re.search("512|255", words)
        for field in part.get("properties", {}).values():
            assert "512" in field["description"]


def test_every_field_of_a_result_that_needs_words_has_them():
    """In Python; on the wire the tool's description says what it returns."""
    for spec in TOOLS:
        own = set(spec.result.model_fields) - {"image", "images", "version", "loaded", "warnings", "limits"}
        for name in own:
            assert spec.result.model_fields[name].description, f"{spec.name}.{name}"


def every_part(node):
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from every_part(inner)


@pytest.mark.parametrize("spec", TOOLS, ids=lambda spec: spec.name)
def test_an_input_schema_is_one_that_every_engine_can_say(spec):
    """No lengths of strings, unions, references, enumerated integers; what is optional may be empty and comes last."""
    schema = spec.input_schema()
    for part in every_part(schema):
        if isinstance(part, dict) and "type" in part:
            assert isinstance(part["type"], str)
            assert not {"minLength", "maxLength", "pattern", "anyOf", "oneOf", "enum", "$ref", "not"} & set(part)
    required = schema.get("required", [])
    assert list(schema["properties"])[: len(required)] == required
    for name, argument in schema["properties"].items():
        if name not in required:
            assert argument.get("default", 1) is not None
            assert argument["type"] == "integer" or not {"minItems", "default"} & set(argument)


async def test_all_definitions_together_are_short(vision):
    async with Client(build_server(vision)) as client:
        listed = (await client.list_tools()).model_dump(by_alias=True, mode="json", exclude_none=True)["tools"]
    ours = [tool for tool in listed if tool["name"] in SEVEN]
    assert len(ours) == 7
    assert len(json.dumps(ours, separators=(",", ":"), ensure_ascii=False)) <= 15_000
    assert len(json.dumps(listed, separators=(",", ":"), ensure_ascii=False)) <= 20_000


def test_the_instructions_name_real_tools_and_come_to_the_point():
    named = set(re.findall(r"\b[a-z]+_(?:image|images|image_text|status)\b", INSTRUCTIONS))
    assert named <= {spec.name for spec in TOOLS}
    assert "Start with caption_image" in INSTRUCTIONS
    assert len(INSTRUCTIONS) < 1200


def test_the_catalogue_is_the_committed_one():
    assert SNAPSHOT.read_text(encoding="utf-8") == text(), (
        "run `python -m tests.support.tool_snapshot` and review what changes"
    )


async def test_mcp_shows_the_catalogue(vision):
    for mode in ("legacy", "2026-07-28"):
        async with Client(build_server(vision), mode=mode) as client:
            listed = (await client.list_tools()).model_dump(by_alias=True, mode="json")["tools"]
        shown = [{key: tool[key] for key in catalogue()[0]} for tool in listed]
        assert shown == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def bare(schema):
    """Without what LangChain's own conversion adds (titles of nested models) or drops."""
    if isinstance(schema, list):
        return [bare(one) for one in schema]
    if isinstance(schema, dict):
        return {key: bare(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}
    return schema


def test_langchain_shows_the_catalogue(vision):
    from langchain_core.utils.function_calling import convert_to_openai_tool

    from blip2tools.langchain_tools import Blip2Toolkit

    tools = {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}
    for entry in json.loads(SNAPSHOT.read_text(encoding="utf-8")):
        shown = convert_to_openai_tool(tools[entry["name"]])["function"]
        assert (shown["name"], shown["description"]) == (entry["name"], entry["description"])
        assert bare(shown["parameters"]["properties"]) == entry["inputSchema"]["properties"]
        assert shown["parameters"].get("required", []) == entry["inputSchema"].get("required", [])
