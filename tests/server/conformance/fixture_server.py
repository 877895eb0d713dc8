"""Our server with the tools, prompts and resources that the official conformance suite asks for by name.

    python -m tests.server.conformance.fixture_server serve --http ...

The suite's scenarios call fixtures such as `test_image_content`, which a product has no use for. Here they stand beside our
own entries, in the same server and behind the same HTTP application, so that what carries them is what carries ours: a
result with an image, a progress notification, a question to the client, a refused capability, a tampered state.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    ListPromptsResult,
    ListToolsResult,
    ReadResourceRequestParams,
    ReadResourceResult,
)

from blip2tools import Vision
from blip2tools.cli import main
from blip2tools.server.http import app
from blip2tools.server.mcp import build_server

Answer = CallToolResult | InputRequiredResult
Call = Callable[[ServerRequestContext[Any], CallToolRequestParams], Awaitable[Answer]]

STATE_KEY = os.urandom(32)


def _png() -> str:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _wav() -> str:
    """Eight silent samples."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", 8) + b"\x80" * 8
    return base64.b64encode(b"RIFF" + struct.pack("<I", len(body)) + body).decode()


TEXT = {"type": "text", "text": "This is a simple text response for testing."}
PICTURE = {"type": "image", "data": _png(), "mimeType": "image/png"}
SOUND = {"type": "audio", "data": _wav(), "mimeType": "audio/wav"}


def _embedded(uri: str, text: str, mime: str = "text/plain") -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": text}}


# ---- tools that only answer ----

CONTENTS: dict[str, list[dict[str, Any]]] = {
    "test_simple_text": [TEXT],
    "test_image_content": [PICTURE],
    "test_audio_content": [SOUND],
    "test_embedded_resource": [_embedded("test://embedded-resource", "This is an embedded resource content.")],
    "test_multiple_content_types": [
        {"type": "text", "text": "Multiple content types test:"},
        PICTURE,
        _embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ],
}


def _says(content: list[dict[str, Any]], *, error: bool = False) -> CallToolResult:
    return CallToolResult.model_validate({"content": content, "isError": error})


async def _fail(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    return _says([{"type": "text", "text": "This tool intentionally returns an error for testing"}], error=True)


async def _progress(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100)
        await asyncio.sleep(0.05)
    return _says([TEXT])


async def _needs_sampling(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
    capabilities = context.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs a client that declares sampling.",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return _says([TEXT])


# ---- tools that ask the client back ----


def _form(message: str, name: str, kind: str = "string") -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def _sample(text: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": {"type": "text", "text": text}}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": tokens}}


ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}
ROUNDS: dict[str, list[dict[str, Any]]] = {
    "test_input_required_result_elicitation": [{"user_name": _form("What is your name?", "name")}],
    "test_input_required_result_sampling": [{"capital_question": _sample("What is the capital of France?", 100)}],
    "test_input_required_result_list_roots": [{"client_roots": ROOTS}],
    "test_input_required_result_request_state": [{"confirm": _form("Please confirm", "ok", "boolean")}],
    "test_input_required_result_tampered_state": [{"confirm": _form("Please confirm", "ok", "boolean")}],
    "test_input_required_result_multiple_inputs": [
        {
            "user_name": _form("What is your name?", "name"),
            "greeting": _sample("Generate a greeting", 50),
            "client_roots": ROOTS,
        }
    ],
    "test_input_required_result_multi_round": [
        {"step1": _form("Step 1: What is your name?", "name")},
        {"step2": _form("Step 2: What is your favorite color?", "color")},
    ],
    "test_input_required_result_capabilities": [
        {"user_name": _form("What is your name?", "name"), "greeting": _sample("Generate a greeting", 50)}
    ],
}


def _sealed(tool: str, number: int) -> str:
    text = f"{tool}:{number}"
    return f"{text}:{hmac.new(STATE_KEY, text.encode(), hashlib.sha256).hexdigest()}"


def _round_of(tool: str, state: str | None) -> int:
    """Which round the echoed state names; an altered one is refused."""
    if state is None:
        return 0
    for number in range(len(ROUNDS[tool]) + 1):
        if hmac.compare_digest(state.encode(), _sealed(tool, number).encode()):
            return number
    raise MCPError(INVALID_PARAMS, "The request state is not one of this server's.")


def _allowed(context: ServerRequestContext[Any], method: str) -> bool:
    declared = context.session.client_capabilities
    if declared is None:
        return True
    wanted = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}[method]
    return getattr(declared, wanted) is not None


async def _ask_back(context: ServerRequestContext[Any], params: CallToolRequestParams) -> Answer:
    asked = _round_of(params.name, params.request_state)
    rounds = ROUNDS[params.name]
    answered = params.input_responses or {}
    # A client that sends other keys, or none, is asked the same again.
    if answered and set(rounds[min(asked, len(rounds) - 1)]) <= set(answered):
        asked += 1
    if asked >= len(rounds):
        return _says([{"type": "text", "text": f"state-ok: {json.dumps(sorted(answered))}"}])
    requests = rounds[asked]
    if params.name.endswith("capabilities"):
        requests = {key: value for key, value in requests.items() if _allowed(context, value["method"])}
    return InputRequiredResult.model_validate(
        {"resultType": "input_required", "inputRequests": requests, "requestState": _sealed(params.name, asked)}
    )


