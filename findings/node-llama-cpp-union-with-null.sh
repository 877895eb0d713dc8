#!/usr/bin/env bash
# Versions: node-llama-cpp 3.22.1 with its prebuilt binary for Linux on x64 (npm, Node 20).
#
# Behaviour: of `"anyOf": [X, {"type": "null"}]`, as pydantic writes an optional argument, the grammar takes `null` and nothing else,
# without a word: a model can never give the argument. `oneOf` of the same works, and so does the plain type. All properties must
# be written, in the order of the schema, whether or not they are required.
#
# Seen on 2026-11-27: anyOf takes null only, oneOf both, the plain array [] and [0, 1]; a property that is left out is never taken.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
  node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1 > npm.log
cat > see.mjs <<'JS'
import { strict as assert } from "node:assert";
import { getLlama } from "node-llama-cpp";
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "disabled" });
const list = { type: "array", items: { type: "integer" } };
const none = { type: "null" };
const texts = ['{"a": null}', '{"a": []}', '{"a": [0, 1]}', "{}"];
const seen = {};
for (const [name, a] of Object.entries({ anyOf: { anyOf: [list, none] }, oneOf: { oneOf: [list, none] }, plain: list })) {
  const grammar = await llama.createGrammarForJsonSchema({ type: "object", properties: { a } });
  seen[name] = texts.map((text) => grammar._testText(text + "\n\n\n\n"));  // the end that its grammars ask for
}
console.log(seen);
assert.deepEqual(seen, { anyOf: [true, false, false, false], oneOf: [true, true, true, false], plain: [false, true, true, false] });
process.exit(0);
JS
node see.mjs
