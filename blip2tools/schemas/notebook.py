"""Results as HTML for notebooks: no script, every text escaped, pictures as small data: URIs.

A result holds no picture. When it is shown, whoever keeps pictures (every `Vision` of this process) is asked for a thumbnail by
its handle; where nobody has it any more, the words are shown alone.
"""

from __future__ import annotations

import base64
import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakSet

SIDE = 320  # pixels of a thumbnail's longer side
SMALL_SIDE = 128  # where there are several
MOST_PICTURES = 8
MOST_ROWS = 50
_SURE, _FAIR = 0.85, 0.5

_WIDE = "display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start;max-width:60em"
_DOUBT = "border-left:3px solid #b8860b;padding-left:.5em;margin:.3em 0"
_CELL = "text-align:left;vertical-align:top;padding:.1em .6em"


class Keeper(Protocol):
    """Keeps pictures."""

    def thumbnail(self, reference: str, boxes: Sequence[Sequence[float]], side: int) -> bytes | None:
        """The JPEG of a small copy with outlined boxes; `None` where there is none to be had."""


_KEEPERS: WeakSet[Keeper] = WeakSet()


def register(keeper: Keeper) -> None:
    """Ask this one for thumbnails, as long as it is alive."""
    _KEEPERS.add(keeper)


@dataclass(frozen=True, slots=True)
class Pictured:
    """A picture to show.

    Attributes:
        reference: its handle, or a path that every tool accepts.
        boxes: `[left, top, right, bottom]` as fractions, to be outlined; several have their numbers in them.
        about: what is in it, for those who cannot see it.
        caption: what stands below it.
    """

    reference: str
    boxes: Sequence[Sequence[float]] = ()
    about: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """The parts of a result as a person sees it."""

    says: str = ""
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""  # whose lines and spaces matter
    warnings: Sequence[str] = ()
    pictures: Sequence[Pictured] = field(default_factory=tuple)


class Showable(ABC):
    """What notebooks show as HTML."""

    @abstractmethod
    def _shown(self) -> Shown: ...

    def _repr_html_(self) -> str:
        """HTML for IPython's display."""
        return to_html(self._shown())


def sure(confidence: float) -> str:
    """A confidence as a number and in words."""
    words = "sure" if confidence >= _SURE else "fairly sure" if confidence >= _FAIR else "in doubt"
    return f"{confidence:.2f} ({words})"


def to_html(shown: Shown) -> str:
    """A result as one element."""
    side = SIDE if len(shown.pictures) == 1 else SMALL_SIDE
    figures = "".join(_figure(one, side) for one in shown.pictures[:MOST_PICTURES])
    says = f"<p style='margin:.3em 0'><strong>{html.escape(shown.says)}</strong></p>" if shown.says else ""
    lines = "".join(f"<p style='margin:.3em 0'>{html.escape(line)}</p>" for line in shown.lines)
    text = f"<pre style='white-space:pre-wrap'>{html.escape(shown.text)}</pre>" if shown.text else ""
    warnings = "".join(f"<p style='{_DOUBT}'>warning: {html.escape(warning)}</p>" for warning in shown.warnings)
    words = f"<div style='flex:1;min-width:18em'>{says}{lines}{text}{_table(shown)}{warnings}</div>"
    return f"<div style='{_WIDE}'>{figures}{words}</div>"


def _figure(one: Pictured, side: int) -> str:
    data = next(filter(None, (keeper.thumbnail(one.reference, one.boxes, side) for keeper in list(_KEEPERS))), None)
    below = (
        f"<figcaption style='max-width:{side}px;overflow-wrap:anywhere;font-size:smaller'>{html.escape(one.caption)}</figcaption>"
        if one.caption
        else ""
    )
    if data is None:
        return f"<figure style='margin:0'>{below}</figure>" if below else ""
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f"<figure style='margin:0'><img src='{source}' alt='{html.escape(one.about)}'>{below}</figure>"


def _table(shown: Shown) -> str:
    if not shown.rows:
        return ""
    head = "".join(_cell("th", name) for name in shown.columns)
    rows = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in shown.rows[:MOST_ROWS])
    left = len(shown.rows) - MOST_ROWS
    more = f"<p>and {left} more</p>" if left > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _cell(kind: str, text: str) -> str:
    return f"<{kind} style='{_CELL}'>{html.escape(text)}</{kind}>"
