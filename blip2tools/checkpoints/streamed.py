"""Checkpoints in full precision that are never held: each large matrix is read from its file whenever it is multiplied with.

Slow, but a quantized model can be compared with what it was made from on any machine that runs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.checkpoints import shards, weights
from blip2tools.checkpoints.plan import Located
from blip2tools.checkpoints.shards import Piece
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.quantized import PARTS

LARGE: Final = 2**16  # values of a matrix from which on it is not held


class StreamedLinear(nn.Module):
    """A linear layer whose matrix stays in its file.

    Args:
        layer: in whose place it stands.
        piece: where the matrix is.
    """

    def __init__(self, layer: nn.Linear, piece: Piece) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._piece = piece

    def forward(self, states: Tensor) -> Tensor:
        """States (..., out) of states (..., in), float32."""
        return functional.linear(states, self._piece.read().float(), self.bias)


def read(kind: type[nn.Module], located: Located, config: Blip2Config) -> Any:
    """A float32 model that holds small tensors, the table of words, and the projections and heads between its parts.

    Args:
        kind: `CaptionerModel` or `MatcherModel`.
        located: the checkpoint, of the kind that `weights.is_plain` knows.
        config: its configuration.

    Raises:
        MisfitError: tensors are missing, left over or of another shape.
        OSError, SafetensorError, ValueError: a file cannot be read.
    """
    with torch.device("meta"):
        model: Any = kind(config)
    wanted = dict(model.named_parameters())
    ties = weights.Ties(kind, config)
    found: set[str] = set()
    for name, piece in shards.pieces(cast(Path, located.folder)).items():
        if ties.holds(name):
            ties.put(name, piece.read().float())
        elif weights.is_wanted(name, wanted):
            path = name.rpartition(".")[0]
            layer = model.get_submodule(path)
            large = isinstance(layer, nn.Linear) and name.endswith(".weight") and wanted[name].numel() >= LARGE
            if large and path.startswith(PARTS):
                if piece.shape != tuple(wanted[name].shape):
                    raise weights.MisfitError(f"{name} is {piece.shape}, not {tuple(wanted[name].shape)}")
                model.set_submodule(path, StreamedLinear(layer, piece))
            else:
                tensor = piece.read()
                weights.check_fit(name, tensor, wanted[name])
                weights.put(model, name, tensor.float())
            found.add(name)
    for name, tensor in ties.settled().items():
        weights.check_fit(name, tensor, wanted[name])
        weights.put(model, name, tensor)
        found.add(name)
    if ties.tied is not None:
        words, output = ties.tied
        model.language_model.lm_head.weight = model.get_parameter(words)
        found.add(output)
    weights.check_complete(wanted, found)
    return model
