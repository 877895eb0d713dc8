"""The OpenAI Agents SDK."""

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from talk import main, texts, when_ready


async def talk(job):
    if job.url:
        server = MCPServerStreamableHttp(params={"url": job.url}, client_session_timeout_seconds=60)
    else:
        server = MCPServerStdio(params={"command": job.command, "args": job.args}, client_session_timeout_seconds=60)
    async with server:
        tools = await server.list_tools()
        good = await when_ready(lambda: server.call_tool("caption_image", job.good))
        bad = await server.call_tool("caption_image", job.bad)
    wire = [result.model_dump(by_alias=True) for result in (good, bad)]
    assert [bool(result["isError"]) for result in wire] == [False, True]
    return [tool.name for tool in tools], wire[0]["structuredContent"], texts(good.content), texts(bad.content)


main(talk, "openai-agents", "mcp")
