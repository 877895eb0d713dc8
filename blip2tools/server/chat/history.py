"""Turns with our tool calls: the client never sees the calls, and the upstream gets them back with each request.

So the upstream still knows its results, and its cache of prompts stays valid. If one message called tools of both sides, our
results stand next to the client's. A turn is found by all that was said up to its end, never by its place or by ids alone:
many servers call every first call `call_0`.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from blip2tools.server.chat.dialect import Dialect, Item

MOST: Final = 4096  # turns
BUDGET: Final = 64 * 2**20  # bytes of them


@dataclass(frozen=True, slots=True)
class _Kept:
    start: bytes
    items: list[Item]
    results: list[Item]
    size: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A stored answer of the upstream, as the client calls it."""

    id: str
    results: list[Item] = field(default_factory=list)


class History:
    """Remembers turns; the oldest are forgotten first, and their looks with them."""

    def __init__(self, most: int = MOST, budget: int = BUDGET) -> None:
        self._most = most
        self._budget = budget
        self._used = 0
        self._turns: OrderedDict[bytes, _Kept] = OrderedDict()
        self._answers: OrderedDict[str, Answered] = OrderedDict()

    def expanded(self, dialect: Dialect, items: Sequence[Any], seed: str = "") -> tuple[list[Any], bytes]:
        """A conversation with its turns restored, and a name for all that was said.

        Args:
            dialect: of the items.
            items: as the client sends them, with words for pictures.
            seed: what else was said before them.
        """
        names = [hashlib.sha256(f"{dialect.path} {seed}".encode()).digest()]
        first = {names[0]: 0}
        turns: list[tuple[int, int, _Kept]] = []
        for index, item in enumerate(items, start=1):
            name = _after(dialect, names[-1], item)
            if name != names[-1]:
                first[name] = index
                if (kept := self._turns.get(name)) is not None and kept.start in first:
                    self._turns.move_to_end(name)
                    turns.append((first[kept.start], index, kept))
            names.append(name)
        found: list[Any] = []
        done, results = 0, list[Item]()
        for start, end, kept in turns:
            found += _joined(dialect, items[done:start], results)
            found += kept.items
            done, results = end, kept.results
        return [*found, *_joined(dialect, items[done:], results)], names[-1]

    def remember(
        self, dialect: Dialect, start: bytes, visible: Sequence[Item], items: Sequence[Item], results: Sequence[Item]
    ) -> None:
        """Keep a turn.

        Args:
            dialect: of the items.
            start: the name of all that was said before.
            visible: what the client has got.
            items: what stands for it in front of the upstream.
            results: of ours, that belong beside the client's own.
        """
        end = start
        for item in visible:
            end = _after(dialect, end, item)
        if end == start:
            return
        size = len(json.dumps([*items, *results]))
        if (before := self._turns.pop(end, None)) is not None:
            self._used -= before.size
        self._turns[end] = _Kept(start, list(items), list(results), size)
        self._used += size
        while len(self._turns) > self._most or self._used > self._budget:
            _, oldest = self._turns.popitem(last=False)
            self._used -= oldest.size

    def name(self, shown: str, answered: Answered) -> None:
        """Remember the upstream's name for the answer that the client knows as `shown`."""
        self._answers[shown] = answered
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def named(self, shown: Any) -> Answered | None:
        """What the client means by the name of an answer; None where it is the upstream's own."""
        return self._answers.get(shown) if isinstance(shown, str) else None


def _after(dialect: Dialect, name: bytes, item: Any) -> bytes:
    line = dialect.line(item)
    return name if line is None else hashlib.sha256(name + line.encode("utf-8", "surrogatepass")).digest()


def _joined(dialect: Dialect, items: Sequence[Any], results: Sequence[Item]) -> list[Any]:
    """Items, with our results added to the first of them."""
    if not results:
        return list(items)
    if not items or not isinstance(items[0], dict):
        return [*results, *items]
    return [*dialect.ahead(items[0], results), *items[1:]]
