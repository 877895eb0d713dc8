// LangChain.js.
import { MultiServerMCPClient } from "@langchain/mcp-adapters";
import { bad, good, job, report, whenReady } from "./talk.mjs";

const [command, ...args] = job.command ?? [];
const server = job.url ? { transport: "http", url: job.url } : { transport: "stdio", command, args };
const client = new MultiServerMCPClient({ mcpServers: { eyes: server }, prefixToolNameWithServerName: false });
const tools = await client.getTools();
const tool = tools.find((one) => one.name === "caption_image");
const call = (args) => tool.invoke({ name: tool.name, args, id: "1", type: "tool_call" });
const seen = await whenReady(() => call(good));
const missing = await call(bad).catch((error) => String(error));
await client.close();
const text = typeof seen.content === "string" ? seen.content : seen.content.map((block) => block.text).join("\n");
const structured = seen.artifact.find((one) => one.type === "mcp_structured_content").data;
report(["@langchain/mcp-adapters", "@langchain/core"], tools.map((one) => one.name), structured, text, String(missing));
