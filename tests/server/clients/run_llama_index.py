"""LlamaIndex."""

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec
from talk import main, texts, when_ready


async def talk(job):
    client = BasicMCPClient(job.url) if job.url else BasicMCPClient(job.command, args=job.args)
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}
    good = (await when_ready(lambda: tools["caption_image"].acall(**job.good))).raw_output
    bad = (await tools["caption_image"].acall(**job.bad)).raw_output
    wire = [result.model_dump(by_alias=True) for result in (good, bad)]
    assert [bool(result["isError"]) for result in wire] == [False, True]
    return list(tools), wire[0]["structuredContent"], texts(good.content), texts(bad.content)


main(talk, "llama-index-tools-mcp", "mcp")
