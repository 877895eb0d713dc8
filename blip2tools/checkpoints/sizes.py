"""How large checkpoints are in memory, from the headers of their files, without opening the weights."""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.published import Weights

_LONGEST_HEADER = 100 * 2**20  # the format's own bound
_OUTPUT = "language_model.lm_head.weight"


def weights_of(folder: Path) -> Weights:
    """How many values each part of a folder's checkpoint holds.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the folder holds no such checkpoint.
    """
    files = [folder / name for name in hub.weight_files(folder)]
    return _counted(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=32)
def _counted(files: tuple[tuple[Path, int, int], ...]) -> Weights:
    """The identity of the files is part of the key: a status must not read their headers again."""
    parts = {"trunk": 0, "bridge": 0, "projection": 0, "linear": 0, "rest": 0}
    shapes: dict[str, list[int]] = {}
    for file, size, _ in files:
        if file.suffix == ".safetensors":
            shapes |= _shapes(file)
        else:
            parts["rest"] += size // 4  # a pickle is not opened to be measured; the published ones are float32
    if "language_model.model.decoder.embed_tokens.weight" in shapes:
        shapes.pop(_OUTPUT, None)  # OPT's is tied to the embeddings, also where it is stored once more
    for name, shape in shapes.items():
        parts[_part(name, shape)] += math.prod(shape)
    return Weights(**parts, encoder_decoder=any(name.startswith("language_model.encoder.") for name in shapes))


def _part(name: str, shape: list[int]) -> str:
    head = name.partition(".")[0]
    if head == "vision_model":
        return "trunk"
    if head == "language_projection":
        return "projection"
    if head != "language_model":
        return "bridge"
    in_a_layer = ".layers." in name or ".block." in name
    whole = "relative_attention_bias" in name or name.endswith(".wo.weight")  # never quantized
    return "linear" if in_a_layer and len(shape) == 2 and not whole else "rest"


def _shapes(file: Path) -> dict[str, list[int]]:
    entries, _ = header(file)
    return {name: entry["shape"] for name, entry in entries.items() if name != "__metadata__"}


def header(file: Path) -> tuple[dict[str, Any], int]:
    """Names, shapes and places of a file's tensors, and where their bytes begin: it starts with the length of a JSON header.

    Raises:
        OSError, ValueError: it cannot be read, or is not in the format.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if length > _LONGEST_HEADER:
            raise ValueError("no safetensors header")
        entries: dict[str, Any] = json.loads(stream.read(length))
    return entries, 8 + length
