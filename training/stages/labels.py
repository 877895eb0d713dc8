"""Scene → what the throw-away heads must find in its picture: what each patch shows, and an ordered list of things.

Captions and answers alone teach a vision tower from scratch very slowly. These labels say where to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import torch
from torch import Tensor

from blip2tools.demo.draw import silhouettes
from blip2tools.demo.world import CHARACTERS, COLORS, SIZES, WIDE, BackgroundName, Scene, Shape, Thing
from training.stages.architecture import GRID, PATCH

SLOTS: Final = WIDE.max_things
IGNORED: Final = -100
_SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
_GROUNDS: Final[tuple[BackgroundName, ...]] = get_args(BackgroundName)
# Classes of each trait; 0 is nothing at all, but a character is only asked for where there is a sign.
TRAITS: Final = (len(_SHAPES) + 1, len(COLORS) + 1, len(SIZES) + 1, len(CHARACTERS))
# A patch also has the place of its thing in the caption. Without it, for tens of thousands of pictures, queries see what there
# is but not which thing is the second from the left.
PATCH_TRAITS: Final = (*TRAITS, SLOTS + 1)
_REACH: Final = 1.05  # of the radius: a patch whose middle is nearer to a thing than this shows it


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of B pictures of P patches of 8 × 8 pixels.

    Attributes:
        patches: (B, P, 5) int64: shape, colour, size and character of the thing that a patch shows, and its place in the
            order of the caption, from 1.
        offsets: (B, P, 3) float32: from its middle, x and y, and its radius, as fractions of the side.
        masks: (B, P, 64) float32: 1 where a pixel is part of a thing.
        slots: (B, 5, 4) int64: the traits of each thing in the order of the caption.
        places: (B, 5, 3) float32: its x and y, and 1 if there is such a thing.
        grounds: (B, 2) int64: background, and the number of things less one.
    """

    patches: Tensor
    offsets: Tensor
    masks: Tensor
    slots: Tensor
    places: Tensor
    grounds: Tensor


def label(scenes: Sequence[Scene]) -> Labels:
    """The labels of a batch of scenes."""
    seen = [_patches(scene) for scene in scenes]
    listed = [_slots(scene) for scene in scenes]
    grounds = [(_GROUNDS.index(scene.background.name), len(scene.things) - 1) for scene in scenes]
    return Labels(
        patches=torch.from_numpy(np.stack([patches for patches, _ in seen])),
        offsets=torch.from_numpy(np.stack([offsets for _, offsets in seen])),
        masks=torch.from_numpy(np.stack([_mask(scene) for scene in scenes])),
        slots=torch.tensor([slots for slots, _ in listed]),
        places=torch.tensor([places for _, places in listed]),
        grounds=torch.tensor(grounds),
    )


def _traits(thing: Thing) -> tuple[int, int, int, int]:
    character = IGNORED if thing.character is None else CHARACTERS.index(thing.character)
    return _SHAPES.index(thing.shape) + 1, COLORS.index(thing.color) + 1, SIZES.index(thing.size) + 1, character


def _patches(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    traits = np.zeros((GRID * GRID, len(PATCH_TRAITS)), np.int64)
    traits[:, 3] = IGNORED
    offsets = np.zeros((GRID * GRID, 3), np.float32)
    middles = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    xs, ys = np.tile(middles, GRID), np.repeat(middles, GRID)
    for place, thing in enumerate(scene.things, 1):  # a later one lies over an earlier one
        across, down = xs - thing.x, ys - thing.y
        inside = np.hypot(across, down) < _REACH * thing.radius
        traits[inside] = (*_traits(thing), place)
        offsets[inside] = np.stack([across, down, np.full_like(across, thing.radius)], 1)[inside]
    return traits, offsets


def _slots(scene: Scene) -> tuple[list[tuple[int, int, int, int]], list[tuple[float, float, float]]]:
    missing = SLOTS - len(scene.things)
    return (
        [_traits(thing) for thing in scene.things] + [(0, 0, 0, IGNORED)] * missing,
        [(thing.x, thing.y, 1.0) for thing in scene.things] + [(0.0, 0.0, 0.0)] * missing,
    )


def _mask(scene: Scene) -> np.ndarray:
    pixels = np.asarray(silhouettes(scene.things, GRID * PATCH)) > 127
    return (
        pixels.reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID * GRID, PATCH * PATCH).astype(np.float32)
    )
