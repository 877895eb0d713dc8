"""The Q-Former, without work whose results are not used.

Layers and weights have the names of transformers' `Blip2QFormerModel`. The library's way through them projects the query tokens
again for each text, although before the first attention they are the same for all; attends to a picture once per text; and
finishes the last layer for tokens that no head reads.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


class Reader:
    """Pictures alone, and with the text layers of a matcher texts alone, or each together with a picture.

    Args:
        qformer: the Q-Former of a loaded model.
    """

    def __init__(self, qformer: Any) -> None:
        self._norm = qformer.layernorm
        self._layers = qformer.encoder.layer
        attention = self._layers[0].attention.attention
        self._heads, self._size = attention.num_attention_heads, attention.attention_head_size

    def look(self, queries: Tensor, states: Tensor) -> Tensor:
        """Hidden states (B, Q, H) of the queries, each row with a picture.

        Args:
            queries: query tokens (B, Q, H).
            states: what is seen, (B, P, Dv).
        """
        queries, states = self._norm(queries), states.to(queries.dtype)
        for layer in self._layers:
            queries = self._attend(layer.attention, queries, *self._keys(layer.attention.attention, queries), None)
            if layer.has_cross_attention:
                seen = self._keys(layer.crossattention.attention, states)
                queries = self._attend(layer.crossattention, queries, *seen, None)
            queries = _feed_forward(layer.intermediate_query, layer.output_query, queries)
        return queries

    def read(self, words: Tensor, mask: Tensor, *, first_only: bool) -> Tensor:
        """Hidden states (N, L, H), or (N, 1, H) of the first token only, of texts.

        Args:
            words: embeddings (N, L, H).
            mask: (N, L), 1 at tokens and 0 at padding.
        """
        words, bias = self._norm(words), _bias(mask)
        for number, layer in enumerate(self._layers):
            keys, values = self._keys(layer.attention.attention, words)
            if first_only and number == len(self._layers) - 1:
                words = words[:, :1]
            words = self._attend(layer.attention, words, keys, values, bias)
            words = _feed_forward(layer.intermediate, layer.output, words)
        return words

    def read_together(self, queries: Tensor, words: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """Hidden states (N, Q, H) of the queries, each row with a text and a picture.

        Args:
            queries: query tokens (1, Q, H).
            words: embeddings (N, L, H).
            mask: (N, L), 1 at tokens and 0 at padding.
            states: what is seen, (N, P, Dv), or (1, P, Dv) for one picture with all texts.
        """
        queries, words = self._norm(queries), self._norm(words)
        bias = _bias(functional.pad(mask, (queries.shape[1], 0), value=1))
        last = len(self._layers) - 1
        for number, layer in enumerate(self._layers):
            attention = layer.attention.attention
            pairs = zip(self._keys(attention, queries), self._keys(attention, words), strict=True)
            # In the first layer the queries know of no text yet: one projection serves all texts.
            keys, values = (torch.cat([own.expand(len(words), -1, -1, -1), other], 2) for own, other in pairs)
            queries = self._attend(layer.attention, queries, keys, values, bias)
            if layer.has_cross_attention:
                seen = self._keys(layer.crossattention.attention, states)
                queries = self._attend(layer.crossattention, queries, *seen, None)
            queries = _feed_forward(layer.intermediate_query, layer.output_query, queries)
            if number < last:
                words = self._attend(layer.attention, words, keys, values, bias)
                words = _feed_forward(layer.intermediate, layer.output, words)
        return queries

    def _attend(self, block: Any, states: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """States (N or 1, T, H) after attention to keys and values of N rows, or of one row that all share."""
        query = self._split(block.attention.query(states))
        rows, heads, tokens, size = query.shape
        if len(keys) == 1 and rows > 1:  # every row's queries become further queries of the one row
            query = query.transpose(0, 1).reshape(1, heads, rows * tokens, size)
        seen = functional.scaled_dot_product_attention(
            query.expand(len(keys), -1, -1, -1), keys, values, attn_mask=bias
        )
        seen = seen.transpose(1, 2).reshape(max(rows, len(keys)), tokens, heads * size)
        return cast(Tensor, block.output.LayerNorm(block.output.dense(seen) + states))

    def _keys(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(attention.key(states)), self._split(attention.value(states))

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self._heads, self._size).transpose(1, 2)


def _feed_forward(inner: Any, outer: Any, states: Tensor) -> Tensor:
    return cast(Tensor, outer.LayerNorm(outer.dense(inner(states)) + states))


def _bias(mask: Tensor) -> Tensor | None:
    """(N, 1, 1, L) to add to scores; None where nothing is padded."""
    if bool(mask.all()):
        return None
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(mask == 0, float("-inf"))[:, None, None]
