"""The SDK's own client, generation 2."""

from mcp import Client, StdioServerParameters
from talk import main, texts, when_ready


async def talk(job):
    target = job.url or StdioServerParameters(command=job.command, args=job.args)
    async with Client(target) as client:
        tools = await client.list_tools()
        good = await when_ready(lambda: client.call_tool("caption_image", job.good))
        bad = await client.call_tool("caption_image", job.bad)
        assert bad.is_error
        assert not good.is_error
        return (
            [tool.name for tool in tools.tools],
            good.structured_content,
            texts(good.content),
            texts(bad.content),
        )


main(talk, "mcp")
