"""Strands Agents."""

from mcp import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from strands.tools.mcp import MCPClient
from talk import main, texts, when_ready


async def talk(job):
    def transport():
        if job.url:
            return streamable_http_client(job.url)
        return stdio_client(StdioServerParameters(command=job.command, args=job.args))

    with MCPClient(transport, startup_timeout=60) as client:
        tools = client.list_tools_sync()

        async def call(arguments):
            return await client.call_tool_async(tool_use_id="1", name="caption_image", arguments=arguments)

        good = await when_ready(lambda: call(job.good))
        bad = await call(job.bad)
    assert [good["status"], bad["status"]] == ["success", "error"]
    names = [tool.tool_name for tool in tools]
    return names, good["structuredContent"], texts(good["content"]), texts(bad["content"])


main(talk, "strands-agents", "mcp")
