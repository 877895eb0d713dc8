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
        queries, states = self._norm(queries), states.to(queries.dtype)
        for number, layer in enumerate(self._layers):
            queries = self._attend(layer, layer.own(queries), queries, queries.shape[1], None)
            if layer.across is not None:
                queries = self._attend_across(layer.across, queries, *self._seen(states, number))
            queries = layer.queries(queries)
        return queries

    def read(self, words: Tensor, mask: Tensor, *, first_only: bool) -> Tensor:
        """Hidden states (N, L, H), or (N, 1, H) of the first token only, of texts.

        Args:
            words: embeddings (N, L, H).
            mask: (N, L), 1 at tokens and 0 at padding.
        """
        words, bias = self._norm(words), _bias(mask, 0)
        for number, layer in enumerate(self._layers):
            wanted = 1 if first_only and number == len(self._layers) - 1 else words.shape[1]
            words = layer.words(self._attend(layer, layer.own(words), words, wanted, bias))
        return words

    def keys(self, states: Tensor) -> Tensor:
        """What pictures (U, P, Dv) give to attend to, (U, C, 2, heads, P, size): keys and values for C layers."""
        return torch.stack([torch.stack(self._seen(states, number), 1) for number in self._looking], 1)

    def kept(self, keys: Tensor) -> Look:
        """The way to look at pictures whose keys and values, as `keys` gives them, are at hand."""
        pairs = [cast("tuple[Tensor, Tensor]", one.unbind(1)) for one in keys.unbind(1)]
        return dict(zip(self._looking, pairs, strict=True)).__getitem__

    def fresh(self, states: Tensor) -> Look:
        """The way to look at pictures (U, P, Dv): a layer's keys and values are held no longer than it takes."""
        return partial(self._seen, states)

    def read_together(
        self, queries: Tensor, words: Tensor, mask: Tensor, look: Look, pictures: Sequence[int] | None
    ) -> Tensor:
        """Hidden states (N, Q, H) of the queries, each row with a text and a picture.

        Args:
            queries: query tokens (1, Q, H).
            words: embeddings (N, L, H).
            mask: (N, L), 1 at tokens and 0 at padding.
            look: at the pictures.
            pictures: which of them each text is about; None: each at its own, or all at the only one.
        """
        queries, words = self._norm(queries), self._norm(words)
        rows, count, last = len(words), queries.shape[1], self._layers[-1]
        bias = _bias(mask, count)
        place = None if pictures is None else torch.tensor(pictures, device=words.device)
        both = torch.cat([queries.expand(rows, -1, -1), words], 1)
        # In the first layer the queries know of no text yet: one projection serves all texts.
        own = self._layers[0].own
        parts = torch.cat([own(queries).expand(rows, -1, -1), own(words)], 1)
        for number, layer in enumerate(self._layers):
            parts = layer.own(both) if number else parts
            both = self._attend(layer, parts, both, count if layer is last else both.shape[1], bias)
            seeing = both[:, :count]
            if layer.across is not None:
                keys, values = look(number) if place is None else (one[place] for one in look(number))
                seeing = self._attend_across(layer.across, seeing, keys, values)
            seeing = layer.queries(seeing)
            both = seeing if layer is last else torch.cat([seeing, layer.words(both[:, count:])], 1)
        return both

    def _attend(self, layer: _Layer, parts: Tensor, states: Tensor, wanted: int, bias: Tensor | None) -> Tensor:
        """The first `wanted` of states (N, T, H) after attention to all of them, from their projections (N, T, 3 H)."""
        shape = (*parts.shape[:2], 3, self._heads, self._size)
        query, keys, values = parts.view(shape).permute(2, 0, 3, 1, 4).unbind(0)
        if wanted < states.shape[1]:
            query, states = query[:, :, :wanted], states[:, :wanted]
        seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return layer.norm(layer.out(seen.transpose(1, 2).reshape(states.shape)) + states)

    def _attend_across(self, across: _Across, states: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """States (N, T, H) after attention to keys and values (N or 1, heads, P, size)."""
        query = across.query(states)
        if len(keys) == 1:  # every row's queries become further queries of the one row
            query = query.flatten(0, 1)[None]
        seen = functional.scaled_dot_product_attention(self._split(query), keys, values)
        return across.norm(across.out(seen.transpose(1, 2).reshape(states.shape)) + states)

    def _seen(self, states: Tensor, number: int) -> tuple[Tensor, Tensor]:
        across = cast("_Across", self._layers[number].across)
        keys, values = across.seen(states).chunk(2, -1)
        return self._split(keys), self._split(values)

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self._heads, self._size).transpose(1, 2)


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
        self._inner, self._act = _light(inner.dense), inner.intermediate_act_fn
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


def _light(module: nn.Module) -> Step:
    """The same step without the way through `Module.__call__`, which for a few rows takes a good part of the time."""
    if type(module) is nn.Linear and not hasattr(module, HOOK):
        return partial(functional.linear, weight=module.weight, bias=module.bias)
    if type(module) is nn.LayerNorm and not hasattr(module, HOOK):
        shape = list(module.normalized_shape)
        return partial(
            functional.layer_norm, normalized_shape=shape, weight=module.weight, bias=module.bias, eps=module.eps
        )
    return module


def _bias(mask: Tensor, before: int) -> Tensor | None:
    """(N, 1, 1, before + L) to add to scores, so many tokens that are never masked first; None where nothing is padded."""
    if bool(mask.all()):
        return None
    filled = functional.pad(mask, (before, 0), value=1)
    return torch.zeros(filled.shape, device=mask.device).masked_fill_(filled == 0, float("-inf"))[:, None, None]
