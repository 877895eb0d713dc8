"""`blip2tools bench sight`: the sight test on the command line."""

from __future__ import annotations

import argparse
import json
import sys

SUMMARY = "whether a text-only agent's answers come from the pixels"
TEXT = """\
A scripted text-only LangChain agent plays games about freshly drawn pictures whose truth is known: with the tools, with one
caption of each picture only, and with the pictures exchanged behind its back. It shows what flows from pixels to an agent,
and is no evidence about which tools a real model would choose."""

MAX_GAMES = 1000


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench sight`."""
    parser.add_argument("--seed", type=int, default=1, help="draws the pictures and questions (default 1)")
    parser.add_argument(
        "--games", type=_number, default=20, metavar="N", help="games of each kind, 2 to 1000 (default 20)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Play, count, print; see the command line's exit statuses."""
    try:
        from blip2tools.demo.sight import run_sight
    except (ImportError, ModuleNotFoundError) as error:
        if (error.name or "").partition(".")[0] not in ("langchain", "langchain_core", "langgraph", ""):
            raise
        sys.stderr.write("The sight test needs an extra: pip install 'blip2tools[langchain]'\n")
        return 2
    report = run_sight(seed=arguments.seed, games=arguments.games, progress=_progress if sys.stderr.isatty() else None)
    if arguments.json:
        sys.stdout.write(json.dumps(report.as_dict()) + "\n")
        return 0
    guess = f"guessing gives {report.total.chance:.0%} +- {report.error:.0%} (standard error)"
    sys.stdout.write(
        f"{report.table()}\n\n{report.date}, seed {report.seed}, {report.games} games of each kind; {guess}\n"
    )
    return 0


def _progress(what: str) -> None:
    sys.stderr.write(f"{what}\n")


def _number(text: str) -> int:
    number = int(text)
    if not 2 <= number <= MAX_GAMES:
        raise argparse.ArgumentTypeError(f"must be from 2 to {MAX_GAMES}")
    return number
