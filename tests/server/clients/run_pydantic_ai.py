"""Pydantic AI."""

from fastmcp.client.transports import StdioTransport
from pydantic_ai.exceptions import ModelRetry
from pydantic_ai.mcp import MCPToolset
from talk import main, when_ready


async def talk(job):
    toolset = MCPToolset(job.url or StdioTransport(job.command, job.args))
    async with toolset:
        tools = await toolset.list_tools()
        good = await when_ready(lambda: toolset.direct_call_tool("caption_image", job.good))
        try:
            await toolset.direct_call_tool("caption_image", job.bad)
        except ModelRetry as retry:  # what its model reads
            error = str(retry)
    # It hands the structured content to its model, not the text beside it.
    return [tool.name for tool in tools], good, None, error


main(talk, "pydantic-ai-slim", "fastmcp-slim", "mcp")
