"""The commands that set things up around the package: `install` and `uninstall` for MCP clients, `completion` for shells."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blip2tools.cli import jsonfile, tomlfile, yamlfile
from blip2tools.cli.clients import (
    CLIENTS,
    SERVER_NAME,
    UVX,
    Client,
    Machine,
    Scope,
    config_path,
    launcher,
    scope_of,
    server_entry,
    skill_path,
)
from blip2tools.cli.options import AddCommand
from blip2tools.cli.textfile import Edit, read, write
from blip2tools.errors import InvalidInputError, ModelUnavailableError

SKILL_FILE = Path(__file__).with_name("SKILL.md")
SHELLS = ("bash", "zsh", "fish")

INSTALL = """\
Put an entry for this server into the configuration file of an MCP client.

The change is shown as a diff and made only after a yes; the old file is kept next to the new one, and everything else
in it stays as it is. Without --allow-dir the entry of a project opens that project's folder."""

UNINSTALL = """\
Take the entry for this server out of the configuration file of an MCP client, and the skill that `install --skill` put there.

The change is shown as a diff and made only after a yes; the old file is kept next to the new one, and everything else
in it stays as it is."""

COMPLETION = """\
Print a completion script. To switch it on:

  bash   eval "$(blip2tools completion bash)"                                        in ~/.bashrc
  zsh    blip2tools completion zsh > "${fpath[1]}/_blip2tools"                       once
  fish   blip2tools completion fish > ~/.config/fish/completions/blip2tools.fish     once"""


