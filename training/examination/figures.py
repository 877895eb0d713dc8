"""A figure, the bar that it must reach, and pictures of what was wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

KEPT: Final = 4  # misses of one figure that are shown


@dataclass(frozen=True, slots=True)
class Miss:
    """A picture, what was asked, what was said, and what is true."""

    picture: Image.Image = field(repr=False)
    asked: str
    said: str
    truth: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One counted or measured thing.

    Attributes:
        section: what it belongs to.
        name: what it is.
        value: a share, an area under a curve, or milliseconds.
        number: of how many trials; 0 for what is not a share.
        bar: what it must reach; None where there is none.
        at_most: what it must not exceed; None where there is no such bar.
        misses: some of what was wrong.
    """

    section: str
    name: str
    value: float
    number: int = 0
    bar: float | None = None
    at_most: float | None = None
    misses: tuple[Miss, ...] = field(default=(), repr=False)

    @property
    def holds(self) -> bool:
        """Whether it reaches its bars; true where there is none."""
        return (self.bar is None or self.value >= self.bar) and (self.at_most is None or self.value <= self.at_most)

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return {
            "section": self.section,
            "name": self.name,
            "value": round(self.value, 4),
            "number": self.number,
            **({} if self.bar is None else {"bar": self.bar}),
            **({} if self.at_most is None else {"at_most": self.at_most}),
            "holds": self.holds,
        }


def counted(
    section: str,
    name: str,
    right: Sequence[bool],
    *,
    bar: float | None = None,
    at_most: float | None = None,
    misses: Iterator[Miss] | None = None,
) -> Figure:
    """The share of what was right."""
    shown = [] if misses is None else [miss for miss, _ in zip(misses, range(KEPT), strict=False)]
    return Figure(section, name, sum(right) / max(1, len(right)), len(right), bar, at_most, tuple(shown))


def mean(section: str, name: str, figures: Sequence[Figure], bar: float | None = None) -> Figure:
    """The mean of figures, each counting alike."""
    value = sum(figure.value for figure in figures) / len(figures)
    return Figure(section, name, value, sum(figure.number for figure in figures), bar)
