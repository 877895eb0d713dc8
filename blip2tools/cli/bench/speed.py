"""`blip2tools bench engine`, `latency` and `calls` on the command line."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from blip2tools.cli.bench import pairs, plot

ENGINE = "the engine against stock transformers, interleaved"
ENGINE_TEXT = """\
Answers the same requests with stock transformers, one call at a time, and with this engine end to end, in turns, on models
with random weights, and prints how many times faster the engine was: median, lowest and highest of the rounds."""

LATENCY = "waiting times under load, against stock behind a lock"
LATENCY_TEXT = """\
Lets single questions arrive at random, at 70 % of what stock transformers can serve, and prints how long they wait. On a CPU
time is this process's CPU time, in which other load on the machine does not count; `--clock wall` needs a quiet machine."""

CALLS = "32 tool calls at once, against one by one"
CALLS_TEXT = """\
Makes 32 calls of the LangChain tools at once and one by one, on the demo checkpoint, and prints the ratio of the times."""


def engine_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench engine`."""
    pairs.add_options(parser)
    parser.add_argument("--beams", type=int, default=1, metavar="N", help="1 (default) is greedy")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds of each case (default 5)")
    parser.add_argument(
        "--clock", choices=["cpu", "wall"], help="CPU time (default on a CPU) or wall-clock time (default on a GPU)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose name holds this")
    _output(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios as SVG")


def run_engine(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from blip2tools.cli.bench import engine

    rows = engine.run(
        pairs.subjects(arguments, _tell),
        beams=arguments.beams,
        rounds=arguments.rounds,
        clock=arguments.clock,
        only=arguments.only,
        tell=_tell,
    )
    _write(arguments, {"beams": arguments.beams, "rounds": arguments.rounds, "rows": [asdict(row) for row in rows]})
    if arguments.plot is not None and rows:
        marks = [plot.Ratio(row.case, row.model, row.median, row.lowest, row.highest) for row in rows]
        search = "greedy" if arguments.beams == 1 else f"{arguments.beams} beams"
        arguments.plot.write_text(
            plot.ratios(f"Times faster than stock transformers ({search})", marks), encoding="utf-8"
        )
    return 0


def latency_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench latency`."""
    pairs.add_options(parser)
    parser.add_argument(
        "--requests", type=int, default=200, metavar="N", help="arrivals of each stream in each round (default 200)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of both sides in turns (default 3)")
    parser.add_argument("--clock", choices=["cpu", "wall"], help="as in `bench engine`; see the text above")
    parser.add_argument("--seed", type=int, default=0, help="draws arrivals and pictures (default 0)")
    _output(parser)


def run_latency(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from blip2tools.cli.bench import latency

    streams = latency.run(
        pairs.subjects(arguments, _tell),
        requests=arguments.requests,
        rounds=arguments.rounds,
        seed=arguments.seed,
        clock=arguments.clock,
        tell=_tell,
    )
    _write(
        arguments,
        {
            "requests": arguments.requests,
            "rounds": arguments.rounds,
            "seed": arguments.seed,
            "streams": [asdict(stream) for stream in streams],
        },
    )
    return 0


def calls_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench calls`."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="draws the pictures (default 0)")


def run_calls(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    try:
        from blip2tools.cli.bench import calls

        calls.run(rounds=arguments.rounds, seed=arguments.seed, tell=_tell)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("langchain", "langchain_core", "langgraph"):
            raise
        _tell("The calls need an extra: pip install 'blip2tools[langchain]'", sys.stderr)
        return 2
    return 0


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")


def _write(arguments: argparse.Namespace, measured: dict[str, Any]) -> None:
    if arguments.output is not None:
        from blip2tools.cli.bench.report import write_json

        write_json(arguments.output, measured)


def _tell(line: str, stream: TextIO | None = None) -> None:
    out = sys.stdout if stream is None else stream
    out.write(line + "\n")
    out.flush()
