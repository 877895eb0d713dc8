"""The whole training in order, its schedules, and what comes out of it."""

from __future__ import annotations

import copy
import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Blip2Processor

from blip2tools.demo.world import STUDY, WIDE, Color, Shape, World
from training.examination.unknown import VALIDATION_PICTURES, store_threshold
from training.stages.architecture import CAPTIONER_QUERIES, MATCHER_QUERIES
from training.stages.bank import Bank
from training.stages.card import write_card
from training.stages.language import LanguageStage
from training.stages.loop import Schedule, claim, run
from training.stages.matching import MatchingStage
from training.stages.tokenizers import matcher_tokenizer, processor, speaker_tokenizer
from training.stages.vision import VisionStage

BATCH: Final = 32  # pictures
# Every shape and six of the eight colours occur in these pairs; all of these occur in the other pairs, too.
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
        held_out: leave the pairs of `HELD_OUT` out of all pictures and questions, and train a captioner alone, which is what
            is then asked about them.
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
    def command(self) -> str:
        """The command that makes the same weights again."""
        said = ["python -m training.train --state FOLDER"]
        said += [f"--world {self.knows.name}"] if self.knows != WIDE else []
        said += [f"--seed {self.seed}"] if self.seed else []
        said += [f"--share {self.share:g}"] if self.share != 1 else []
        said += ["--held-out"] if self.held_out else []
        return " ".join(said)

    @property
    def rounds(self) -> list[Round]:
        """The rounds in order, each starting from the one before."""
        folders = [self.state / f"round-{number}" for number, _ in enumerate(_ROUNDS, 1)]
        return [
            self._shared(replace(made, state=state, before=before))
            for made, state, before in zip(_ROUNDS, folders, [None, *folders], strict=False)
        ]

    def _shared(self, made: Round) -> Round:
        world = made.world if self.knows == WIDE else self.knows
        schedules = {
            stage: replace(one, steps=self._few(one.steps), seed=one.seed + 1000 * self.seed)
            for stage, one in made.schedules.items()
            if not (self.held_out and stage == "matching")
        }
        return replace(
            made,
            world=replace(world, missing=HELD_OUT) if self.held_out else world,
            schedules=schedules,
            bank_batches=self._few(made.bank_batches),
            bank_seed=made.bank_seed + 1000 * self.seed,
        )

    def _few(self, steps: int) -> int:
        return max(2, round(steps * self.share))


@dataclass(frozen=True, slots=True)
class Round:
    """Every stage once.

    Attributes:
        world: where the pictures are from: of the wide one, what is hard comes a little more often.
        schedules: of the stages.
        bank_batches: how many pictures the trained trunk looks at for the later stages, in batches.
        bank_seed: of these pictures.
        state: folder that keeps all that is needed to go on.
        before: that of the round before this one; None where all is new.
    """

    world: World
    schedules: Mapping[str, Schedule]
    bank_batches: int
    bank_seed: int
    state: Path = Path()
    before: Path | None = None

    def bank(self) -> Bank:
        """The bank of the trained trunk's states."""
        return Bank(self.state, self.world, batches=self.bank_batches, size=BATCH, seed=self.bank_seed)


# All in float32: products of matrices in bfloat16 made a step 1.4 times as long (a Xeon with avx512_bf16 but without AMX,
# 23 November 2026, processor time of the same batches on one thread).
_ROUNDS: Final = (
    Round(
        replace(WIDE, signs=0.3, turned=0.5, max_turn=17.0),
        {
            "vision": Schedule(7000, BATCH, 2e-3, 100, 0.5, 11),
            "language": Schedule(3700, BATCH, 1.5e-3, 150, 0.3, 41),
            "matching": Schedule(3600, 24, 1.2e-3, 150, 0.3, 77),
        },
        bank_batches=1500,
        bank_seed=31,
    ),
    # What was still wrong after the first round: crosses turned so far that they look like stars, and thin lines.
    Round(
        replace(WIDE, signs=0.3, turned=0.5, max_turn=22.0, styles=(*WIDE.styles, "outlined")),
        {
            "vision": Schedule(4000, BATCH, 1.2e-3, 100, 0.25, 12, again=True),
            "language": Schedule(3200, BATCH, 1e-3, 150, 0.2, 42, again=True),
            "matching": Schedule(3000, 24, 8e-4, 150, 0.2, 78, again=True),
        },
        bank_batches=1500,
        bank_seed=32,
    ),
)


