"""A parser that speaks to people: what matters on one screen, the error first, and what was probably meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, cast

SETTINGS = "settings"
_SHORT = {
    "model": "captioner, as 'blip2tools models' lists them, a hub id or a folder (default auto)",
    "device": "auto, cpu, cuda, cuda:N or mps (default auto)",
    "allowed_dirs": "folder that tools may read (default: this one)",
}
# Settings that the short help shows; `--help-all` has them all.
COMMON = tuple(_SHORT)
_WIDEST = 28


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Wide enough for the longest command next to its summary."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_WIDEST)


class Parser(argparse.ArgumentParser):
    """A parser of a command, or of all of them."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", Formatter)
        super().__init__(**{**options, "allow_abbrev": False})

    def format_help(self) -> str:
        """What matters, on one screen; all of it where that is little anyway."""
        rare = self._rare()
        if not rare:
            return super().format_help()
        shown = [one for one in self._actions if one not in rare and one.help != argparse.SUPPRESS]
        rows = [(_invocation(one), _gist(one)) for one in shown if not isinstance(one, argparse._HelpAction)]
        width = min(_WIDEST, max(len(name) for name, _ in rows)) + 2
        needed = [one for one in shown if one.required or not one.option_strings]
        usage = " ".join(["usage:", self.prog, *map(_invocation, needed), "[OPTION...]"])
        text = (self.description or "").split("\n\n")[0]
        lines = [f"  {name.ljust(width)}{gist}" for name, gist in rows]
        more = f"{self.prog} --help-all: {len(rare)} more options. They are settings, which can also be variables or"
        return "\n".join([usage, "", text, "", *lines, "", more, "stand in your file: blip2tools config show", ""])

    def format_all(self) -> str:
        """Every option."""
        return super().format_help()

    def _rare(self) -> list[argparse.Action]:
        groups = [group for group in self._action_groups if group.title == SETTINGS]
        found = [action for group in groups for action in group._group_actions if action.dest not in COMMON]
        return found if len(found) > len(COMMON) else []

    def error(self, message: str) -> NoReturn:
        """The error as the first line; usage is what help is for."""
        sys.stderr.write(f"{self.prog}: error: {message}\n{self.prog} --help says how it is used.\n")
        sys.stderr.flush()
        sys.exit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        near = get_close_matches(str(value), known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else f"; choose one of {', '.join(known)}"
        if isinstance(action, argparse._SubParsersAction):
            self.error(f"invalid choice: {value!r} is no {str(action.metavar or 'command').lower()}{meant}")
        raise argparse.ArgumentError(action, f"invalid choice: {value!r}{meant}")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Words to a namespace.

        Raises:
            SystemExit: after an error, or help.
        """
        found, left = self.parse_known_args(args, namespace)
        if left:
            parser = cast(Parser, getattr(found, "parser", self))
            parser.error(parser.unknown(left[0]))
        return found

    def unknown(self, word: str) -> str:
        """What is wrong with a word that nothing takes."""
        if not word.startswith("-"):
            return f"unrecognized arguments: {word!r} is one word too many"
        name = word.partition("=")[0]
        known = [option.lstrip("-") for action in self._actions for option in action.option_strings]
        near = get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.7)
        return f"unrecognized arguments: there is no option {name}" + (f"; did you mean --{near[0]}?" if near else "")


class _HelpAll(argparse.Action):
    """`--help-all`."""

    def __init__(self, option_strings: Sequence[str], dest: str = argparse.SUPPRESS, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        text = parser.format_all() if isinstance(parser, Parser) else parser.format_help()
        sys.stdout.write(text)
        parser.exit()


def _invocation(action: argparse.Action) -> str:
    """An argument as it is typed: by its long name, with what stands for its values."""
    value: Any = action.metavar or action.dest.upper()
    several = " ".join(value) if isinstance(value, tuple) else f"{value}..." if action.nargs == "+" else value
    if not action.option_strings:
        return f"[{several}]" if action.nargs in ("?", "*") else str(several)
    name = next((one for one in action.option_strings if one.startswith("--")), action.option_strings[0])
    return name if action.nargs == 0 else f"{name} {several}"


def _gist(action: argparse.Action) -> str:
    """The first clause of its help, with its default."""
    text = _SHORT.get(action.dest) or (action.help or "").partition(";")[0].replace("%%", "%")
    plain = isinstance(action.default, int | str) and not isinstance(action.default, bool) and action.default != ""
    return f"{text} (default {action.default})" if plain and "default" not in text else text


def add_help_all(parser: argparse.ArgumentParser) -> None:
    """Give a command an option that shows all the others."""
    parser.add_argument("--help-all", action=_HelpAll)
