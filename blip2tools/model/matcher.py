"""Vision states and text to scores: image-text matching (ITM) and image-text contrast (ITC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from blip2tools.model.qformer import Look, Reader, tables
from blip2tools.model.recorded import ROWS, Recorded
from blip2tools.model.trunk import Trunk, right_padded
from blip2tools.model.weights import fingerprint, freeze, named

# What is kept of texts: so much, of passes of so few, each of so few tokens. 170 texts of the published size.
OPENINGS_BYTES: Final = 32 * 2**20
FEW: Final = 8
SHORT: Final = 32


class Matcher:
    """Image-text matching (ITM) and contrast (ITC) from vision states and BERT-style text ids.

    Args:
        model: a loaded checkpoint: a `modules.MatcherModel`, or the library's. Everything after its vision tower is converted
            to float32, the precision of the reference.
        trunk: a trunk to use in place of the model's own; the matcher's own `post_layernorm` is always kept.
        fingerprint: of everything behind the trunk, where that is known; else it is computed.
    """

    def __init__(self, model: Any, trunk: Trunk | None = None, fingerprint: str | None = None) -> None:
        inner = model
        inner.eval()
        self.trunk = trunk or Trunk(inner.vision_model)
        self._post_layernorm: nn.Module = inner.vision_model.post_layernorm
        self._embeddings: nn.Module = inner.embeddings.float()
        self._qformer: nn.Module = inner.qformer.float()
        self._reader = Reader(self._qformer)
        self._word, self._place = tables(self._embeddings)
        self._query_tokens = inner.query_tokens.data.float()
        self._vision_projection: nn.Linear = inner.vision_projection.float()
        self._text_projection: nn.Linear = inner.text_projection.float()
        self._itm_head: nn.Linear = inner.itm_head.float()
        self._parts = {
            "layernorm": self._post_layernorm,
            "embeddings": self._embeddings,
            "qformer": self._qformer,
            "vision_projection": self._vision_projection,
            "text_projection": self._text_projection,
            "itm_head": self._itm_head,
        }
        freeze(*self._parts.values())
        qformer = inner.config.qformer_config
        self.pad = int(qformer.pad_token_id)
        self.vocabulary = int(qformer.vocab_size)
        self.positions = int(qformer.max_position_embeddings)
        self.num_queries = int(self._query_tokens.shape[1])
        self.size = int(self._vision_projection.weight.shape[0])
        self._look = Recorded(self._queries)
        self._openings: dict[tuple[int, ...], Tensor] = {}  # the latest last
        self.most_openings = OPENINGS_BYTES // ((self.num_queries + SHORT) * self._query_tokens[0, 0].nbytes)
        self._fingerprint = fingerprint

    @property
    def device(self) -> torch.device:
        return self._itm_head.weight.device

    @property
    def fingerprint(self) -> str:
        """Digest of everything behind the trunk."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint([*named(self._parts), ("query_tokens", self._query_tokens)])
        return self._fingerprint

    def modules(self) -> Iterator[nn.Module]:
        """Every module, the trunk's included."""
        for part in self._parts.values():
            yield from part.modules()
        yield from self.trunk.modules()

    @torch.inference_mode()
    def match(self, states: Tensor, texts: Sequence[Sequence[int]], pictures: Sequence[int] | None = None) -> Tensor:
        """ITM logits (N, 2), float32, columns [no match, match], of N texts.

        The Q-Former reads text and picture together; the head's logits are averaged over the queries (LAVIS,
        `blip2_qformer.py`). The probability of a match is *one* softmax of a row (the stock docstring applies two,
        which ties every score to 27-73 %).

        Args:
            states: trunk states (U, 1 + P, Dv) of U pictures, whose keys and values are computed once.
            texts: N rows of ids, [CLS] ... [SEP].
            pictures: which of them each text is about; None: each about its own, or all about the only one.

        Raises:
            ValueError: shapes or ids that do not fit.
        """
        self._check(len(states), texts, pictures)
        look = self._reader.fresh(self._normed(states).float())
        return self._itm(texts, look, pictures)

    @torch.inference_mode()
    def keys(self, states: Tensor) -> Tensor:
        """What of pictures the texts attend to, (U, C, 1 + P, 2 H), from trunk states (U, 1 + P, Dv).

        Worth keeping for a picture that is asked about again, but several times as large as its states.
        """
        return self._reader.keys(self._normed(states).float())

    @torch.inference_mode()
    def match_kept(self, keys: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """As `match`, for one picture whose `keys` (1, C, 1 + P, 2 H) are at hand.

        Raises:
            ValueError: as of `match`.
        """
        if len(keys) != 1:
            raise ValueError("the keys of one picture are needed")
        return self._itm(texts, self._reader.kept(keys), None)

    @torch.inference_mode()
    def image_features(self, states: Tensor) -> Tensor:
        """ITC features (B, Q, D), float32, each of length 1, from trunk states (B, 1 + P, Dv)."""
        return self.image_embeddings(states)[1]

    @torch.inference_mode()
    def image_embeddings(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, Q, H) of the queries and their ITC features (B, Q, D), from states (B, 1 + P, Dv)."""
        look = self._look if self._look.holds_any else self._queries
        (hidden,) = look(states.to(self.device, self.trunk.dtype))
        return hidden, nn.functional.normalize(self._vision_projection(hidden), dim=-1)

    def record(self, pool: Any) -> None:
        """Record the work on a few pictures without a text, in the trunk too; see `recorded`."""
        if not self.trunk.recordings[0].holds(1):
            self.trunk.record(pool)
        shape = (ROWS[-1], *self.trunk.states_shape)
        self._look.record([torch.zeros(shape, dtype=self.trunk.dtype, device=self.device)], pool)

    @property
    def recordings(self) -> tuple[Recorded, ...]:
        """The work that `record` records."""
        return *self.trunk.recordings, self._look

    def _queries(self, states: Tensor) -> tuple[Tensor]:
        queries = self._query_tokens.expand(states.shape[0], -1, -1)
        return (self._reader.look(queries, self._normed(states)),)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """ITC features (N, D), float32, each of length 1: the projected [CLS] state of each text."""
        return nn.functional.normalize(self._text_projection(self._read(texts, first_only=True)[:, 0]), dim=-1)

    @torch.inference_mode()
    def text_embeddings(self, text: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One text's hidden states (L, H), a row for each id, and their ITC projections (L, D), each of length 1."""
        hidden = self._read([text])[0]
        return hidden, nn.functional.normalize(self._text_projection(hidden), dim=-1)

    @torch.inference_mode()
    def multimodal_embeddings(self, states: Tensor, text: Sequence[int]) -> Tensor:
        """Hidden states (Q, H) of the queries that read a text and a picture (1, 1 + P, Dv) together."""
        return self._read_together([text], self._reader.fresh(self._normed(states).float()))[0]

    def _read(self, texts: Sequence[Sequence[int]], *, first_only: bool = False) -> Tensor:
        """Hidden states (N, L, H) of texts without a picture, or (N, 1, H) of [CLS]."""
        return self._reader.read(self._words(texts), [*map(len, texts)], first_only=first_only)

    def _itm(self, texts: Sequence[Sequence[int]], look: Look, pictures: Sequence[int] | None) -> Tensor:
        return cast(Tensor, self._itm_head(self._read_together(texts, look, pictures)).mean(1))

    def _check(self, held: int, texts: Sequence[Sequence[int]], pictures: Sequence[int] | None) -> None:
        if pictures is None:
            if held not in (1, len(texts)):
                raise ValueError("one picture, or one for each text, is needed")
        elif len(pictures) != len(texts) or not all(0 <= one < held for one in pictures):
            raise ValueError("the number of a picture is needed for each text")

    def _read_together(
        self, texts: Sequence[Sequence[int]], look: Look, pictures: Sequence[int] | None = None
    ) -> Tensor:
        """Hidden states (N, Q, H) of the queries, each row with a text and a picture."""
        lengths = [*map(len, texts)]
        return self._reader.read_together(self._opening(texts, lengths), self.num_queries, lengths, look, pictures)

    def _opening(self, texts: Sequence[Sequence[int]], lengths: Sequence[int]) -> Tensor:
        """What of the texts no picture changes, (Q + L, N, H). Few and short ones are often asked about the next picture too."""
        keep = len(texts) <= FEW and max(lengths, default=0) <= SHORT
        names = [*map(tuple, texts)] if keep else []
        if names and all(name in self._openings for name in names):
            known = [self._openings[name] for name in names]
            for name in names:
                self._openings[name] = self._openings.pop(name)
            return known[0][:, None] if len(known) == 1 else pad_sequence(known)
        found = self._reader.opening(self._query_tokens, self._words(texts), lengths)
        for row, name in enumerate(names):
            self._openings[name] = found[: self.num_queries + len(name), row].clone()
        while len(self._openings) > self.most_openings:
            del self._openings[next(iter(self._openings))]
        return found

    def _normed(self, states: Tensor) -> Tensor:
        return cast(Tensor, self._post_layernorm(states.to(self.device, self.trunk.dtype)))

    def _words(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings (N, L, H) of words in their places."""
        ids, _ = self._text(texts)
        return self._word(ids) + self._place(ids.shape[1])

    def _text(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # Padding stays on the right: [CLS] must be the first token and have the first position.
        if not texts or not all(texts):
            raise ValueError("at least one text, and none without tokens")
        if max(map(len, texts)) > self.positions or max(map(max, texts)) >= self.vocabulary or min(map(min, texts)) < 0:
            raise ValueError("a text is longer than the positions, or a token id is outside the vocabulary")
        return right_padded(texts, self.pad, self.device)


@torch.inference_mode()
def cosine(image_features: Tensor, text_features: Tensor) -> Tensor:
    """ITC similarity (B, N) in [-1, 1]: the best query's cosine, from (B, Q, D) and (N, D). Not a probability."""
    return (image_features @ text_features.t()).amax(1)
