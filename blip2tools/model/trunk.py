"""The vision trunk, which captioner and matcher share: pixels to states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.model import kernels
from blip2tools.model.preprocessing import Processor
from blip2tools.model.recorded import ROWS, Recorded
from blip2tools.model.weights import fingerprint, freeze, quicken


class Pixels:
    """Pictures to pixels as in training: bicubic to S x S without keeping the aspect ratio, CLIP mean and std.

    By Pillow: with torchvision installed transformers would choose another way, whose bicubic filter gives slightly different
    pixels. `key` names all of this, for use in cache keys.

    Args:
        processor: the image processor of the checkpoint.
    """

    def __init__(self, processor: Processor) -> None:
        height, width = int(processor.size["height"]), int(processor.size["width"])
        if height != width:
            raise ValueError("the image processor's size is not square")
        self.size = height
        self.target = (self.size, int(processor.resample))
        """Side and filter: a picture that is resized so already passes unchanged through the same step here."""
        self.key = (
            f"pil:{self.size}:{int(processor.resample)}:{processor.rescale_factor}"
            f":{tuple(processor.image_mean)}:{tuple(processor.image_std)}"
        )
        # A value has 256 levels, so that each channel is a table: rescaled in double precision, then normalized in single, as
        # the library does it.
        levels = (np.arange(256, dtype=np.float64) * processor.rescale_factor).astype(np.float32)
        mean, std = (np.array(values, dtype=np.float32) for values in (processor.image_mean, processor.image_std))
        self._levels = (levels[None] - mean[:, None]) / std[:, None]
        if self._levels.shape != (3, 256):
            raise ValueError("the image processor's mean and deviation are not those of three channels")

    def __call__(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Float32 CPU tensor (B, 3, S, S) of one RGB picture or several.

        Raises:
            TypeError: anything but pictures: a string is no path here.
            ValueError: a picture that is not RGB, or none at all.
        """
        pictures = [images] if isinstance(images, Image.Image) else images
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise TypeError("pictures must be PIL images")
        if not pictures or any(picture.mode != "RGB" for picture in pictures):
            raise ValueError("pictures must be RGB, and at least one")
        side, resample = self.target
        made = np.empty((len(pictures), 3, side, side), dtype=np.float32)
        for number, picture in enumerate(pictures):
            values = np.asarray(picture.resize((side, side), Image.Resampling(resample)))
            for channel, levels in enumerate(self._levels):
                np.take(levels, values[..., channel], out=made[number, channel])
        return torch.from_numpy(made)


