"""The tools through the converters of LangChain and of its partner packages: nothing is lost before the model.

The partner packages are no dependency of anything here; where they are not installed, their tests are skipped.
"""

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

from blip2tools import Vision
from blip2tools.langchain_tools import Blip2Toolkit
from blip2tools.toolset import BY_NAME


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    with Vision.load(model="demo", allowed_dirs=(tmp_path_factory.mktemp("pictures"),), preload=False) as vision:
        yield Blip2Toolkit(vision).get_tools()


def kinds(schema):
    return {name: one["type"] for name, one in schema["properties"].items()}


def test_openai(tools):
    for tool in tools:
        wanted = BY_NAME[tool.name].input_schema()
        shown = convert_to_openai_tool(tool)["function"]
        assert (shown["name"], shown["description"]) == (tool.name, BY_NAME[tool.name].description)
        assert shown["parameters"] == wanted
        strict = convert_to_openai_tool(tool, strict=True)["function"]
        assert strict["strict"] is True
        assert strict["parameters"]["additionalProperties"] is False
        assert kinds(strict["parameters"]) == kinds(wanted)


def test_anthropic(tools):
    anthropic = pytest.importorskip("langchain_anthropic.chat_models")
    for tool in tools:
        shown = anthropic.convert_to_anthropic_tool(tool)
        assert shown["input_schema"] == BY_NAME[tool.name].input_schema()
        assert shown["description"] == BY_NAME[tool.name].description


def test_google(tools):
    google = pytest.importorskip("langchain_google_genai._function_utils")
    for tool in tools:
        wanted = BY_NAME[tool.name].input_schema()
        declared = google.convert_to_genai_function_declarations([tool])
        (declared,) = getattr(declared, "function_declarations", declared)  # since 4.0 a list
        declared = getattr(declared, "function_declarations", [declared])[0]
        assert (declared.name, declared.description) == (tool.name, BY_NAME[tool.name].description)
        if not wanted["properties"]:
            continue
        assert sorted(declared.parameters.required or []) == sorted(wanted.get("required", []))
        for name, one in wanted["properties"].items():
            found = declared.parameters.properties[name]
            assert found.type.name == one["type"].upper()
            if one["type"] == "array":
                assert found.items.type.name == one["items"]["type"].upper()
