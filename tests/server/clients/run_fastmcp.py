"""FastMCP's client."""

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from talk import main, texts, when_ready


async def talk(job):
    async with Client(job.url or StdioTransport(job.command, job.args)) as client:
        tools = await client.list_tools()
        good = await when_ready(lambda: client.call_tool("caption_image", job.good))
        bad = await client.call_tool("caption_image", job.bad, raise_on_error=False)
    assert bad.is_error
    assert good.data.text == good.structured_content["text"]  # its typed view of the same
    return [tool.name for tool in tools], good.structured_content, texts(good.content), texts(bad.content)


main(talk, "fastmcp", "mcp")