def train(training: Training) -> None:
    """Train from scratch, or from where an earlier run was cut off, and write the checkpoints."""
    claim(training.state, training.command + "\n")
    _processors(training)
    for number, made in enumerate(training.rounds, 1):
        logger.info("round %d of %d", number, len(_ROUNDS))
        made.state.mkdir(exist_ok=True)
        _see(training, made)
        if training.held_out:
            _speak(training, made)
        elif training.processes > 1:
            _both(training, made)
        else:
            _speak(training, made)
            _match(training, made)
    write(training)


def _both(training: Training, made: Round) -> None:
    """The captioner's last stage here, the matcher's in a parallel process."""
    other = multiprocessing.get_context("spawn").Process(target=_match, args=(training, made), daemon=True)
    other.start()
    _speak(training, made)
    other.join()
    if other.exitcode:
        raise RuntimeError("the matcher's training failed")


def _processors(training: Training) -> None:
    """Made once: the ids of words must not change between stages."""
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


def _see(training: Training, made: Round) -> None:
    """The vision stage, and the bank that the others learn from."""
    workers = min(1, training.processes)
    torch.set_num_threads(max(1, training.processes))
    vision = VisionStage(made.world, made.schedules["vision"])
    if not (made.state / "vision.pt").exists():
        vision.prepare(made.before)
    run(vision, made.state, workers=workers)
    torch.set_num_threads(1)
    made.bank().fill(vision.modules["model"], workers=workers)


def _speak(training: Training, made: Round) -> None:
    _learn(LanguageStage(made.bank(), made.schedules["language"], _processor(training, "captioner")), made)


def _match(training: Training, made: Round) -> None:
    """May run in a process of its own, which has to set up its own logging."""
    if multiprocessing.parent_process() is not None:
        set_up()
    _learn(MatchingStage(made.bank(), made.schedules["matching"], _processor(training, "matcher")), made)


def _learn(stage: LanguageStage | MatchingStage, made: Round) -> None:
    if not (made.state / f"{stage.name}.pt").exists():
        stage.prepare(made.state, made.before)
    run(stage, made.state, workers=0)


def set_up() -> None:
    """One thread for each process, and progress on standard error."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def write(training: Training) -> None:
    """Write the checkpoints as float16 with their processors, the threshold of familiarity, and the card."""
    last = training.rounds[-1]
    stages: dict[str, Any] = {"captioner": (LanguageStage, "language"), "matcher": (MatchingStage, "matching")}
    for name, (kind, called) in stages.items():
        if called not in last.schedules:
            continue
        tools = _processor(training, name)
        stage = kind(last.bank(), last.schedules[called], tools)
        stage.modules.load_state_dict(torch.load(last.state / f"{stage.name}.pt", weights_only=True)["modules"])
        store(stage.modules["model"], tools, training.output / name)
    known = replace(training.knows, missing=last.world.missing)
    schedules = [
        (f"{number}. {name}", one)
        for number, made in enumerate(training.rounds, 1)
        for name, one in made.schedules.items()
    ]
    finish(training.output, known, training.share, schedules, training.command)


def store(model: Any, tools: Any, folder: Path) -> None:
    """Write one checkpoint, weights as float16, so that every user of the machine can read it."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tools.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # the library leaves weights unreadable to others
    logger.info("%s written", folder)


def finish(folder: Path, world: World, share: float, schedules: Sequence[tuple[str, Schedule]], command: str) -> None:
    """Write what goes with the checkpoints: the threshold of familiarity, which takes a matcher, and the card."""
    if (folder / "matcher").exists():
        known = tuple(dict.fromkeys((STUDY, world)))
        number = VALIDATION_PICTURES if share > 0.1 else 2  # a trial run needs no good threshold
        store_threshold(folder, known, number)
    write_card(folder, world=world, schedules=schedules, command=command)
