"""A bridge that gives text-only agents eyes over MCP, with the vision endpoint behind it. Arguments: address, picture."""

import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

address, picture = sys.argv[1:]
server = StdioServerParameters(
    command=sys.executable,
    args=["-m", "deepseek_vision_mcp"],
    env={
        **os.environ,
        "VISION_BASE_URL": f"{address}/v1",
        "VISION_API_KEY": "none",
        "VISION_MODEL": "blip2tools",
        "VISION_USE_CONFIG_FILE": "false",
    },
)


async def look():
    async with Client(stdio_client(server)) as client:
        found = await client.call_tool("analyze_image", {"image": picture})
        asked = await client.call_tool("analyze_image", {"image": picture, "prompt": "Describe this image."})
    return [json.loads(one.content[0].text) for one in (found, asked)]


preset, own = asyncio.run(look())
said = own.get("result") or own.get("content") or own.get("text") or json.dumps(own)
streamed = preset.get("result") or preset.get("content") or preset.get("text") or json.dumps(preset)
sys.stdout.write(json.dumps({"said": said, "streamed": streamed, "tokens": None}))
