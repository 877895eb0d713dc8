"""The whole training in order, its schedules, and what comes out of it."""

from __future__ import annotations

import copy
import logging
import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Blip2Processor

from blip2tools.demo.examination.unknown import VALIDATION_PICTURES, store_threshold
from blip2tools.demo.training.architecture import CAPTIONER_QUERIES, MATCHER_QUERIES
from blip2tools.demo.training.bank import Bank
from blip2tools.demo.training.card import write_card
from blip2tools.demo.training.language import LanguageStage
from blip2tools.demo.training.loop import Schedule, run
from blip2tools.demo.training.matching import MatchingStage
from blip2tools.demo.training.tokenizers import matcher_tokenizer, processor, speaker_tokenizer
from blip2tools.demo.training.vision import VisionStage
from blip2tools.demo.world import STUDY, WIDE, Color, Shape, World

BATCH: Final = 32  # pictures
# Every shape and six of the eight colours occur in these pairs: whoever has seen the rest has seen all their parts.
HELD_OUT: Final[frozenset[tuple[Color, Shape]]] = frozenset(
    {
        ("red", "star"),
        ("blue", "heart"),
        ("green", "cross"),
        ("yellow", "ring"),
        ("purple", "triangle"),
        ("pink", "square"),
    }
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Training:
    """One training from scratch.

    Attributes:
        state: folder that keeps all that is needed to go on.
        output: folder that gets `captioner` and `matcher`.
        knows: the world that they are to know.
        seed: of everything random; 0 is that of the shipped weights.
        share: of the steps of a whole training; less is for trying it out.
        held_out: leave the pairs of `HELD_OUT` out of all pictures and questions.
        processes: 2 trains the last two stages side by side; 1 one after the other, and 0 makes batches in the same
            process too.
    """

    state: Path
    output: Path
    knows: World = WIDE
    seed: int = 0
    share: float = 1.0
    held_out: bool = False
    processes: int = 2

    @property
    def world(self) -> World:
        """Where the pictures are from: what is hard in it comes a little more often."""
        harder = replace(WIDE, signs=0.3, turned=0.5, max_turn=17.0) if self.knows == WIDE else self.knows
        return replace(harder, missing=HELD_OUT) if self.held_out else harder

    @property
    def command(self) -> str:
        """What makes the same weights again."""
        said = ["python -m blip2tools.demo.train --state FOLDER"]
        said += [f"--world {self.knows.name}"] if self.knows != WIDE else []
        said += [f"--seed {self.seed}"] if self.seed else []
        said += [f"--share {self.share:g}"] if self.share != 1 else []
        said += ["--held-out"] if self.held_out else []
        return " ".join(said)

    def schedule(self, stage: str) -> Schedule:
        """How a stage learns."""
        made = _SCHEDULES[stage]
        steps = max(2, round(made.steps * self.share))
        return replace(made, steps=steps, seed=made.seed + 1000 * self.seed)

    def bank(self) -> Bank:
        """What the trained trunk sees."""
        batches = max(2, round(_BANK_BATCHES * self.share))
        return Bank(self.state, self.world, batches=batches, size=BATCH, seed=31 + 1000 * self.seed)


_BANK_BATCHES: Final = 1500
# All in float32: products of matrices in bfloat16 made a step 1.4 times as long (a Xeon with avx512_bf16 but without AMX,
# 23 November 2026, processor time of the same batches on one thread).
_SCHEDULES: Final = {
    "vision": Schedule(7000, BATCH, 2e-3, 100, 0.5, 11),
    "language": Schedule(3700, BATCH, 1.5e-3, 150, 0.3, 41),
    "matching": Schedule(3600, 24, 1.2e-3, 150, 0.3, 77),
}


def train(training: Training) -> None:
    """Train from scratch, or from where an earlier run was cut off, and write the two checkpoints."""
    training.state.mkdir(parents=True, exist_ok=True)
    _processors(training)
    _see(training)
    if training.processes > 1:
        other = multiprocessing.get_context("spawn").Process(target=_match, args=(training,), daemon=True)
        other.start()
        _speak(training)
        other.join()
        if other.exitcode:
            raise RuntimeError("the matcher's training failed")
    else:
        _speak(training)
        _match(training)
    write(training)


def _processors(training: Training) -> None:
    """Made once: what a word's number is must not change between stages."""
    made = {
        "captioner": (speaker_tokenizer, CAPTIONER_QUERIES),
        "matcher": (matcher_tokenizer, MATCHER_QUERIES),
    }
    for name, (tokenizer, queries) in made.items():
        folder = training.state / name
        if not (folder / "processor_config.json").exists():
            processor(tokenizer(1), queries).save_pretrained(folder)


def _processor(training: Training, name: str) -> Any:
    return Blip2Processor.from_pretrained(training.state / name)


def _see(training: Training) -> None:
    """The vision stage, and the bank that the others learn from."""
    workers = min(1, training.processes)
    torch.set_num_threads(max(1, training.processes))
    vision = VisionStage(training.world, training.schedule("vision"))
    if not (training.state / "vision.pt").exists():
        vision.prepare()
    run(vision, training.state, workers=workers)
    torch.set_num_threads(1)
    training.bank().fill(vision.modules["model"], workers=workers)


def _speak(training: Training) -> None:
    stage = LanguageStage(training.bank(), training.schedule("language"), _processor(training, "captioner"))
    if not (training.state / "language.pt").exists():
        stage.prepare(training.state / "vision.pt")
    run(stage, training.state, workers=0)


def _match(training: Training) -> None:
    """May run in a process of its own, which has to set up its own voice."""
    if multiprocessing.parent_process() is not None:
        set_up()
    stage = MatchingStage(training.bank(), training.schedule("matching"), _processor(training, "matcher"))
    if not (training.state / "matching.pt").exists():
        stage.prepare(training.state / "vision.pt")
    run(stage, training.state, workers=0)


def set_up() -> None:
    """One thread for each process, and progress on standard error."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def write(training: Training) -> None:
    """Write both checkpoints as float16 with their processors, the threshold of familiarity, and the card."""
    stages: dict[str, Any] = {
        "captioner": partial(LanguageStage, training.bank(), training.schedule("language")),
        "matcher": partial(MatchingStage, training.bank(), training.schedule("matching")),
    }
    for name, make in stages.items():
        tools = _processor(training, name)
        stage = make(tools)
        stage.modules.load_state_dict(torch.load(training.state / f"{stage.name}.pt", weights_only=True)["modules"])
        store(stage.modules["model"], tools, training.output / name)
    schedules = {name: training.schedule(name) for name in _SCHEDULES}
    known = replace(training.knows, missing=training.world.missing)
    finish(training.output, known, training.share, schedules, training.command)


def store(model: Any, tools: Any, folder: Path) -> None:
    """Write one checkpoint, weights as float16, so that every user of the machine can read it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tools.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # the library leaves weights unreadable to others
    logger.info("%s written", folder)


def finish(folder: Path, world: World, share: float, schedules: Mapping[str, Schedule], command: str) -> None:
    """Write what goes with both checkpoints: the threshold of familiarity, and the card."""
    known = tuple(dict.fromkeys((STUDY, world)))
    number = VALIDATION_PICTURES if share > 0.1 else 2  # a training that is only tried out needs no good threshold
    store_threshold(folder, known, number)
    write_card(folder, world=world, schedules=schedules, command=command)
