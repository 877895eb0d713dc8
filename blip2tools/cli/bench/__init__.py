"""Measurements, each under its name: `blip2tools bench NAME [options]`.

command.py         the command and its names
engine.py          the engine against stock transformers
latency.py         waiting times under load
cpu.py             a processor: stock, ours in full precision, 8 and 4 bits; with cpu_side.py and cpu_floor.py
gpu.py             captions against what memory and arithmetic of the device allow
calls.py           tool calls at once, against one by one
speed.py           the options of those three
report.py          date, machine and versions, and JSON
plot.py            charts as SVG
pairs.py           what to measure: a checkpoint, or random weights of a published size
random_checkpoint.py  the same as files
random_models.py   models of any size without any knowledge, to measure speed with
"""

from __future__ import annotations

from blip2tools.cli.bench.command import add_bench_command

__all__ = ["add_bench_command"]
