"""The trained trunk's states of many pictures, computed once, since later stages do not change the trunk."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from blip2tools.demo.world import Scene, World
from training.stages.samples import normalized, training_pictures
from training.stages.vision import scenes

_TOLD_EVERY: Final = 100  # batches

logger = logging.getLogger(__name__)


class Bank:
    """Trunk states before the last LayerNorm, in batches of pictures that stay together.

    Args:
        folder: keeps the states, as float16, and how far they have come.
        world: where the pictures are from.
        batches: how many.
        size: pictures in one.
        seed: of the pictures; batch i is a pure function of it and i.
    """

    def __init__(self, folder: Path, world: World, *, batches: int, size: int, seed: int) -> None:
        self.batches, self.size = batches, size
        self.world, self._seed = world, seed
        self._file, self._progress = folder / "bank.npy", folder / "bank.json"
        self._states: Any = None

    def fill(self, model: Any, *, workers: int = 1) -> None:
        """Compute the states of every picture that has none yet, in the size that the model takes.

        Args:
            model: whose trunk looks.
            workers: processes that draw; 0 draws here.
        """
        tower = model.vision_model.config
        patches = (tower.image_size // tower.patch_size) ** 2
        shape = (self.batches * self.size, 1 + patches, tower.hidden_size)
        done = json.loads(self._progress.read_text())["batches"] if self._progress.exists() else 0
        mode: Any = "r+" if done else "w+"
        states: Any = np.lib.format.open_memmap(self._file, mode, np.float16, shape)
        drawn: Iterable[torch.Tensor] = DataLoader(
            _Drawn(self, tower.image_size), sampler=range(done, self.batches), batch_size=None, num_workers=workers
        )
        for batch, pixels in zip(range(done, self.batches), drawn, strict=True):
            with torch.inference_mode():
                seen = trunk_states(model, normalized(pixels))
            states[batch * self.size : (batch + 1) * self.size] = seen.half().numpy()
            if (batch + 1) % _TOLD_EVERY == 0 or batch + 1 == self.batches:
                states.flush()
                self._progress.write_text(json.dumps({"batches": batch + 1}))
                logger.info("bank %d/%d", batch + 1, self.batches)

    def pixels(self, batch: int, side: int) -> torch.Tensor:
        """The pictures of a batch, (B, S, S, 3) uint8."""
        rng = self._rng(batch)
        return training_pictures(scenes(self.world, self.size, rng), rng, side)

    def scenes(self, batch: int) -> list[Scene]:
        """The scenes of a batch."""
        return scenes(self.world, self.size, self._rng(batch))

    def states(self, batch: int) -> torch.Tensor:
        """(B, 1 + P, D) float32."""
        if self._states is None:
            self._states = np.load(self._file, mmap_mode="r")
        return torch.from_numpy(self._states[batch * self.size : (batch + 1) * self.size].astype(np.float32))

    def turn(self, step: int, seed: int) -> int:
        """Which batch a step learns from: all of them once, in a new order, before any comes again."""
        order = list(range(self.batches))
        random.Random(f"{seed}/{step // self.batches}").shuffle(order)
        return order[step % self.batches]

    def _rng(self, batch: int) -> random.Random:
        return random.Random(f"{self._seed}/{batch}")


class _Drawn(Dataset[torch.Tensor]):
    """The pictures of a bank, by the number of their batch."""

    def __init__(self, bank: Bank, side: int) -> None:
        self._bank, self._side = bank, side

    def __getitem__(self, batch: int) -> torch.Tensor:
        return self._bank.pixels(batch, self._side)


def trunk_states(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The states after embeddings and encoder of a vision tower, before its last LayerNorm."""
    tower = model.vision_model
    states: torch.Tensor = tower.encoder(inputs_embeds=tower.embeddings(pixels)).last_hidden_state
    return states
