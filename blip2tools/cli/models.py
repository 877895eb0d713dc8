"""`blip2tools models`, `pull` and `demo`."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from blip2tools.cli.console import OK, SOME_FAILED, Bar, confirmed, say, tell
from blip2tools.cli.options import AddCommand, given_settings, setting_options
from blip2tools.errors import InvalidInputError
from blip2tools.settings import PULL_SETTINGS, Settings, config_place


def _models(arguments: argparse.Namespace) -> int:
    from blip2tools import checkpoints
    from blip2tools.checkpoints import converted
    from blip2tools.checkpoints.family import FAMILY, memory_table, processor_table

    kept: list[converted.Kept] = []
    with suppress(InvalidInputError):  # the family can be listed with any settings
        kept = converted.kept(Settings.load())

    rows = [
        {
            "name": member.name,
            "kind": member.kind,
            "parameters": member.parameters,
            "download_bytes": member.download_bytes,
            "memory_bytes": memory_table(member),
            "cpu_memory_bytes": processor_table(member),
            "kept_bytes": sum(one.size for one in kept if one.source == member.hub),
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
    titles = (
        *("name", "kind", "parameters", "download", "memory 32/16/8/4 bit", "8/4 bit on a CPU", "picture", "here"),
        *("kept quantized", "note"),
    )
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
        " / ".join(_amount(size, "B") for size in row["cpu_memory_bytes"].values()),
        f"{row['image_size']} px",
        "yes" if row["here"] else "no",
        _amount(row["kept_bytes"], "B") if row["kept_bytes"] else "-",
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


def _remove(arguments: argparse.Namespace) -> int:
    from blip2tools.checkpoints import removal

    settings = Settings.load()
    if not arguments.model_name and not arguments.all:
        raise InvalidInputError("Which model? Name one, or remove everything that is kept with --all.")
    copies = [removal.kept(name, settings) for name in dict.fromkeys(arguments.model_name)]
    if arguments.all:
        copies = removal.all_kept(settings)
    for copy in copies:
        places = [] if copy.folder is None else [str(copy.folder)]
        places += [f"{one.file} ({one.bits} bits, {_amount(one.size, 'B')})" for one in copy.quantized]
        what = f"{copy.name}, {_amount(copy.size, 'B')}, in {' and '.join(places)}"
        if not arguments.yes and not confirmed(f"Remove {what}?"):
            say("Nothing was removed.")
            return SOME_FAILED
        removal.remove(copy, settings)
        say(f"Removed: {what}")
    if arguments.all:
        if not arguments.yes and not confirmed(f"Remove what is remembered in {settings.cache_folder}?"):
            return SOME_FAILED
        for path in removal.forget(settings):
            say(f"Removed: {path}")
        say(f"Your settings are yours to delete: {config_place()}" if config_place().is_file() else "Nothing is left.")
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

    remove = command(
        "remove",
        _remove,
        "delete a downloaded checkpoint",
        "Delete a checkpoint from the local Hugging Face cache, where other programs may use it too, its quantized weights, and\n"
        "what was remembered about it. The size is told and a question asked before. Of a folder of your own only the quantized\n"
        "weights go.",
    )
    remove.add_argument(
        "--all", action="store_true", help="every downloaded member of the family, and all that is remembered"
    )
    remove.add_argument("model_name", nargs="*", metavar="MODEL", help="a short name or hub id that was pulled")
    remove.add_argument("--yes", action="store_true", help="do not ask")

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
