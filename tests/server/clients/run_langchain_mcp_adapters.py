"""LangChain tools through langchain-mcp-adapters."""

from langchain_mcp_adapters.client import MultiServerMCPClient
from talk import main, texts, when_ready


async def talk(job):
    if job.url:
        connection = {"transport": "streamable_http", "url": job.url}
    else:
        connection = {"transport": "stdio", "command": job.command, "args": job.args}
    client = MultiServerMCPClient({"blip2tools": connection})
    async with client.session("blip2tools") as session:
        from langchain_mcp_adapters.tools import load_mcp_tools

        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        caption = tools["caption_image"]
        call = {"type": "tool_call", "id": "1", "name": caption.name, "args": job.good}
        good = await when_ready(lambda: caption.ainvoke(call))
        bad = await caption.ainvoke({"type": "tool_call", "id": "2", "name": caption.name, "args": job.bad})
    assert good.status == "success"
    assert bad.status == "error"
    error = bad.content if isinstance(bad.content, str) else texts(bad.content)
    return list(tools), good.artifact["structured_content"], texts(good.content), error


main(talk, "langchain-mcp-adapters", "mcp")
