"""Files of weights into a model of ours, each tensor once: read, cast, moved, kept."""

from __future__ import annotations

from collections.abc import Iterator
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
        model = kind(config)
    wanted = dict(model.named_parameters())
    found: set[str] = set()
    copies: dict[str, Tensor] = {}
    for name, tensor in _tensors(folder):
        if name in _T5_COPIES and _T5_WORDS in wanted:
            copies[name] = tensor
        elif name not in wanted:
            if not name.endswith(_NEEDLESS):
                raise MisfitError(f"unexpected: {name}")
        else:
            if tensor.shape != wanted[name].shape or not tensor.is_floating_point():
                raise MisfitError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {tuple(wanted[name].shape)}")
            precise = name.startswith(_PRECISE[kind])
            _put(model, name, tensor.to(device, torch.float32 if precise else dtype, copy=True))
            found.add(name)
    _tie(model, config, found, copies, dtype, device)
    if missing := sorted(wanted.keys() - found):
        raise MisfitError(f"missing: {missing[:8]}")
    return model


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for name in hub.weight_files(folder):
        with safe_open(folder / name, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - the handle is not a mapping
                yield key, opened.get_tensor(key)


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))


def _tie(
    model: Any,
    config: Blip2Config,
    found: set[str],
    copies: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Tie tensors as the library does: an output layer that is missing, or equal, is the table of words."""
    text: Any = config.text_config
    if not isinstance(model, CaptionerModel):
        return
    if text.model_type == "opt":
        words, output, may = _OPT_WORDS, _OPT_OUTPUT, text.tie_word_embeddings
    else:
        words, output, may = _T5_WORDS, _T5_OUTPUT, True
        for copy in copies.values():
            if words not in found:
                _put(model, words, copy.to(device, dtype, copy=True))
                found.add(words)
    if not may:
        return
    if words not in found and output in found:
        _put(model, words, model.get_parameter(output).data)
    elif words in found and (
        output not in found or torch.equal(model.get_parameter(output), model.get_parameter(words))
    ):
        model.language_model.lm_head.weight = model.get_parameter(words)
    if words in found or output in found:
        found.update((words, output))
