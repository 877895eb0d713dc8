"""Work on a few rows, recorded: on a GPU replayed as a CUDA graph.

A pass through a vision tower, a Q-Former or a language model is hundreds of small operations. For a few rows a processor takes
longer to start them than a GPU to run them; a graph starts all of them at once, but only with the shapes and addresses that it
was recorded with:

    rows ─► the smallest recording that holds them ─► copied into its blocks ─► replayed ─► as many rows of its results
         └► there is none: the work as it is

Rows must not depend on each other: padding rows of a recording hold whatever was there before.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

# Above that a GPU has enough to do with each operation while the next one is started: on an H100 a tower of 39 layers takes
# 9 ms to start and as long to do for eight pictures.
ROWS = (1, 2, 4, 8)
# What has less to do for each row, a Q-Former or a prompt of a few words, is recorded for more of them.
MORE = 32
COUNTS = (*ROWS, 16, MORE)
PLACES = 64  # of a usual prompt in front of a language model, image tokens included

Work = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recording for one number of rows."""

    rows: int
    blocks: tuple[Tensor, ...]
    run: Callable[[], tuple[Tensor, ...]]


class Recorded:
    """Work that may be recorded; called like the work itself.

    Args:
        work: takes and returns tensors with the same number of rows, by the same operations whatever the values, without
            waiting for the device.
        given: which dimension of each tensor that it takes counts the rows.
        gives: the same for those that it returns.
        pieces: into how many parts rows may be cut if no recording holds all of them.

    Attributes:
        used: whether recordings are used, where there are any.
        holds_any: whether there are any; an owner without them does its work itself.
    """

    def __init__(
        self, work: Work, given: Sequence[int] = (0,), gives: Sequence[int] = (0,), *, pieces: int = 1
    ) -> None:
        # The owner's own method must not keep the owner alive: an unused model frees its memory at once.
        self._work = _weak(work)
        self._given, self._gives, self._pieces = tuple(given), tuple(gives), pieces
        self._recordings: list[_Recording] = []
        self.used = True
        self.holds_any = False

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """The results of the work for these rows."""
        count = rows[0].shape[self._given[0]]
        fitting = [one for one in self._recordings if self._alike(one.blocks, rows)] if self.used else []
        most = fitting[-1].rows if fitting else 0
        if count > most * self._pieces:
            return _done(self._work, *rows)
        if count <= most:
            # Copies: the next replay writes over the results of this one.
            return tuple(one.clone() for one in self._replayed(fitting, rows))
        whole: list[Tensor] = []
        for first in range(0, count, most):
            size = min(most, count - first)
            results = self._replayed(
                fitting, [one.narrow(dim, first, size) for dim, one in zip(self._given, rows, strict=True)]
            )
            for number, (dim, one) in enumerate(zip(self._gives, results, strict=True)):
                if not first:
                    whole.append(one.new_empty((*one.shape[:dim], count, *one.shape[dim + 1 :])))
                whole[number].narrow(dim, first, size).copy_(one)
        return tuple(whole)

    def _replayed(self, fitting: Sequence[_Recording], rows: Sequence[Tensor]) -> list[Tensor]:
        """The results of the smallest recording that holds the rows, valid until the next replay."""
        count = rows[0].shape[self._given[0]]
        held = next(one for one in fitting if one.rows >= count)
        for block, dim, given in zip(held.blocks, self._given, rows, strict=True):
            block.narrow(dim, 0, count).copy_(given, non_blocking=True)
        return [one.narrow(dim, 0, count) for dim, one in zip(self._gives, held.run(), strict=True)]

    @torch.inference_mode()
    def record(self, blocks: Sequence[Tensor], pool: Any, quick: Work | None = None) -> None:
        """Record it for tensors like these, for every number of rows in `COUNTS` that they hold.

        Args:
            blocks: where rows are put from now on; they may lie in one memory with those of other recordings.
            pool: of CUDA graphs; None, on a CPU, only puts the work behind the blocks.
            quick: computes the same in another way, and is recorded instead of the work.
        """
        work = self._work if quick is None else _weak(quick)
        most = blocks[0].shape[self._given[0]]
        for rows in (rows for rows in COUNTS if rows <= most):
            views = tuple(block.narrow(dim, 0, rows) for dim, block in zip(self._given, blocks, strict=True))

            def run(views: tuple[Tensor, ...] = views) -> tuple[Tensor, ...]:
                return _done(work, *views)

            self._recordings.append(
                _Recording(rows, views, run if pool is None else captured(run, pool, views[0].device))
            )
        self._recordings.sort(key=lambda one: one.rows)
        self.holds_any = True

    def holds(self, rows: int) -> bool:
        """Whether so many rows are replayed."""
        return self.used and any(one.rows * self._pieces >= rows for one in self._recordings)

    def drop(self) -> None:
        """Free the memory; from now on the work is done without recordings."""
        self._recordings = []
        self.holds_any = False

    def _alike(self, blocks: Sequence[Tensor], rows: Sequence[Tensor]) -> bool:
        """Whether the tensors differ in their rows only."""
        return all(
            one.shape[:dim] == other.shape[:dim] and one.shape[dim + 1 :] == other.shape[dim + 1 :]
            for one, other, dim in zip(blocks, rows, self._given, strict=True)
        )


def _weak(work: Work) -> Callable[[], Work | None]:
    """The work, while it has an owner."""
    return weakref.WeakMethod(work) if inspect.ismethod(work) else lambda: work


def _done(work: Callable[[], Work | None], *rows: Tensor) -> tuple[Tensor, ...]:
    there = work()
    if there is None:
        raise RuntimeError("the owner of this work is gone")
    return there(*rows)


_capturing = threading.Lock()  # a process can capture one graph at a time


@cache
def _stream(device: torch.device, purpose: str) -> Any:
    """One stream of a device for each purpose: cuBLAS keeps a workspace for every one that it meets, 32 MiB on an H100."""
    return cast(Any, torch.cuda).Stream(device)


def captured(run: Callable[[], Any], pool: Any, device: torch.device) -> Callable[[], Any]:
    """The same as a CUDA graph, with its results in the same memory every time.

    Args:
        run: gives tensors on the device.
        pool: where the graph takes its memory from; graphs that never run at the same time can share one.
        device: a GPU.
    """
    # A capture that fails leaves its own stream behind as the current one, unless something around it puts that right.
    with _capturing, torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        aside = _stream(device, "warming up")
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # the setup of a library at its first call must not become part of the graph
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Torch's own default is one stream for all devices. Other threads may allocate meanwhile: what they do is no part of
        # the graph, and no reason to give it up.
        with torch.cuda.graph(graph, pool, _stream(device, "capturing"), capture_error_mode="thread_local"):
            results = run()

    def replayed() -> Any:
        graph.replay()
        return results

    return replayed
