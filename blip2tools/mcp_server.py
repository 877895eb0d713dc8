"""The catalogue as an MCP server.

The low-level server over our own schemas: the high-level one coerces types and ignores unknown arguments.
Standard output belongs to the protocol, and nothing here imports torch: the handshake must not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
from typing import Any, BinaryIO

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from blip2tools import __version__
from blip2tools.errors import VisionError
from blip2tools.toolset import INSTRUCTIONS, TOOLS, ToolSpec, call
from blip2tools.vision import Vision

ERROR_CODE_KEY = "blip2tools/code"  # in `_meta` of a failed result: structured content there breaks older clients


def build_server(vision: Vision, *, shared: bool = False) -> Server[Any]:
    """An MCP server over `vision`, for any transport; the server does not close it.

    Args:
        shared: several clients on other machines may use it: no full path of a folder, and nobody else's handle, is told.
    """
    eyes = vision.for_tools(reveal_folders=not shared, reveal_handles=not shared)
    folders = ", ".join(eyes.status().limits.allowed_folders)
    places = f"Pictures may come from these folders: {folders}." if folders else "No folder is open for pictures."

    async def list_tools(context: object, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_describe(spec, open_world=vision.settings.allow_urls) for spec in TOOLS])

    async def call_tool(context: object, params: CallToolRequestParams) -> CallToolResult:
        try:
            result = await call(eyes, params.name, params.arguments)
        except VisionError as error:
            return CallToolResult(
                content=[TextContent(type="text", text=str(error))],
                is_error=True,
                _meta={ERROR_CODE_KEY: error.code},
            )
        return CallToolResult(
            content=[TextContent(type="text", text=result.text_block())],
            structured_content=result.model_dump(mode="json"),
        )

    return Server(
        "blip2tools",
        version=__version__,
        title="blip2tools",
        description="Captions, answers and image-text match from a local BLIP-2 model.",
        instructions=f"{INSTRUCTIONS} {places}",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _describe(spec: ToolSpec, *, open_world: bool) -> Tool:
    return Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=spec.input_schema(),
        output_schema=spec.output_schema(),
        annotations=ToolAnnotations(
            title=spec.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=open_world,
        ),
    )


def serve_stdio(vision: Vision, *, wire: BinaryIO | None = None) -> None:
    """Serve one client over standard input and output until the input ends; then `vision` is closed.

    SIGINT and SIGTERM end the process, with status 128 + the signal's number, also in the middle of a call.

    Args:
        wire: where the protocol goes, from `claim_stdout()`. Given, nothing else can reach it.
    """
    try:
        asyncio.run(_serve(vision, wire if wire is not None else claim_stdout()))
    finally:
        vision.close()


def claim_stdout() -> BinaryIO:
    """Keep standard output for the protocol: from here on, whatever writes to descriptor 1 lands on standard error.

    Called before heavy imports: a library that prints when it is imported, or a C extension, would break the
    framing. It stays so until the process ends, since prints at exit are as harmful.
    """
    sys.stdout.flush()
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return wire


async def _serve(vision: Vision, wire: BinaryIO) -> None:
    _end_on_signals(vision)
    output = anyio.wrap_file(io.TextIOWrapper(wire, encoding="utf-8", newline="\n", write_through=True))
    async with stdio_server(stdout=output) as (read, write):
        server = build_server(vision)
        await server.run(read, write, server.create_initialization_options())


def _end_on_signals(vision: Vision) -> None:
    def end(number: int) -> None:
        # A thread is blocked in reading standard input, and neither cancellation nor the interpreter's own end would get
        # past it before the client sends another line.
        vision.close()
        logging.shutdown()
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows' event loop knows no signal handlers; there the default action ends the process.
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
