"""`blip2tools models`, `pull` and `demo`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from blip2tools.cli.console import OK, Bar, say, tell
from blip2tools.cli.options import AddCommand, given_settings, setting_options
from blip2tools.settings import PULL_SETTINGS, Settings


def _models(arguments: argparse.Namespace) -> int:
    from blip2tools import checkpoints
    from blip2tools.checkpoints.family import FAMILY, memory_table

    rows = [
        {
            "name": member.name,
            "kind": member.kind,
            "parameters": member.parameters,
            "download_bytes": member.download_bytes,
            "memory_bytes": memory_table(member),
            "image_size": member.image_size,
            "here": checkpoints.is_cached(member.name),
            "note": member.note,
            "prompt": member.prompt or None,
        }
        for member in FAMILY
    ]
    if arguments.json:
        for row in rows:
            tell(json.dumps(row))
        return OK
    titles = ("name", "kind", "parameters", "download", "memory 32/16/8/4 bit", "picture", "here", "note")
    cells = [titles, *(_model_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for line in cells:
        tell("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return OK


def _model_cells(row: dict[str, Any]) -> tuple[str, ...]:
    memory = row["memory_bytes"]
    return (
        row["name"],
        row["kind"],
        _amount(row["parameters"], ""),
        _amount(row["download_bytes"], "B") if row["download_bytes"] else "none",
        " / ".join("-" if size is None else _amount(size, "B") for size in memory.values()),
        f"{row['image_size']} px",
        "yes" if row["here"] else "no",
        row["note"],
    )


def _amount(number: int, unit: str) -> str:
    """1.2 G, 985.1 M, ..."""
    scale, letter = (1e9, "G") if number >= 1e9 else (1e6, "M")
    return f"{number / scale:.1f} {letter}{unit}"


def _pull(arguments: argparse.Namespace) -> int:
    from blip2tools import checkpoints

    settings = Settings.load(**given_settings(arguments))
    for name in arguments.model_name:
        with Bar(name) as bar:
            checkpoints.fetch(name, settings, bar, anyway=arguments.anyway)
        say(f"{name} is ready.")
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from blip2tools.cli.demo.show import run_demo

    return run_demo(seed=arguments.seed, pictures=arguments.pictures, output=arguments.output)


def _add_model_commands(command: AddCommand) -> None:
    models = command(
        "models",
        _models,
        "list the BLIP-2 family and what is on this machine",
        "The BLIP-2 family: sizes, and what is on this machine.",
    )
    models.add_argument("--json", action="store_true", help="JSON Lines instead of a table")

    pull = command(
        "pull",
        _pull,
        "download a checkpoint",
        "Download a checkpoint to the local Hugging Face cache; an interrupted download resumes.",
    )
    pull.add_argument(
        "model_name", nargs="+", metavar="MODEL", help="a short name from 'blip2tools models', or a hub id"
    )
    pull.add_argument("--anyway", action="store_true", help="also models that do not fit in this machine's memory")
    setting_options(pull, only=PULL_SETTINGS)

    demo = command(
        "demo",
        _demo,
        "watch a text-only client learn what is in fresh pictures",
        "Draw fresh pictures, serve the demo checkpoint, and ask about them as a text-only MCP client.",
    )
    demo.add_argument("--seed", type=int, help="repeat the pictures of an earlier run")
    demo.add_argument("--pictures", type=int, default=6, metavar="N", help="how many pictures (default 6)")
    demo.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the HTML page (default: a temporary folder)"
    )
