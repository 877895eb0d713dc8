"""The SDK's own client, generation 1."""

from contextlib import AsyncExitStack

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from talk import main, texts, when_ready


async def talk(job):
    async with AsyncExitStack() as stack:
        if job.url:
            read, write, _ = await stack.enter_async_context(streamable_http_client(job.url))
        else:
            read, write = await stack.enter_async_context(
                stdio_client(StdioServerParameters(command=job.command, args=job.args))
            )
        session = await stack.enter_async_context(ClientSession(read, write))
        await session.initialize()
        tools = await session.list_tools()
        good = await when_ready(lambda: session.call_tool("caption_image", job.good))
        bad = await session.call_tool("caption_image", job.bad)
        assert bad.isError
        assert not good.isError
        return [tool.name for tool in tools.tools], good.structuredContent, texts(good.content), texts(bad.content)


main(talk, "mcp")
