"""The card of freshly trained weights: what they know, how they were made, and their digests. Figures come from an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from blip2tools.demo.world import World
from training.coverage import covers
from training.stages.loop import Schedule

NAME = "CARD.md"


def write_card(
    folder: Path,
    *,
    world: World,
    schedules: Sequence[tuple[str, Schedule]],
    command: str,
) -> None:
    """Write the card.

    Args:
        folder: of the weights, with `captioner` and, as a rule, `matcher`.
        world: what they were trained on.
        schedules: of the stages, by name, in their order.
        command: what makes the same weights again.
    """
    stages = "\n".join(
        f"| {name} | {one.steps:,} | {one.batch} | {one.steps * one.batch:,} | {one.rate:g} | {one.seed} |"
        for name, one in schedules
    )
    files = "\n".join(_row(folder, part) for part in ("captioner", "matcher") if (folder / part).exists())
    missing = ", ".join(sorted(f"{color} {shape}" for color, shape in world.missing))
    kept_out = f"\nKept out of all pictures and questions: {missing}.\n" if missing else ""
    same_trunk = "; the trunk of both checkpoints is the same" if (folder / "matcher").exists() else ""
    options = "--held-out" if world.missing else f"--world {world.name}"
    (folder / NAME).write_text(
        f"""\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-to-text
language: en
tags: [blip-2, image-captioning, visual-question-answering, image-text-matching]
---

# A small genuine BLIP-2 for drawn shapes

## What it was trained on

{covers(world)}
{kept_out}
## How

`{command}`

| stage | steps | pictures in one | pictures | highest rate | seed |
|---|---:|---:|---:|---:|---:|
{stages}

## Files

| file | parameters | SHA-256 |
|---|---:|---|
{files}

Weights are float16{same_trunk}. What they can do: `python -m training.examine
--weights FOLDER {options}`. Licence: Apache-2.0.
""",
        encoding="utf-8",
    )


def _row(folder: Path, part: str) -> str:
    file = folder / part / "model.safetensors"
    parameters = sum(weight.numel() for weight in load_file(file).values())
    return f"| `{part}/{file.name}` | {parameters:,} | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |"
