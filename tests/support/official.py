"""The official MCP test tools: where they are, and servers for them to talk to. `make tools` installs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.conftest import REPOSITORY

HOME = Path(os.environ.get("MCP_TEST_TOOLS", Path(sys.prefix) / "mcp-tools"))
MODULES = HOME / "node_modules" / "@modelcontextprotocol"
CONFORMANCE = MODULES / "conformance" / "dist" / "index.js"
INSPECTOR = MODULES / "inspector" / "clients" / "launcher" / "build" / "index.js"
NODE = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

SERVE = ("--model", "demo", "--threads", "1")


def _lacking() -> str | None:
    """Why the tools cannot run here."""
    if NODE is None or not CONFORMANCE.exists() or not INSPECTOR.exists():
        return "the official MCP test tools are not installed: run `make tools`"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, timeout=30).stdout
    major = re.match(r"v(\d+)", version)
    if major is None or int(major[1]) < 22:
        return f"the official MCP test tools need Node 22 or newer, not {version.strip()}"
    return None


LACKING = _lacking()
needs_tools = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


def node(script: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run one of the tools to its end."""
    assert NODE is not None
    # Its own folder of settings: the developer's servers are none of the test's business.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "MCP_CATALOG_PATH": os.devnull}
    return subprocess.run(
        [NODE, script, *words], capture_output=True, text=True, timeout=timeout, env=environment, cwd=REPOSITORY
    )


def _wait_until_ready(url: str) -> None:
    """Where the model takes long to load, a first call is told to come again, which the tools do not."""
    until = time.monotonic() + 300
    while httpx2.get(f"{url}/readyz", trust_env=False, timeout=60).status_code != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def http_server(folder: Path, module: str = "blip2tools") -> Iterator[str]:
    """A real HTTP server in a process of its own; its URL for MCP."""
    command = [sys.executable, "-m", module, "serve", "--http", "--port", "0", "--allow-dir", str(folder), *SERVE]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        log: list[str] = []
        address = threading.Event()

        def read() -> None:
            for line in process.stderr or ():
                log.append(line)
                if "serving MCP at" in line:
                    address.set()
            address.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            assert address.wait(60)
            found = re.search(r"serving MCP at (\S+/mcp)", "".join(log))
            assert found, "".join(log)
            _wait_until_ready(found[1].removesuffix("/mcp"))
            yield found[1]
        finally:
            process.terminate()
            process.wait(30)
            reader.join(10)
    assert "Traceback" not in "".join(log), "".join(log)
