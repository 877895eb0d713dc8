"""From plain tensors to kernels: which one is quickest here for matrices of some shape, tried on their own weights."""

from __future__ import annotations

import copy
import logging
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, get_args

import torch
from torch import nn

from blip2tools.model.quantized import kernels
from blip2tools.model.quantized.kernels import FEW, Kind
from blip2tools.model.quantized.layers import Packing, QuantizedLinear, Way
from blip2tools.model.quantized.storage import dequantize

Choices: TypeAlias = dict[str, Any]  # plain JSON

# Rows of the products of each part, and how often they come in one caption: 12 tokens with 5 beams behind 33 places.
USUAL: Final[Mapping[str, tuple[tuple[int, float], ...]]] = {
    "vision": ((257, 1),),
    "qformer": ((32, 1), (640, 1)),
    "read": ((33, 1), (165, 1)),  # T5's encoder, and what its decoder looks at
    "spoken": ((5, 12), (1, 4), (33, 1), (160, 0.5)),
}
PACKED: Final = ("spoken", "read")  # roles whose matrices may be packed, in this order
SMALL: Final = 2_500_000  # values up to which a matrix may be float32 if nothing else is quicker: those of a Q-Former
KEPT: Final = "float"
_GAIN: Final = 0.85  # of the next best's time, that a matrix must at most take to be worth packing
_BONUS: Final = {"rows": 0.9}  # the most precise one; a measurement may be off by as much
_MARGIN: Final = 1.1  # of the time of a small float32 matrix over the quickest other, below which it stays float32
_ROUNDS, _JUDGED = 4, 2  # of each trial, the first ones with one matrix, after which those far behind are left out
_FREED: Final = 2**25 - 2**16  # bytes: a little less than the largest block that counts
_FOUR: Final[tuple[Kind, ...]] = ("runtime", "blocks")  # ways of 4 bits that move the matrix first
_HOPELESS: Final = 4.0
_VALUES: Final = 13_000_000  # of a matrix that are tried at most, in whole steps of rows
_STEP: Final = 64
_SAMPLES: Final = (
    3  # matrices of a shape that take turns, as they do in a model: one alone would stay in the processor's cache
)

logger = logging.getLogger(__name__)


def prepare(model: nn.Module, measured: Choices | None = None) -> Choices:
    """Choose how each quantized layer of a loaded model multiplies. Before `Captioner` and `Matcher`, which look at the layers.

    Small layers that no kernel is quicker for become linear layers in float32. Those of 4 bits are packed here; those of 8 bits
    for which it pays are packed while they are used, see `layers.Packing`.

    Args:
        model: with values in all its parameters.
        measured: what an earlier call returned; what was measured on another machine, or is missing, is measured again.

    Returns:
        What was chosen, to be kept beside the weights.
    """
    _keep_freed_memory()
    wholes: list[Kind] = ["rows", "packed"]
    exact: dict[str, int] = {kind: most for kind in wholes if (most := kernels.fits(kind)) is not None}
    machine = _machine(exact)
    known = measured["ways"] if measured is not None and measured.get("machine") == machine else {}
    chosen: dict[str, list[str]] = {}
    packing = Packing()
    for name, layers in _groups(model).items():
        role, first = name.partition(" ")[0], layers[0][1]
        found: list[Any] = known.get(name, [])
        if not _valid(found, first) or not _works(found[0], first, exact):
            found = _measured([layer for _, layer in layers[:_SAMPLES]], USUAL[role], exact, packing=role in PACKED)
        chosen[name] = found
        for path, layer in layers:
            if KEPT in found:
                model.set_submodule(path, _whole(layer))
                continue
            few, many, until = found
            later = role != PACKED[0]
            layer.way, layer.packing = Way(few, many, until, exact, later), packing
            if few in _FOUR:
                layer.pack()
            elif few == "packed":
                packing.expect(layer.weight.numel(), later=later)
    return {"machine": machine, "ways": chosen}


def unpacked(modules: Iterable[nn.Module]) -> list[QuantizedLinear]:
    """The layers among the modules that are still to be packed, the most useful first: for pauses. Each takes up to a second."""
    return sorted(
        (one for one in modules if isinstance(one, QuantizedLinear) and one.waits), key=lambda one: one.way.later
    )


def _keep_freed_memory() -> None:
    """Let the allocator keep up to 64 MB of freed memory for the next layer, as it does where weights are read as floats.

    A layer of the vision tower fills and frees 20 MB. glibc gives back what is more than twice the largest block, of at most
    32 MB, that was freed so far (mallopt(3), M_MMAP_THRESHOLD). Quantized weights are read where they lie, nothing so large is
    freed, and each layer gets its memory anew, page by page: a sixth of the tower's time. Elsewhere this does nothing.
    """
    torch.empty(_FREED, dtype=torch.uint8)


def _groups(model: nn.Module) -> dict[str, list[tuple[str, QuantizedLinear]]]:
    """Layers that are chosen for together: of one part, shape and number of bits."""
    groups: dict[str, list[tuple[str, QuantizedLinear]]] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            name = f"{_role(path)} {layer.in_features}x{layer.out_features} {layer.bits}"
            groups.setdefault(name, []).append((path, layer))
    return groups


def _role(path: str) -> str:
    if not path.startswith("language_model"):
        return "vision" if path.startswith("vision_model") else "qformer"
    across = ".EncDecAttention." in path and path.endswith((".k", ".v"))
    return "read" if path.startswith("language_model.encoder.") or across else "spoken"


