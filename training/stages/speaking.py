"""The loss of what the language model says, and what it got wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from training.stages.rows import IGNORED, Rows


@dataclass(frozen=True, slots=True)
class Spoken:
    """The losses of captions and of answers, and what was wrong: (B, 1 + segments) bool, by the segments' numbers."""

    captions: Tensor
    answers: Tensor
    wrong: Tensor


def speak(model: Any, asked: Tensor, rows: Rows) -> Spoken:
    """Say everything in the rows, each word after the true words before it.

    Args:
        model: the captioner.
        asked: (B, Q, D), the Q-Former's last states.
        rows: what is to be said.
    """
    speaker = model.language_model
    image = model.language_projection(asked)
    words = speaker.get_input_embeddings()(rows.ids)
    number, queries = image.shape[:2]
    hidden = speaker.model.decoder(
        inputs_embeds=torch.cat([image, words], 1),
        attention_mask=_mask(rows.segments, queries, image.dtype),
        position_ids=torch.cat([torch.arange(queries).expand(number, -1), queries + rows.positions], 1),
        use_cache=False,
    ).last_hidden_state[:, queries:]
    spoken = rows.wanted != IGNORED
    logits, wanted, which = speaker.lm_head(hidden[spoken]), rows.wanted[spoken], rows.segments[spoken]
    losses = functional.cross_entropy(logits, wanted, reduction="none")
    pictures = torch.arange(number)[:, None].expand_as(spoken)[spoken]
    captions = torch.tensor([[False] + [kind is None for kind in row] + [False] * 16 for row in _padded(rows.kinds)])
    is_caption = captions[pictures, which]
    with torch.no_grad():
        missed = logits.argmax(-1) != wanted
        wrong = torch.zeros(number, int(rows.segments.max()) + 1, dtype=torch.bool)
        wrong[pictures[missed], which[missed]] = True
    return Spoken(losses[is_caption].mean(), losses[~is_caption].mean(), wrong)


def _padded(kinds: list[list[Any]]) -> list[list[Any]]:
    longest = max(map(len, kinds))
    return [row + [""] * (longest - len(row)) for row in kinds]


def _mask(segments: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, L, L), added to attention scores: image tokens before a word are seen, and its own segment so far."""
    number = segments.shape[0]
    which = torch.cat([segments.new_zeros(number, queries), segments], 1)
    length = which.shape[1]
    places = torch.arange(length)
    before = places[None, :] <= places[:, None]
    together = (which[:, None, :] == which[:, :, None]) | (places < queries)[None, None, :]
    mask = torch.zeros(number, 1, length, length, dtype=dtype)
    return mask.masked_fill_(~(before & together)[:, None], -1e4)
