// The Vercel AI SDK, whose stdio client discovers for a second before it begins.
import { createMCPClient } from "@ai-sdk/mcp";
import { Experimental_StdioMCPTransport } from "@ai-sdk/mcp/mcp-stdio";
import { bad, good, job, report, whenReady } from "./talk.mjs";

const [command, ...args] = job.command ?? [];
const transport = job.url ? { type: "http", url: job.url } : new Experimental_StdioMCPTransport({ command, args });
const client = await createMCPClient({ transport });
const tools = await client.tools();
const call = (input) => tools.caption_image.execute(input, { toolCallId: "1", messages: [] });
const seen = await whenReady(() => call(good));
const missing = await call(bad);
await client.close();
if (seen.isError || !missing.isError) throw new Error("wrong marks");
report(["ai", "@ai-sdk/mcp"], Object.keys(tools), seen.structuredContent, seen.content[0].text, missing.content[0].text);