def add_setup_commands(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    """Add `install` and `completion` to the command line.

    Args:
        command: adds one command.
        parser: the whole command line, which completion describes.
    """
    install = command("install", _install, "add the server to an MCP client", INSTALL)
    _add_client(install)
    install.add_argument(
        "--allow-dir", action="append", default=[], metavar="DIR", help="folder that the tools may read; repeatable"
    )
    install.add_argument("--model", metavar="MODEL", help="captioner to start with (default: auto)")
    install.add_argument(
        "--skill", action="store_true", help="also the skill that teaches a model when to use which tool"
    )
    install.add_argument("--uvx", action="store_true", help="start it with uvx, without a checkout (once published)")
    install.add_argument("--yes", action="store_true", help="do not ask")
    only = install.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="show the diff and change nothing")
    only.add_argument("--print", action="store_true", dest="snippet", help="print the entry alone, to paste it")

    uninstall = command("uninstall", _uninstall, "take the server out of an MCP client", UNINSTALL)
    _add_client(uninstall)
    uninstall.add_argument("--yes", action="store_true", help="do not ask")
    uninstall.add_argument("--dry-run", action="store_true", help="show the diff and change nothing")

    completion = command(
        "completion",
        lambda arguments: _completion(parser, arguments.shell),
        "print a shell completion script",
        COMPLETION,
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _add_client(command: argparse.ArgumentParser) -> None:
    command.add_argument("client", choices=tuple(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
    command.add_argument(
        "--user", action="store_true", help="for all projects, where the client also has a project file"
    )


def _install(arguments: argparse.Namespace) -> int:
    client = CLIENTS[arguments.client]
    if arguments.model is not None:
        _check_model(arguments.model)
    if arguments.user and client.user is None and arguments.snippet and client.elsewhere:
        return _print_command(client, arguments)
    scope = scope_of(client, user=arguments.user)
    machine = Machine.here()
    entry = server_entry(client, scope, arguments.allow_dir, model=arguments.model, uvx=arguments.uvx)
    path = config_path(client, scope, machine)
    _advise(launcher(uvx=arguments.uvx)[0], arguments.model)
    if arguments.snippet:
        _say(f"For {client.title}, in {path}:")
        _print(_snippet(client, entry))
        return 0
    edits = [_planned(client, path, entry)]
    if arguments.skill:
        place = skill_path(client, scope, machine)
        edits.append(Edit(place, read(place), SKILL_FILE.read_text(encoding="utf-8")))
    return _apply(edits, client, scope, there=True, dry_run=arguments.dry_run, yes=arguments.yes)


def _uninstall(arguments: argparse.Namespace) -> int:
    client, machine = CLIENTS[arguments.client], Machine.here()
    if arguments.user and client.user is None and client.elsewhere:
        raise InvalidInputError(f"{client.title} takes it out itself: claude mcp remove --scope user {SERVER_NAME}")
    scope = scope_of(client, user=arguments.user)
    edits = [_planned(client, config_path(client, scope, machine), None)]
    place = skill_path(client, scope, machine)
    # One that was changed by hand is somebody's own by now.
    if (there := read(place)) == SKILL_FILE.read_text(encoding="utf-8"):
        edits.append(Edit(place, there, None))
    return _apply(edits, client, scope, there=False, dry_run=arguments.dry_run, yes=arguments.yes)


def _planned(client: Client, path: Path, entry: dict[str, Any] | None) -> Edit:
    """The change of the client's file; without an entry, ours is taken out."""
    keys = (*client.keys, SERVER_NAME)
    if client.form == "toml":
        return tomlfile.plan_table(path, keys, entry)
    if client.form == "yaml":
        return yamlfile.plan_entry(path, (keys[0], keys[1]), entry)
    return jsonfile.plan_removal(path, keys) if entry is None else jsonfile.plan_member(path, keys, entry)


def _snippet(client: Client, entry: dict[str, Any]) -> str:
    keys = (*client.keys, SERVER_NAME)
    if client.form == "toml":
        return tomlfile.table(keys, entry)
    if client.form == "yaml":
        return yamlfile.entry((keys[0], keys[1]), entry)
    return json.dumps(jsonfile.nested(keys, entry), indent=2, ensure_ascii=False)


def _print_command(client: Client, arguments: argparse.Namespace) -> int:
    """The command line of a client that has a command instead of a file."""
    entry = server_entry(client, "user", arguments.allow_dir, model=arguments.model, uvx=arguments.uvx)
    _print(f"{client.elsewhere} {shlex.join([entry['command'], *entry['args']])}")
    return 0


def _apply(edits: Sequence[Edit], client: Client, scope: Scope, *, there: bool, dry_run: bool, yes: bool) -> int:
    for edit in [edit for edit in edits if not edit.changes]:
        _say(f"{edit.path} {'already has' if there else 'does not have'} this entry; nothing was changed.")
    edits = [edit for edit in edits if edit.changes]
    for edit in edits:
        if edit.drops_mark:
            _say(
                f"{edit.path} begins with a byte order mark, with which {client.title} may not parse it; "
                "it is written without."
            )
        if diff := edit.diff():
            _print(diff)
    if edits and scope == "user" and not edits[0].path.parent.is_dir():
        _say(f"There is no folder {edits[0].path.parent} yet; is {client.title} installed? It would be made.")
    if dry_run or not edits:
        return 0
    if not yes and not _confirmed(edits[0].path):
        _say("Nothing was changed.")
        return 1
    for edit in edits:
        backup = write(edit)
        done = "Removed" if edit.after is None else "Written"
        _say(f"{done}: {edit.path}" + (f" (before: {backup})" if backup else ""))
    _say(client.then)
    return 0


def _check_model(name: str) -> None:
    """Refuse a model's name that can never work.

    Raises:
        InvalidInputError: there is no such model; with the name that may be meant.
    """
    from blip2tools import checkpoints
    from blip2tools.checkpoints.family import FAMILY
    from blip2tools.settings import Settings

    try:
        checkpoints.locate(Settings.check({"model": name}))
    except ModelUnavailableError as error:
        names = [member.name for member in FAMILY if member.kind == "captioner"]
        near = difflib.get_close_matches(name.lower(), names, n=1)
        raise InvalidInputError(f"{error.message}{f' Did you mean {near[0]}?' if near else ''}") from error


def _confirmed(path: Path) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInputError(
            "There is no terminal to ask on; add --yes to make this change, or --dry-run to look at it."
        )
    sys.stderr.write(f"Change {path}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _advise(command: str, model: str | None) -> None:
    if command == UVX[0]:
        _say("Note: blip2tools is not published yet; this entry works once it is.")
    elif importlib.util.find_spec("mcp") is None:
        _say("Note: the server needs an extra: pip install 'blip2tools[mcp]'")
    if model is not None:
        from blip2tools import checkpoints

        if not checkpoints.is_cached(model):
            _say(f"Note: the model is not on this machine yet; fetch it first: blip2tools pull {shlex.quote(model)}")


def _completion(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab

    kinds = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE, "IMAGE": shtab.FILE, "MODEL": _model_names()}
    _mark_paths(parser, kinds)
    preamble = _BASH_MODELS.format(names=" ".join(_names())) if shell == "bash" else ""
    _print(shtab.complete(parser, shell, preamble=preamble))
    return 0


_BASH_MODELS = """
_blip2tools_models() {{
  compgen -W "{names}" -- "$1"
}}
"""


def _names() -> list[str]:
    from blip2tools.checkpoints.family import FAMILY

    return sorted({member.name for member in FAMILY})


def _model_names() -> dict[str, str]:
    """How each shell offers the names of models."""
    names = " ".join(_names())
    return {"bash": "_blip2tools_models", "zsh": f"({names})", "fish": f"(printf '%s\\n' {names})"}


def _mark_paths(parser: argparse.ArgumentParser, kinds: Mapping[str, object]) -> None:
    """Tell shtab, which looks for an attribute of each argument, where a shell should offer paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _mark_paths(sub, kinds)
        elif isinstance(action.metavar, str) and action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