def _machine(exact: Mapping[str, int]) -> str:
    """What measurements hold for."""
    features = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return " ".join([torch.__version__, str(name), *(f"{kind}:{most}" for kind, most in exact.items()), *features])


def _valid(found: Any, layer: QuantizedLinear) -> bool:
    """Whether this is a choice, and one that such a layer has."""
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(one, str) for one in found):
        return False
    if set(found) == {KEPT}:
        return layer.in_features * layer.out_features <= SMALL
    if layer.bits == 4:
        return len(set(found)) == 1 and found[0] in (*_FOUR, "whole")
    return set(found) <= set(get_args(Kind)) - set(_FOUR) and "packed" not in found[1:]


def _works(few: Kind, layer: QuantizedLinear, exact: Mapping[str, int]) -> bool:
    """Whether a way of 4 bits is still possible: a library may be there and yet not load."""
    return few not in _FOUR or _trial([layer], few, exact) is not None


def _whole(layer: QuantizedLinear) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight = nn.Parameter(dequantize(layer.weight, layer.scale, layer.columns), requires_grad=False)
    made.bias = layer.bias  # type: ignore[assignment]
    return made


def _measured(
    layers: Sequence[QuantizedLinear], usual: Sequence[tuple[int, float]], exact: Mapping[str, int], *, packing: bool
) -> list[str]:
    """The fields of the `Way` that takes the least time for some layers of one shape."""
    kinds: list[Kind] = [*_FOUR, "whole"] if layers[0].bits == 4 else ["rows", "packed", "half", "whole"]
    trials: dict[str, list[nn.Module]] = {}
    for kind in kinds:
        if (kind in ("rows", "packed") and kind not in exact) or (kind == "packed" and not packing):
            continue
        if kind in ("half", "whole") and trials:  # slower, and only there for builds without the others
            continue
        if (made := _trial(layers, kind, exact)) is not None:
            trials[kind] = made
    small = layers[0].in_features * layers[0].out_features <= SMALL
    if small:
        trials[KEPT] = [_whole(layer) for layer in layers]
    times = [_times(trials, rows) for rows, _ in usual]
    kept = [one.pop(KEPT, math.inf) for one in times]
    if any(took < _MARGIN * min(one.values()) for took, one in zip(kept, times, strict=True)):
        return [KEPT] * 3
    few = [number for number, (rows, _) in enumerate(usual) if rows <= FEW]
    many = [number for number in range(len(usual)) if number not in few]

    def total(kind: str, numbers: Sequence[int]) -> float:
        return sum(times[number][kind] * usual[number][1] for number in numbers)

    if layers[0].bits == 4:  # moved in any case, so that one form serves all
        return [min((kind for kind in trials if kind != KEPT), key=lambda kind: total(kind, range(len(usual))))] * 3
    plain = [kind for kind in trials if kind not in ("packed", KEPT)]
    until = min(plain, key=lambda kind: total(kind, few or many) * _BONUS.get(kind, 1))
    other = min(plain, key=lambda kind: total(kind, many or few) * _BONUS.get(kind, 1))
    gains = "packed" in trials and total("packed", few) < _GAIN * total(until, few)
    if gains and total("packed", range(len(usual))) < total(until, few) + total(other, many):
        return ["packed", other, until]
    return [until, other, until]


def _trial(layers: Sequence[QuantizedLinear], kind: Kind, exact: Mapping[str, int]) -> list[nn.Module] | None:
    """Layers of the same weights that multiply in one way; None where this build of torch does not."""
    made: list[nn.Module] = []
    try:
        for layer in layers:
            trial = copy.copy(layer)
            # What is packed here is packed for the trial only, and what is large is tried with some of its rows.
            rows = max(_STEP, _VALUES // layer.in_features // _STEP * _STEP)
            trial._parameters = {
                name: one if one is None or name == "columns" or layer.bits == 16 else _first(one, rows)
                for name, one in layer._parameters.items()
            }
            trial.way = Way(kind, kind, kind, exact)
            if kind in ("packed", *_FOUR):
                trial.pack()
            made.append(trial)
        made[0](torch.zeros(1, layers[0].in_features))
    except (RuntimeError, NotImplementedError, AttributeError, ImportError) as error:
        logger.debug("%s is not possible here", kind, exc_info=error)
        return None
    return made


def _first(values: nn.Parameter, rows: int) -> nn.Parameter:
    return nn.Parameter(values[:rows], requires_grad=False)


def _times(trials: Mapping[str, Sequence[nn.Module]], rows: int) -> dict[str, float]:
    """Seconds that each kind takes for so many rows; those that are far behind are tried twice."""
    states = torch.randn(rows, next(iter(trials.values()))[0].in_features)  # type: ignore[call-overload]
    # On a busy machine the time of one thread tells more than that on the wall.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best: dict[str, float] = {}
    hopeless: set[str] = set()
    for turn in range(_ROUNDS):
        for kind in trials.keys() - hopeless:
            layers = trials[kind] if turn >= _JUDGED else trials[kind][:1]
            began = clock()
            for layer in layers:
                layer(states)
            best[kind] = min(best.get(kind, math.inf), (clock() - began) / len(layers))
        if turn + 1 >= _JUDGED:  # not after the first, which libraries also use to get ready
            hopeless |= {kind for kind, took in best.items() if took > _HOPELESS * min(best.values())}
    return best
