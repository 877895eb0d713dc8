"""The command line. Each command is thin: options become settings, one verb of `Vision` does the work."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from blip2tools.__version__ import __version__
from blip2tools.cli.console import INTERRUPTED, NO_MODEL, SOME_FAILED, USAGE, fail, say, speak_utf8
from blip2tools.cli.options import AddCommand
from blip2tools.cli.parsing import SETTINGS, Parser, add_help_all
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.settings import told_strays

DESCRIPTION = """\
Sight for text-only agents: captions, answers and image-text match from a local BLIP-2 model.

Without a model of its own on this machine it answers from a small demo checkpoint that only knows drawn shapes;
'blip2tools models' lists the real ones and 'blip2tools pull NAME' fetches one."""


EPILOG = """\
exit status: 0 all well, 1 some pictures failed, 2 wrong usage, 3 model unavailable, 130 interrupted
every setting can also be a variable (--num-beams 3 is BLIP2TOOLS_NUM_BEAMS=3) or stand in your file: blip2tools config show"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0 all well, 1 some pictures failed, 2 usage, 3 model unavailable, 130 interrupted.
    """
    speak_utf8(as_json=False)  # also for the parser's own messages
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = build_parser(named(words)).parse_args(words)
    speak_utf8(as_json=getattr(arguments, "json", False) or getattr(arguments, "snippet", False))
    # A person gets one sentence; its cause is logged on request. The server turns its log on by itself.
    level = logging.INFO if arguments.verbose else logging.CRITICAL
    logging.basicConfig(stream=sys.stderr, level=level, format="blip2tools: %(message)s")
    for part in (
        "converted",
        "quantizing",
    ):  # gigabytes that cannot be kept, or are damaged: a person wants to know that
        logging.getLogger(f"blip2tools.checkpoints.{part}").setLevel(logging.WARNING)
    if named(words) != "serve":  # whose log says so
        for sentence in told_strays():
            say(f"warning: {sentence}")
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        if argv is None:
            raise  # `cli.main` ends the process
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has closed the pipe, which is fine. Python would report it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SOME_FAILED
    except ModelUnavailableError as error:
        return fail(error, NO_MODEL)
    except VisionError as error:
        return fail(error, USAGE)


def _look(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.look import _add_looking_commands

    _add_looking_commands(command)


def _collections(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.collections import add_collection_commands

    add_collection_commands(command)


def _view(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.view import add_view_command

    add_view_command(command)


def _run(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.run import add_run_command

    add_run_command(command)


def _serve(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.serve import _add_serve_command

    _add_serve_command(command)


def _models(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.models import _add_model_commands

    _add_model_commands(command)


def _bench(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.bench import add_bench_command

    add_bench_command(command)


def _doctor(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.doctor import LOOKED_AT, add_doctor_command
    from blip2tools.cli.options import given_settings, setting_options

    setting_options(add_doctor_command(command, given_settings), only=LOOKED_AT)


def _evaluate(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.evaluate import add_evaluate_command

    add_evaluate_command(command)


def _config(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.config import add_config_command

    add_config_command(command)


def _setup(command: AddCommand, parser: argparse.ArgumentParser) -> None:
    from blip2tools.cli.setup import add_setup_commands

    add_setup_commands(command, parser)


# The functions that add commands, in the order of the help. Each imports only what its command needs.
GROUPS: tuple[tuple[tuple[str, ...], Callable[[AddCommand, argparse.ArgumentParser], None]], ...] = (
    (("caption", "ask", "match", "read", "survey"), _look),
    (("index", "search"), _collections),
    (("view",), _view),
    (("run",), _run),
    (("serve", "proxy"), _serve),
    (("models", "pull", "remove", "demo"), _models),
    (("config",), _config),
    (("bench",), _bench),
    (("doctor",), _doctor),
    (("evaluate",), _evaluate),
    (("install", "uninstall", "completion"), _setup),
)


def named(words: Sequence[str]) -> str | None:
    """The command that a command line names, if there is such a command."""
    first = next((word for word in words if not word.startswith("-")), None)
    wants_list = any(word in ("-h", "--help", "--version") for word in words[: words.index(first)]) if first else True
    known = any(first in names for names, _ in GROUPS)
    # A completion script describes all of them.
    return first if known and not wants_list and first != "completion" else None


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        only: the command that will be run, if it is known: the others are left out then.
    """
    parser = Parser(prog="blip2tools", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"blip2tools {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the log, with the causes of failures")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=text)
        sub.set_defaults(command=run, parser=sub)
        return sub

    for names, add in GROUPS:
        if only is None or only in names:
            add(command, parser)
    for sub in commands.choices.values():
        if any(group.title == SETTINGS for group in sub._action_groups):
            add_help_all(sub)
    return parser
