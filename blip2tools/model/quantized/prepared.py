"""From plain tensors to kernels: which one multiplies a matrix of some shape quickest on this machine, and its packed form."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import nn

Choices: TypeAlias = dict[str, Any]  # plain JSON


def prepare(model: nn.Module, measured: Choices | None = None) -> Choices:
    """Make a loaded model with quantized layers ready to run.

    Args:
        model: with values in all its parameters.
        measured: what an earlier call returned, if on this machine: then nothing is measured again.

    Returns:
        What was chosen, to be kept beside the weights.
    """
    return {} if measured is None else measured
