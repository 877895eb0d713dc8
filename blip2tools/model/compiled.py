"""The decoding step over blocks of fixed shapes: on a GPU replayed as a CUDA graph, compiled or as it is.

One step of a language model is hundreds of small operations, and for a few rows a processor takes longer to start them than
a GPU takes to run them. A graph starts them all at once, but only for the shapes and addresses that it was captured with:

    rows ─► the smallest shape that holds them ─► copied once into its blocks ─► each step: ids and place in, logits out
         └► there is none: the eager way

Padding in a block is masked, and rows that have ended stay unused until the others fit into a smaller shape. The number
of the place that a step fills is a tensor, so that one graph serves all steps.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from blip2tools.model.encoder import MASKED
from blip2tools.model.language import LanguageModel, Layer, Rows
from blip2tools.model.recorded import PLACES, captured

Way: TypeAlias = Literal["compiled", "recorded"]

BACKEND = "inductor"  # of torch.compile
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
# Places of a prompt, image tokens included, and new tokens: of captions and plain questions, and of what is longer.
USUAL, LONG = (PLACES, 32), (192, 64)
# The compiler takes sizes that are equal at first sight to be equal for ever: these equal none of a model's.
ODD = (7, 3, 61, 37)


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """The shape of one graph."""

    rows: int
    sequences: int  # of each row
    places: int  # of a row's prompt
    room: int  # new tokens of a sequence

    def holds(self, rows: Rows) -> bool:
        """Whether the rows fit."""
        return (
            self.sequences == rows.sequences
            and self.rows >= rows.prompt.shape[2]
            and self.places >= rows.prompt.shape[4]
            and self.room >= rows.own.shape[4]
        )


def shapes(widths: Iterable[int], *, most: int) -> list[Shape]:
    """The shapes worth having, smallest first.

    Args:
        widths: numbers of sequences of a row: 1, and that of the beams.
        most: sequences that are decoded together; a row may have more.
    """
    return sorted(
        Shape(rows, width, *lengths)
        for width in set(widths)
        for rows in ROWS
        if rows == 1 or rows * width <= most
        for lengths in (USUAL, LONG)
    )


class Steps:
    """The steps of a language model: eager, and once `record` has been called in blocks where a shape fits.

    The blocks of all shapes lie in the same memory: once there are any, one decoding at a time.

    Args:
        model: whose steps.

    Attributes:
        recorded: whether the blocks are used; false until it is set.
        way: "compiled" or "recorded", what steps in blocks are.
        hasty: whether recorded steps begin before the last token is known, so that a GPU never waits.
        count: steps so far, "compiled", "recorded" and "eager".
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._graphs: dict[Shape, _Graph] = {}
        self._graph: _Graph | None = None
        self._held: Rows | None = None  # those that lie in the blocks of `_graph`
        self.recorded = False
        self.way: Way = "recorded"
        self.hasty = False
        self.count: Counter[str] = Counter()

    @property
    def shapes(self) -> list[Shape]:
        """The shapes that have blocks, smallest first."""
        return list(self._graphs)

    @property
    def ahead(self) -> bool:
        """Whether the next step may begin before the last token is known."""
        return self.recorded and self.hasty

    def extend(self, rows: Rows, ids: Tensor) -> tuple[Rows, Tensor]:
        """As `LanguageModel.extend`. In blocks, the logits are valid until the next step."""
        if rows is not self._held or self._graph is None:
            self._graph = self._smallest(rows) if self.recorded and ids.shape[1] == 1 else None
            if self._graph is None:
                self.count["eager"] += 1
                return self._model.extend(rows, ids)
            rows = self._graph.taken(rows)
        logits = self._graph.step(ids, rows.filled)
        self.count[self.way] += 1
        self._held = replace(rows, filled=rows.filled + 1)
        return self._held, logits

    def join(self, rows: Rows, others: Rows) -> Rows:
        """As `LanguageModel.join`."""
        if rows is self._held:
            rows = rows.kept(range(len(rows.starts)))  # without those that only fill up the blocks
        return self._model.join(rows, others)

    @torch.inference_mode()
    def record(
        self,
        wanted: Iterable[Shape],
        limit: int | None,
        progress: Callable[[int, int], None],
        *,
        compiler: bool,
    ) -> None:
        """Record the step for these shapes, on a GPU as CUDA graphs; `recorded` is for the caller to set.

        With the compiler the layers of a model are one function, compiled for one row and for many, of one sequence and of
        several: four times in all, however many layers and shapes there are. That takes seconds to minutes.

        Args:
            wanted: the shapes, smallest first.
            limit: the most bytes for the blocks; larger shapes are left out.
            progress: receives the number of shapes that are done, and of all.
            compiler: whether layers are compiled before.
        """
        self.drop()
        self.way = "compiled" if compiler else "recorded"
        each = self._model.block(1, 1).nbytes
        fitting = [
            shape
            for shape in wanted
            if limit is None or 2 * each * shape.rows * max(shape.places, shape.sequences * shape.room) <= limit
        ]
        if not fitting:
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\b")  # its advice to itself
            layer = self._compiled(fitting) if compiler else self._model.quick() or self._model.layer
            self._build(fitting, layer, progress)
        self.hasty = self._model.block(1, 1).is_cuda

    def _compiled(self, wanted: Sequence[Shape]) -> Layer:
        """The layer, compiled for every kind of shape there is among these."""
        compiler = cast(Any, torch.compile)
        # Otherwise models that were loaded one after the other would share one limit of compilations.
        alone = {"isolate_recompiles": True} if "isolate_recompiles" in signature(compiler).parameters else {}
        layer: Layer = compiler(self._model.layer, backend=BACKEND, fullgraph=True, dynamic=True, **alone)
        rows, sequences, places, room = ODD
        for kind in {(shape.rows > 1, shape.sequences > 1) for shape in wanted}:
            odd = Shape(rows if kind[0] else 1, sequences if kind[1] else 1, places, room)
            _Graph(self._model, _Blocks(self._model, [odd]), odd, layer)
        return layer

    def _build(self, wanted: Sequence[Shape], layer: Layer, progress: Callable[[int, int], None]) -> None:
        blocks = _Blocks(self._model, wanted)
        for number, shape in enumerate(wanted):
            progress(number, len(wanted))
            self._graphs[shape] = _Graph(self._model, blocks, shape, layer)
            self._graphs[shape].capture(blocks.pool)

    def drop(self) -> None:
        """Free the memory of all graphs; from now on every step is eager."""
        self.recorded = self.hasty = False
        self._graphs, self._graph, self._held = {}, None, None

    def _smallest(self, rows: Rows) -> _Graph | None:
        return next((graph for shape, graph in self._graphs.items() if shape.holds(rows)), None)


