"""`blip2tools config`: the user's own settings, where each value comes from, and where files are kept."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from blip2tools.cli.console import OK, say, tell
from blip2tools.cli.options import AddCommand
from blip2tools.errors import InvalidInputError
from blip2tools.settings import LISTS, Settings, config_place, file, given, suggestion, variable

TEXT = """\
Show and change settings of your own. They count for every command, server and Python program of yours, below options and
BLIP2TOOLS_ variables. The file is TOML, one line for each setting; your comments stay."""
HIDDEN = "********"


def add_config_command(command: AddCommand) -> None:
    """Add `config` to the command line."""
    config = command(
        "config", lambda arguments: int(arguments.action(arguments)), "show and change your settings", TEXT
    )
    actions = config.add_subparsers(title="actions", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="values, and where each comes from")
    show.add_argument("name", nargs="*", metavar="NAME", help="only these settings")
    show.add_argument("--json", action="store_true", help="JSON Lines instead of TOML")
    show.set_defaults(action=_show)
    put = actions.add_parser("set", help="change a setting: NAME VALUE; without VALUE it is taken out")
    put.add_argument("name", metavar="NAME", help="of the setting, as `config show` prints it")
    put.add_argument("value", nargs="*", metavar="VALUE", help="several for a list")
    put.set_defaults(action=_set)
    path = actions.add_parser("path", help="print where the file is")
    path.add_argument("--all", action="store_true", help="also where else files are kept")
    path.set_defaults(action=_path)


def _show(arguments: argparse.Namespace) -> int:
    names = [_known(name) for name in arguments.name] or list(Settings.model_fields)
    settings = Settings.load()
    origins, _ = given()
    for name in names:
        value, origin = getattr(settings, name), _origin(name, origins)
        if arguments.json:
            shown = HIDDEN if isinstance(value, SecretStr) else value
            line = {"name": name, "value": shown, "from": origin}
            tell(json.dumps(line, default=str, ensure_ascii=False))
        elif value is None or isinstance(value, SecretStr):  # TOML has no word for nothing, and a secret is not shown
            tell(f"# {name} = {'not set' if value is None else HIDDEN}  # {origin}")
        else:
            tell(f"{name} = {file.toml(value)}  # {origin}")
    return OK


def _origin(name: str, origins: dict[str, str]) -> str:
    origin = origins.get(name)
    if origin is None:
        return "default"
    return origin if origin == variable(name) else str(config_place())


def _set(arguments: argparse.Namespace) -> int:
    name, path = _known(arguments.name), config_place()
    text = file.text_of(path) or ""
    before = file.parsed(text, path)
    value = _value(name, arguments.value, before) if arguments.value else None
    if value is None and name not in before:
        say(f"{path} does not have {name}; nothing was changed.")
        return OK
    file.write(path, file.changed(text, name, value))
    say(f"Written: {path}")
    origins, _ = given()
    if origins.get(name) == variable(name):
        say(f"Note: the variable {variable(name)} is set and counts more.")
    return OK


def _value(name: str, words: list[str], before: dict[str, Any]) -> Any:
    """What the words of a command line mean for a setting, in the file's own types.

    Raises:
        InvalidInputError: several words where one is wanted, or a value that is refused.
    """
    listed = name in LISTS or name == "allowed_dirs"
    if len(words) > 1 and not listed:
        raise InvalidInputError(f"The setting '{name}' takes one value; put one with spaces in quotes.")
    if name == "allowed_dirs":
        # A folder that is meant from here must not be another one elsewhere.
        words = [str(Path(word).absolute()) if not word.startswith(("~", "$", "%")) else word for word in words]
    parts = tuple(part.strip() for word in words for part in word.split(",") if part.strip())
    wanted: Any = tuple(words) if name == "allowed_dirs" else parts if listed else words[0]
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in before.items()}
    value = getattr(Settings.check({**known, name: wanted}), name)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return wanted if name == "allowed_dirs" else str(value) if isinstance(value, Path) else value


def _path(arguments: argparse.Namespace) -> int:
    tell(str(config_place()))
    if arguments.all:
        from blip2tools.checkpoints.hub import cache_folder

        tell(str(Settings.load().cache_folder))
        tell(str(cache_folder()))
    return OK


def _known(name: str) -> str:
    """The setting that a user names, also as an option is called.

    Raises:
        InvalidInputError: there is none.
    """
    wanted = name.lstrip("-").replace("-", "_").lower().removeprefix("blip2tools_")
    wanted = {"allow_dir": "allowed_dirs"}.get(wanted, wanted)
    if wanted not in Settings.model_fields:
        said = f"There is no setting named '{name}'{suggestion(wanted)}"
        raise InvalidInputError(said if said.endswith("?") else f"{said}; `blip2tools config show` lists them.")
    return wanted
