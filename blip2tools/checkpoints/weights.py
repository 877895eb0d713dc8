"""Files of weights into a model of ours, each tensor once: read, cast, moved, kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.plan import Located
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel, MatcherModel

# Parts that stay float32 with weights in half precision: cast first, they would return without the lost digits.
_PRECISE: dict[type[nn.Module], tuple[str, ...]] = {
    CaptionerModel: ("query_tokens", "qformer."),
    MatcherModel: ("query_tokens", "qformer.", "embeddings.", "vision_projection.", "text_projection.", "itm_head."),
}
# Names that stand for one tensor; files hold one of them or several. Where those differ, each is its own.
_OPT_WORDS, _OPT_OUTPUT = "language_model.model.decoder.embed_tokens.weight", "language_model.lm_head.weight"
_T5_WORDS, _T5_OUTPUT = "language_model.shared.weight", "language_model.lm_head.weight"
_T5_COPIES = ("language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight")
# Written by early versions of the library, and never used.
_NEEDLESS = ("position_ids", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")


class MisfitError(Exception):
    """The tensors of the files are not those of the configuration."""


def is_plain(folder: Path, config: Blip2Config, located: Located) -> bool:
    """Whether a checkpoint is of the kind that is read here; the library reads the others.

    Args:
        folder: its files.
        config: its configuration.
        located: what it is.
    """
    text = config.text_config
    known = located.kind == "matcher" or bool(getattr(text, "is_plain", False))
    safe = all(name.endswith(".safetensors") for name in hub.weight_files(folder))
    return safe and known and config.is_plain and located.adapter is None


def read(kind: type[nn.Module], folder: Path, config: Blip2Config, dtype: torch.dtype, device: torch.device) -> Any:
    """A model with the weights of a folder.

    Args:
        kind: `CaptionerModel` or `MatcherModel`.
        folder: its files.
        config: its configuration.
        dtype: of all but what must stay precise.
        device: where it goes.

    Raises:
        MisfitError: tensors are missing, left over or of another shape.
        OSError, SafetensorError: a file cannot be read.
    """
    with torch.device("meta"):
        model: Any = kind(config)
    wanted = dict(model.named_parameters())
    found: set[str] = set()
    ties = Ties(kind, config)
    for name, tensor in _tensors(folder):
        if not ties.holds(name) and not is_wanted(name, wanted):
            continue
        if not ties.is_copy(name):
            check_fit(name, tensor, wanted[name])
        precise = name.startswith(_PRECISE[kind])
        moved = tensor.to(device, torch.float32 if precise else dtype, copy=True)
        if ties.holds(name):
            ties.put(name, moved)
        else:
            put(model, name, moved)
            found.add(name)
    for name, tensor in ties.settled().items():
        check_fit(name, tensor, wanted[name])
        put(model, name, tensor)
        found.add(name)
    if ties.tied is not None:
        words, output = ties.tied
        model.language_model.lm_head.weight = model.get_parameter(words)
        found.add(output)
    check_complete(wanted, found)
    return model


def is_wanted(name: str, wanted: Collection[str]) -> bool:
    """Whether a model takes a tensor of the files.

    Raises:
        MisfitError: it does not, and neither is it one of those that nothing ever used.
    """
    if name not in wanted and not name.endswith(_NEEDLESS):
        raise MisfitError(f"unexpected: {name}")
    return name in wanted


def check_fit(name: str, tensor: Tensor, wanted: Tensor) -> None:
    """Refuse a tensor of another shape or kind; raises `MisfitError`."""
    if tensor.shape != wanted.shape or not tensor.is_floating_point():
        raise MisfitError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {tuple(wanted.shape)}")


def check_complete(wanted: Collection[str], found: set[str]) -> None:
    """Refuse a model that lacks tensors; raises `MisfitError`."""
    if missing := sorted(set(wanted) - found):
        raise MisfitError(f"missing: {missing[:8]}")


class Ties:
    """The names that may stand for one tensor: an output layer that is missing, or equal, is the table of words.

    Args:
        kind: of the model.
        config: its configuration.
    """

    def __init__(self, kind: type[nn.Module], config: Blip2Config) -> None:
        text: Any = config.text_config
        opt = text.model_type == "opt"
        self._names = (_OPT_WORDS, _OPT_OUTPUT) if opt else (_T5_WORDS, _T5_OUTPUT)
        self._copies = () if opt else _T5_COPIES
        self._may = bool(text.tie_word_embeddings) if opt else True
        self._on = kind is CaptionerModel
        self._held: dict[str, Tensor] = {}
        self.tied: tuple[str, str] | None = None
        """The table of words and the output layer that is one with it, once that is settled."""

    def holds(self, name: str) -> bool:
        """Whether a tensor is one of them."""
        return self._on and (name in self._names or name in self._copies)

    def is_copy(self, name: str) -> bool:
        """Whether it is a copy of the table of words under a name that a model does not have."""
        return self._on and name in self._copies

    def put(self, name: str, tensor: Tensor) -> None:
        """Take one of them."""
        self._held[name] = tensor

    def settled(self) -> dict[str, Tensor]:
        """The tensors that a model needs, as the library would tie them."""
        words_name, output_name = self._names
        copies = (self._held[name] for name in self._copies if name in self._held)
        words, output = self._held.get(words_name, next(copies, None)), self._held.get(output_name)
        if self._may and words is None:
            words = output
        elif self._may and words is not None and (output is None or torch.equal(output, words)):
            self.tied, output = self._names, None
        return {name: one for name, one in ((words_name, words), (output_name, output)) if one is not None}


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name in hub.weight_files(folder):
        with safe_open(folder / name, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - the handle is not a mapping
                yield key, opened.get_tensor(key)


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))
