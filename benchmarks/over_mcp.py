"""The product's tools as a LangChain agent gets them from the official MCP client: schemas, texts and failures off the wire."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from mcp import Client, StdioServerParameters


@asynccontextmanager
async def tools_over_mcp(folder: Path) -> AsyncIterator[list[BaseTool]]:
    """Start a server over stdio that may read one folder, with the demo checkpoint, and hand out its tools.

    Args:
        folder: the folder of the pictures, absolute.

    Yields:
        A LangChain tool for each tool that the server lists. The server ends with the context.
    """
    words = ["-m", "blip2tools", "serve", "--model", "demo", "--allow-dir", str(folder), "--threads", "1"]
    async with Client(StdioServerParameters(command=sys.executable, args=[*words, "--preload"])) as client:
        yield [_tool(client, listed) for listed in (await client.list_tools()).tools]


def _tool(client: Client, listed: Any) -> BaseTool:
    async def run(**arguments: Any) -> str:
        said = await client.call_tool(listed.name, arguments)
        text = "\n".join(block.text for block in said.content if block.type == "text")
        if said.is_error:
            raise ToolException(text)
        return text

    return StructuredTool(
        name=listed.name,
        description=listed.description,
        args_schema=listed.input_schema,
        coroutine=run,
        handle_tool_error=True,
    )
