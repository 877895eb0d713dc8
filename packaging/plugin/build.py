"""Build the plugin from its one description: every host's own form of it, in one folder.

    python packaging/plugin/build.py [FOLDER] [--wheel]    # plugin by default; needs nothing but Python 3.11

What is in the repository was built by this, and a test holds it so. With `--wheel` the package itself is put beside it, which
takes pip and hatchling: the launcher then installs that, and asks the package index only for what it needs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MARKETPLACE = Path(".claude-plugin") / "marketplace.json"  # below the repository: Claude Code and Codex look there


def main(folder: Path, *, wheel: bool = False) -> None:
    """Write the plugin into `folder`, and the marketplace that offers it beside that folder."""
    files = plugin_files()
    for name in ("lib", "skills"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder.parent / MARKETPLACE).parent.mkdir(exist_ok=True)
    (folder.parent / MARKETPLACE).write_bytes(_json(marketplace(folder.name)))
    if wheel:
        shutil.rmtree(folder / "wheels", ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(folder / "wheels"),
            str(ROOT),
        ]
        subprocess.run(command, check=True)


def plugin_files() -> dict[str, bytes]:
    """Every file of the plugin by its path in it."""
    about, project = description()
    server = {"command": about["command"]}
    name = project["name"]
    common = {"name": name, "version": project["version"], "description": project["description"]}
    known = {
        **common,
        "author": {"name": about["author"]},
        "homepage": project["urls"]["Documentation"],
        "repository": project["urls"]["Source"],
        "license": project["license"],
        "keywords": project["keywords"],
    }
    standard = "https://agent-plugins.org/schemas/1.0.0"
    agent = {"type": "stdio", **server, "args": about["agent_plugins"]["args"]}
    claude = {**server, "args": about["claude_code"]["args"]}
    gemini = {**server, "args": about["gemini_cli"]["args"]}
    return {
        "plugin.json": _json({"$schema": f"{standard}/plugin.schema.json", **known}),
        "mcp.json": _json({"$schema": f"{standard}/mcp.schema.json", "mcpServers": {name: agent}}),
        ".claude-plugin/plugin.json": _json(known),
        ".mcp.json": _json({"mcpServers": {name: claude}}),
        "gemini-extension.json": _json({**common, "mcpServers": {name: gemini}}),
        f"skills/{about['skill']}/SKILL.md": (ROOT / "blip2tools" / "cli" / "SKILL.md").read_bytes(),
        "launch.py": (HERE / "launch.py").read_bytes(),
        "README.md": (HERE / "README.md").read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        "lib/blip2tools/__init__.py": b'"""What of the package a plugin carries: its launcher."""\n',
        **{f"lib/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in launcher_files()},
    }


def launcher_files() -> list[Path]:
    """The launcher as it lies in the package."""
    folder = ROOT / "blip2tools" / "launcher"
    return sorted(path for path in folder.iterdir() if path.suffix in (".py", ".json"))


def marketplace(folder: str) -> dict[str, Any]:
    """The file that offers the plugin, which lies in this folder beside it."""
    about, project = description()
    return {
        "name": project["name"],
        "description": about["title"],
        "owner": {"name": about["author"]},
        "plugins": [
            {
                "name": project["name"],
                "source": f"./{folder}",
                "description": project["description"],
                "version": project["version"],
                "category": about["category"],
            }
        ],
    }


def description() -> tuple[dict[str, Any], dict[str, Any]]:
    """What is written down once: about the plugin, and about the package."""
    about = tomllib.loads((HERE / "plugin.toml").read_text(encoding="utf-8"))
    return about, tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "plugin")
    parser.add_argument("--wheel", action="store_true", help="put the package's wheel into it")
    given = parser.parse_args()
    main(given.folder.resolve(), wheel=given.wheel)