# ---- the catalogue ----

NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS: dict[str, dict[str, Any]] = {
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
    "test_custom_headers": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
        "additionalProperties": False,
    },
}
CALLS: dict[str, Call] = {
    "test_error_handling": _fail,
    "test_tool_with_progress": _progress,
    "test_missing_capability": _needs_sampling,
    **dict.fromkeys(ROUNDS, _ask_back),
}
RESOURCES: dict[str, dict[str, str]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PICTURE["data"]},
}


def _messages(name: str, given: Mapping[str, str]) -> list[dict[str, Any]] | None:
    contents: dict[str, list[dict[str, Any]]] = {
        "test_simple_prompt": [{"type": "text", "text": "This is a simple prompt for testing."}],
        "test_prompt_with_arguments": [
            {
                "type": "text",
                "text": f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'",
            }
        ],
        "test_prompt_with_embedded_resource": [
            _embedded(given.get("resourceUri", ""), "Embedded resource content for testing."),
            {"type": "text", "text": "Please process the embedded resource above."},
        ],
        "test_prompt_with_image": [PICTURE, {"type": "text", "text": "Please analyze the image above."}],
    }
    found = contents.get(name)
    return None if found is None else [{"role": "user", "content": content} for content in found]


PROMPTS: dict[str, list[str]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


def fixture_server(vision: Vision, *, shared: bool = False) -> Server[Any]:
    """Our server with the suite's fixtures beside our own entries."""
    server = build_server(vision, shared=shared)
    _add_tools(server)
    _add_prompts(server)
    _add_resources(server)
    return server


def _ours(server: Server[Any], method: str) -> tuple[Any, Callable[[Any, Any], Awaitable[Any]]]:
    """The kind of parameters and the handler of the product."""
    entry = server.get_request_handler(method)
    assert entry is not None
    return entry.params_type, entry.handler


def _add_tools(server: Server[Any]) -> None:
    list_params, list_tools = _ours(server, "tools/list")
    call_params, call_tool = _ours(server, "tools/call")

    async def all_tools(context: Any, params: Any) -> ListToolsResult:
        names = [*CONTENTS, *CALLS, *SCHEMAS]
        tools = [
            {"name": name, "description": "A fixture of the suite.", "inputSchema": SCHEMAS.get(name, NOTHING)}
            for name in names
        ]
        mine = await list_tools(context, params)
        return ListToolsResult(tools=[*mine.tools, *ListToolsResult.model_validate({"tools": tools}).tools])

    async def any_tool(context: Any, params: CallToolRequestParams) -> Answer:
        if params.name in CONTENTS:
            return _says(CONTENTS[params.name])
        if params.name in SCHEMAS:
            return _says([TEXT])
        answer: Answer = await CALLS.get(params.name, call_tool)(context, params)
        return answer

    server.add_request_handler("tools/list", list_params, all_tools)
    server.add_request_handler("tools/call", call_params, any_tool)


def _add_prompts(server: Server[Any]) -> None:
    list_params, list_prompts = _ours(server, "prompts/list")
    get_params, get_prompt = _ours(server, "prompts/get")

    async def all_prompts(context: Any, params: Any) -> ListPromptsResult:
        prompts = [
            {
                "name": name,
                "description": "A fixture of the suite.",
                "arguments": [{"name": argument, "required": True} for argument in arguments],
            }
            for name, arguments in PROMPTS.items()
        ]
        mine = await list_prompts(context, params)
        fixtures = ListPromptsResult.model_validate({"prompts": prompts})
        return ListPromptsResult(prompts=[*mine.prompts, *fixtures.prompts])

    async def any_prompt(context: Any, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        if params.name == "test_input_required_result_prompt":
            if not params.input_responses:
                asked = {"user_context": _form("What context should the prompt use?", "context")}
                return InputRequiredResult.model_validate({"inputRequests": asked})
            return GetPromptResult.model_validate({"messages": _messages("test_simple_prompt", {})})
        messages = _messages(params.name, params.arguments or {})
        if messages is None:
            mine: GetPromptResult = await get_prompt(context, params)
            return mine
        return GetPromptResult.model_validate({"messages": messages})

    server.add_request_handler("prompts/list", list_params, all_prompts)
    server.add_request_handler("prompts/get", get_params, any_prompt)


def _add_resources(server: Server[Any]) -> None:
    read_params, read_resource = _ours(server, "resources/read")

    async def any_resource(context: Any, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        content = RESOURCES.get(uri)
        if found := re.fullmatch(r"test://template/(\w+)/data", uri):
            text = json.dumps({"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"})
            content = {"mimeType": "application/json", "text": text}
        if content is None:
            mine: ReadResourceResult = await read_resource(context, params)
            return mine
        return ReadResourceResult.model_validate({"contents": [{"uri": uri, **content}]})

    server.add_request_handler("resources/read", read_params, any_resource)


if __name__ == "__main__":
    app.build_server = fixture_server
    sys.exit(main())
