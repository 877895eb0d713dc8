"""The matcher's Q-Former for many texts about a few pictures: keys and values of a picture are computed once for all of them.

It is the library's forward, layer by layer, with its own weights; `tests/training/test_training.py` holds them side by side.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional

from training.stages.architecture import HEADS

KeysAndValues: TypeAlias = list[tuple[Tensor, Tensor]]


def keys_and_values(model: Any, states: Tensor) -> KeysAndValues:
    """Of each cross-attention, from the tower's last states (B, 1 + P, D)."""
    attentions = [layer.crossattention.attention for layer in model.qformer.encoder.layer]
    return [(_heads(one.key(states)), _heads(one.value(states))) for one in attentions]


def read(model: Any, ids: Tensor, filled: Tensor, pictures: KeysAndValues) -> tuple[Tensor, Tensor]:
    """The queries' last states (N, Q, D), and the text's (N, T, D) a layer earlier: of the last layer no head reads the text.

    Args:
        model: the matcher.
        ids: (N, T), of texts ordered by picture, equally many for each.
        filled: (N, T), 1 where there is a token and 0 where there is padding.
        pictures: of the pictures.
    """
    number, queries = len(ids), model.query_tokens.shape[1]
    hidden = model.qformer.layernorm(
        model.embeddings(input_ids=ids, query_embeds=model.query_tokens.expand(number, -1, -1))
    )
    mask = _mask(torch.cat([filled.new_ones(number, queries), filled], 1), hidden)
    *layers, last = zip(model.qformer.encoder.layer, pictures, strict=True)
    for layer, (keys, values) in layers:
        hidden = _attend(layer, hidden, mask)
        looking = _look(layer, hidden[:, :queries], keys, values)
        hidden = torch.cat([layer.feed_forward_chunk_query(looking), layer.feed_forward_chunk(hidden[:, queries:])], 1)
    layer, (keys, values) = last
    looking = _look(layer, _attend(layer, hidden, mask, first=queries), keys, values)
    return layer.feed_forward_chunk_query(looking), hidden[:, queries:]


def look(model: Any, pictures: KeysAndValues) -> Tensor:
    """The queries' last states (B, Q, D) without any text."""
    number = len(pictures[0][0])
    hidden = model.qformer.layernorm(model.query_tokens.expand(number, -1, -1))
    for layer, (keys, values) in zip(model.qformer.encoder.layer, pictures, strict=True):
        hidden = layer.feed_forward_chunk_query(_look(layer, _attend(layer, hidden, None), keys, values))
    return cast(Tensor, hidden)


def read_alone(model: Any, ids: Tensor, filled: Tensor) -> Tensor:
    """The last states (N, T, D) of texts without any picture."""
    hidden = model.qformer.layernorm(model.embeddings(input_ids=ids))
    mask = _mask(filled, hidden)
    for layer in model.qformer.encoder.layer:
        hidden = layer.feed_forward_chunk(_attend(layer, hidden, mask))
    return cast(Tensor, hidden)


def _heads(states: Tensor) -> Tensor:
    return states.view(*states.shape[:-1], HEADS, -1).transpose(-3, -2)


def _mask(filled: Tensor, like: Tensor) -> Tensor:
    return ((1 - filled.to(like.dtype)) * -1e4)[:, None, None]


def _attend(layer: Any, hidden: Tensor, mask: Tensor | None, first: int | None = None) -> Tensor:
    """Self-attention of all states, or of the first so many, to all."""
    own, some = layer.attention.attention, hidden[:, :first]
    mixed = functional.scaled_dot_product_attention(
        _heads(own.query(some)), _heads(own.key(hidden)), _heads(own.value(hidden)), attn_mask=mask
    )
    attended: Tensor = layer.attention.output(mixed.transpose(1, 2).flatten(2), some)
    return attended


def _look(layer: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Cross-attention of (N, Q, D) to P pictures, N a multiple of P: a picture's rows attend in one go."""
    pictures, number = len(keys), len(queries)
    asked = layer.crossattention.attention.query(queries).reshape(pictures, -1, queries.shape[-1])
    mixed = functional.scaled_dot_product_attention(_heads(asked), keys, values)
    answer = mixed.transpose(1, 2).flatten(2).reshape(number, -1, queries.shape[-1])
    looked: Tensor = layer.crossattention.output(answer, queries)
    return looked
