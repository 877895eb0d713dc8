"""LangChain tools through LangChain's own MCPAdapter."""

from fastmcp.client.transports import StdioTransport
from langchain.mcp import MCPAdapter
from talk import main, texts, when_ready


async def talk(job):
    async with MCPAdapter(job.url or StdioTransport(job.command, job.args)) as adapter:
        tools = {tool.name: tool for tool in await adapter.list_tools()}
        caption = tools["caption_image"]
        call = {"type": "tool_call", "id": "1", "name": caption.name, "args": job.good}
        good = await when_ready(lambda: caption.ainvoke(call))
        bad = await caption.ainvoke({"type": "tool_call", "id": "2", "name": caption.name, "args": job.bad})
    assert good.status == "success"
    assert bad.status == "error"
    text, error = (
        message.content if isinstance(message.content, str) else texts(message.content) for message in (good, bad)
    )
    return list(tools), good.artifact["structured_content"], text, error


main(talk, "langchain", "fastmcp", "mcp")