class _Blocks:
    """Memory for the largest shape, in which those of all others lie as well."""

    def __init__(self, model: LanguageModel, wanted: Sequence[Shape]) -> None:
        # Apart from each other: what is written must not share its memory with what is only read.
        self.prompt = model.block(1, max(shape.rows * shape.places for shape in wanted)).flatten()
        self.own = model.block(1, max(shape.rows * shape.sequences * shape.room for shape in wanted)).flatten()
        self.pool = torch.cuda.graph_pool_handle() if self.own.is_cuda else None


class _Graph:
    """The step for one shape."""

    def __init__(self, model: LanguageModel, blocks: _Blocks, shape: Shape, layer: Layer) -> None:
        layers, two, _, heads, _, size = model.block(1, 1).shape
        sequences, device = shape.rows * shape.sequences, blocks.own.device

        def view(whole: Tensor, rows: int, places: int) -> Tensor:
            wanted = (layers, two, rows, heads, places, size)
            return whole[: layers * two * rows * heads * places * size].view(wanted)

        self._rows = Rows(
            view(blocks.prompt, shape.rows, shape.places),
            blocks.own.new_zeros(shape.rows, 1, 1, shape.places),
            torch.zeros(shape.rows, dtype=torch.long, device=device),
            view(blocks.own, sequences, shape.room),
            model.between(shape.room),
            starts=(),
            late=blocks.own.new_zeros(shape.rows, 1, 1, shape.room),
        )
        self._ids = torch.zeros(sequences, 1, dtype=torch.long, device=device)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._run: Callable[[], Tensor] = partial(model.step, self._rows, self._ids, self._at, layer)
        self._run()  # compiles, unless that was done for a shape of the kind

    def capture(self, pool: Any) -> None:
        """Replay a CUDA graph from now on, with its memory from this pool; without a pool do nothing."""
        if pool is not None:
            self._run = captured(self._run, pool, self._ids.device)

    def taken(self, rows: Rows) -> Rows:
        """The same rows in the blocks of this graph, which have more rows and places than are in use."""
        mine, count, places, filled = self._rows, rows.prompt.shape[2], rows.prompt.shape[4], rows.filled
        sequences, late = rows.own.shape[2], cast(Tensor, self._rows.late)
        mine.prompt[:, :, :count, :, :places].copy_(rows.prompt)
        # Masked values have no effect only if they are finite, and what was here before may not have been.
        mine.prompt[:, :, :count, :, places:].zero_()
        mine.mask.zero_()
        mine.mask[:count, ..., :places].copy_(rows.mask)
        mine.mask[:count, ..., places:].fill_(MASKED)
        mine.positions.zero_()
        mine.positions[:count].copy_(rows.positions)
        mine.own[:, :, :sequences, :, :filled].copy_(rows.own[:, :, :, :, :filled])
        mine.own[:, :, :sequences, :, filled:].zero_()
        late.zero_()
        if rows.late is not None:
            late[:count, ..., : rows.late.shape[3]].copy_(rows.late)
        return replace(mine, filled=filled, starts=rows.starts)

    def step(self, ids: Tensor, place: int) -> Tensor:
        """Logits (R, 1, V) of what may follow ids (R, 1) in the first R sequences."""
        self._ids[: len(ids)].copy_(ids, non_blocking=True)
        self._at.fill_(place)
        return self._run()[: len(ids)]
