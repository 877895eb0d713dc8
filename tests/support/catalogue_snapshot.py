"""What a server answers before any picture, recorded for the launcher. `python -m tests.support.tool_snapshot` writes it."""

import copy
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from blip2tools.launcher.catalogue import (
    CAPABILITIES_KEY,
    CLIENT_KEY,
    LEGACY,
    LISTS,
    MODERN,
    PLACES,
    VERSION_KEY,
    places_of,
)
from blip2tools.server.mcp import largest_message
from blip2tools.settings import Settings
from blip2tools.toolset import TOOLS

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "blip2tools" / "launcher" / "catalogue.json"
LEGACY_VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
MODERN_VERSIONS = ["2026-07-28"]

CLIENT = {"name": "recorder", "version": "0"}
META = {VERSION_KEY: MODERN_VERSIONS[-1], CLIENT_KEY: CLIENT, CAPABILITIES_KEY: {}}
BEGIN = {"protocolVersion": LEGACY_VERSIONS[-1], "capabilities": {}, "clientInfo": CLIENT}
# Without the launcher's answers, which are what is made here.
SERVER = (
    "from blip2tools import Vision; from blip2tools.server.stdio import serve_stdio;"
    "serve_stdio(Vision.load(preload=False, model='demo', early_load=False))"
)
NO_TOOL: dict[str, Any] = {"name": "no_such_tool", "arguments": {}}


def conversation(requests: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What a server that may read nothing answers."""
    command = [sys.executable, "-c", SERVER]
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n"
        for number, (method, params) in enumerate(requests)
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        answers = []
        for line in lines:  # one by one, in the order of the answers
            server.stdin.write(line)
            server.stdin.flush()
            answers.append(json.loads(server.stdout.readline())["result"])
        server.stdin.close()
    return answers


def recorded() -> dict[str, Any]:
    legacy = ["initialize", "ping", *LISTS]
    modern = ["server/discover", *LISTS]
    old = conversation(
        [(method, BEGIN if method == "initialize" else {}) for method in legacy] + [("tools/call", NO_TOOL)]
    )
    new = conversation([(method, {"_meta": META}) for method in modern] + [("tools/call", {**NO_TOOL, "_meta": META})])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    eras = {
        LEGACY: {"versions": LEGACY_VERSIONS, "refusal": old.pop(), "results": dict(zip(legacy, old, strict=True))},
        MODERN: {"versions": MODERN_VERSIONS, "refusal": new.pop(), "results": dict(zip(modern, new, strict=True))},
    }
    eras = copy.deepcopy(eras)  # a list of one era may be the same object as that of the other
    for era, first in ((LEGACY, "initialize"), (MODERN, "server/discover")):
        answer = eras[era]["results"][first]  # type: ignore[index]
        assert answer["instructions"].endswith(places_of(()))
        answer["instructions"] = answer["instructions"].removesuffix(places_of(())) + PLACES
    return {
        "version": project["version"],
        "limit": largest_message(Settings.load({})),
        "torch": next(need for need in project["dependencies"] if need.startswith("torch>")),
        "takes_pictures": taking_pictures(),
        "eras": eras,
    }


def taking_pictures() -> list[str]:
    return [tool.name for tool in TOOLS if not {"image", "images"}.isdisjoint(tool.arguments.model_fields)]


def text() -> str:
    return json.dumps(recorded(), indent=1, ensure_ascii=False) + "\n"


def plugin() -> Any:
    """What builds the plugin, which carries a copy."""
    spec = importlib.util.spec_from_file_location("build_plugin", ROOT / "packaging" / "plugin" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
