"""Settings as options of a command: one for each, from the settings' own names, types and descriptions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol, get_args, get_origin

from blip2tools.errors import InvalidInputError
from blip2tools.settings import HTTP_SETTINGS, LISTS, PROXY_SETTINGS, Settings, variable


def setting_options(
    parser: argparse.ArgumentParser,
    *,
    http: bool = False,
    proxy: bool = False,
    only: Collection[str] = tuple(Settings.model_fields),
    but: Collection[str] = (),
) -> None:
    """One option per setting, from the settings' own names, types and descriptions.

    Args:
        parser: of the command.
        http: also what concerns the HTTP server.
        proxy: also the settings of the proxy.
        only: the only settings to add.
        but: settings to leave out.
    """
    group = parser.add_argument_group("settings")
    for name, field in Settings.model_fields.items():
        if name not in only or name in but or (name in HTTP_SETTINGS and not http):
            continue
        if name in PROXY_SETTINGS and not proxy:
            continue
        flag = "--" + name.replace("_", "-")
        text = f"{field.description}{_default(field.default)} [{variable(name)}]".replace("%", "%%")
        if name == "allowed_dirs":
            group.add_argument("--allow-dir", dest=name, action="append", metavar="DIR", default=None, help=text)
        elif field.annotation is bool:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif name in LISTS:
            group.add_argument(flag, dest=name, metavar="A,B", default=None, help=text)
        else:
            group.add_argument(flag, dest=name, metavar=_placeholder(name, field.annotation), default=None, help=text)


_PLACEHOLDERS = {"model": "MODEL", "matcher": "MODEL", "cache_dir": "DIR", "offload_dir": "DIR", "calibration": "FILE"}


def _placeholder(name: str, kind: Any) -> str:
    """What stands for a value in help: its alternatives, or what kind of thing it is."""
    if name in _PLACEHOLDERS:
        return _PLACEHOLDERS[name]
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    kinds = {kind, *get_args(kind)}
    return "N" if int in kinds else "X" if float in kinds else name.rsplit("_", 1)[-1].upper()


def _default(value: Any) -> str:
    """A default, as help tells it; of what has none its description does."""
    if value is None or value == () or value is False:
        return ""
    if value is True:
        return " (default: yes)"
    shown = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    return f" (default {shown})"


def ray_options(parser: argparse.ArgumentParser) -> None:
    """What is done by several processes, on this machine or on a cluster."""
    group = parser.add_argument_group("many processes or machines")
    group.add_argument("--ray", action="store_true", help="let several processes on Ray do the work")
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a Ray cluster: `auto`, or HOST:PORT of its head; without it a Ray of its own is started on this machine, and "
        "ended afterwards",
    )
    group.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="processes with the whole model each, and a GPU where there is one (default 2)",
    )


def given_replicas(arguments: argparse.Namespace) -> int:
    """How many processes share the work; 0 without Ray.

    Raises:
        InvalidInputError: an option of Ray without Ray, or a number that makes no sense.
    """
    if not arguments.ray:
        if arguments.ray_address is not None or arguments.replicas is not None:
            flag = "--replicas" if arguments.ray_address is None else "--ray-address"
            raise InvalidInputError(f"{flag} only works with --ray.")
        return 0
    replicas = 2 if arguments.replicas is None else int(arguments.replicas)
    if not 1 <= replicas <= 1024:
        raise InvalidInputError("The number of --replicas must be from 1 to 1024.")
    return replicas


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as options; text is parsed and checked by `Settings`."""
    given: dict[str, Any] = {name: getattr(arguments, name, None) for name in Settings.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    for name in LISTS:
        if name in given:
            given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
    if "allowed_dirs" in given:
        given["allowed_dirs"] = tuple(given["allowed_dirs"])
    return given


def names_a_model(arguments: argparse.Namespace) -> bool:
    """Whether a model was named as an option: the user's consent to download it."""
    return any(getattr(arguments, name, None) not in (None, "auto", "none") for name in ("model", "matcher"))


class AddCommand(Protocol):
    """Adds one command, and gives its parser for the options."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str
    ) -> argparse.ArgumentParser: ...