class Trunk:
    """Patch embedding and encoder of a vision tower, without its last LayerNorm.

    This is the part that the checkpoints of the family share: LAVIS freezes `visual_encoder` in pre-training but trains
    `ln_vision` (our `post_layernorm`) in each stage (lavis/models/blip2_models). So its output serves a captioner and a
    matcher.

    Args:
        vision_model: the tower.
        fingerprint: of its weights, where that is known; else it is computed.
    """

    def __init__(self, vision_model: nn.Module, fingerprint: str | None = None) -> None:
        tower = cast(Any, vision_model)
        self.embeddings: nn.Module = tower.embeddings
        self.encoder: nn.Module = tower.encoder
        self.image_size = int(tower.config.image_size)
        self.states_shape = (int(tower.embeddings.num_positions), int(tower.config.hidden_size))
        freeze(self.embeddings, self.encoder)
        quicken(self.encoder.modules())
        self._see = Recorded(self._states, pieces=4)
        self._fingerprint = fingerprint

    @property
    def dtype(self) -> torch.dtype:
        return next(self.embeddings.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.embeddings.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Digest of the weights, for cache keys; computed once."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.named_tensors())
        return self._fingerprint

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the trunk by its name in the vision tower."""
        for part in ("embeddings", "encoder"):
            for name, tensor in cast(nn.Module, getattr(self, part)).named_parameters():
                yield f"{part}.{name}", tensor

    def modules(self) -> Iterator[nn.Module]:
        """Every module of the trunk."""
        for part in (self.embeddings, self.encoder):
            yield from part.modules()

    @torch.inference_mode()
    def see(self, pixels: Tensor) -> Tensor:
        """States (B, 1 + P, Dv) *before* the last LayerNorm, in the trunk's dtype, from pixels (B, 3, S, S).

        These are what a cache should keep: each model that uses the trunk applies its own LayerNorm to them.

        Raises:
            ValueError: pixels of another size; the position table would silently be cut to fit.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(f"pixels must be (B, 3, {self.image_size}, {self.image_size})")
        see = self._see if self._see.holds_any else self._states
        return see(pixels.to(self.device, self.dtype))[0]

    def record(self, pool: Any) -> None:
        """Record `see` for a few pictures; see `recorded`."""
        side, quick = self.image_size, self._quick_states if self._plain() else None
        self._see.record([torch.zeros(ROWS[-1], 3, side, side, dtype=self.dtype, device=self.device)], pool, quick)

    @property
    def recordings(self) -> tuple[Recorded, ...]:
        """The work that `record` records."""
        return (self._see,)

    def _states(self, pixels: Tensor) -> tuple[Tensor]:
        hidden = self._embedded(pixels)
        for layer in cast(Any, self.encoder).layers:
            hidden = _attended(layer.self_attn, layer.layer_norm1(hidden)) + hidden
            hidden = _fed(layer.mlp, layer.layer_norm2(hidden)) + hidden
        return (hidden,)

    def _plain(self) -> bool:
        """Whether its layers are of the kind that `_quick_states` supports."""
        layers = cast(Any, self.encoder).layers
        norms = [norm for layer in layers for norm in (layer.layer_norm1, layer.layer_norm2)]
        return all(type(norm) is nn.LayerNorm for norm in norms) and kernels.available(
            layer.mlp.fc1 for layer in layers
        )

    def _quick_states(self, pixels: Tensor) -> tuple[Tensor]:
        """As `_states`, with each sum and the norm after it as one kernel of our own."""
        layers, hidden = cast(Any, self.encoder).layers, self._embedded(pixels)
        shape = hidden.shape
        hidden, ready = kernels.normed(hidden.view(-1, shape[-1]), layers[0].layer_norm1)
        for number, layer in enumerate(layers):
            seen = _attended(layer.self_attn, ready.view(shape)).view(-1, shape[-1])
            hidden, ready = kernels.normed(hidden, layer.layer_norm2, plus=seen)
            made = _fed(layer.mlp, ready)
            if number + 1 < len(layers):
                hidden, ready = kernels.normed(hidden, layers[number + 1].layer_norm1, plus=made)
            else:
                hidden = hidden + made
        return (hidden.view(shape),)

    def _embedded(self, pixels: Tensor) -> Tensor:
        """Patches, [CLS] in front, with their positions.

        The patches do not overlap, so their convolution is one matrix product, which on a CPU takes a fifth of the time.
        """
        parts = cast(Any, self.embeddings)
        weight, bias, side = parts.patch_embedding.weight, parts.patch_embedding.bias, parts.patch_size
        grid = self.image_size // side
        whole = pixels[..., : grid * side, : grid * side]
        patches = whole.reshape(len(pixels), 3, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5)
        patches = nn.functional.linear(patches.reshape(len(pixels), grid * grid, -1), weight.flatten(1), bias)
        start = parts.class_embedding.expand(len(pixels), -1, -1)
        embedded: Tensor = torch.cat([start, patches], 1) + parts.position_embedding
        return embedded


def _fed(mlp: Any, states: Tensor) -> Tensor:
    """The feed-forward part of a layer, for states (..., D)."""
    return cast(Tensor, mlp.fc2(mlp.activation_fn(mlp.fc1(states))))


def _attended(attention: Any, states: Tensor) -> Tensor:
    """Self-attention of states (B, T, D)."""
    rows, places, width = states.shape
    parts = attention.qkv(states).reshape(rows, places, 3, attention.num_heads, attention.head_dim)
    query, keys, values = parts.permute(2, 0, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(query, keys, values)
    return cast(Tensor, attention.projection(seen.transpose(1, 2).reshape(rows, places, width)))


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (N, longest) int64, padded on the right."""
    width = max(map(len, rows))
    ids = [[*row, *[pad] * (width - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
