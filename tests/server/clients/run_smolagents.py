"""smolagents, which needs generation 1 of the SDK."""

import warnings

from mcp import StdioServerParameters
from smolagents import MCPClient
from talk import main, when_ready


async def talk(job):
    server = {"url": job.url} if job.url else StdioServerParameters(command=job.command, args=job.args)
    with MCPClient(server, structured_output=True) as tools:
        named = {tool.name: tool for tool in tools}

        async def call():
            return named["caption_image"](**job.good)

        good = await when_ready(call)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bad = named["caption_image"](**job.bad)
    # It does not look at isError: the error reaches the model as an ordinary text.
    return list(named), good, None, bad


main(talk, "smolagents", "mcpadapt", "mcp")
