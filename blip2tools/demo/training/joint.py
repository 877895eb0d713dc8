"""The second stage: the language model joins, and all of it learns captions and answers together."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from blip2tools.demo.training.architecture import new_captioner
from blip2tools.demo.training.heads import PatchHeads, SlotHeads
from blip2tools.demo.training.loop import Schedule
from blip2tools.demo.training.rows import HARD_FIRST, Rows, pack, segments
from blip2tools.demo.training.speaking import speak
from blip2tools.demo.training.vision import Pictures, look, scenes, see
from blip2tools.demo.world import World

QUESTIONS: Final = 4  # about each picture
HEADS: Final = 0.3  # weight of the throw-away heads


@dataclass(frozen=True, slots=True)
class Lessons:
    """Pictures, and what is to be said of them."""

    pictures: Pictures
    rows: Rows


class LessonBatches(Dataset[Lessons]):
    """Batch i is a pure function of the seed and i."""

    def __init__(self, world: World, schedule: Schedule, tokenizer: Any) -> None:
        self._world, self._schedule, self._tokenizer = world, schedule, tokenizer

    def __getitem__(self, step: int) -> Lessons:
        rng = random.Random(f"{self._schedule.seed}/{step}")
        shown = scenes(self._world, self._schedule.batch, rng)
        pictures = see(shown, rng)
        return Lessons(
            pictures, pack([segments(scene, QUESTIONS, rng, HARD_FIRST) for scene in shown], self._tokenizer)
        )


class JointStage:
    """See the module.

    Args:
        world: where the pictures are from.
        schedule: of the stage.
        processor: the captioner's.
    """

    name = "joint"

    def __init__(self, world: World, schedule: Schedule, processor: Any) -> None:
        self.schedule = schedule
        self.memory: dict[str, Any] = {}
        self._world = world
        self._tokenizer = processor.tokenizer.backend_tokenizer
        tokenizer = processor.tokenizer
        model = new_captioner(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"), schedule.seed)
        self.modules = nn.ModuleDict({"model": model, "patches": PatchHeads(), "slots": SlotHeads()})

    def prepare(self, vision: Path) -> None:
        """Take over what the vision stage learned; only the language model and the way to it are new."""
        weights = torch.load(vision, weights_only=True)["modules"]
        missing, unexpected = self.modules.load_state_dict(weights, strict=False)
        fresh = ("model.language_model.", "model.language_projection.")
        if unexpected or any(not name.startswith(fresh) for name in missing):
            raise ValueError(f"{vision.name} does not hold the weights of this vision stage")

    def batches(self) -> LessonBatches:
        """See `Stage`."""
        return LessonBatches(self._world, self.schedule, self._tokenizer)

    def loss(self, batch: Lessons, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        model: Any = self.modules["model"]
        last, early, asked = look(model, batch.pictures.pixels)
        patches = self.modules["patches"](last, early, batch.pictures.labels)
        found = self.modules["slots"](asked, batch.pictures.labels)
        spoken = speak(model, asked, batch.rows)
        figures = {
            "patches": patches.item(),
            "slots": found.loss.item(),
            "right": found.right,
            "captions": spoken.captions.item(),
            "answers": spoken.answers.item(),
            "captions_right": 1 - spoken.wrong[:, 1].float().mean().item(),
        }
        return spoken.captions + spoken.answers + HEADS * (patches + 0.5 * found.loss), figures
