"""Real MCP clients, each in a virtual environment of its own, call the real server over both transports.

Slow, and it installs packages: it runs with `make clients` or `pytest -m clients` only. `CLIENT_ENVIRONMENTS` names a folder
that keeps the environments for the next run.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from pathlib import Path

import pytest

from blip2tools.toolset import TOOLS
from tests.conftest import REPOSITORY

SCRIPTS = Path(__file__).parent / "clients"
PYTHON = sorted(path.stem for path in SCRIPTS.glob("*.txt"))
JAVASCRIPT = sorted(path.stem for path in SCRIPTS.glob("*.json"))
CLIENTS = PYTHON + JAVASCRIPT
NO_TEXT = {"pydantic_ai", "smolagents"}  # these show the structured content alone

SERVE = [sys.executable, "-m", "blip2tools", "serve", "--model", "demo", "--threads", "1"]


def pins(client):
    """The packages that a client's environment is made of, as `name: version`."""
    if client in JAVASCRIPT:
        return json.loads((SCRIPTS / f"{client}.json").read_text())["dependencies"]
    lines = (SCRIPTS / f"{client}.txt").read_text().split()
    return {re.sub(r"\[.*\]", "", name): version for name, version in (line.split("==") for line in lines)}


def test_every_client_has_a_script_and_exact_versions():
    assert (len(PYTHON), len(JAVASCRIPT)) == (10, 3)
    assert {path.name for path in SCRIPTS.glob("run_*.py")} == {f"run_{client}.py" for client in PYTHON}
    assert {path.name for path in SCRIPTS.glob("run_*.mjs")} == {f"run_{client}.mjs" for client in JAVASCRIPT}
    for client in PYTHON:
        assert "mcp" in pins(client)
    for client in JAVASCRIPT:
        assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pins(client).values())


def test_the_page_tells_the_versions_that_are_tested():
    text = (REPOSITORY / "docs" / "clients.md").read_text(encoding="utf-8")
    for client in CLIENTS:
        (name, version), *_ = pins(client).items()
        row = [re.escape(word) for word in (name, version, pins(client).get("mcp", "–"))]
        assert re.search(rf"^\| `{row[0]}[^|]*\| {row[1]} \| {row[2]} \| passes \| passes \|", text, flags=re.M), client


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """A folder for environments, and a function that makes or finds the one of a client: its program and its script."""
    kept = os.environ.get("CLIENT_ENVIRONMENTS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("environments")

    def command(client):
        needs = SCRIPTS / f"{client}.{'json' if client in JAVASCRIPT else 'txt'}"
        stamp = hashlib.sha256(needs.read_bytes() + sys.version.encode()).hexdigest()[:12]
        home = root / f"{client}-{stamp}"
        make = _node if client in JAVASCRIPT else _python
        return make(client, home, needs)

    return command


def _python(client, home, needs):
    found = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", "-r", needs], check=True, timeout=800)
        (home / "complete").touch()
    return [found, SCRIPTS / f"run_{client}.py"]


def _node(client, home, needs):
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("node is not installed")
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(needs, home / "package.json")
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run([npm, "install", "--prefix", home, *options], check=True, timeout=800)
        (home / "complete").touch()
    for name in (f"run_{client}.mjs", "talk.mjs"):  # node looks for packages beside the script
        shutil.copy(SCRIPTS / name, home)
    return [node, home / f"run_{client}.mjs"]


@pytest.fixture(scope="module")
def http_url(folder):
    """Our HTTP server, once for all clients."""
    with subprocess.Popen(
        [*SERVE, "--http", "--port", "0", "--allow-dir", str(folder)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        log = []
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/mcp", line):
                break
        else:
            pytest.fail("".join(log))
        reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
        reader.start()
        yield found[0]
        process.terminate()
        assert process.wait(30) in (0, -15, 143)
        reader.join(10)
        assert "Traceback" not in "".join(log)


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", ["stdio", "http", "plugin"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_real_client(client, transport, environments, picture, folder, request):
    program = environments(client)
    job = {"picture": picture.path.name}
    if transport == "http":
        job["url"] = request.getfixturevalue("http_url")
    elif transport == "stdio":
        job["command"] = [*SERVE, "--allow-dir", str(folder)]
    else:  # as a host starts it, but for what it would install; most clients hand no variables on
        words = json.loads((REPOSITORY / "plugin" / "mcp.json").read_text(encoding="utf-8"))["mcpServers"]["blip2tools"]
        launch = [word.replace("${PLUGIN_ROOT}", str(REPOSITORY / "plugin")) for word in words["args"]]
        there = f"BLIP2TOOLS_PYTHON={sys.executable}"
        job["command"] = [
            "/usr/bin/env",
            there,
            sys.executable,
            "-I",
            "-S",
            *launch,
            *SERVE[4:],
            "--allow-dir",
            str(folder),
        ]
    done = subprocess.run(
        [*program, json.dumps(job)],
        cwd=program[1].parent if client in JAVASCRIPT else REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report["versions"] == pins(client)
    assert report["tools"] == [spec.name for spec in TOOLS]
    seen = report["structured"]
    assert seen["text"] == picture.caption
    assert seen["image"]["source"] == picture.path.name
    assert re.fullmatch(r"img_[0-9a-f]{16}", seen["image"]["handle"])
    assert seen["confidence"] > 0.9
    assert seen["match"]["probability"] > 0.9
    if client in NO_TEXT:
        assert report["text"] is None
    else:
        assert picture.caption in report["text"]
        assert seen["image"]["handle"] in report["text"]
    assert "not_found: " in report["error"]
    assert "no-such-picture.png" in report["error"]
    assert "Traceback" not in report["error"]
