"""The README tells the truth: its commands print what it shows, its code runs, its tables are those of the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from blip2tools import Vision
from blip2tools.cli.command_line import build_parser
from blip2tools.cli.options import given_settings
from blip2tools.toolset import TOOLS
from tests.conftest import REPOSITORY
from tests.support.http_process import HttpThread
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


def test_the_addresses_answer_as_they_are_printed(vision, folder, tmp_path):
    """The server as its line starts it, the picture as `curl` sends it, by the name that is printed."""
    (block,) = (block for block in blocks("sh") if "/images" in block)
    _, serve, curl = (shlex.split(line, comments=True) for line in block.strip().splitlines())
    token = "0123456789abcdef"
    given = build_parser().parse_args([*serve[1:], "--model", "demo", "--allow-dir", str(folder), "--token", token])
    header, address = curl[curl.index("-H") + 1], urlsplit(curl[-1])
    name, _, value = header.replace("$BLIP2TOOLS_TOKEN", token).partition(": ")
    with Vision.load(preload=False, **given_settings(given)) as eyes:
        running = HttpThread(eyes, host=given.host)
        try:
            port = urlsplit(running.url).port
            answer = httpx2.post(
                f"http://127.0.0.1:{port}{address.path}",
                headers={name: value, "Host": f"{address.hostname}:{port}"},
                files={"image": (folder / "picture-0.png").read_bytes()},
                trust_env=False,
                timeout=60,
            )
        finally:
            running.end()
    assert answer.status_code == 201, answer.text
    assert "handle" in answer.json()


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
