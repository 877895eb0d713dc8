"""`blip2tools bench` with every measurement."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from blip2tools.cli.bench import cpu, gpu, speed
from blip2tools.cli.options import AddCommand


@dataclass(frozen=True, slots=True)
class Bench:
    """One measurement on the command line.

    Attributes:
        name: what it is called there.
        summary: one line for the list.
        text: what its own help begins with.
        options: adds its options to its parser.
        run: measures, prints, and returns the exit status. What it needs is imported here and not before.
    """

    name: str
    summary: str
    text: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


BENCHES: tuple[Bench, ...] = (
    Bench("engine", speed.ENGINE, speed.ENGINE_TEXT, speed.engine_options, speed.run_engine),
    Bench("latency", speed.LATENCY, speed.LATENCY_TEXT, speed.latency_options, speed.run_latency),
    Bench("cpu", cpu.SUMMARY, cpu.TEXT, cpu.add_options, cpu.run),
    Bench("gpu", gpu.SUMMARY, gpu.TEXT, gpu.add_options, gpu.run),
    Bench("calls", speed.CALLS, speed.CALLS_TEXT, speed.calls_options, speed.run_calls),
)


def add_bench_command(command: AddCommand) -> None:
    """Add `bench` with every measurement to the command line.

    Args:
        command: adds one command.
    """
    parser = command(
        "bench", lambda arguments: int(arguments.bench(arguments)), "measure", "Measure something, by name."
    )
    names = parser.add_subparsers(title="measurements", required=True, metavar="NAME")
    for bench in BENCHES:
        sub = names.add_parser(
            bench.name,
            help=bench.summary,
            description=bench.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        bench.options(sub)
        sub.set_defaults(bench=bench.run)
