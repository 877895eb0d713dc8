"""Helpers for the weights of any part: names, a fingerprint, and freezing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


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
