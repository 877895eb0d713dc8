"""The README tells the truth: its commands print what it shows, its code runs, its tables are those of the code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blip2tools.cli.command_line import build_parser
from blip2tools.toolset import TOOLS
from tests.conftest import REPOSITORY
from tests.support.readme import PAGES, README, filled

TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.M | re.S)


def sessions():
    for block in blocks("console"):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.M):
            yield pytest.param(command, output, id=command[:60])


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("command", "output"), list(sessions()))
def test_the_session_prints_what_it_shows(command, output):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "BLIP2TOOLS_MODEL": "demo"}
    done = subprocess.run(
        command, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


@pytest.mark.timeout(400)
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_the_python_runs(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for expected in re.findall(r"#\s+(orange|an orange ring|caption: [^.]*)", code):
        assert expected.strip() in printed


def test_the_configurations_start_a_server():
    found = [json.loads(block) for block in blocks("json")]
    assert len(found) == 3
    for configuration in found:
        ((_, servers),) = configuration.items()
        server = servers["blip2tools"]
        words = server["args"]
        if server["command"] == "uvx":
            assert words[:3] == ["--from", "blip2tools[mcp]", "blip2tools"]
            words = words[3:]
        assert build_parser().parse_args(words).allowed_dirs


def test_the_tables_are_those_of_the_code():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert filled(text) == text, f"{page.name}: run `make readme`"


def test_every_tool_is_named():
    for spec in TOOLS:
        assert f"`{spec.name}`" in TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (REPOSITORY / target).exists(), target
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in headings
