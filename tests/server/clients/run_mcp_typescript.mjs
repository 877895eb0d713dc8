// The protocol's own TypeScript client.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { bad, good, job, report, whenReady } from "./talk.mjs";

const [command, ...args] = job.command ?? [];
const transport = job.url ? new StreamableHTTPClientTransport(new URL(job.url)) : new StdioClientTransport({ command, args });
const client = new Client({ name: "test", version: "0" });
await client.connect(transport);
const { tools } = await client.listTools();
const call = (input) => client.callTool({ name: "caption_image", arguments: input });
const seen = await whenReady(() => call(good));
const missing = await call(bad);
await client.close();
if (seen.isError || !missing.isError) throw new Error("wrong marks");
const names = tools.map((tool) => tool.name);
report(["@modelcontextprotocol/client"], names, seen.structuredContent, seen.content[0].text, missing.content[0].text);
