"""What a vision tower wants of a picture: its size, and how its colours become numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from PIL import Image
from torch import Tensor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil


class Pixels:
    """Pictures to pixels as in training: bicubic to S x S without keeping the aspect, CLIP mean and std.

    The back end is pinned to Pillow: with torchvision installed transformers would choose another one, whose bicubic
    filter gives slightly different pixels. `key` names all of this, for use in cache keys.

    Args:
        processor: the image processor of the checkpoint.
    """

    def __init__(self, processor: BlipImageProcessorPil) -> None:
        height, width = int(processor.size["height"]), int(processor.size["width"])
        if height != width:
            raise ValueError("the image processor's size is not square")
        self.size = height
        self._processor = processor
        self.target = (self.size, int(processor.resample))
        """Side and filter: a picture that is resized so already passes unchanged through the same step here."""
        self.key = (
            f"pil:{self.size}:{int(processor.resample)}:{processor.rescale_factor}"
            f":{tuple(processor.image_mean)}:{tuple(processor.image_std)}"
        )

    def __call__(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """Float32 CPU tensor (B, 3, S, S) of one RGB picture or several.

        Raises:
            TypeError: anything but pictures. A string would be opened as a path or fetched as an address by the
            library. ValueError: a picture that is not RGB, or none at all.
        """
        pictures = [images] if isinstance(images, Image.Image) else images
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise TypeError("pictures must be PIL images")
        if not pictures or any(picture.mode != "RGB" for picture in pictures):
            raise ValueError("pictures must be RGB, and at least one")
        return cast(Tensor, self._processor(list(pictures), return_tensors="pt")["pixel_values"]).float()
