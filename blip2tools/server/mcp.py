"""The catalogue as an MCP server.

The low-level server over our own schemas: the high-level one coerces types and ignores unknown arguments.
Standard output belongs to the protocol, and nothing here imports torch: the handshake must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    Icon,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import ValidationError

from blip2tools.__version__ import __version__
from blip2tools.call import CALLER, Listener, heard_by
from blip2tools.errors import VisionError, to_vision_error
from blip2tools.launcher.catalogue import places_of
from blip2tools.launcher.wire import longest_line
from blip2tools.server import prompts
from blip2tools.server.resources import Resources
from blip2tools.settings import Settings
from blip2tools.toolset import INSTRUCTIONS, TOOLS, Told, ToolSpec, call
from blip2tools.vision import Vision

ERROR_CODE_KEY = "blip2tools/code"  # in `_meta` of a failed result: structured content there breaks older clients

# An eye. Small, since the 2026-07-28 revision repeats it in every result.
ICON = Icon(
    src="data:image/svg+xml,%3Csvg%20xmlns='http://www.w3.org/2000/svg'%20viewBox='0%200%2016%2016'%3E%3Cpath%20"
    "fill='%2367b'%20d='M0%208q8-11%2016%200q-8%2011-16%200'/%3E%3Ccircle%20cx='8'%20cy='8'%20r='3'%20fill='%23fff'/%3E"
    "%3C/svg%3E",
    mime_type="image/svg+xml",
    sizes=["any"],
)
UNCHANGING = CacheHint(ttl_ms=3_600_000)  # these lists are fixed while a server runs


def build_server(vision: Vision, *, shared: bool = False, listed: Callable[[], object] | None = None) -> Server[Any]:
    """An MCP server over `vision`, for any transport; the server does not close it.

    Args:
        shared: several clients on other machines may use it: full paths of folders and other clients' handles are hidden.
        listed: called when a client asks for the tools.
    """
    eyes = vision.for_tools(reveal_folders=not shared, reveal_handles=not shared)
    places = places_of(eyes.status().limits.allowed_folders)

    resources = Resources(eyes, private=not shared)
    told = Told()

    tools = [_describe(spec, urls=vision.settings.allow_urls) for spec in TOOLS]

    async def list_tools(context: object, params: PaginatedRequestParams | None) -> ListToolsResult:
        if listed is not None:
            listed()
        return ListToolsResult(tools=tools)

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        try:
            with heard_by(_progress_of(context)):
                result = await call(eyes, params.name, params.arguments, told=told, client=_client_of(context))
        except VisionError as error:
            return CallToolResult(
                content=[TextContent(type="text", text=str(error))],
                is_error=True,
                _meta={ERROR_CODE_KEY: error.code},
            )
        resources.remember(params.name, result)
        return CallToolResult(
            content=[TextContent(type="text", text=result.text_block())],
            structured_content=result.structured(),
        )

    server: Server[Any] = Server(
        "blip2tools",
        version=__version__,
        title="blip2tools",
        description="Captions, answers and image-text match from a local BLIP-2 model.",
        instructions=f"{INSTRUCTIONS} {places}",
        icons=[ICON],
        cache_hints=dict.fromkeys(("tools/list", "prompts/list", "resources/templates/list"), UNCHANGING),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=prompts.on_list,
        on_get_prompt=prompts.on_get,
        on_list_resources=resources.on_list,
        on_list_resource_templates=resources.on_templates,
        on_read_resource=resources.on_read,
        on_completion=resources.on_complete,
    )
    server.middleware.append(_in_our_words)
    return server


async def _in_our_words(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Keep foreign text from clients: the SDK sends the text of any error that it does not know (CVE-2026-22778)."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):  # the second is the SDK's own check of a request, and has fixed words there
        raise
    except Exception as error:
        raise MCPError(INTERNAL_ERROR, str(to_vision_error(error))) from error


def _client_of(context: ServerRequestContext[Any]) -> str:
    """The caller: the only client of a pipe, a session, or (in revisions without sessions) an address and a program's name."""
    headers = getattr(context.request, "headers", None)
    if headers is None:
        return ""
    if session := headers.get("mcp-session-id"):
        return str(session)
    info = context.session.client_params
    return f"{CALLER.get()} {info.client_info.name if info else ''}"


def _progress_of(context: ServerRequestContext[Any]) -> Listener:
    """Reports the progress of a request to its client, if the client asked for it."""
    last = -1.0

    async def report(what: str, done: float, total: float | None) -> None:
        nonlocal last
        # The protocol wants rising progress, and several parts of a call may wait for the model at the same time.
        if done > last:
            last = done
            await context.session.report_progress(done, total, what)

    return report


def _describe(spec: ToolSpec, *, urls: bool) -> Tool:
    takes_pictures = not {"image", "images"}.isdisjoint(spec.arguments.model_fields)
    return Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=spec.input_schema(),
        output_schema=spec.output_schema(),
        annotations=ToolAnnotations(
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=urls and takes_pictures,
        ),
    )


def largest_message(settings: Settings) -> int:
    """Bytes of the longest message that is read: one with a picture of `max_data_bytes` in its arguments."""
    return longest_line(min(settings.max_data_bytes, settings.max_image_bytes))
