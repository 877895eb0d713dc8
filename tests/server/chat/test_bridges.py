"""Real bridges, each in an environment of its own, see through the vision endpoint. Run with `pytest -m clients`."""

import json
import re
import subprocess
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.http_process import HttpThread

SCRIPTS = Path(__file__).parent / "clients"
BRIDGES = sorted(path.stem for path in SCRIPTS.glob("*.txt"))


def test_every_bridge_has_a_script_and_the_page_its_version():
    assert BRIDGES == ["deepseek_vision_mcp", "litellm", "llm"]
    page = (REPOSITORY / "docs" / "chat.md").read_text(encoding="utf-8")
    for bridge in BRIDGES:
        assert (SCRIPTS / f"run_{bridge}.py").exists()
        name, version = (SCRIPTS / f"{bridge}.txt").read_text().split()[0].split("==")
        assert re.search(rf"`{name}` {re.escape(version)}(?!\.?\d)", page)


@pytest.mark.clients
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bridge", BRIDGES)
def test_a_bridge_sees(bridge, vision, picture, tmp_path):
    venv.create(tmp_path / "home", with_pip=True)
    python = tmp_path / "home" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", SCRIPTS / f"{bridge}.txt"], check=True, timeout=600)
    server = HttpThread(vision)
    try:
        command = [python, SCRIPTS / f"run_{bridge}.py", server.url, picture.path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    finally:
        server.end()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["said"].startswith(f"caption: {picture.caption}\nconfidence: ")
    assert found["streamed"].strip() == found["said"].strip()
