"""The import rules: which module may import which, and the cost of importing the package."""

import ast
import functools
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import blip2tools

PACKAGE = Path(blip2tools.__file__).parent

# A room may import the rooms below it; those in one row do not know each other.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["server", "langchain_tools"],
    ["toolset"],
    ["vision"],
    ["engine", "index"],  # numbers and files, and no model: the verbs bring the two together
    ["checkpoints", "pictures"],
    ["schemas", "settings", "call"],
    ["model", "demo", "errors", "launcher", "__version__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Foreign packages, and the only rooms that may import them anywhere but under TYPE_CHECKING.
OWNERS = {
    "torch": {"cli/doctor", "cli/bench", "checkpoints", "model", "engine"},
    "transformers": {"cli/doctor", "cli/bench", "checkpoints", "model"},
    "PIL": {"cli/bench", "cli/evaluate", "checkpoints/selftest", "pictures", "model", "demo"},
    "mcp": {"cli/demo", "server"},
    "backports": {"server/chat"},
    "mcp_types": {"server/http"},
    "starlette": {"server/http", "server/chat"},
    "uvicorn": {"server/http", "server/chat"},
    "langchain": {"langchain_tools"},
    "langchain_core": {"langchain_tools"},
    "langgraph": {"langchain_tools"},
    "numpy": {
        "langchain_tools",
        "vision",
        "index",
        "cli/evaluate",
        "demo",
        "model",
        "pictures/reading",
        "pictures/arrays",
    },
    "faiss": {"index"},
    "lancedb": {"index"},
    "qdrant_client": {"index"},
    "httpx2": {"pictures", "server/chat"},
    "pyarrow": {"vision/bulk"},
    "ray": {"engine/replicas", "vision/bulk/ray_data"},
    "httpcore2": {"pictures"},
    "huggingface_hub": {"checkpoints", "cli/doctor"},
    "rapidocr": {"pictures/reading"},
    "onnxruntime": {"pictures/reading"},
    "cv2": {"pictures/reading"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = "/".join(parts(path)[1:])
        yield pytest.param(path, room, id=room)


def parts(path):
    return (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """Names of every module that a file imports outside `if TYPE_CHECKING`."""
    return tuple(_imports(path))


def _imports(path):
    tree = tree_of(path)
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
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("path", "room"), list(modules()))
def test_imports_run_one_way(path, room):
    room = room.split("/")[0]
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} has no floor: draw it into the plan"
    for name in imports(path):
        package, _, inner = name.partition(".")
        other = inner.split(".")[0]
        if package == "blip2tools" and other in FLOOR and other != room:
            assert FLOOR[other] > FLOOR[room], f"{room} imports {other}"


def test_no_module_imports_itself_by_way_of_others():
    names = {path: ".".join(part for part in parts(path) if part != "__init__") for path in PACKAGE.rglob("*.py")}
    graph = {}
    for path, name in names.items():
        found = {found for found in imports(path) if found in names.values()}
        # `from package import module` is an arrow to the module; whoever imports a package's own name, to the package.
        packages = {one for one in found if any(other.startswith(f"{one}.") for other in found)}
        graph[name] = found - packages - {name}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(("path", "room"), list(modules()))
def test_foreign_packages_have_their_owners(path, room):
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or any(f"{room}/".startswith(f"{owner}/") for owner in owners), f"{room} imports {name}"


def test_the_top_level_is_small():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(FLOOR)
    assert len(FLOOR) <= 18


def test_only_the_settings_read_the_environment():
    for path in PACKAGE.rglob("*.py"):
        readers = [
            node
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        ]
        own = ("settings/__init__.py", "launcher/environment.py", "launcher/plugin.py")
        assert not readers or path.relative_to(PACKAGE).as_posix() in own, path


def test_the_launcher_needs_nothing_and_an_old_python():
    for path in (PACKAGE / "launcher").glob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 9))
        for name in imports(path):
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or name.startswith("blip2tools.launcher"), (
                f"{path.name} imports {name}"
            )


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
        ("import blip2tools.server.mcp", {"mcp", "httpx2"}),
        ("import blip2tools.langchain_tools", {"langchain_core", "httpx2"}),
    ],
)
def test_importing_is_light(statement, allowed):
    assert not (loaded_by(statement) & (HEAVY - allowed))


def test_the_tensor_side_needs_no_adapter():
    code = (
        "import sys\n"
        "for name in ('mcp', 'langchain', 'langchain_core'): sys.modules[name] = None\n"
        "import blip2tools.model, blip2tools.engine, blip2tools.vision, blip2tools.cli.bench.gpu"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


def test_the_public_names():
    assert sorted(dir(blip2tools)) == sorted(blip2tools.__all__)
    for name in blip2tools.__all__:
        assert getattr(blip2tools, name) is not None
    with pytest.raises(AttributeError):
        _ = blip2tools.no_such_name
