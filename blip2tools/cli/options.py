"""Settings as options of a command: one for each, from the settings' own names, types and descriptions."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from typing import Any, Protocol

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
        text = f"{field.description} [{variable(name)}]".replace("%", "%%")
        if name == "allowed_dirs":
            group.add_argument("--allow-dir", dest=name, action="append", metavar="DIR", default=None, help=text)
        elif field.annotation is bool:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif name in LISTS:
            group.add_argument(flag, dest=name, metavar="A,B", default=None, help=text)
        else:
            group.add_argument(flag, dest=name, metavar=name.rsplit("_", 1)[-1].upper(), default=None, help=text)


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
