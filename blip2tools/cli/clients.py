"""The configuration files of MCP clients: where each client keeps its own, and the entry that starts our server."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blip2tools.errors import InvalidInputError
from blip2tools.settings import expanded, foreign_variable, unexpanded

SERVER_NAME = "blip2tools"
SKILL = "look-at-pictures"
UVX = ("uvx", "--from", "blip2tools[mcp]", "blip2tools")

# A client passes few variables on to its servers. Without these the server would look for checkpoints in another cache.
CACHE_VARIABLES = ("HF_HOME", "HF_HUB_CACHE")

Platform = Literal["linux", "macos", "windows"]
Form = Literal["json", "toml", "yaml"]
Style = Literal["common", "opencode", "goose", "jan"]
Scope = Literal["project", "user"]


@dataclass(frozen=True)
class Machine:
    """The facts that decide where a configuration file is.

    Attributes:
        config: where applications keep their settings.
        local_data: Windows' folder for what stays on this machine, if it is not in its usual place.
        codex: Codex' own folder, if it is not in its usual place.
    """

    platform: Platform
    home: Path
    project: Path
    config: Path
    local_data: Path | None = None
    codex: Path | None = None

    @classmethod
    def here(cls) -> Machine:
        """This machine, this user, and the working directory as the project."""
        home, platform = Path.home(), platform_of(sys.platform)
        local, codex = foreign_variable("LOCALAPPDATA"), foreign_variable("CODEX_HOME")
        return cls(
            platform,
            home,
            project=Path.cwd(),
            config=config_folder(platform, home, foreign_variable("APPDATA"), foreign_variable("XDG_CONFIG_HOME")),
            local_data=Path(local) if local else None,
            codex=Path(codex) if codex else None,
        )


def platform_of(name: str) -> Platform:
    """The platform by Python's own name for it."""
    if name == "win32":
        return "windows"
    return "macos" if name == "darwin" else "linux"


def config_folder(platform: Platform, home: Path, appdata: str | None, xdg: str | None) -> Path:
    """The folder where applications keep their settings."""
    if platform == "windows":
        return Path(appdata) if appdata else home / "AppData" / "Roaming"
    if platform == "macos":
        return home / "Library" / "Application Support"
    # The XDG specification: a relative path is to be ignored.
    return Path(xdg) if xdg and Path(xdg).is_absolute() else home / ".config"


