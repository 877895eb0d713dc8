"""Modules that stand in the place of linear layers and tables of words, with quantized weights under the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from threading import Lock
from time import thread_time
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.model.quantized import kernels
from blip2tools.model.quantized.kernels import FEW, Kind, Split, Splits
from blip2tools.model.quantized.runtime import Product
from blip2tools.model.quantized.storage import BLOCK, bits_kept
from blip2tools.model.weights import summary

# Parts that hold nearly all weights; what lies outside is small, and decides more: projections and heads.
PARTS: Final = ("vision_model.encoder", "qformer", "language_model")
TABLES: Final = ("embed_tokens", "shared", "word_embeddings")
# Half of what 8 bits change in a T5 comes from these, which are an eighth of its weights.
PRECISE: Final = (".SelfAttention.v", ".SelfAttention.o")
# Feed-forward layers: the larger part, and in 4 bits the one that changes less. The attention's are read for many rows at once
# in front of the first word, which costs twice as much in 4 bits as in 8; so are all of an encoder.
WIDE: Final = (".fc1", ".fc2", ".wi_0", ".wi_1", ".wo")
ENCODER: Final = "language_model.encoder."
_PACKING: Final = Lock()  # several engines may have one model
OUTPUT: Final = "lm_head"  # 8 bits at least: it chooses the words, and may be one with their table


@dataclass(frozen=True, slots=True)
class Way:
    """How layers of one shape multiply.

    Attributes:
        few: for at most `FEW` rows. "packed" packs the matrix when there is time for it, and then serves any number; so do
            "blocks" and "runtime".
        many: for more.
        until: for few, until the matrix is packed.
        exact: the largest whole number for each kind that multiplies whole numbers; see `kernels.fits`.
        later: whether it is packed only after all others: it serves once for a text, those serve for each word.
    """

    few: Kind = "whole"
    many: Kind = "whole"
    until: Kind = "whole"
    exact: Mapping[str, int] = field(default_factory=dict)
    later: bool = False


class Packing:
    """Time for packing a model, which is a share of the time that its products with a few rows have taken.

    To pack all of a large language model takes as long as a few captions. So it is not done while the model is loaded, when
    nobody knows how many captions there will be, but in the pauses between requests (`prepared.unpacked`); and where there are
    none, not with the first captions, but once products have taken as long as packing will.
    """

    SHARE: Final = 0.25
    PACE: Final = 5e-9  # seconds for a value, until some have been packed

    def __init__(self) -> None:
        self._earned = self._spent = 0.0
        self._pace = self.PACE
        self._first = 0

    def expect(self, values: int, *, later: bool = False) -> None:
        """Count values that will be packed; those for later wait for the others."""
        if not later:
            self._first += values
            self._earned -= values * self.PACE * self.SHARE

    def earn(self, seconds: float) -> None:
        """Count time of products."""
        self._earned += seconds * self.SHARE

    def may(self, values: int, *, later: bool = False) -> bool:
        """Whether a matrix of so many values can be packed now."""
        return not (later and self._first > 0) and self._spent + values * self._pace <= self._earned

    def spend(self, values: int, seconds: float) -> None:
        """Count time of packing within that of a product, where it has earned nothing."""
        self._spent += seconds * (1 + self.SHARE)
        self._pace = seconds / values

    def done(self, values: int, *, later: bool = False) -> None:
        """Count values that are packed."""
        if not later:
            self._first -= values


class Powers:
    """Powers of columns, ready for states.

    Args:
        columns: see `storage`.
    """

    def __init__(self, columns: Tensor) -> None:
        self.columns, self._factors = columns, torch.exp2(columns.float()) if bool(columns.any()) else None
        self.key = b"" if self._factors is None else columns.numpy().tobytes()

    def __call__(self, states: Tensor) -> Tensor:
        """States (R, in), times 2 to the powers."""
        return states if self._factors is None else states * self._factors


class QuantizedLinear(nn.Module):
    """A linear layer with a weight of 16, 8 or 4 bits; parameters as `storage` has them, and the bias in float32.

    Args:
        in_features: width of what it takes.
        out_features: width of what it gives.
        bias: whether there is one.
        bits: 16, 8 or 4.

    Attributes:
        way: how it multiplies; until `prepare` has chosen, slowly.
        twice: up to so many rows of states, all are rounded twice. Not in models with 4 bits, whose other layers lose far more:
            there only those are whose largest value leaves few levels for the rest.
        packing: when its matrix may be packed; all layers of a model have one.
    """

    weight: Tensor
    scale: Tensor
    columns: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool, bits: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits_kept(in_features, bits)
        for name, values in _empty(out_features, in_features, self.bits).items():
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.way = Way()
        self.twice = FEW
        self.packing = Packing()
        self._packed: Any = None
        self._moved: Powers | None = None

    def forward(self, states: Tensor) -> Tensor:
        """States (..., out) of states (..., in), float32."""
        return Together([self])(states)

    def together(self, others: Sequence[QuantizedLinear]) -> Together:
        """This layer and others that take the same states, as one step: what they give, side by side."""
        return Together([self, *others])

    @property
    def moved(self) -> Powers:
        """The powers of its columns, which the states take over."""
        if self._moved is None or self._moved.columns is not self.columns:
            self._moved = Powers(self.columns)
        return self._moved

    def multiplied(self, states: Tensor, split: Splits) -> Tensor:
        """States (R, out) of states (R, in).

        Args:
            states: float32, times the powers of the columns.
            split: the same as whole numbers up to a largest one.
        """
        if self.bits != 16:
            return self._times(states, split, self.weight, self.scale, self.bias)
        both = self._times(states, split, self.weight.flatten(0, -2), self.scale.flatten(), None)
        made = both[:, : self.out_features] + both[:, self.out_features :]
        return made if self.bias is None else made.add_(self.bias)

    def _times(self, states: Tensor, split: Splits, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        kind = self._kind(len(states))
        if kind == "rows":
            return kernels.rows(split(self.way.exact[kind]), weight, scale, bias)
        if kind == "packed":
            return kernels.packed(split(self.way.exact[kind]), self._packed, bias)
        if kind == "half":
            return kernels.half(states, weight, scale, bias)
        if kind == "blocks":
            return kernels.blocks(states, self._packed, bias)
        if kind == "runtime":
            made: Tensor = self._packed(states)
            return made if bias is None else made.add_(bias)
        return kernels.whole(states, weight, scale, bias)

    @property
    def waits(self) -> bool:
        """Whether its matrix is to be packed and is not yet."""
        return self.way.few == "packed" and self._packed is None

    def pack(self) -> None:
        """Move the matrix into the form that its way for few rows needs, and give up the form in which it is kept.

        Meanwhile other threads may multiply: `weight` is empty only when `_packed` is there.
        """
        with _PACKING:
            if self._packed is not None:
                return
            weight, scale = self.weight, self.scale
            if self.way.few == "packed":
                self._packed = kernels.pack(weight.flatten(0, -2), scale.flatten())
                self.packing.done(weight.numel(), later=self.way.later)
            else:
                self._packed = (
                    Product(weight, scale) if self.way.few == "runtime" else kernels.pack_blocks(weight, scale)
                )
            empty = nn.Parameter(weight.new_empty(0, self.in_features), requires_grad=False)
            empty.summary = summary(weight)  # type: ignore[attr-defined]
            self.weight = empty
        if (release := getattr(weight, "release", None)) is not None:  # pages of a file: they were read in vain
            release()

    def _kind(self, rows: int) -> Kind:
        if self._packed is not None:
            return self.way.few
        if rows > FEW:
            return self.way.many
        values = self.weight.numel()
        if self.way.few != "packed" or not self.packing.may(values, later=self.way.later):
            return self.way.until
        began = thread_time()
        self.pack()
        self.packing.spend(values, thread_time() - began)
        return "packed"


class Together:
    """Quantized layers that take the same states: rounded once for all of them.

    Args:
        parts: the layers.
    """

    def __init__(self, parts: Sequence[QuantizedLinear]) -> None:
        self._parts = parts

    def __call__(self, states: Tensor) -> Tensor:
        """What they give, side by side in the last dimension."""
        each = self.apart(states)
        return each[0] if len(each) == 1 else torch.cat(each, -1)

    def apart(self, states: Tensor) -> list[Tensor]:
        """What each of them gives."""
        began, flat = thread_time(), states.reshape(-1, states.shape[-1])
        moved: dict[bytes, tuple[Tensor, Splits]] = {}
        for part in self._parts:
            if part.moved.key not in moved:
                taken = part.moved(flat)
                moved[part.moved.key] = taken, cache(partial(Split, taken, twice=part.twice))
        each = [part.multiplied(*moved[part.moved.key]) for part in self._parts]
        if len(flat) <= FEW:
            self._parts[0].packing.earn(thread_time() - began)
        return [made.view(*states.shape[:-1], -1) for made in each]


class QuantizedEmbedding(nn.Module):
    """A table of words in 8 bits, a scale for each."""

    bits = 8
    weight: Tensor
    scale: Tensor
    columns: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        for name, values in _empty(num_embeddings, embedding_dim, self.bits).items():
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))

    def forward(self, ids: Tensor) -> Tensor:
        """Float32 rows (..., width) of ids."""
        rows = functional.embedding(ids, self.weight).float() * self.scale[ids][..., None]
        return rows * torch.exp2(self.columns.float())


def replace_linears(model: nn.Module, bits: int) -> None:
    """Put quantized layers without values into the place of a model's linear layers and tables of words.

    Norms, biases, positions, query tokens, the patch embedding, and the small projections and heads between the parts stay as
    they are. A table of words and the output layer have 8 bits in any case, in the same form, so that they can be tied.

    Args:
        model: a `modules.CaptionerModel` or `modules.MatcherModel`, made without memory (`torch.device("meta")`).
        bits: 8, or 4 for the feed-forward layers that speak; what sees many rows at once gets 8 in both cases, because
            with those the time goes into the products, not into reading the weights.
    """
    for path, module in list(model.named_modules()):
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and name in TABLES:
            made: nn.Module = QuantizedEmbedding(module.num_embeddings, module.embedding_dim)
        elif isinstance(module, nn.Linear) and path.startswith(PARTS):
            made = QuantizedLinear(
                module.in_features, module.out_features, bias=module.bias is not None, bits=_bits(path, bits)
            )
            made.twice = FEW if bits == 8 else 0
        else:
            continue
        model.set_submodule(path, made)


def _bits(path: str, bits: int) -> int:
    if not path.startswith("language_model") or path.endswith(OUTPUT):
        return 8
    if path.endswith(WIDE) and not path.startswith(ENCODER):
        return bits
    return 16 if bits == 8 and path.endswith(PRECISE) else 8


def quantized(model: nn.Module) -> dict[str, Any]:
    """The quantized layers of a model by their paths."""
    return {path: one for path, one in model.named_modules() if isinstance(one, QuantizedLinear | QuantizedEmbedding)}


def _empty(rows: int, columns: int, bits: int) -> dict[str, Tensor]:
    weight, scale = {
        16: ((2, rows, columns), (2, rows)),
        8: ((rows, columns), (rows,)),
        4: ((rows, columns // 2), (rows, columns // BLOCK)),
    }[bits]
    with torch.device("meta"):
        return {
            "weight": torch.empty(weight, dtype=torch.int8),
            "scale": torch.empty(scale),
            "columns": torch.empty(columns, dtype=torch.int8),
        }
