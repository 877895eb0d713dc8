"""Further training of finished weights, to say more about what they see: the second stage alone.

Q-Former, language projection and language model go on; the trunk stays as it is, bit for bit, and so does the matcher. All
sizes are those of the checkpoint. So a model that knows its world learns a new prompt in minutes.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from blip2tools.demo.world import World
from training.stages.bank import Bank
from training.stages.language import LanguageStage
from training.stages.loop import Schedule, claim, run
from training.stages.plan import BATCH, finish, store

_BANK_BATCHES: Final = 1000
_SCHEDULE: Final = Schedule(2500, BATCH, 5e-4, 200, 0.1, 51)
RATE: Final = _SCHEDULE.rate  # at 1e-3 a finished model forgets a tenth of its captions before it has them again


@dataclass(frozen=True, slots=True)
class Further:
    """One training that goes on from given weights.

    Attributes:
        given: folder with `captioner` and `matcher`.
        state: folder that keeps all that is needed to go on after a kill.
        output: folder that gets both, the matcher as it was.
        world: where the pictures are from.
        seed: of everything random.
        share: of the steps of a whole training.
        rate: the highest learning rate.
        keep: how much of the given weights stays in those that are written, which are the mean of both: a mean along the way
            is often a little better than either end (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """

    given: Path
    state: Path
    output: Path
    world: World
    seed: int = 0
    share: float = 1.0
    rate: float = RATE
    keep: float = 0.0

    @property
    def command(self) -> str:
        """The command that makes the same weights again."""
        said = [f"python -m training.train --from FOLDER --world {self.world.name} --state FOLDER"]
        said += [f"--seed {self.seed}"] if self.seed else []
        said += [f"--share {self.share:g}"] if self.share != 1 else []
        said += [f"--rate {self.rate:g}"] if self.rate != RATE else []
        said += [f"--keep {self.keep:g}"] if self.keep else []
        return " ".join(said)

    @property
    def schedule(self) -> Schedule:
        """How it learns."""
        seed = _SCHEDULE.seed + 1000 * self.seed
        return replace(_SCHEDULE, steps=self._shared(_SCHEDULE.steps), rate=self.rate, seed=seed)

    def bank(self) -> Bank:
        """The bank of the given trunk's states."""
        batches = self._shared(_BANK_BATCHES)
        return Bank(self.state, self.world, batches=batches, size=BATCH, seed=52 + 1000 * self.seed)

    def _shared(self, number: int) -> int:
        return max(2, round(number * self.share))


def train_further(further: Further) -> None:
    """Go on from the given weights, or from where an earlier run was cut off, and write both checkpoints."""
    captioner = further.given / "captioner"
    digest = hashlib.sha256((captioner / "model.safetensors").read_bytes()).hexdigest()
    claim(further.state, f"{further.command}\nfrom captioner/model.safetensors {digest}\n")
    tools = Blip2Processor.from_pretrained(captioner)
    given: Any = Blip2ForConditionalGeneration.from_pretrained(captioner, dtype=torch.float32)
    model = copy.deepcopy(given)
    bank = further.bank()
    bank.fill(model)
    run(LanguageStage(bank, further.schedule, tools, model), further.state, workers=0)
    with torch.no_grad():
        for weight, before in zip(model.parameters(), given.parameters(), strict=True):
            if weight.requires_grad:
                weight.lerp_(before, further.keep)
    shutil.copytree(further.given / "matcher", further.output / "matcher", dirs_exist_ok=True)
    store(model, tools, further.output / "captioner")
    finish(further.output, further.world, further.share, [("language", further.schedule)], further.command)
