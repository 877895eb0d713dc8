"""Numpy arrays as pictures, strictly: what an array means is told by its type and shape, or it is refused. Nothing is guessed.

(H, W), (H, W, 1)   grey
(H, W, 3)           red, green, blue
(H, W, 4)           the same and alpha
uint8               0 to 255
float               0 to 1
bool                black and white; of one channel
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from PIL import Image

from blip2tools.errors import InvalidInputError
from blip2tools.pictures.images import PictureLimits, check_size

_CHANNELS: Final = (1, 3, 4)


def to_image(array: np.ndarray[Any, Any], limits: PictureLimits) -> Image.Image:
    """An array as an image. Its size is judged first: a view of a single number can have the shape of 30 GB.

    Raises:
        InvalidInputError: with what to do about it.
        TooLargeError, UnsupportedImageError: as `images.check_size`.
    """
    _check_shape(array.shape)
    check_size((array.shape[1], array.shape[0]), limits)
    pixels = _eight_bit(np.asarray(array))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _check_shape(shape: tuple[int, ...]) -> None:
    told = f"The array has the shape {shape}"
    if len(shape) == 4:
        raise InvalidInputError(f"{told}; pass several pictures as a list of arrays: list(array).")
    if len(shape) == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        raise InvalidInputError(
            f"{told}, with the channels first; put them last: array.transpose(1, 2, 0), or tensor.permute(1, 2, 0)."
        )
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in _CHANNELS):
        raise InvalidInputError(f"{told}; a picture is (H, W), or (H, W, C) with 1, 3 or 4 channels.")
    if 0 in shape:
        raise InvalidInputError(f"{told}, and so no pixels.")


def _eight_bit(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        if array.ndim == 3 and array.shape[2] != 1:
            raise InvalidInputError("An array of booleans is a picture in black and white: (H, W).")
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidInputError(
            f"The array holds {array.dtype}, which does not tell what is white; convert it to uint8 (0 to 255), or to floats "
            "from 0 to 1."
        )
    least, most = float(array.min()), float(array.max())
    if not (least >= 0 and most <= 1):  # also where it holds what is no number
        raise InvalidInputError(
            f"The array's floats go from {least:g} to {most:g}; they must be from 0 to 1. Undo a normalisation, or divide by the "
            "value of white."
        )
    pixels: np.ndarray[Any, np.dtype[np.float32]] = np.multiply(array, 255, dtype=np.float32)
    pixels += 0.5
    return pixels.astype(np.uint8)