@dataclass(frozen=True)
class Client:
    """One MCP client.

    Attributes:
        keys: the path to the object that holds the servers.
        project: the file in a project's folder, if the client reads one.
        user: the file for all projects by platform: `{home}` and `{config}` stand for folders.
        typed: whether the entry says that the transport is stdio.
        workspace: the client's own variable for the project's folder.
        then: what makes the client see the change.
        elsewhere: the client's command for the scope that has no file of its own.
        form: of the file.
        style: of the entry in it, where it differs from most clients'.
        skills: the folder for skills, in a project or in the user's home.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    then: str
    project: str | None = None
    user: Mapping[Platform, str] | None = None
    typed: bool = False
    workspace: str | None = None
    elsewhere: str | None = None
    form: Form = "json"
    style: Style = "common"
    skills: str = ".agents/skills"


def _everywhere(template: str) -> dict[Platform, str]:
    return {"linux": template, "macos": template, "windows": template}


_CLIENTS = (
    Client(
        "claude-desktop",
        "Claude Desktop",
        ("mcpServers",),
        "Quit Claude Desktop entirely and start it again.",
        user=_everywhere("{config}/Claude/claude_desktop_config.json"),
    ),
    Client(
        "claude-code",
        "Claude Code",
        ("mcpServers",),
        "Start Claude Code in this folder and approve the server when it asks.",
        project=".mcp.json",
        typed=True,
        elsewhere="claude mcp add --scope user blip2tools --",
        skills=".claude/skills",
    ),
    Client(
        "cursor",
        "Cursor",
        ("mcpServers",),
        "Switch the server on in Cursor's settings, under MCP.",
        project=".cursor/mcp.json",
        user=_everywhere("{home}/.cursor/mcp.json"),
    ),
    Client(
        "vscode",
        "VS Code",
        ("servers",),
        "Run 'MCP: List Servers' in the command palette and start it there.",
        project=".vscode/mcp.json",
        user=_everywhere("{config}/Code/User/mcp.json"),
        typed=True,
        workspace="${workspaceFolder}",
    ),
    Client(
        "windsurf",
        "Windsurf",
        ("mcpServers",),
        "Press Refresh in Cascade's list of MCP servers.",
        user=_everywhere("{home}/.codeium/windsurf/mcp_config.json"),
    ),
    Client(
        "lm-studio",
        "LM Studio",
        ("mcpServers",),
        "Switch the server on in LM Studio's Program tab.",
        user=_everywhere("{lmstudio}/mcp.json"),
    ),
    Client(
        "zed",
        "Zed",
        ("context_servers",),
        "Zed starts the server by itself.",
        user={
            "linux": "{config}/zed/settings.json",
            "macos": "{home}/.config/zed/settings.json",
            "windows": "{config}/Zed/settings.json",
        },
    ),
    Client(
        "gemini-cli",
        "Gemini CLI",
        ("mcpServers",),
        "Start Gemini CLI again; /mcp lists the server.",
        project=".gemini/settings.json",
        user=_everywhere("{home}/.gemini/settings.json"),
    ),
    Client(
        "codex",
        "Codex",
        ("mcp_servers",),
        "Start Codex again; /mcp lists the server.",
        user=_everywhere("{codex}/config.toml"),
        form="toml",
    ),
    Client(
        "opencode",
        "opencode",
        ("mcp",),
        "Start opencode again; `opencode mcp list` shows the server.",
        project="opencode.json",
        user={
            "linux": "{config}/opencode/opencode.json",
            "macos": "{home}/.config/opencode/opencode.json",
            "windows": "{home}/.config/opencode/opencode.json",
        },
        style="opencode",
    ),
    Client(
        "cline",
        "Cline (command line)",
        ("mcpServers",),
        "Start Cline again.",
        user=_everywhere("{home}/.cline/data/settings/cline_mcp_settings.json"),
    ),
    Client(
        "roo",
        "Roo Code",
        ("mcpServers",),
        "Switch the server on in Roo Code's MCP settings.",
        project=".roo/mcp.json",
    ),
    Client(
        "continue",
        "Continue",
        ("mcpServers",),
        "Continue starts the server in agent mode.",
        project=".continue/mcpServers/blip2tools.json",
    ),
    Client(
        "goose",
        "Goose",
        ("extensions",),
        "Start a new session of Goose.",
        user={
            "linux": "{home}/.config/goose/config.yaml",
            "macos": "{home}/.config/goose/config.yaml",
            "windows": "{config}/Block/goose/config/config.yaml",
        },
        form="yaml",
        style="goose",
    ),
    Client(
        "hermes",
        "Hermes Agent",
        ("mcp_servers",),
        "Start Hermes again.",
        user=_everywhere("{home}/.hermes/config.yaml"),
        form="yaml",
    ),
    Client(
        "anythingllm",
        "AnythingLLM Desktop",
        ("mcpServers",),
        "Press Refresh on the agent skills page of AnythingLLM.",
        user=_everywhere("{config}/anythingllm-desktop/storage/plugins/anythingllm_mcp_servers.json"),
    ),
    Client(
        "jan",
        "Jan",
        ("mcpServers",),
        "Start Jan again; its settings list the server under MCP Servers.",
        user={
            "linux": "{home}/.local/share/Jan/data/mcp_config.json",
            "macos": "{config}/Jan/data/mcp_config.json",
            "windows": "{config}/Jan/data/mcp_config.json",
        },
        style="jan",
    ),
    Client(
        "llama-cpp",
        "llama.cpp's server",
        ("mcpServers",),
        "Start llama-server with --mcp-servers-config and this file.",
        user=_everywhere("{config}/blip2tools/llama-server.json"),
    ),
)
CLIENTS: Mapping[str, Client] = {client.name: client for client in _CLIENTS}


def scope_of(client: Client, *, user: bool) -> Scope:
    """The scope that is meant: the project where the client knows one, else the user.

    Raises:
        InvalidInputError: the client keeps no file of its own for all projects.
    """
    if user and client.user is None and client.elsewhere is None:
        raise InvalidInputError(f"{client.title} has servers for one project only; leave out --user.")
    if user and client.user is None:
        raise InvalidInputError(
            f"{client.title} keeps its user-wide servers in a file that only it should write; use its own command: "
            f"{client.elsewhere} COMMAND, with the command that --print shows."
        )
    return "user" if user or client.project is None else "project"


def config_path(client: Client, scope: Scope, machine: Machine) -> Path:
    """The client's configuration file.

    Raises:
        InvalidInputError: several files could be meant.
    """
    if client.project is not None and (scope == "project" or client.user is None):
        return machine.project / client.project
    if client.name == "claude-desktop" and machine.platform == "windows":
        return _packaged_claude(machine) or machine.config / "Claude" / "claude_desktop_config.json"
    template = (client.user or {})[machine.platform]
    folders = {"home": machine.home, "config": machine.config, "codex": machine.codex or machine.home / ".codex"}
    return Path(template.format(**folders, lmstudio=_lm_studio_home(machine)))


def skill_path(client: Client, scope: Scope, machine: Machine) -> Path:
    """Where the skill that teaches the tools goes."""
    return (machine.project if scope == "project" else machine.home) / client.skills / SKILL / "SKILL.md"


def _packaged_claude(machine: Machine) -> Path | None:
    """The file that Claude Desktop reads on Windows when it was installed as an MSIX package.

    Windows shows such a program a private copy of AppData; a file in the documented place is never seen by it
    (anthropics/claude-code#26073).
    """
    local = machine.local_data or machine.home / "AppData" / "Local"
    roaming = sorted((local / "Packages").glob("Claude_*/LocalCache/Roaming"))
    files = [folder / "Claude" / "claude_desktop_config.json" for folder in roaming]
    found = [file for file in files if file.exists()] or files
    if len(found) > 1:
        names = " and ".join(str(file) for file in found)
        raise InvalidInputError(
            f"Claude Desktop has several configuration files, {names}; paste what --print shows into the right one."
        )
    return found[0] if found else None


def _lm_studio_home(machine: Machine) -> Path:
    """LM Studio's folder, found in the order in which its own tools look for it."""
    pointer = machine.home / ".lmstudio-home-pointer"
    try:
        named = pointer.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    if named:
        return Path(named)
    older = machine.home / ".cache" / "lm-studio"
    return older if older.is_dir() else machine.home / ".lmstudio"


def launcher(*, uvx: bool) -> list[str]:
    """The words that start `blip2tools` from another program: absolute, since clients have their own idea of PATH."""
    # An environment in uv's cache is deleted some day; `uvx` makes it again.
    if uvx or "archive-v0" in Path(sys.prefix).parts:
        return list(UVX)
    script = Path(sysconfig.get_path("scripts")) / ("blip2tools.exe" if os.name == "nt" else "blip2tools")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "blip2tools"]


