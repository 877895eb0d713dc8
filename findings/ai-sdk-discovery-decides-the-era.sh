#!/usr/bin/env bash
# Versions: ai 7.0.173 and @ai-sdk/mcp 2.0.99 (npm, Node 20) against a bare server on mcp 2.3.0 (PyPI, Python 3.11).
#
# Behaviour: over stdio the AI SDK sends `server/discover` first, waits one second, and then sends `initialize` on the same pipe. A
# server on the Python SDK that takes longer than that second to start finds both lines waiting. It lets the first one decide that
# the connection is of the revision 2026-07-28, and refuses `initialize` for good: the client never connects. Both sides do what
# their documentation says. A server that is up within the second connects.
#
# Seen on 2026-11-27 (2 busy cores, where a server without any pause took longer than the second, too):
#   started after 2 s: connection is serving the 2026-07-28 protocol; the initialize handshake is not accepted -32022
#   started at once: connection is serving the 2026-07-28 protocol; the initialize handshake is not accepted -32022
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet mcp==2.3.0 > pip.log 2>&1
npm install --no-audit --no-fund --ignore-scripts --loglevel=error ai@7.0.173 @ai-sdk/mcp@2.0.99 > npm.log
cat > server.py <<'PY'
import sys, time
from mcp.server.mcpserver import MCPServer

server = MCPServer("bare")

@server.tool()
def look() -> str:
    "Look."
    return "seen"

time.sleep(float(sys.argv[1]))
server.run()
PY
cat > client.mjs <<'JS'
import { createMCPClient } from "@ai-sdk/mcp";
import { Experimental_StdioMCPTransport } from "@ai-sdk/mcp/mcp-stdio";
const transport = new Experimental_StdioMCPTransport({ command: "venv/bin/python", args: ["server.py", process.argv[2]], stderr: "ignore" });
try {
  const client = await createMCPClient({ transport });
  console.log("connected, tools: " + Object.keys(await client.tools()).join());
} catch (error) {
  console.log(String(error.message ?? error), error.code ?? "");
}
process.exit(0);
JS
slow=$(node client.mjs 2)
echo "started after 2 s: $slow"
grep -q "initialize handshake is not accepted" <<< "$slow"
# Whether a server without the pause is up in time depends on the machine; where it is, it connects.
echo "started at once: $(node client.mjs 0)"
