"""Helpers for the weights of any part: names, a fingerprint, freezing, and products that are quicker."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGE: Final = 1_000_000  # values of a matrix from which on its product takes longer than finding the better one
_TRIED: Final = 5  # rows, as many as beams are usual


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """16 hex digits that name a set of weights: other values, shapes, dtypes or names give another digest.

    Of each tensor the digest takes the sum of all its bits as 64-bit words, which any change of one value changes, and a
    sample of values in their order. That is several times cheaper than hashing gigabytes, needs no copy from a GPU, and
    is as good against all but a deliberate forgery, against which a cache within one process needs no defence.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        said, sample = getattr(tensor, "summary", None) or summary(tensor)  # that of a weight which is packed was kept
        digest.update(f"{name}:{said}".encode())
        digest.update(sample)
    return digest.hexdigest()[:16]


def summary(tensor: Tensor) -> tuple[str, bytes]:
    """Of one tensor what `fingerprint` takes: its form and sum, and a sample."""
    form = f"{tuple(tensor.shape)}:{tensor.dtype}"
    if tensor.is_meta:  # offloaded: its values are elsewhere, and reading them all back would take minutes
        return f"{form}:offloaded", b""
    flat = tensor.detach().reshape(-1).contiguous()
    octets = (flat.clone() if flat.storage_offset() else flat).view(torch.uint8)
    whole = octets.numel() // 8 * 8
    words = octets[:whole].view(torch.int64)
    sample = torch.cat([words[:: max(1, words.numel() // 512)].contiguous().view(torch.uint8), octets[whole:]])
    return f"{form}:{int(words.sum())}", sample.cpu().numpy().tobytes()


def named(parts: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for part, module in parts.items():
        for name, tensor in module.named_parameters():
            yield f"{part}.{name}", tensor


def freeze(*modules: nn.Module) -> None:
    for module in modules:
        module.requires_grad_(False)


def quicken(parts: Iterable[Any]) -> None:
    """Let large float32 layers on a processor multiply by oneDNN's product where that is clearly quicker than PyTorch's choice.

    On an AMD EPYC with AVX-512 it takes half of the time for 5 and 33 rows, and four fifths for 257 (one thread, 2026-11-27,
    layers of opt-2.7b). The numbers are the same but for the order of the sums, and the weights stay where they are.

    Args:
        parts: modules; those that are anything but plain linear layers stay as they are.
    """
    plain: list[Any] = [
        part
        for part in parts
        if type(part) is nn.Linear
        and not hasattr(part, "_hf_hook")
        and part.weight.device.type == "cpu"
        and part.weight.dtype == torch.float32
        and part.weight.numel() >= LARGE
    ]
    if plain and _is_better(plain[0]):
        for part in plain:
            part.forward = partial(_multiplied, part)


def _multiplied(part: Any, states: Tensor) -> Tensor:
    # One row is as quick either way, and quicker with a column-major weight; the operator knows no gradients.
    if states.numel() == part.in_features or part.weight.dtype != torch.float32 or torch.is_grad_enabled():
        return functional.linear(states, part.weight, part.bias)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(states, part.weight, part.bias, "none", [], ""))


@torch.inference_mode()
def _is_better(part: Any) -> bool:
    states, best = torch.ones(_TRIED, part.in_features), [float("inf"), float("inf")]
    try:
        for _ in range(3):
            for number, product in enumerate((partial(nn.Linear.forward, part), partial(_multiplied, part))):
                began = time.perf_counter()
                product(states)
                best[number] = min(best[number], time.perf_counter() - began)
    except (RuntimeError, AttributeError):  # a build without oneDNN
        return False
    return best[1] < 0.8 * best[0]


def side_by_side(parts: Sequence[Any]) -> Callable[[Tensor], Iterable[Tensor]]:
    """What each of several layers of one width makes of the same states; those that are quantized round them once for all."""
    if all(hasattr(part, "together") for part in parts):
        return cast(Callable[[Tensor], Iterable[Tensor]], parts[0].together(parts[1:]).apart)
    return lambda states: [part(states) for part in parts]
