"""Scenes → training pictures: drawn roughly, degraded a little as real pictures are, reduced as the processor does."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from blip2tools.demo.draw import draw
from blip2tools.demo.world import Scene, World, sample_scene, turned
from training.stages.architecture import GRID, PATCH, SIDE, WIDTH

_SMOOTH: Final = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_SIDES: Final = (80, 128, 160, 192, 224, 224, 256, 320)
# Of CLIP, and so of the family's image processors.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)


def training_picture(scene: Scene, rng: random.Random, model_side: int = SIDE) -> np.ndarray:
    """A picture of a scene, (S, S, 3) uint8, S being the model's side.

    It is drawn at a random size, sometimes smoothly, and may be stored as a JPEG, changed in contrast and brightness, and
    covered with noise, like pictures of real users. Of a turned scene half of the pictures are drawn upright and then
    turned as a whole, with corners that show where the picture ended; any other may be turned by up to 3 degrees.
    """
    side = rng.choice(_SIDES)
    smoothing = 2 if side <= 160 else 1
    upright = turned(scene, -scene.background.turn) if scene.background.turn and rng.random() < 0.5 else None
    image = draw(upright or scene, side, smoothing=smoothing)
    turn = rng.uniform(-3, 3) if rng.random() < 0.15 and not scene.background.turn else 0.0
    if upright or turn:
        degrees, corner = (-scene.background.turn if upright else turn), image.getpixel((1, 1))
        image = image.rotate(degrees, rng.choice(_SMOOTH), fillcolor=corner)
    if rng.random() < 0.2:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(40, 90))
        image = Image.open(file).convert("RGB")
    pixels = np.asarray(image.resize((model_side, model_side), Image.Resampling.BICUBIC))
    if rng.random() < 0.35:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 10), pixels.shape)
        contrast, brightness = rng.uniform(0.85, 1.1), rng.uniform(-12, 12)
        spoilt = (pixels.astype(np.float32) - 128) * contrast + 128 + brightness + noise
        pixels = np.clip(spoilt, 0, 255).astype(np.uint8)
    return pixels


def training_pictures(scenes: Sequence[Scene], rng: random.Random, model_side: int = SIDE) -> Tensor:
    """Pictures of scenes, (B, S, S, 3) uint8."""
    return torch.from_numpy(np.stack([training_picture(scene, rng, model_side) for scene in scenes]))


def normalized(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, S, S) float32 as the vision tower wants them, from (B, S, S, 3) uint8."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation


def whitened_patches(world: World, seed: int, number: int = 300) -> tuple[Tensor, Tensor]:
    """Weight (D, 3, 8, 8) and bias (D) of a patch embedding that gives all directions of variation much the same size.

    Most of what varies between patches is flat colour; without this, edges, which tell shapes apart, would have next to
    no weight in the first layer. It is a principal component analysis of training patches.

    Args:
        world: where the pictures are from.
        seed: of the pictures.
        number: of pictures.
    """
    rng = random.Random(seed)
    pixels = normalized(training_pictures([sample_scene(rng, world=world) for _ in range(number)], rng))
    patches = functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).reshape(number * GRID * GRID, -1).double()
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    weight = (directions / (variances + 0.02).sqrt()).T.flip(0)[:WIDTH] * 0.5
    return weight.float().view(WIDTH, 3, PATCH, PATCH), -(weight @ mean).float()
