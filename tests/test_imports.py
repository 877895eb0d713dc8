"""The walls: who may import whom, and what the package costs to import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import blip2tools

PACKAGE = Path(blip2tools.__file__).parent

# A room may import the rooms below it; those in one row do not know each other.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["doctor", "evaluate"],
    ["cli_setup", "cli_pictures", "cli_settings"],
    ["bench"],
    ["demo"],
    ["clients", "jsonfile"],
    ["http_server"],
    ["http_app"],
    ["mcp_server", "langchain_tools"],
    ["mcp_resources", "mcp_wire"],
    ["mcp_prompts"],
    ["toolset", "http_guard", "exposition"],
    ["page", "http_wire", "http_rate", "http_connections", "http_sessions"],
    ["vision"],
    ["feature_verbs"],
    ["retrieval"],
    ["verbs", "engine"],
    ["results", "composed", "looking", "keywords"],
    ["lanes"],
    ["decoder", "concurrency"],
    ["stages", "selftest"],
    ["line", "metrics"],
    ["requests"],
    ["checkpoints", "sources"],
    ["model", "hub", "cache", "text", "fetch", "store", "paths"],
    ["decoder_process"],
    ["images", "family", "calibration"],
    ["rgb", "damage"],
    ["schemas", "options", "formats", "published"],
    ["settings"],
    ["stopping"],
    ["errors", "progress", "commands", "familiarity"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Foreign packages, and the only rooms that may import them anywhere but under TYPE_CHECKING.
OWNERS = {
    "torch": {"doctor", "selftest", "model", "checkpoints", "engine", "stages", "demo", "bench"},
    "transformers": {"doctor", "model", "checkpoints", "demo", "bench"},
    "PIL": {"selftest", "images", "rgb", "damage", "decoder", "model", "demo", "bench"},
    "mcp": {"mcp_server", "mcp_prompts", "mcp_resources", "mcp_wire", "demo", "http_app"},
    "mcp_types": {"http_sessions"},
    "starlette": {"http_app", "http_guard", "http_sessions", "http_wire"},
    "uvicorn": {"http_server", "http_connections"},
    "langchain": {"langchain_tools", "demo"},
    "langchain_core": {"langchain_tools", "demo"},
    "langgraph": {"langchain_tools"},
    "numpy": {"langchain_tools", "retrieval", "evaluate", "demo"},
    "httpx2": {"fetch"},
    "httpcore2": {"fetch"},
    "huggingface_hub": {"hub", "doctor"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield pytest.param(path, parts[0], id="/".join(parts))


def imports(path):
    """Names of every module that a file imports outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module
            if node.module == "blip2tools":
                yield from (f"blip2tools.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("path", "room"), list(modules()))
def test_imports_run_one_way(path, room):
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} has no floor: draw it into the plan"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "blip2tools" or len(parts) == 1 or parts[1] not in FLOOR or parts[1] == room:
            continue
        assert FLOOR[parts[1]] > FLOOR[room], f"{room} imports {parts[1]}"


@pytest.mark.parametrize(("path", "room"), list(modules()))
def test_foreign_packages_have_their_owners(path, room):
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or room in owners, f"{room} imports {name}"


def test_only_the_settings_read_the_environment():
    for path in PACKAGE.rglob("*.py"):
        readers = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        ]
        assert not readers or path.name == "settings.py", path


def loaded_by(statement):
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


HEAVY = {"torch", "transformers", "PIL", "mcp", "langchain", "langchain_core", "numpy", "httpx2"}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import blip2tools", set()),
        ("import blip2tools.cli", set()),
        ("import blip2tools.toolset", set()),
        ("import blip2tools.engine", set()),
        ("from blip2tools import Vision", set()),
        ("import blip2tools.mcp_server", {"mcp", "httpx2"}),
        ("import blip2tools.langchain_tools", {"langchain_core", "httpx2"}),
    ],
)
def test_importing_is_light(statement, allowed):
    assert not (loaded_by(statement) & (HEAVY - allowed))


def test_the_tensor_side_needs_no_adapter():
    code = (
        "import sys\n"
        "for name in ('mcp', 'langchain', 'langchain_core'): sys.modules[name] = None\n"
        "import blip2tools.model, blip2tools.engine, blip2tools.vision, blip2tools.bench.gpu"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


def test_the_public_names():
    assert sorted(dir(blip2tools)) == sorted(blip2tools.__all__)
    for name in blip2tools.__all__:
        assert getattr(blip2tools, name) is not None
    with pytest.raises(AttributeError):
        _ = blip2tools.no_such_name
