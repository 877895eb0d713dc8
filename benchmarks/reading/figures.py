"""How much of a page was read: errors by character, rows that are right, and whether the order is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALIKE = 0.4  # share of a line's characters that may be wrong while it still counts as that line


def plain(text: str) -> str:
    """Text with single spaces: how far words are apart is no error."""
    return " ".join(text.split())


def distance(one: str, other: str) -> int:
    """Levenshtein's: insertions, deletions and substitutions from one text to the other."""
    letters = np.frombuffer(other.encode("utf-32-le"), np.uint32)
    counts = np.arange(len(other) + 1)
    row = counts.copy()
    for number, letter in enumerate(one, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        candidates = np.concatenate([[number], best])
        row = np.minimum.accumulate(candidates - counts) + counts
    return int(row[-1])


def errors(truth: Sequence[str], read: Sequence[str]) -> tuple[int, int]:
    """Wrong characters, and how many there are: the whole page in its order, so that a wrong order counts too."""
    wanted = plain(" ".join(truth))
    return distance(wanted, plain(" ".join(read))), len(wanted)


def right_rows(truth: Sequence[str], read: Sequence[str]) -> int:
    """Rows that were read letter by letter and in their turn: the longest sequence that both share."""
    wanted, found = list(map(plain, truth)), list(map(plain, read))
    row = [0] * (len(found) + 1)
    for one in wanted:
        new = [0]
        for number, other in enumerate(found):
            new.append(row[number] + 1 if one == other else max(row[number + 1], new[-1]))
        row = new
    return row[-1]


def is_in_order(truth: Sequence[str], read: Sequence[str]) -> bool:
    """Whether the lines that were recognised come in the order of the page; at least nine of ten must have been.

    Each true line is looked for among those that were read; a line that occurs twice on the page tells nothing.
    """
    places = []
    found = list(map(plain, read))
    long = [one for one in map(plain, truth) if len(one) >= 8 and list(map(plain, truth)).count(one) == 1]
    for line in long:
        offsets = [(_cost(line, other), number) for number, other in enumerate(found)]
        cost, number = min(offsets, default=(1.0, 0))
        if cost <= ALIKE:
            places.append(number)
    return len(places) >= 0.9 * len(long) and places == sorted(places)


def _cost(line: str, other: str) -> float:
    """Share of a line's characters that differ from the part of another that is most like it."""
    if line in other:
        return (1 - len(line) / len(other)) / 10  # one that is the same fits better
    if abs(len(line) - len(other)) > ALIKE * len(line) and len(other) < len(line):
        return 1.0
    return distance(line, other[: len(line) + 4] if len(other) > len(line) else other) / len(line)
