"""The loop that every stage of training runs in: steps, progress, a log, and a state from which a killed run goes on.

What a step learns from is a pure function of the stage's seed and the step's number, and all else that it depends on is
saved, so a run that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from training.stages.muon import Muon

SAVED_EVERY: Final = 100  # steps
LOGGED_EVERY: Final = 25
_PREFETCHED: Final = 6
_MEMORY: Final = 0.96  # of the running averages in the log
_DECAY: Final = 0.05
_INSIDE: Final = re.compile(r"\.layers?\.\d+\.")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long a stage learns, from how much at once, and how fast.

    Attributes:
        steps: how many.
        batch: pictures in one.
        rate: the highest learning rate.
        warm_up: steps until it is reached.
        flat: the share of the steps after which it falls, along half a cosine, to 2 %; 1 keeps it.
        seed: of everything random.
        again: the stage has learned before: what is easy need not come first.
    """

    steps: int
    batch: int
    rate: float
    warm_up: int
    flat: float
    seed: int
    again: bool = False

    def gone(self, step: int) -> float:
        """How far a step is on the stage's way from easy to hard, as a share."""
        return 1.0 if self.again else step / self.steps

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, the first being 0."""
        fallen = max(0.0, (step / self.steps - self.flat) / (1 - self.flat)) if self.flat < 1 else 0.0
        return self.rate * min(1.0, (step + 1) / self.warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fallen)))


class Stage(Protocol):
    """The interface of a training stage to the loop."""

    name: str
    schedule: Schedule
    modules: nn.ModuleDict  # all that is saved; parts that need no gradient do not learn
    memory: dict[str, Any]  # other state of the stage; saved too

    def batches(self) -> Dataset[Any]:
        """The batches by the number of their step; read in a process of its own."""
        ...

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss, and figures for the log."""
        ...


class OtherTrainingError(ValueError):
    """A state folder belongs to another training."""


def claim(folder: Path, training: str) -> None:
    """Note which training a folder belongs to: a stage must not resume from the state of another one.

    Args:
        folder: made if it is not there.
        training: all that makes one training differ from another.

    Raises:
        OtherTrainingError: it keeps the state of another training.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "training.txt"
    if note.exists() and note.read_text(encoding="utf-8") != training:
        raise OtherTrainingError(f"{folder} keeps the state of another training ({note.name} in it tells which)")
    new = note.with_suffix(".new")
    new.write_text(training, encoding="utf-8")
    new.replace(note)


def run(stage: Stage, folder: Path, *, workers: int = 1) -> None:
    """Train until the stage's last step, from where an earlier run was cut off if there was one.

    Args:
        stage: what to train; afterwards its modules hold the trained weights.
        folder: keeps the state `NAME.pt` and the log `NAME.jsonl`.
        workers: processes that make batches; 0 makes them here.
    """
    state = folder / f"{stage.name}.pt"
    learning = [weight for weight in stage.modules.parameters() if weight.requires_grad]
    optimizers = _optimizers(stage.modules, stage.schedule.rate)
    done, seconds, averages = 0, 0.0, {}
    if state.exists():
        saved = torch.load(state, weights_only=True)
        stage.modules.load_state_dict(saved["modules"])
        if saved["step"] < stage.schedule.steps:
            for optimizer, before in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(before)
        stage.memory.update(saved["memory"])
        done, seconds, averages = saved["step"], saved["seconds"], saved["averages"]
        logger.info("%s: going on at step %d of %d", stage.name, done, stage.schedule.steps)
    stage.modules.train()
    started = time.monotonic() - seconds
    parent = multiprocessing.parent_process()
    for step, batch in _numbered(stage, done, workers):
        if parent is not None and not parent.is_alive():
            raise SystemExit("the training that this was a part of has ended")
        loss, figures = stage.loss(batch, step)
        stage.modules.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = stage.schedule.rate_at(step)
            optimizer.step()
        for name, figure in figures.items():
            averages[name] = averages.get(name, figure) * _MEMORY + figure * (1 - _MEMORY)
        done, seconds = step + 1, time.monotonic() - started
        last = done == stage.schedule.steps
        if done % LOGGED_EVERY == 0 or last:
            _log(stage, folder, done, seconds, averages)
        if done % SAVED_EVERY == 0 or last:
            _save(
                state,
                {
                    "step": done,
                    "seconds": seconds,
                    "averages": averages,
                    "memory": stage.memory,
                    "modules": stage.modules.state_dict(),
                    "optimizers": [] if last else [optimizer.state_dict() for optimizer in optimizers],
                },
            )
    stage.modules.eval()


def _optimizers(modules: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside layers, AdamW for all else: embeddings, heads, and everything that is not a matrix."""
    learning = {name: weight for name, weight in modules.named_parameters() if weight.requires_grad}
    inside = {name for name, weight in learning.items() if weight.ndim == 2 and _INSIDE.search(name)}
    decayed = [weight for name, weight in learning.items() if name not in inside and weight.ndim > 1]
    rest = [weight for weight in learning.values() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    return [Muon([learning[name] for name in sorted(inside)], rate, _DECAY), adamw] if inside else [adamw]


def _numbered(stage: Stage, first: int, workers: int) -> Iterator[tuple[int, Any]]:
    steps = range(first, stage.schedule.steps)
    loader: Iterable[Any] = DataLoader(
        stage.batches(),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCHED if workers else None,
    )
    return zip(steps, loader, strict=True)


def _log(stage: Stage, folder: Path, done: int, seconds: float, averages: dict[str, float]) -> None:
    entry = {
        "step": done,
        "of": stage.schedule.steps,
        "pictures": done * stage.schedule.batch,
        "seconds": round(seconds),
        "rate": round(stage.schedule.rate_at(done - 1), 6),
        **{name: round(value, 4) for name, value in averages.items()},
    }
    with (folder / f"{stage.name}.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")
    if done % (4 * LOGGED_EVERY) == 0 or done == stage.schedule.steps:
        left = seconds / done * (stage.schedule.steps - done)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in averages.items())
        logger.info(
            "%s %d/%d  %.0f s, about %.0f s left  %s", stage.name, done, stage.schedule.steps, seconds, left, figures
        )


def _save(file: Path, state: dict[str, Any]) -> None:
    """Write to another file and rename: whenever the run is killed, a whole state is there."""
    new = file.with_suffix(".new")
    torch.save(state, new)
    new.replace(file)