def server_entry(
    client: Client,
    scope: Scope,
    folders: Sequence[str],
    *,
    model: str | None = None,
    uvx: bool = False,
    project: Path | None = None,
) -> dict[str, Any]:
    """The entry that makes `client` start the server over `folders`.

    Args:
        folders: folders that the tools may read; in a project it is the project's own by default.
        model: a captioner by name; the server's own choice by default.
        uvx: start it with `uvx` instead of this environment's command.
        project: the folder that relative ones start from; the working directory by default.

    Raises:
        InvalidInputError: no folder for a user-wide entry, or one that does not exist.
    """
    base = project or Path.cwd()
    words = launcher(uvx=uvx)
    arguments = [*words[1:], "serve"]
    for folder in _folders(client, scope, folders, base):
        arguments += ["--allow-dir", folder]
    if model is not None:
        # A folder is looked up from wherever the client starts the server.
        arguments += ["--model", str((base / model).resolve()) if (base / model).is_dir() else model]
    cache = {name: value for name in CACHE_VARIABLES if (value := foreign_variable(name))}
    return _styled(client, words[0], arguments, cache)


def _styled(client: Client, command: str, arguments: list[str], variables: dict[str, str]) -> dict[str, Any]:
    if client.style == "opencode":
        started = {"type": "local", "command": [command, *arguments], "enabled": True}
        return started | ({"environment": variables} if variables else {})
    if client.style == "goose":
        named = {"name": SERVER_NAME, "type": "stdio", "cmd": command, "args": arguments}
        return named | {"enabled": True, "envs": variables, "timeout": 300}
    entry: dict[str, Any] = {"type": "stdio"} if client.typed else {}
    entry |= {"command": command, "args": arguments}
    if client.style == "jan":
        return entry | {"env": variables, "active": True}
    return entry | ({"env": variables} if variables else {})


def _folders(client: Client, scope: Scope, folders: Sequence[str], base: Path) -> list[str]:
    if not folders:
        if scope == "project":
            return [client.workspace or str(base)]
        raise InvalidInputError(
            f"Say which folder the tools may read in {client.title}, for example: --allow-dir ~/Pictures"
        )
    return [_folder(client, folder, base) for folder in folders]


def _folder(client: Client, folder: str, base: Path) -> str:
    if client.workspace is not None and folder.startswith(client.workspace):
        return folder
    # Not resolved: a link may be meant to point elsewhere tomorrow.
    path = os.path.normpath(base / expanded(Path(folder)))
    if not Path(path).is_dir():
        unset = "".join(f" ({name} is not set here)" for name in unexpanded(Path(path))[:1])
        raise InvalidInputError(f"There is no folder {path}{unset}.")
    return path
