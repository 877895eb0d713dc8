"""Engines that hold a model's tool calls to a JSON Schema: each tells whether it would let a text be written.

All over a vocabulary of single bytes, so that no model is needed. They are the extra `grammars`; node-llama-cpp is installed by
`make grammars`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

END = 256  # the token after the 256 bytes
NODE_MODULES = Path(sys.prefix) / "grammars" / "node_modules"

Accepts = Callable[[str], bool]


def xgrammar(schema: dict[str, Any]) -> Accepts:
    import xgrammar as xgr

    info = xgr.TokenizerInfo(
        [bytes([byte]) for byte in range(256)] + [b"</s>"], vocab_type=xgr.VocabType.RAW, stop_token_ids=[END]
    )
    compiled = xgr.GrammarCompiler(info, cache_enabled=False).compile_json_schema(json.dumps(schema))
    assert compiled.memory_size_bytes <= 16_000_000

    def accepts(text: str) -> bool:
        matcher = xgr.GrammarMatcher(compiled)
        return bool(matcher.accept_string(text) and matcher.accept_token(END))

    return accepts


def llguidance(schema: dict[str, Any]) -> Accepts:
    import llguidance as llg

    tokenizer = llg.LLTokenizer("byte")
    grammar = llg.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    assert not llg.LLMatcher(tokenizer, grammar).get_error()

    def accepts(text: str) -> bool:
        matcher = llg.LLMatcher(tokenizer, grammar, log_level=0)
        return bool(matcher.consume_tokens(tokenizer.tokenize_bytes(text.encode())) and matcher.is_accepting())

    return accepts


def lm_format_enforcer(schema: dict[str, Any]) -> Accepts:
    from lmformatenforcer import JsonSchemaParser

    begun = JsonSchemaParser(schema)

    def accepts(text: str) -> bool:
        parser = begun
        for char in text:
            if char not in parser.get_allowed_characters():
                return False
            parser = parser.add_character(char)
        return bool(parser.can_end())

    return accepts


def outlines_core(schema: dict[str, Any]) -> Accepts:
    from outlines_core import Guide, Index, Vocabulary
    from outlines_core.json_schema import build_regex_from_schema

    # Bytes above 127 stand alone for no character, and a byte vocabulary has them anyway.
    vocabulary = Vocabulary(END, {bytes([byte]): [byte] for byte in range(256)})
    index = Index(build_regex_from_schema(json.dumps(schema)), vocabulary)

    def accepts(text: str) -> bool:
        guide = Guide(index)
        for byte in text.encode():
            if byte not in guide.get_tokens():
                return False
            guide.advance(byte)
        return END in guide.get_tokens()

    return accepts


_NODE = """
import { getLlama } from "node-llama-cpp";
const jobs = JSON.parse(await new Promise((done) => {
  let text = ""; process.stdin.on("data", (piece) => (text += piece)).on("end", () => done(text));
}));
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: "disabled" });
const answers = [];
const STOP = "\\n".repeat(4);  // with which its grammars end, so that the model stops
for (const { schema, texts } of jobs) {
  const begun = performance.now();
  const grammar = await llama.createGrammarForJsonSchema(schema);
  const seconds = (performance.now() - begun) / 1000;
  answers.push({ seconds, accepted: texts.map((text) => grammar._testText(text + STOP)) });
}
console.log(JSON.stringify(answers));
process.exit(0);
"""


def node_llama_cpp(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each schema and its texts, which may be written; all in one process, which takes seconds to start."""
    # A file beside the package: that is where node looks for it, and its own child processes inherit `-e`.
    script = NODE_MODULES.parent / "say.mjs"
    script.write_text(_NODE, encoding="utf-8")
    done = subprocess.run(
        ["node", script.name],
        input=json.dumps(jobs),
        cwd=NODE_MODULES.parent,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers
