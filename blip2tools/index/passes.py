"""The quick pass: selects, among many pictures, those for an exact comparison. It may miss one, and never decides an order.

Two ways, built together and kept in files next to the rows:

    means    one vector for each picture, the mean of its rows, float32, mapped into memory; numpy alone
    groups   the rows of each picture in two groups of neighbours, whose means are quantised to 4 bits for each pair of
             dimensions (product quantisation, André et al., "Quicker ADC", 2018) and scanned by faiss: the extra `search`

Measured on 100,000 pictures in BENCHMARKS.md. Slots that were filled since are not part of a pass: they are compared exactly.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from blip2tools.index import nearest
from blip2tools.index.rows import Mask, Rows, Singles, Slots

GROUPS: Final = 2
_ROUNDS: Final = 3  # of moving rows between groups
_TRAINED: Final = 65_536  # vectors from which the codes are learned
_STEP: Final = 500  # pictures at a time: 16 MB at 32 × 256
_FROM_MEANS: Final = 2500  # of pictures whose rows differ much, the mean says little
_FROM_GROUPS: Final = 800

logger = logging.getLogger(__name__)


def scanner() -> Any:
    """faiss, or None if the extra is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


class Pass:
    """One built pass.

    Attributes:
        turn: contents of later turns are not in it.
    """

    def __init__(self, place: Path, token: str, turn: int, size: int) -> None:
        self.token = token
        self.turn = turn
        self._means: Singles = np.memmap(_means(place, token), np.float32, "r").reshape(-1, size)
        self._groups: Any = None
        faiss = scanner()
        if faiss is not None and _groups(place, token).exists():
            self._groups = faiss.read_index(str(_groups(place, token)))

    @property
    def has_groups(self) -> bool:
        """Whether faiss does the first look."""
        return self._groups is not None

    def of_text(self, vector: Singles, count: int, mask: Mask | None = None) -> Slots:
        """About `count` slots that hold the nearest to a text; only slots of the mask, if there is one."""
        if self._groups is None or mask is not None:
            return self._by_mean(vector, max(count, _FROM_MEANS), mask)
        wanted = max(count, _FROM_GROUPS)
        _, found = self._groups.search(vector[None], min(wanted * 3 // 2, self._groups.ntotal))
        places = found[0][found[0] >= 0] // GROUPS
        first = np.sort(np.unique(places, return_index=True)[1])[:wanted]  # as near as the nearer group is
        return np.asarray(places[first], np.int64)

    def of_picture(self, features: Singles, count: int, mask: Mask | None = None) -> Slots:
        """About `count` slots that hold the pictures most like one (Q × D)."""
        return self._by_mean(features.mean(axis=0), count, mask)

    def _by_mean(self, vector: Singles, count: int, mask: Mask | None) -> Slots:
        scores = self._means @ vector
        if mask is not None:
            shared = min(len(mask), len(scores))
            scores[:shared][~mask[:shared]] = -np.inf
            scores[shared:] = -np.inf
            count = min(count, int(mask[:shared].sum()))
        return nearest.best(scores, count)


class Passes:
    """The pass that an index names, opened when it is first asked for.

    Args:
        place: the folder of the index.
        size: D.
    """

    def __init__(self, place: Path, size: int) -> None:
        self._place = place
        self._size = size
        self._open: Pass | None = None

    def at(self, fact: bytes | None) -> Pass | None:
        """The pass that a fact of the catalogue names, if there is one."""
        if fact is None:
            return None
        told = json.loads(fact)
        if self._open is None or self._open.token != told["token"]:
            try:
                self._open = Pass(self._place, told["token"], told["turn"], self._size)
            except (OSError, ValueError) as error:  # another process has just replaced it
                logger.debug("a quick pass could not be opened: %s", error)
                return None
        return self._open


def build(place: Path, rows: Rows, count: int, turn: int, tell: Callable[[int], None]) -> bytes:
    """Build a pass over the first `count` slots; returns the fact that names it.

    Args:
        place: the folder of the index.
        rows: the features.
        count: of slots.
        turn: the last one whose contents are in them.
        tell: receives how many slots are done.
    """
    token = secrets.token_hex(4)
    faiss = scanner()
    size = rows.shape[1]
    codes = _trained(faiss, rows, count) if faiss is not None and size % 2 == 0 else None
    with _means(place, token).open("wb") as file:
        for first in range(0, count, _STEP):
            seen = rows.exact(np.arange(first, min(first + _STEP, count)))
            file.write(np.ascontiguousarray(seen.mean(axis=1), np.float32).tobytes())
            if codes is not None:
                codes.add(_grouped(seen).reshape(-1, size))
            tell(min(first + _STEP, count))
        file.flush()
        os.fsync(file.fileno())
    if codes is not None:
        faiss.write_index(codes, str(_groups(place, token)))
    return json.dumps({"token": token, "turn": turn}).encode()


def clean(place: Path, fact: bytes | None) -> None:
    """Remove the files of all passes but the one that a fact names; a process that still reads one keeps it open."""
    token = json.loads(fact)["token"] if fact else ""
    for path in place.glob("pass-*"):
        if not path.name.startswith(f"pass-{token}."):
            with suppress(OSError):
                path.unlink()


def turn_of(fact: bytes | None) -> int:
    """The last turn that a pass has seen."""
    return int(json.loads(fact)["turn"]) if fact else 0


def _means(place: Path, token: str) -> Path:
    return place / f"pass-{token}.means"


def _groups(place: Path, token: str) -> Path:
    return place / f"pass-{token}.groups"


def _trained(faiss: Any, rows: Rows, count: int) -> Any:
    size = rows.shape[1]
    codes = faiss.IndexPQFastScan(size, size // 2, 4, faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(0).permutation(count)[: _TRAINED // GROUPS]  # the same every time
    pieces = [
        _grouped(rows.exact(np.sort(chosen[first : first + _STEP]))).reshape(-1, size)
        for first in range(0, len(chosen), _STEP)
    ]
    codes.train(np.concatenate(pieces))
    return codes


def _grouped(seen: Singles) -> Singles:
    """The means (N × GROUPS × D) of each picture's rows (N × Q × D) in groups of neighbours."""
    pictures = np.arange(len(seen))
    means = np.empty((len(seen), GROUPS, seen.shape[2]), np.float32)
    means[:, 0] = seen[:, 0]
    near = np.einsum("nqd,nd->nq", seen, means[:, 0])
    for group in range(1, GROUPS):  # begins with the row that is farthest from the earlier ones
        means[:, group] = seen[pictures, near.argmin(axis=1)]
        near = np.maximum(near, np.einsum("nqd,nd->nq", seen, means[:, group]))
    for _ in range(_ROUNDS):
        owner = np.matmul(seen, means.transpose(0, 2, 1)).argmax(axis=2)
        members = (owner[:, :, None] == np.arange(GROUPS)).astype(np.float32)
        means = np.matmul(members.transpose(0, 2, 1), seen) / np.maximum(members.sum(axis=1)[:, :, None], 1)
    return means
