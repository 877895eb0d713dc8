"""`blip2tools bench engine`, `latency` and `calls` on the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TextIO

ENGINE = "the engine against stock transformers, interleaved"
ENGINE_TEXT = """\
Answers the same requests with stock transformers, one call at a time, and with this engine end to end, in turns, on models
with random weights, and prints how many times faster the engine was: median, lowest and highest of the rounds."""

LATENCY = "waiting times under load, against stock behind a lock"
LATENCY_TEXT = """\
Lets single questions arrive at random, at 70 % of what stock transformers can serve, and prints how long they wait."""

CALLS = "32 tool calls at once, against one by one"
CALLS_TEXT = """\
Makes 32 calls of the LangChain tools at once and one by one, on the demo checkpoint, and prints the ratio of the times."""


def engine_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench engine`."""
    parser.add_argument(
        "--random",
        default="mid",
        metavar="SIZE",
        help="mid (default: fits one CPU core), opt-2.7b or flan-t5-xl in full size",
    )
    _families(parser)
    parser.add_argument("--beams", type=int, default=1, metavar="N", help="1 (default) is greedy")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds of each case (default 5)")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="CPU time (default) or wall-clock time")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose name holds this")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rows as JSON, too")
    _threads(parser)


def run_engine(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from blip2tools.bench import engine
    from blip2tools.bench.random_models import SIZES

    if arguments.random not in SIZES:
        _tell(f"There is no size {arguments.random!r}; choose one of {', '.join(SIZES)}.", sys.stderr)
        return 2
    engine.run(
        model=arguments.random,
        families=arguments.family or {"opt-2.7b": ["opt"], "flan-t5-xl": ["t5"]}.get(arguments.random, ["opt", "t5"]),
        beams=arguments.beams,
        rounds=arguments.rounds,
        clock=arguments.clock,
        threads=arguments.threads,
        only=arguments.only,
        output=arguments.output,
        tell=_tell,
    )
    return 0


def latency_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench latency`."""
    _families(parser)
    parser.add_argument("--requests", type=int, default=100, metavar="N", help="arrivals of each stream (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="draws arrivals and pictures (default 0)")
    _threads(parser)


def run_latency(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from blip2tools.bench import latency

    latency.run(
        families=arguments.family or ("opt", "t5"),
        requests=arguments.requests,
        threads=arguments.threads,
        seed=arguments.seed,
        tell=_tell,
    )
    return 0


def calls_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench calls`."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="draws the pictures (default 0)")


def run_calls(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    try:
        from blip2tools.bench import calls

        calls.run(rounds=arguments.rounds, seed=arguments.seed, tell=_tell)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("langchain", "langchain_core", "langgraph"):
            raise
        _tell("The calls need an extra: pip install 'blip2tools[langchain]'", sys.stderr)
        return 2
    return 0


def _families(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", action="append", choices=["opt", "t5"], help="only this language model family")


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of both sides (default 1)")


def _tell(line: str, stream: TextIO | None = None) -> None:
    out = sys.stdout if stream is None else stream
    out.write(line + "\n")
    out.flush()
