"""Memory that a model may take, memory that it needs, and what to try if that is too much. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from blip2tools.checkpoints.family import CAPTIONERS, Kind, Member, memory_bytes, processor_bytes
from blip2tools.checkpoints.memory import free_memory
from blip2tools.checkpoints.published import Weights
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Quantize, Settings

_HEADROOM = 1.15  # weights, and the needs of a few pictures
_SPARE_MEMORY = 2**28
_REMEDIES = 3
EVERYWHERE = "all devices together"


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory that a model may take on its device."""

    memory: int | None  # free bytes; None if unknown, and then everything fits
    bytes_each: int  # of a weight
    t5_bytes_each: int | None = None  # where FLAN-T5 needs others: it must not run in float16
    quantize: Quantize = "none"
    place: str = "this computer"
    main_memory: int | None = None  # free bytes besides the device's own, where it has its own
    processor: bool = False  # whether it is one, where other weights are quantized than on a card

    def needed(self, parts: Weights) -> int:
        """Bytes that weights take here."""
        if self.processor and self.quantize != "none":
            return processor_bytes(parts, self.quantize)
        each = self.t5_bytes_each if parts.encoder_decoder and self.t5_bytes_each else self.bytes_each
        return memory_bytes(parts, each, self.quantize)

    def fits(self, needed: int) -> bool:
        """Whether `needed` bytes of weights and the work with them fit."""
        return self.memory is None or needed * _HEADROOM + _SPARE_MEMORY <= self.memory


def likely_budget(settings: Settings) -> Budget:
    """A guess without torch, which another thread may be importing: any GPU is taken to have enough room."""
    gpu = settings.device.startswith("cuda") or (
        settings.device in ("auto", "spread") and Path("/proc/driver/nvidia/version").exists()
    )
    half = settings.dtype in ("float16", "bfloat16") or (settings.dtype == "auto" and gpu)
    unbounded = gpu or settings.device == "spread"
    return Budget(
        None if unbounded else free_memory(),
        bytes_each=2 if half else 4,
        quantize=settings.quantize,
        processor=settings.device == "cpu" or (settings.device == "auto" and not gpu and sys.platform != "darwin"),
    )


def admit(name: str, parts: Weights, budget: Budget, *, kind: Kind = "captioner", beside: int = 0) -> None:
    """Refuse a named model that cannot fit, and say what would.

    Args:
        name: what the user calls it.
        parts: its weights.
        budget: of its device.
        kind: what it is.
        beside: bytes that the captioner of a matcher has already taken there.

    Raises:
        ModelUnavailableError: it is too large; what to try is in the message.
    """
    needed = budget.needed(parts)
    if budget.memory is None or needed + beside <= budget.memory:
        return
    free = max(0, budget.memory - beside)
    remedies = [
        text
        for text, _ in zip(_remedies(name, parts, kind, replace(budget, memory=free)), range(_REMEDIES), strict=False)
    ]
    advice = (
        f"try {_or(remedies)}" if remedies else "no model of the family fits there; free some, or use another machine"
    )
    raise ModelUnavailableError(
        f"{name} needs {_gb(needed)} of memory on {budget.place}, only {_gb(free)} is free: {advice}."
    )


def _remedies(name: str, parts: Weights, kind: Kind, budget: Budget) -> Iterator[str]:
    """The same model in another form, then others, most capable first."""
    forms: list[tuple[str, Budget]] = []
    one_device = budget.place != EVERYWHERE  # a quantized model is not spread
    if budget.quantize == "none":
        if budget.bytes_each == 4 and not budget.place.startswith("cuda"):
            forms.append(("--dtype bfloat16", replace(budget, bytes_each=2, t5_bytes_each=None)))
        if (parts.linear or budget.processor) and one_device:
            sizes: tuple[Quantize, ...] = ("8bit", "4bit")
            forms += [(f"--quantize {size}", replace(budget, quantize=size)) for size in sizes]
    elif budget.quantize == "8bit":
        forms.append(("--quantize 4bit", replace(budget, quantize="4bit")))
    for option, form in forms:
        if _fits(form, parts):
            yield f"`{option}` ({_gb(form.needed(parts))})"
    if budget.main_memory is not None and budget.main_memory >= memory_bytes(parts, budget.bytes_each):
        yield "`--device spread`, which uses main memory too"
    if kind == "captioner":
        others = [other for other in CAPTIONERS if _comparable(other, name)]
        yield from (other.name for other in others if _fits(budget, other.weights))
        small = replace(budget, quantize="4bit")
        yield from (
            f"{other.name} with `--quantize 4bit`" for other in others if one_device and _fits(small, other.weights)
        )


def _comparable(other: Member, name: str) -> bool:
    return other.name != name and (other.branch == "coco") == name.endswith("-coco")


def _fits(budget: Budget, parts: Weights) -> bool:
    return budget.memory is None or budget.needed(parts) <= budget.memory


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
