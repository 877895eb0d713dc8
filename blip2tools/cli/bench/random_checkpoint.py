"""Checkpoints of any size with random weights, written to a folder without ever being held: to measure loading and speed.

The language model has what random weights lack and trained ones have: from its third layer on a few hidden channels are many
times as large as the rest, for all tokens (LLM.int8(), arXiv 2208.07339, SmoothQuant, arXiv 2211.10438). It says nothing of
worth, but it breaks what breaks real models. T5 reads those channels with weights that are as much smaller, as trained models
do: its gate multiplies two readings and its scores are not scaled, so that anything else makes a step function of it.

The last norm takes the channels back and enlarges the rest. So first words are often decided, as those of trained models are:
else the best two logits lie next to each other, and any rounding changes the word.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from blip2tools.cli.bench import random_models
from blip2tools.cli.bench.random_models import MID, Family, Size
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel, MatcherModel

if TYPE_CHECKING:
    from collections.abc import Callable

OUTLIERS: Final = 6  # channels
OUTLIER: Final = 60.0  # their size, where the others are about 1
# Of the last norm: logits of published sizes have a spread of about 4 then, and about half of the words lead by 0.5 or more. T5's
# channels leave less for the others.
GAIN: Final = {"opt": 4.0, "t5": 10.0}
_POOL: Final = 2**24 + 43  # random values that all tensors take theirs from: billions of new ones would take minutes
_SHARD: Final = 4 * 2**30  # bytes of a file

Which = Literal["captioner", "matcher"]


def sizes(name: str) -> tuple[Size, Family]:
    """Widths and depths by name: `mid`, a captioner's short name, or `itm`, a matcher with as little else as possible."""
    from blip2tools.cli.bench.pairs import published_size

    if name == "mid":
        return MID, "opt"
    if name == "itm":
        return replace(published_size("opt-2.7b"), language=(64, 4, 4, 128), vocabulary=512), "opt"
    return published_size(name), "t5" if "t5" in name else "opt"


def write(
    folder: Path, size: Size, family: Family, which: Which, told: Callable[[int], None] = lambda done: None
) -> None:
    """A checkpoint; of two in one size the vision towers are the same.

    Args:
        folder: where to; it is made.
        size: widths and depths.
        family: the language model.
        which: with a language model or without.
        told: receives the bytes that are written so far.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True)
    library = random_models.configuration(size, family, which)
    library.architectures = [_CLASSES[which]]
    library.save_pretrained(folder)
    random_models.processor(size, family, which).save_pretrained(folder)
    config = Blip2Config.read(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    with torch.device("meta"):
        model: Any = CaptionerModel(config) if which == "captioner" else MatcherModel(config)
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    if family == "opt" and which == "captioner":
        del shapes["language_model.lm_head.weight"]  # one with the table of words
    shards = list(_shards(shapes))
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    pool, done = torch.randn(_POOL, generator=torch.Generator().manual_seed(1)), 0
    for file, shard in zip(names, shards, strict=True):
        begin = 0
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for name in shard:
            end = begin + 4 * torch.Size(shapes[name]).numel()
            header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [begin, end]}
            begin = end
        with (folder / file).open("wb") as stream:
            text = json.dumps(header).encode()
            text = text.ljust(-(-len(text) // 64) * 64)
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in shard:
                stream.write(_values(name, shapes[name], pool).numpy().data)
                done += 4 * torch.Size(shapes[name]).numel()
                told(done)
    index = {
        "metadata": {},
        "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name in shard},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


_CLASSES: Final = {"captioner": "Blip2ForConditionalGeneration", "matcher": "Blip2ForImageTextRetrieval"}


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, shape in shapes.items():
        own = 4 * torch.Size(shape).numel()
        if shard and size + own > _SHARD:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += own
    yield shard


def _values(name: str, shape: tuple[int, ...], pool: Tensor) -> Tensor:
    """Values that depend on the name alone: the same tower in captioner and matcher."""
    count, leaf = torch.Size(shape).numel(), name.rpartition(".")[2]
    if "norm" in name.lower() or leaf == "bias":
        made = torch.full(shape, 0.0 if leaf == "bias" else 1.0)
    else:
        start = sum(name.encode()) * 7919 % _POOL
        times = -(-(start + count) // _POOL)
        made = (pool.repeat(times) if times > 1 else pool)[start : start + count].view(shape).clone()
        made *= _spread(name, shape)
    channels = torch.arange(OUTLIERS) * (shape[0] // OUTLIERS) + 3
    if _READS.match(name):
        made[:, torch.arange(OUTLIERS) * (shape[1] // OUTLIERS) + 3] /= OUTLIER
    if name.startswith("language_model") and name.endswith(_LAST):
        made *= GAIN["opt" if ".model." in name else "t5"]  # and not the output layer: OPT reads words with it, too
        made[channels] /= OUTLIER
    if name.startswith("language_model") and name.endswith(_LARGE):
        if leaf == "bias":
            made[channels] = OUTLIER * torch.tensor([1.0, -1.0]).repeat(OUTLIERS)[:OUTLIERS]
        else:
            made[channels] *= 8 * OUTLIER  # of a product that is smaller than what it is added to
    return made


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of the values: products neither grow nor shrink, at any width."""
    if len(shape) != 2:
        return 1.0 if name == "query_tokens" else 0.02
    # T5 does not scale its scores by the width of a head: its queries are as much smaller.
    return math.sqrt(1 / shape[1]) * (0.125 if name.endswith(".q.weight") else 1.0)


# What adds to the hidden states at the end of the third layer: OPT's has a bias, T5's none.
_LARGE: Final = (
    ".layers.2.fc2.bias",
    "coder.block.2.layer.1.DenseReluDense.wo.weight",
    ".block.2.layer.2.DenseReluDense.wo.weight",
)
# What reads T5's states behind that: in both stacks, and what the encoder's last layer gives to every layer of the decoder.
_READS: Final = re.compile(
    r"language_model\.(?:(?:en|de)coder\.block\.(?:[3-9]|\d\d)\..*\.(?:q|k|v|wi_0|wi_1)|.*\.EncDecAttention\.[kv])\.weight"
)
_LAST: Final = "decoder.final_layer_norm.weight"
