"""The first stage: vision tower and Q-Former learn to see, by the throw-away heads alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Blip2QFormerModel, Blip2VisionModel

from blip2tools.demo.world import STUDY, Scene, World, sample_scene, turned
from training.stages.architecture import CAPTIONER_LAYERS, CAPTIONER_QUERIES, WIDTH, qformer_config, vision_config
from training.stages.beginning import begin
from training.stages.heads import PatchHeads, SlotHeads
from training.stages.labels import Labels, label
from training.stages.loop import Schedule
from training.stages.samples import normalized, training_pictures

EARLY: Final = 2  # the layer from whose states outlines are read
PLAIN: Final = 0.25  # of the scenes are of the study's world
_PLAIN_ONLY: Final = 0.12  # of the steps have such scenes alone
_PLAIN_UNTIL: Final = 0.2  # of the steps are done when they are no more than that share
_TURNED: Final = (0.25, 12.0)  # of the plain scenes, and by how many degrees at most


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of one step, (B, S, S, 3) uint8, and their labels."""

    pixels: Tensor
    labels: Labels


class PictureBatches(Dataset[Pictures]):
    """Batch i is a pure function of the seed and i."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self._world, self._schedule = world, schedule

    def __getitem__(self, step: int) -> Pictures:
        rng = random.Random(f"{self._schedule.seed}/{step}")
        # Few things, plainly drawn, come first: in many drawn in many ways shapes are hard to find to begin with.
        falling = (_PLAIN_UNTIL - self._schedule.gone(step)) / (_PLAIN_UNTIL - _PLAIN_ONLY)
        plain = max(PLAIN, min(1.0, falling))
        return see(scenes(self._world, self._schedule.batch, rng, plain), rng)


def scenes(world: World, number: int, rng: random.Random, plain: float = PLAIN) -> list[Scene]:
    """Scenes for one batch, a share of them plain ones of the study's world."""
    study = replace(STUDY, missing=world.missing)
    return [_plain(study, rng) if rng.random() < plain else sample_scene(rng, world=world) for _ in range(number)]


def _plain(study: World, rng: random.Random) -> Scene:
    scene, (share, most) = sample_scene(rng, world=study), _TURNED
    return (turned(scene, rng.uniform(-most, most)) if rng.random() < share else None) or scene


def see(shown: list[Scene], rng: random.Random) -> Pictures:
    """Training pictures of scenes, and their labels."""
    return Pictures(training_pictures(shown, rng), label(shown))


class Seeing(nn.Module):
    """Vision tower, Q-Former and query tokens, named as in the captioner, whose language model is not there yet."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.vision_model: Any = Blip2VisionModel(vision_config())
        self.qformer: Any = Blip2QFormerModel(qformer_config(layers=CAPTIONER_LAYERS))
        self.query_tokens = nn.Parameter(torch.randn(1, CAPTIONER_QUERIES, WIDTH))


def look(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tower's last and early states (B, 1 + P, D), and the Q-Former's (B, Q, D)."""
    seen = model.vision_model(normalized(pixels), output_hidden_states=True)
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    asked = model.qformer(query_embeds=queries, encoder_hidden_states=seen.last_hidden_state).last_hidden_state
    return seen.last_hidden_state, seen.hidden_states[EARLY], asked


class VisionStage:
    """See the module."""

    name = "vision"

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.schedule = schedule
        self.memory: dict[str, Any] = {}
        self._world = world
        seeing = Seeing(schedule.seed)
        self.modules = nn.ModuleDict({"model": seeing, "patches": PatchHeads(), "slots": SlotHeads()})

    def prepare(self, before: Path | None = None) -> None:
        """Set the first weights, or those of an earlier round. Left out where a saved state brings them."""
        if before:
            self.modules.load_state_dict(torch.load(before / "vision.pt", weights_only=True)["modules"])
        else:
            seeing: Any = self.modules["model"]
            begin(seeing.vision_model, self._world, self.schedule.seed)

    def batches(self) -> PictureBatches:
        """See `Stage`."""
        return PictureBatches(self._world, self.schedule)

    def loss(self, batch: Pictures, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        last, early, asked = look(self.modules["model"], batch.pixels)
        patches = self.modules["patches"](last, early, batch.labels)
        found = self.modules["slots"](asked, batch.labels)
        figures = {"patches": patches.item(), "slots": found.loss.item(), "right": found.right}
        return patches + 0.5 * found.loss, figures
