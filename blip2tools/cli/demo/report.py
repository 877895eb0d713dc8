"""The model's answers next to the truth, counted, and as plain lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

Task = Literal["caption", "question", "choice", "match"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
DEFAULT_PICTURES: Final = 6
TASK_NAMES: Final[dict[Task, str]] = {
    "caption": "Captions",
    "question": "Questions",
    "choice": "Choices",
    "match": "Matches",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One of the texts that were offered to choose from."""

    text: str
    probability: float
    truth: str  # "true", or why it is not


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing the model was asked, what it said, and what is true."""

    task: Task
    asked: str
    said: str
    truth: str
    probability: float  # how sure the model was of what it said
    options: tuple[Option, ...] = ()  # best first

    @property
    def right(self) -> bool:
        """Whether the model said the truth, word for word."""
        return self.said == self.truth

    @property
    def verdict(self) -> Literal["right", "wrong"]:
        """The mark as a word."""
        return "right" if self.right else "wrong"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One picture and how the model did on it."""

    picture: Path
    truth: str  # the picture's caption
    marks: tuple[Mark, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """A whole demo."""

    seed: int
    outcomes: tuple[Outcome, ...]
    start_seconds: float  # until the server answered its first call, model loaded
    seconds: float  # all calls after that

    def score(self, task: Task | None = None) -> tuple[int, int]:
        """How many marks are right, and how many there are; of one task or of all."""
        marks = [mark for outcome in self.outcomes for mark in outcome.marks if task in (None, mark.task)]
        return sum(mark.right for mark in marks), len(marks)

    @property
    def command(self) -> str:
        """The command that repeats this demo."""
        number = len(self.outcomes)
        return f"blip2tools demo --seed {self.seed}" + (f" --pictures {number}" if number != DEFAULT_PICTURES else "")


class Style:
    """Colours of a terminal, or none."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def verdict(self, mark: Mark) -> str:
        """`right` in green, `wrong` in red."""
        return self._paint("32" if mark.right else "1;31", mark.verdict)

    def title(self, text: str) -> str:
        """A heading."""
        return self._paint("1", text)

    def quiet(self, text: str) -> str:
        """Less important text, dimmed."""
        return self._paint("2", text)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors else text


def outcome_lines(outcome: Outcome, style: Style) -> Iterator[str]:
    """One picture's marks."""
    yield f"{style.title(outcome.picture.name)}  {style.quiet(f'{outcome.seconds:.1f} s')}"
    for mark in outcome.marks:
        first, *rest = _mark_lines(mark, style)
        yield f"  {style.verdict(mark)}  {first}"
        yield from (f"         {line}" for line in rest)
    yield ""


def _mark_lines(mark: Mark, style: Style) -> Iterator[str]:
    if mark.task == "match":
        width = max(len(option.text) for option in mark.options)
        for number, option in enumerate(mark.options):
            label = "" if number else "match"
            yield f"{label:9} {option.probability:.2f}  {option.text:{width}}  {style.quiet(option.truth)}"
        return
    if mark.task == "caption":
        yield f"caption   {mark.said}"
        yield style.quiet(f"truth     {mark.truth}")
        return
    offered = f"  ({' / '.join(option.text for option in mark.options)})" if mark.options else ""
    yield f"{mark.task:9} {mark.asked}{style.quiet(offered)}"
    yield f"answer    {mark.said}  {style.quiet(f'{mark.probability:.2f}, truth: {mark.truth}')}"


def total_lines(report: DemoReport, style: Style) -> Iterator[str]:
    """The score of every task and of all, and the time."""
    for task in TASKS:
        right, of = report.score(task)
        yield f"{TASK_NAMES[task]:9} {right:3} of {of} right"
    right, of = report.score()
    yield style.title(f"{'Total':9} {right:3} of {of} right")
    yield (
        f"{'Time':9} {report.start_seconds:.1f} s to start the server and load the model, "
        f"{report.seconds:.1f} s for {of} calls"
    )
