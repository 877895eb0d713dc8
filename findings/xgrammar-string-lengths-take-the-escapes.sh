#!/usr/bin/env bash
# Versions: xgrammar 0.2.8 (PyPI, Python 3.11, torch 2.13.0).
#
# Behaviour: with `minLength` 1, or any `maxLength`, on a string, the grammar that xgrammar makes of a JSON Schema has no escapes in
# that string: a model cannot write a quotation mark, a backslash or the end of a line in it. Without length keywords it can.
# A schema that says "a question of 1 to 512 characters" so forbids every question with a quotation mark and every Windows path.
#
# Seen on 2026-11-27: {"type": "string"} takes all three texts, with a length keyword only the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 > pip.log 2>&1  # first: on its own xgrammar may bring a larger build
venv/bin/pip install --quiet xgrammar==0.2.8 >> pip.log 2>&1
venv/bin/python -W ignore - <<'PY'
import json
import xgrammar as xgr

info = xgr.TokenizerInfo([bytes([b]) for b in range(256)] + [b"</s>"], vocab_type=xgr.VocabType.RAW, stop_token_ids=[256])

def takes(text, **lengths):
    schema = {"type": "object", "properties": {"q": {"type": "string", **lengths}}, "required": ["q"]}
    matcher = xgr.GrammarMatcher(xgr.GrammarCompiler(info).compile_json_schema(json.dumps(schema)))
    return matcher.accept_string(json.dumps({"q": text})) and matcher.accept_token(256)

texts = ["plain", 'a "word"', "C:\\x.png"]
seen = {str(lengths): [takes(text, **lengths) for text in texts] for lengths in ({}, {"minLength": 1}, {"maxLength": 512})}
for lengths, taken in seen.items():
    print(lengths, dict(zip(texts, taken)))
assert seen == {"{}": [True] * 3, "{'minLength': 1}": [True, False, False], "{'maxLength': 512}": [True, False, False]}
PY
