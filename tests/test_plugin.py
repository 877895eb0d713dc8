"""The plugin as it lies in the repository: made from its one description, and in the forms that its hosts read."""

import json
import re

import pytest
import yaml

from blip2tools.__version__ import __version__
from blip2tools.cli.clients import SKILL
from blip2tools.toolset import TOOLS
from tests.conftest import REPOSITORY
from tests.support.catalogue_snapshot import plugin as builder

PLUGIN = REPOSITORY / "plugin"


def load(name):
    return json.loads((PLUGIN / name).read_text(encoding="utf-8"))


def test_it_is_what_its_description_makes():
    made = builder().plugin_files()
    there = {
        path.relative_to(PLUGIN).as_posix(): path.read_bytes()
        for path in PLUGIN.rglob("*")
        if path.is_file() and not {"wheels", "__pycache__"} & set(path.parts)
    }
    differing = {name for name in made.keys() | there.keys() if made.get(name) != there.get(name)}
    assert not differing, "python packaging/plugin/build.py makes it again"
    offered = json.loads((REPOSITORY / ".claude-plugin" / "marketplace.json").read_text(encoding="utf-8"))
    assert offered == builder().marketplace("plugin")


def test_its_manifests_agree():
    project = builder().description()[1]
    for name in ("plugin.json", ".claude-plugin/plugin.json", "gemini-extension.json"):
        manifest = load(name)
        assert (manifest["name"], manifest["version"]) == (project["name"], __version__)
    # Agent Plugins 1.0.0, 5.2 and 5.5: a closed set of fields, and a name of a fixed form.
    manifest = load("plugin.json")
    assert manifest["$schema"] == "https://agent-plugins.org/schemas/1.0.0/plugin.schema.json"
    fields = {"$schema", "name", "version", "description", "author", "homepage", "repository", "license", "keywords"}
    assert manifest.keys() == fields
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?", manifest["name"])
    # 7.2: a server is of one of three kinds, and a command is a bare name or a path in the plugin.
    servers = load("mcp.json")
    assert servers["$schema"] == "https://agent-plugins.org/schemas/1.0.0/mcp.schema.json"
    assert servers.keys() == {"$schema", "mcpServers"}
    (server,) = servers["mcpServers"].values()
    assert server["type"] == "stdio"
    assert "/" not in server["command"]
    assert server.keys() <= {"type", "command", "args", "env", "cwd"}


@pytest.mark.parametrize("name", ["mcp.json", ".mcp.json", "gemini-extension.json"])
def test_every_host_starts_the_launcher(name):
    (server,) = load(name)["mcpServers"].values()
    assert server["command"] == "python3"
    root = re.fullmatch(
        r"\$\{(PLUGIN_ROOT|CLAUDE_PLUGIN_ROOT|extensionPath)\}(?:/|\$\{/\})launch\.py", server["args"][0]
    )
    assert root
    assert server["args"][1:2] in ([], ["--project"])


def test_the_skill_keeps_the_rules_of_skills_and_names_tools_that_are_there():
    """agentskills.io: the folder's name, at most 1,024 characters of description; here also: short, for a small model."""
    text = (PLUGIN / "skills" / SKILL / "SKILL.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["name"] == SKILL
    assert 100 < len(about["description"]) <= 1024
    assert len(body) < 3500
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", body)) - {"not_found", "not_allowed", "model_unavailable"}
    tools = {tool.name for tool in TOOLS}
    assert named <= tools | {"read_text"}, "words are read with read_text where that tool is there"
    assert {"caption_image", "ask_image", "match_image_text", "survey_image", "compare_images"} <= named
