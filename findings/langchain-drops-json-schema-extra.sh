#!/usr/bin/env bash
# Versions: langchain-core 1.7.2, pydantic 2.14.3 (PyPI, Python 3.11).
#
# Behaviour: a tool whose `args_schema` is a pydantic model is shown to chat models through a copy of that model, made field by field.
# What a field's `json_schema_extra` does to its schema (here: an optional argument as its plain type) is lost in the copy, while
# constraints in the annotation stay: the schema that a model gets differs from `args_schema.model_json_schema()`. A tool whose
# `args_schema` is a dict is shown as it is.
#
# Seen on 2026-11-27: the model's own schema {'type': 'string'}, LangChain's {'anyOf': [{'type': 'string'}, {'type': 'null'}]}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet langchain-core==1.7.2 pydantic==2.14.3 > pip.log 2>&1
venv/bin/python - <<'PY'
from langchain_core.tools import StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field

def plain(schema):
    schema["type"] = schema.pop("anyOf")[0]["type"]

class Arguments(BaseModel):
    folder: str | None = Field(None, json_schema_extra=plain)

def shown(schema):
    tool = StructuredTool.from_function(func=lambda **given: "", name="look", description="Look.", args_schema=schema)
    return convert_to_openai_tool(tool)["function"]["parameters"]["properties"]["folder"]

own = Arguments.model_json_schema()
print("own:", own["properties"]["folder"], "LangChain's:", shown(Arguments), "from a dict:", shown(own))
assert own["properties"]["folder"]["type"] == "string"
assert "type" not in shown(Arguments)
assert shown(Arguments)["anyOf"] == [{"type": "string"}, {"type": "null"}]
assert shown(own)["type"] == "string"
PY
