"""The Q-Former, without work whose results are not used.

Layers and weights have the names of transformers' `Blip2QFormerModel`. The library's way through them attends to a picture once
per text, multiplies the same states by queries', keys' and values' weights one after the other, and finishes the last layer for
tokens that no head reads. What a picture gives to attend to does not depend on any text: it can be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# Keys and values of pictures for the layer with this number: (U, heads, P, size) each.
Look: TypeAlias = Callable[[int], tuple[Tensor, Tensor]]
Step: TypeAlias = Callable[[Tensor], Tensor]

HOOK: Final = "_hf_hook"  # of a module whose weights lie elsewhere until it is called


class Reader:
    """Pictures alone, and with the text layers of a matcher texts alone, or each together with a picture.

    Args:
        qformer: the Q-Former of a loaded model.
    """

    def __init__(self, qformer: Any) -> None:
        self._norm = _light(qformer.layernorm)
        attention = qformer.encoder.layer[0].attention.attention
        self._heads, self._size = attention.num_attention_heads, attention.attention_head_size
        self._layers = [_Layer(layer) for layer in qformer.encoder.layer]
        self._looking = [number for number, layer in enumerate(self._layers) if layer.across is not None]

    def look(self, queries: Tensor, states: Tensor) -> Tensor:
        """Hidden states (B, Q, H) of the queries, each row with a picture.

        Args:
            queries: query tokens (B, Q, H).
            states: what is seen, (B, P, Dv).
        """
        rows, states = len(queries), states.to(queries.dtype)
        flat = self._norm(_flat(queries))
        for number, layer in enumerate(self._layers):
            flat = self._attend(layer, layer.own(flat), flat, rows, flat.shape[0], None)
            if layer.across is not None:
                flat = self._attend_across(layer.across, flat, rows, *self._seen(states, number))
            flat = layer.queries(flat)
        return _by_row(flat, rows)

    def read(self, words: Tensor, lengths: Sequence[int], *, first_only: bool) -> Tensor:
        """Hidden states (N, L, H), or (N, 1, H) of the first token only, of texts.

        Args:
            words: embeddings (N, L, H).
            lengths: tokens of each text; what is behind them is padding.
        """
        rows, bias, last = len(words), _bias(lengths, 0, words), self._layers[-1]
        flat = self._norm(_flat(words))
        for layer in self._layers:
            wanted = rows if first_only and layer is last else len(flat)
            flat = layer.words(self._attend(layer, layer.own(flat), flat, rows, wanted, bias))
        return _by_row(flat, rows)

    def keys(self, states: Tensor) -> Tensor:
        """What pictures (U, P, Dv) give to attend to, (U, C, P, 2 H): keys, and values behind them, for C layers."""
        return torch.stack([self._across(number).seen(states) for number in self._looking], 1)

    def kept(self, keys: Tensor) -> Look:
        """The way to look at pictures whose keys and values, as `keys` gives them, are at hand."""
        pairs = [self._halves(one) for one in keys.unbind(1)]
        return dict(zip(self._looking, pairs, strict=True)).__getitem__

    def fresh(self, states: Tensor) -> Look:
        """The way to look at pictures (U, P, Dv): a layer's keys and values are held no longer than it takes."""
        return partial(self._seen, states)

    def opening(self, queries: Tensor, words: Tensor, lengths: Sequence[int]) -> Tensor:
        """The part of `read_together` that no picture changes, (Q + L, N, H).

        Pictures are attended to only after the first layer's attention, and by queries alone: the words pass all of that layer.

        Args:
            queries: query tokens (1, Q, H).
            words: embeddings (N, L, H).
            lengths: tokens of each text; what is behind them is padding.
        """
        rows, count, layer = len(words), queries.shape[1], self._layers[0]
        first, flat = self._norm(queries[0]), self._norm(_flat(words))
        # The queries know of no text yet: one projection serves all texts.
        parts = torch.cat([layer.own(first).repeat_interleave(rows, 0), layer.own(flat)])
        both = torch.cat([first.repeat_interleave(rows, 0), flat])
        both = self._attend(layer, parts, both, rows, len(both), _bias(lengths, count, words))
        both = torch.cat([both[: rows * count], layer.words(both[rows * count :])])
        return both.view(-1, rows, both.shape[1])

    def read_together(
        self, opening: Tensor, count: int, lengths: Sequence[int], look: Look, pictures: Sequence[int] | None
    ) -> Tensor:
        """Hidden states (N, Q, H) of the queries, each row with a text and a picture.

        Args:
            opening: what `opening` gives for the texts, (Q + L, N, H).
            count: Q, the queries.
            lengths: tokens of each text; what is behind them is padding.
            look: at the pictures.
            pictures: which of them each text is about; None: each at its own, or all at the only one.
        """
        rows, last = opening.shape[1], self._layers[-1]
        asking = rows * count
        bias = _bias(lengths, count, opening)
        place = None if pictures is None else torch.tensor(pictures, device=opening.device)
        both = opening.flatten(0, 1)
        for number, layer in enumerate(self._layers):
            if number:
                both = self._attend(layer, layer.own(both), both, rows, asking if layer is last else len(both), bias)
            seeing = both[:asking]
            if layer.across is not None:
                keys, values = look(number) if place is None else (one[place] for one in look(number))
                seeing = self._attend_across(layer.across, seeing, rows, keys, values)
            both, words = layer.queries(seeing), both[asking:]
            if layer is not last:
                both = torch.cat([both, layer.words(words) if number else words])
        return _by_row(both, rows)

    # Below, states are (T N, H): the first token of every row, then the second. So the queries alone and the words alone lie in
    # one piece of memory each; a product with what does not takes several times as long.

    def _attend(
        self, layer: _Layer, parts: Tensor, states: Tensor, rows: int, wanted: int, bias: Tensor | None
    ) -> Tensor:
        """The first `wanted` of states (T N, H) after attention to all of their row, from their projections (T N, 3 H)."""
        query, keys, values = parts.view(-1, rows, 3, self._heads, self._size).permute(2, 1, 3, 0, 4).unbind(0)
        if wanted < len(states):
            query, states = query[:, :, : wanted // rows], states[:wanted]
        seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return layer.norm(layer.out(_joined(seen)) + states)

    def _attend_across(self, across: _Across, states: Tensor, rows: int, keys: Tensor, values: Tensor) -> Tensor:
        """States (T N, H) after attention to keys and values (N or 1, heads, P, size)."""
        rows = 1 if len(keys) == 1 else rows  # every row's queries become further queries of the one row
        query = across.query(states).view(-1, rows, self._heads, self._size).permute(1, 2, 0, 3)
        seen = functional.scaled_dot_product_attention(query, keys, values)
        return across.norm(across.out(_joined(seen)) + states)

    def _seen(self, states: Tensor, number: int) -> tuple[Tensor, Tensor]:
        return self._halves(self._across(number).seen(states))

    def _across(self, number: int) -> _Across:
        return cast("_Across", self._layers[number].across)

    def _halves(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (U, heads, P, size) from both side by side, (U, P, 2 H)."""
        parts = seen.view(*seen.shape[:2], 2, self._heads, self._size).permute(2, 0, 3, 1, 4)
        return cast("tuple[Tensor, Tensor]", parts.unbind(0))


def _flat(states: Tensor) -> Tensor:
    """(T N, H) from (N, T, H)."""
    return states.transpose(0, 1).flatten(0, 1)


def _by_row(flat: Tensor, rows: int) -> Tensor:
    """(N, T, H) from (T N, H)."""
    return flat.view(-1, rows, flat.shape[1]).transpose(0, 1).contiguous()


def _joined(seen: Tensor) -> Tensor:
    """(T N, heads size) from (N, heads, T, size)."""
    rows, heads, places, size = seen.shape
    return seen.permute(2, 0, 1, 3).reshape(places * rows, heads * size)


class _Layer:
    """One layer's steps; those of queries and of words part after their common attention."""

    def __init__(self, layer: Any) -> None:
        attention, end = layer.attention.attention, layer.attention.output
        self.own = Joined((attention.query, attention.key, attention.value))
        self.out, self.norm = _light(end.dense), _light(end.LayerNorm)
        self.across = _Across(layer.crossattention) if layer.has_cross_attention else None
        self.queries = _FeedForward(layer.intermediate_query, layer.output_query)
        if hasattr(layer, "intermediate"):  # a captioner's reads no text
            self.words = _FeedForward(layer.intermediate, layer.output)


class _Across:
    """The steps of one layer's attention to pictures."""

    def __init__(self, block: Any) -> None:
        self.query, self.seen = _light(block.attention.query), Joined((block.attention.key, block.attention.value))
        self.out, self.norm = _light(block.output.dense), _light(block.output.LayerNorm)


class _FeedForward:
    def __init__(self, inner: Any, outer: Any) -> None:
        self._inner, self._act = _light(inner.dense), _light(inner.intermediate_act_fn)
        self._outer, self._norm = _light(outer.dense), _light(outer.LayerNorm)

    def __call__(self, states: Tensor) -> Tensor:
        return self._norm(self._outer(self._act(self._inner(states))) + states)


class Joined:
    """Several projections of the same states as one product.

    Their weights become parts of one, so that nothing is held twice. Those that are offloaded or spread are called one by one: to
    call such a module does more than to multiply.

    Args:
        parts: the projections.
    """

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        self._parts = parts
        self._whole: Step | None = None
        if all(hasattr(part, "together") for part in parts):  # of `quantized`: rounds their states once
            self._whole = cast(Any, parts[0]).together(parts[1:])
        elif all(type(part) is nn.Linear and not hasattr(part, HOOK) and part.bias is not None for part in parts):
            sizes = [part.out_features for part in parts]
            weight, bias = (torch.cat([getattr(part, kind).data for part in parts]) for kind in ("weight", "bias"))
            for part, own, shift in zip(parts, torch.split(weight, sizes), torch.split(bias, sizes), strict=True):
                part.weight.data, part.bias.data = own, shift
            self._whole = partial(functional.linear, weight=weight, bias=bias)

    def __call__(self, states: Tensor) -> Tensor:
        """What the parts give, side by side in the last dimension."""
        if self._whole is None:
            return torch.cat([part(states) for part in self._parts], -1)
        return self._whole(states)


def _stored(weight: Tensor) -> Tensor:
    """The same numbers, on a CPU by columns: of a few rows, the product takes a fifth to two thirds less time."""
    return weight.t().contiguous().t() if weight.device.type == "cpu" else weight


def _light(module: nn.Module) -> Step:
    """The same step without the way through `Module.__call__`, which for a few rows takes a good part of the time."""
    if type(module) is nn.Linear and not hasattr(module, HOOK):
        module.weight.data = _stored(module.weight.data)
        return partial(functional.linear, weight=module.weight, bias=module.bias)
    if type(module) is nn.LayerNorm and not hasattr(module, HOOK):
        shape = list(module.normalized_shape)
        return partial(torch.layer_norm, normalized_shape=shape, weight=module.weight, bias=module.bias, eps=module.eps)
    if type(module) is nn.ReLU:
        return torch.relu
    return module


def tables(embeddings: Any) -> tuple[Step, Callable[[int], Tensor]]:
    """The embeddings (..., H) of word ids, and those (L, H) of the first L positions, of a matcher's text."""
    words, places = embeddings.word_embeddings, embeddings.position_embeddings
    if all(type(table) is nn.Embedding and not hasattr(table, HOOK) for table in (words, places)):
        return partial(functional.embedding, weight=words.weight), lambda count: cast(Tensor, places.weight[:count])
    return words, lambda count: cast(Tensor, places(torch.arange(count, device=places.weight.device)))


def _bias(lengths: Sequence[int], before: int, like: Tensor) -> Tensor | None:
    """(N, 1, 1, before + L) to add to scores, so many tokens that are never masked first; None where nothing is padded."""
    width = max(lengths)
    if min(lengths) == width:
        return None
    rows = [[0.0] * (before + length) + [float("-inf")] * (width - length) for length in lengths]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)[:, None, None]
