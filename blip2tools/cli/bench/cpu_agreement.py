"""How far 8 and 4 bits are from full precision in what they say first, and in what they find to match: `bench cpu --agreement`.

One side is loaded at a time, so that whatever fits in full precision can be compared. Each writes its logits and probabilities to
a file. Nothing is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from blip2tools.checkpoints.selftest.beside import DECIDED
from blip2tools.cli.bench.cpu_process import Process, Subject
from blip2tools.cli.bench.cpu_side import AGREEMENT
from blip2tools.cli.console import say

_SEED: Final = 3000  # of pictures that no timed case looks at


def measure(subject: Subject, names: Sequence[str], count: int, plan: dict[str, Any]) -> dict[str, Any]:
    """Each quantized side beside float32.

    Args:
        subject: what is loaded.
        names: of the quantized sides.
        count: of the pictures.
        plan: threads, and the folder for kept weights.
    """
    with tempfile.TemporaryDirectory(prefix="blip2tools-bench-") as folder:
        expected, *others = [
            _answers(subject.asked(name, plan), count, Path(folder, f"{name}.pt")) for name in ("float32", *names)
        ]
    sides = {name: compare(expected, found) for name, found in zip(names, others, strict=True)}
    return {"pictures": count, "margin": DECIDED, "sides": sides}


def _answers(asked: dict[str, Any], count: int, file: Path) -> dict[str, Tensor]:
    say(f"  {asked['side']}: loading")
    process = Process(asked)
    try:
        taken = process.ask(AGREEMENT, _SEED, count=count, file=str(file))
    finally:
        process.close()
    say(f"  {asked['side']}: {count} pictures in {taken['seconds']:.0f} s of CPU time")
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


def compare(expected: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Any]:
    """The figures of one side.

    Args:
        expected: `logits` (N, V) and `match` (N, T) in full precision, either may be missing.
        found: the same of the quantized side.
    """
    figures = {}
    if "logits" in expected:
        figures["logits"] = first_words(expected["logits"], found["logits"])
    if "match" in expected:
        figures["match"] = matches(expected["match"], found["match"])
    return figures


def first_words(expected: Tensor, found: Tensor) -> dict[str, Any]:
    """How like each other logits (N, V) are, and whether the words that full precision decides upon are the same.

    Random models say much the same about all pictures. So `words` counts how many different ones are decided, and `differing` is
    the mean cosine of what sets a row apart from the mean of all; None where nothing does.
    """
    cosines = torch.cosine_similarity(expected.double(), found.double(), dim=-1)
    own, other = (rows.double() - rows.double().mean(0) for rows in (expected, found))
    first, second = expected.topk(2).values.unbind(-1)
    decided = first - second > DECIDED
    words = expected.argmax(-1)[decided]
    same = int((found.argmax(-1)[decided] == words).sum())
    return {
        "rows": len(expected),
        "cosine_mean": float(cosines.mean()),
        "cosine_lowest": float(cosines.min()),
        "differing": float(torch.cosine_similarity(own, other, dim=-1).mean()) if own.any() else None,
        "decided": len(words),
        "same": same,
        "share": same / len(words) if len(words) else None,
        "words": len(set(words.tolist())),
    }


def matches(expected: Tensor, found: Tensor) -> dict[str, Any]:
    """How far probabilities (N, T) are from each other, and between which values full precision's lie."""
    apart = (expected.double() - found.double()).abs()
    return {
        "pairs": expected.numel(),
        "difference_mean": float(apart.mean()),
        "difference_largest": float(apart.max()),
        "lowest": float(expected.min()),
        "highest": float(expected.max()),
    }


def table(name: str, found: dict[str, Any]) -> Iterator[str]:
    """The figures as lines.

    Args:
        name: of the model.
        found: see `measure`.
    """
    yield f"{name}: {found['pictures']} pictures, beside float32; a word is decided where its logit leads by more than {DECIDED}"
    for side, figures in found["sides"].items():
        if words := figures.get("logits"):
            yield (
                f"  {side:8} logits of the first word: cosine {words['cosine_mean']:.5f}, lowest {words['cosine_lowest']:.5f}"
                f"{_differing(words)}; {_decided(words)}"
            )
        if match := figures.get("match"):
            yield (
                f"  {side:8} match probabilities: {match['difference_mean']:.4f} apart, at most "
                f"{match['difference_largest']:.4f}, {match['pairs']} pairs from {match['lowest']:.3f} to {match['highest']:.3f}"
            )


def _differing(words: dict[str, Any]) -> str:
    return "" if words["differing"] is None else f", {words['differing']:.5f} of what differs between pictures"


def _decided(words: dict[str, Any]) -> str:
    if words["share"] is None:
        return f"none of {words['rows']} words is decided"
    return (
        f"of {words['decided']} decided words of {words['rows']} ({words['words']} different) {words['same']} are the same: "
        f"{words['share']:.1%}"
    )
