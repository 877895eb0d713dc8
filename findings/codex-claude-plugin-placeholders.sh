#!/usr/bin/env bash
# Version: @openai/codex 0.171.0 (npm).
#
# Behaviour: Codex installs plugins from a Claude Code marketplace (.claude-plugin/marketplace.json). Of such a plugin it takes over the
# servers in .mcp.json, but leaves ${CLAUDE_PLUGIN_ROOT} in their arguments as it is, so that a server which lies in the plugin cannot be
# found. If the plugin also has the files of Agent Plugins 1.0 (plugin.json and mcp.json at its root), Codex reads those instead, and
# fills in ${PLUGIN_ROOT}.
#
# Seen on 2026-11-27:
#   only .mcp.json: ["${CLAUDE_PLUGIN_ROOT}/server.py"]
#   with mcp.json beside it: [".../plugins/cache/market/eyes/0.1.0/server.py"]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --no-audit --no-fund --ignore-scripts --loglevel=error @openai/codex@0.171.0 > npm.log
mkdir -p market/.claude-plugin market/eyes/.claude-plugin
echo '{"name": "market", "owner": {"name": "me"}, "plugins": [{"name": "eyes", "source": "./eyes"}]}' > market/.claude-plugin/marketplace.json
echo '{"name": "eyes", "version": "0.1.0"}' > market/eyes/.claude-plugin/plugin.json
echo '{"mcpServers": {"eyes": {"command": "python3", "args": ["${CLAUDE_PLUGIN_ROOT}/server.py"]}}}' > market/eyes/.mcp.json
arguments() {
  export CODEX_HOME="$folder/$1"
  mkdir -p "$CODEX_HOME"
  node_modules/.bin/codex plugin marketplace add "$folder/market" > codex.log 2>&1
  node_modules/.bin/codex plugin add eyes@market >> codex.log 2>&1
  node_modules/.bin/codex mcp list --json 2> /dev/null | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)[0]["transport"]["args"]))'
}
claude=$(arguments one)
echo "only .mcp.json: $claude"
[[ "$claude" == '["${CLAUDE_PLUGIN_ROOT}/server.py"]' ]]
schemas=https://agent-plugins.org/schemas/1.0.0
echo "{\"\$schema\": \"$schemas/plugin.schema.json\", \"name\": \"eyes\", \"version\": \"0.1.0\"}" > market/eyes/plugin.json
echo "{\"\$schema\": \"$schemas/mcp.schema.json\", \"mcpServers\": {\"eyes\": {\"type\": \"stdio\", \"command\": \"python3\", \"args\": [\"\${PLUGIN_ROOT}/server.py\"]}}}" > market/eyes/mcp.json
both=$(arguments two)
echo "with mcp.json beside it: $both"
[[ "$both" == *'/plugins/cache/market/eyes/0.1.0/server.py"]' ]]
