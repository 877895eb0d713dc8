"""Pictures to pixels, as in training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Of CLIP, whose pictures the vision tower was trained on (arXiv 2103.00020); the library's defaults too.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_NOT_OURS = ("do_center_crop", "do_pad")


class Processor(Protocol):
    """The values of an image processor: the library's, or a `Recipe`."""

    @property
    def size(self) -> Any: ...
    @property
    def resample(self) -> Any: ...
    @property
    def rescale_factor(self) -> Any: ...
    @property
    def image_mean(self) -> Any: ...
    @property
    def image_std(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checkpoint's preparation of pictures, with the defaults of the library's `BlipImageProcessor`."""

    size: Mapping[str, int]
    resample: int = int(Image.Resampling.BICUBIC)
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Read it from `processor_config.json` where that holds one, as the library writes it today, else
        `preprocessor_config.json`.

        Raises:
            OSError, ValueError: there is none, or it asks for something else than to resize, rescale and normalize.
        """
        written: Any = None
        if (nested := folder / "processor_config.json").is_file():
            written = _object(nested).get("image_processor")
        return cls.read(_object(folder / "preprocessor_config.json") if written is None else written)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """Read it from the content of such a file."""
        steps = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
        if not all(written.get(step, True) for step in steps) or any(written.get(step) for step in _NOT_OURS):
            raise ValueError("the image processor does more than resize, rescale and normalize")
        size = written.get("size", 384)
        given = {name: written[name] for name in ("resample", "rescale_factor") if written.get(name) is not None}
        for name in ("image_mean", "image_std"):
            if written.get(name) is not None:
                value = written[name]
                given[name] = tuple(value) if isinstance(value, list) else (value,) * 3
        return cls({"height": size, "width": size} if isinstance(size, int) else size, **given)


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


def _object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content
