"""The second stage: the trunk stays as it is; a language model learns to say what the Q-Former has found in it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from blip2tools.demo.questions import kinds_of
from training.stages.architecture import new_captioner
from training.stages.bank import Bank
from training.stages.heads import SlotHeads
from training.stages.labels import Labels, label
from training.stages.loop import Schedule
from training.stages.rows import Rows, pack, segments
from training.stages.speaking import speak

QUESTIONS: Final = 4  # about each picture
_HEADS: Final = 0.2  # weight of the throw-away heads
_RARELY: Final = 0.03  # how often a kind without wrong answers is asked
_MEMORY: Final = 0.997  # of the errors of each kind


@dataclass(frozen=True, slots=True)
class Talk:
    """The frozen trunk's states, and the texts to learn about them."""

    states: Tensor
    rows: Rows
    labels: Labels | None


class _Talks(Dataset[Talk]):
    """Made in the training process, since a batch depends on the wrong answers so far."""

    def __init__(self, stage: LanguageStage) -> None:
        self._stage = stage

    def __getitem__(self, step: int) -> Talk:
        return self._stage.talk(step)


class LanguageStage:
    """See the module.

    Args:
        bank: what the trunk saw.
        schedule: of the stage.
        processor: the captioner's.
        given: a trained captioner, which learns further without the throw-away heads, which it no longer has; None
            is a new one, for `prepare`.
    """

    name = "language"

    def __init__(self, bank: Bank, schedule: Schedule, processor: Any, given: Any = None) -> None:
        self.schedule = schedule
        self.memory: dict[str, Any] = dict.fromkeys(kinds_of(bank.world), 0.2)
        self._bank = bank
        tokenizer = processor.tokenizer
        self._tokenizer = tokenizer.backend_tokenizer
        model = given or new_captioner(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"), schedule.seed)
        model.vision_model.requires_grad_(False)
        self.modules = nn.ModuleDict({"model": model} if given else {"model": model, "slots": SlotHeads()})

    def prepare(self, state: Path, before: Path | None = None) -> None:
        """Take over what the vision stage learned; only the language model and the way to it are new.

        Args:
            state: folder with the state of the vision stage.
            before: that of an earlier round, from which then comes everything but the vision tower.
        """
        vision = state / "vision.pt"
        weights = torch.load(vision, weights_only=True)["modules"]
        kept = {name: one for name, one in weights.items() if not name.startswith("patches.")}
        if before:
            learned = torch.load(before / f"{self.name}.pt", weights_only=True)["modules"]
            tower = {name: one for name, one in kept.items() if name.startswith("model.vision_model.")}
            self.modules.load_state_dict(learned | tower)
            return
        missing, unexpected = self.modules.load_state_dict(kept, strict=False)
        fresh = ("model.language_model.", "model.language_projection.")
        if unexpected or any(not name.startswith(fresh) for name in missing):
            raise ValueError(f"{vision.name} does not hold the weights of this vision stage")

    def batches(self) -> Dataset[Talk]:
        """See `Stage`."""
        return _Talks(self)

    def talk(self, step: int) -> Talk:
        """The batch of a step: kinds of questions with more errors more often."""
        rng = random.Random(f"{self.schedule.seed}/{step}")
        batch = self._bank.turn(step, self.schedule.seed)
        shown = self._bank.scenes(batch)
        weights = {kind: _RARELY + self.memory[kind] for kind in kinds_of(self._bank.world)}
        rows = pack([segments(scene, QUESTIONS, rng, weights) for scene in shown], self._tokenizer)
        return Talk(self._bank.states(batch), rows, label(shown) if "slots" in self.modules else None)

    def loss(self, batch: Talk, step: int) -> tuple[Tensor, dict[str, float]]:
        """See `Stage`."""
        model: Any = self.modules["model"]
        states = model.vision_model.post_layernorm(batch.states)
        queries = model.query_tokens.expand(len(states), -1, -1)
        asked = model.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        spoken = speak(model, asked, batch.rows)
        self._remember(batch.rows, spoken.wrong)
        figures = {
            "captions": spoken.captions.item(),
            "answers": spoken.answers.item(),
            "captions_right": 1 - spoken.wrong[:, 1].float().mean().item(),
            "worst": 1 - max(self.memory.values()),
        }
        loss = spoken.captions + spoken.answers
        if batch.labels is not None:
            found = self.modules["slots"](asked, batch.labels)
            loss, figures["right"] = loss + _HEADS * found.loss, found.right
        return loss, figures

    def _remember(self, rows: Rows, wrong: Tensor) -> None:
        for kind, failed in _told(rows, wrong):
            self.memory[kind] = self.memory[kind] * _MEMORY + (1 - _MEMORY) * failed


def _told(rows: Rows, wrong: Tensor) -> Iterable[tuple[str, float]]:
    """Each question's kind and whether it was answered wrongly."""
    for kinds, missed in zip(rows.kinds, wrong.tolist(), strict=True):
        for number, kind in enumerate(kinds, 1):
            if kind is not None:
                yield kind, float(missed[number])
