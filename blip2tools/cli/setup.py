"""The commands that set things up around the package: `install` for MCP clients, `completion` for shells."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from blip2tools.cli.clients import (
    CLIENTS,
    SERVER_NAME,
    UVX,
    Client,
    Machine,
    Scope,
    config_path,
    scope_of,
    server_entry,
)
from blip2tools.cli.jsonfile import CommentsError, Edit, nested, plan_member, write
from blip2tools.cli.options import AddCommand
from blip2tools.errors import InvalidInputError

SHELLS = ("bash", "zsh", "fish")

INSTALL = """\
Put an entry for this server into the configuration file of an MCP client.

The change is shown as a diff and made only after a yes; the old file is kept next to the new one, and everything else
in it stays as it is. Without --allow-dir the entry of a project opens that project's folder."""

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
    install.add_argument("client", choices=tuple(CLIENTS), metavar="CLIENT", help=", ".join(CLIENTS))
    install.add_argument(
        "--allow-dir", action="append", default=[], metavar="DIR", help="folder that the tools may read; repeatable"
    )
    install.add_argument("--model", metavar="MODEL", help="captioner to start with (default: auto)")
    install.add_argument(
        "--user", action="store_true", help="for all projects, where the client also has a project file"
    )
    install.add_argument("--uvx", action="store_true", help="start it with uvx, without a checkout (once published)")
    install.add_argument("--yes", action="store_true", help="do not ask")
    only = install.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="show the diff and change nothing")
    only.add_argument("--print", action="store_true", dest="snippet", help="print the entry alone, to paste it")

    completion = command(
        "completion",
        lambda arguments: _completion(parser, arguments.shell),
        "print a shell completion script",
        COMPLETION,
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _install(arguments: argparse.Namespace) -> int:
    client = CLIENTS[arguments.client]
    if arguments.user and client.user is None and arguments.snippet:
        return _print_command(client, arguments)
    scope = scope_of(client, user=arguments.user)
    machine = Machine.here()
    entry = server_entry(client, scope, arguments.allow_dir, model=arguments.model, uvx=arguments.uvx)
    keys = (*client.keys, SERVER_NAME)
    snippet = json.dumps(nested(keys, entry), indent=2, ensure_ascii=False)
    path = config_path(client, scope, machine)
    _advise(entry["command"], arguments.model)
    if arguments.snippet:
        _say(f"For {client.title}, in {path}:")
        _print(snippet)
        return 0
    try:
        edit = plan_member(path, keys, entry)
    except CommentsError as error:
        _say(f"{error.message} Paste this into it:")
        _print(snippet)
        return 1
    return _apply(edit, client, scope, dry_run=arguments.dry_run, yes=arguments.yes)


def _print_command(client: Client, arguments: argparse.Namespace) -> int:
    """The command line of a client that has a command instead of a file."""
    entry = server_entry(client, "user", arguments.allow_dir, model=arguments.model, uvx=arguments.uvx)
    _print(f"{client.elsewhere} {shlex.join([entry['command'], *entry['args']])}")
    return 0


def _apply(edit: Edit, client: Client, scope: Scope, *, dry_run: bool, yes: bool) -> int:
    if not edit.changes:
        _say(f"{edit.path} already has this entry; nothing was changed.")
        return 0
    if edit.drops_mark:
        _say(
            f"{edit.path} begins with a byte order mark, with which {client.title} may not parse it; it is written without."
        )
    if diff := edit.diff():
        _print(diff)
    if scope == "user" and not edit.path.parent.is_dir():
        _say(f"There is no folder {edit.path.parent} yet; is {client.title} installed? It would be made.")
    if dry_run:
        return 0
    if not yes and not _confirmed(edit.path):
        _say("Nothing was changed.")
        return 1
    backup = write(edit)
    _say(f"Written: {edit.path}" + (f" (before: {backup})" if backup else ""))
    _say(client.then)
    return 0


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

    _mark_paths(parser, {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE, "IMAGE": shtab.FILE})
    _print(shtab.complete(parser, shell))
    return 0


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
