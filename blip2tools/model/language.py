"""OPT and T5 as decoders of many rows: prompts are read together, then every sequence gets one token per step.

The layers have the names of transformers'. The way through them is our own, because the library's computes a picture's tokens for
every question about it, copies all keys and values for every token, and holds a prompt once for each beam:

- `begin` reads the prompts. OPT reads each picture's tokens once for all its prompts; T5 encodes, and computes the keys and
  values of its decoder's attention to the encoded rows once.
- `extend` adds tokens: keys and values go into a block that was made large enough, and the sequences of a row (its beams or
  samples) look at the row's one prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from blip2tools.model import kernels
from blip2tools.model.encoder import MASKED, Encoder, relative_bias
from blip2tools.model.recorded import PLACES, Recorded
from blip2tools.model.weights import quicken, side_by_side

OPT_NAMES, T5_NAMES = ("q_proj", "k_proj", "v_proj"), ("q", "k", "v")
# Devices on which query, key and value are one product instead of three: on an H100 4 of 55 ms of a compiled caption.
JOINED = ("cuda",)
PROMPTS = 16  # that a recording reads together: each place of a large model's is a third of a megabyte

Prompt: TypeAlias = tuple[Tensor, Tensor] | None  # keys and values of a layer's prompts, and their mask
Layer: TypeAlias = Callable[..., Tensor]  # `LanguageModel.layer`, or the same compiled


@dataclass(frozen=True, slots=True)
class Rows:
    """The state of decoding B rows with S sequences each. Blocks are (layers, 2, rows, heads, places, head size)."""

    prompt: Tensor  # keys and values that the sequences of a row share: B rows
    mask: Tensor  # (B, 1, 1, places), added to scores: 0, or -inf where a prompt is padded
    positions: Tensor  # (B,) position of a row's first new token
    own: Tensor  # keys and values of each sequence's new tokens: B * S rows, with room for all that may come
    bias: Tensor  # (1, heads or 1, places, places) between new tokens, added to scores: 0 or T5's bias, -inf backwards
    starts: tuple[int, ...]  # of each row, the place in `own` of its first new token: late rows begin later
    filled: int = 0  # places of `own` in use
    late: Tensor | None = None  # (B, 1, 1, places), added to scores: -inf before a row's start; None if all start at 0

    @property
    def sequences(self) -> int:
        """Sequences of each row."""
        return self.own.shape[2] // self.prompt.shape[2]

    def widened(self, sequences: int) -> Rows:
        """The same with so many sequences in the place of each."""
        return self if sequences == 1 else replace(self, own=self.own.repeat_interleave(sequences, 2))

    def kept(self, rows: Sequence[int]) -> Rows:
        """Only these rows, with all their sequences."""
        index = sent(rows, self.own.device)
        sequences = torch.arange(self.own.shape[2], device=index.device).view(-1, self.sequences)[index].flatten()
        return replace(
            self,
            prompt=self.prompt.index_select(2, index),
            mask=self.mask.index_select(0, index),
            positions=self.positions.index_select(0, index),
            own=self.own.index_select(2, sequences),
            starts=tuple(self.starts[row] for row in rows),
            late=None if self.late is None else self.late.index_select(0, index),
        )

    def reorder(self, parents: Sequence[int]) -> None:
        """Put the new tokens of sequence `parents[i]` in the place of sequence i's; they must be of one row."""
        if list(parents) != list(range(len(parents))):
            used = self.own[:, :, : len(parents), :, : self.filled]
            used.copy_(used.index_select(2, sent(parents, self.own.device)))

    def scores(self, at: Tensor) -> Tensor:
        """The bias of the scores between the new tokens at these places and all those of `own`."""
        places = self.own.shape[4]
        bias = self.bias.index_select(2, at)[..., :places]
        return bias if self.late is None else bias + self.late[..., :places].repeat_interleave(self.sequences, 0)


class LanguageModel(ABC):
    """One of the two families behind the same three steps.

    Args:
        model: the language model of a loaded checkpoint.
    """

    _layers: Any
    _heads: int
    _size: int
    recordings: tuple[Recorded, ...] = ()
    """The work that `record` records: none of T5, whose encoder waits for the device."""

    def __init__(self, model: Any) -> None:
        self._embed = model.get_input_embeddings()
        self._head = model.lm_head
        self._like: Tensor = getattr(
            self._embed, "scale", self._embed.weight
        )  # of the states' dtype, also if quantized
        for attention, names in self._attentions(model):
            _join(attention, names)
        if self._embed.weight.device.type == "cpu":
            # Same numbers, other order in memory: a few rows times a column-major weight take a fifth less time.
            for part in model.modules():
                if isinstance(part, nn.Linear) and part is not self._head:
                    part.weight.data = part.weight.data.t().contiguous().t()
            quicken(model.modules())

    @abstractmethod
    def _attentions(self, model: Any) -> Iterable[tuple[Any, tuple[str, str, str]]]:
        """Each decoder layer's attention between words, and its projections' names: query, key, value."""

    def _projected(
        self, attention: Any, names: tuple[str, str, str], states: Tensor, own: Tensor, at: Tensor
    ) -> Tensor:
        """Queries (R, heads, T, size) of states (R, T, D); their keys and values go to the places `at` of `own`."""
        if hasattr(attention, "joined_weight") or hasattr(attention, "joined"):
            if hasattr(attention, "joined"):
                parts = attention.joined(states)
            else:
                parts = functional.linear(states, attention.joined_weight, attention.joined_bias)
            parts = parts.view(*states.shape[:2], 3, self._heads, self._size).permute(2, 0, 3, 1, 4)
            if len(at) == own.shape[3]:  # all there are: a copy in order takes half as long
                own.copy_(parts[1:])
            else:
                own.index_copy_(3, at, parts[1:])
            return cast(Tensor, parts[0])
        query, keys, values = (self._split(getattr(attention, name)(states)) for name in names)
        own[0].index_copy_(2, at, keys)
        own[1].index_copy_(2, at, values)
        return query

    def _split(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self._heads, self._size).transpose(1, 2)

    @abstractmethod
    def begin(
        self, image_tokens: Tensor, pictures: Sequence[int], prompts: Sequence[Sequence[int]], room: int
    ) -> tuple[Rows, Tensor]:
        """Read B prompts: the rows, one sequence each, and logits (B, V) of their first new tokens.

        Args:
            image_tokens: (U, Q, D) of U pictures.
            pictures: which of them each prompt is about.
            prompts: ids in the family's form.
            room: new tokens that a sequence may come to.
        """

    def extend(self, rows: Rows, ids: Tensor) -> tuple[Rows, Tensor]:
        """Add ids (B * S, T): the rows, and logits (B * S, T, V) of what may follow each. Writes into the old rows."""
        filled = rows.filled + ids.shape[1]
        at = torch.arange(rows.filled, filled, device=ids.device)
        seen = replace(rows, own=rows.own[:, :, :, :, :filled])
        return replace(rows, filled=filled), self.step(seen, ids, at, self.layer)

    def join(self, rows: Rows, others: Rows) -> Rows:
        """Both in one, `others` last, which have as many sequences each but have hardly begun.

        The next tokens go to the same place for all. Places before a row's own start are masked; those that no row needs
        any more are dropped, so that a batch that rows keep joining does not grow for ever.
        """
        gone = min(rows.starts)
        filled = rows.filled - gone
        start = filled - others.filled
        room = max(rows.own.shape[4] - gone, start + others.own.shape[4])
        places = max(rows.prompt.shape[4], others.prompt.shape[4])
        old = rows.own.shape[2]
        own = self.block(old + others.own.shape[2], room)
        own[:, :, :old, :, :filled] = rows.own[:, :, :, :, gone : rows.filled]
        own[:, :, old:, :, start:filled] = others.own[:, :, :, :, : others.filled]
        starts = (*(one - gone for one in rows.starts), *(start + one for one in others.starts))
        early = torch.arange(room, device=own.device) < sent(starts, own.device)[:, None]
        return Rows(
            prompt=torch.cat([_lengthened(one.prompt, places, -2, 0) for one in (rows, others)], 2),
            mask=torch.cat([_lengthened(one.mask, places, -1, MASKED) for one in (rows, others)], 0),
            positions=torch.cat([rows.positions + gone, others.positions - start]),
            own=own,
            bias=self.between(room),
            starts=starts,
            filled=filled,
            late=own.new_zeros(len(starts), 1, 1, room).masked_fill_(early[:, None, None], MASKED),
        )

    @abstractmethod
    def step(self, rows: Rows, ids: Tensor, at: Tensor, layer: Layer) -> Tensor:
        """Logits (B * S, T, V) of what may follow ids (B * S, T), whose keys and values go to the places `at` (T,) of `own`.

        The same operations on the same shapes whatever the values: it can be compiled, and captured as a CUDA graph.
        """

    @abstractmethod
    def layer(self, part: Any, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, prompt: Prompt) -> Tensor:
        """Hidden states after one decoder layer, of the last tokens of (R, T, D), as many as `bias` has rows.

        Keys and values of all of them go to the places `at` of `own`.
        """

    def quick(self) -> Layer | None:
        """A layer as `layer`, of kernels of our own, for steps of one token in blocks; None where that cannot be."""
        return None

    @abstractmethod
    def between(self, places: int) -> Tensor:
        """`Rows.bias` for so many new tokens."""

    def record(self, images: int, pool: Any, limit: int | None) -> None:  # noqa: B027
        """Record what `begin` does for a few prompts, where that is possible; see `recorded`.

        Args:
            images: image tokens of a picture.
            pool: as for `Recorded.record`.
            limit: the most bytes for keys and values; if that is too little, nothing is recorded.
        """

    def block(self, rows: int, places: int) -> Tensor:
        """Keys and values (layers, 2, rows, heads, places, head size), all 0: what is masked must be a number."""
        like, layers = self._like, len(self._layers)
        return torch.zeros(layers, 2, rows, self._heads, places, self._size, dtype=like.dtype, device=like.device)


class Opt(LanguageModel):
    """OPT: image tokens, BOS and text in one row."""

    def _attentions(self, model: Any) -> Iterable[tuple[Any, tuple[str, str, str]]]:
        return ((part.self_attn, OPT_NAMES) for part in model.model.decoder.layers)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        decoder = model.model.decoder
        if decoder.project_in is not None or not model.config.do_layer_norm_before:
            raise ValueError("this kind of OPT is not one of the BLIP-2 family")
        self._layers = decoder.layers
        self._last_norm = decoder.final_layer_norm
        self._places = decoder.embed_positions
        attention = decoder.layers[0].self_attn
        self._heads, self._size, self._scaling = attention.num_heads, attention.head_dim, attention.scaling
        self._pictures = Recorded(self._pictures_read, gives=(2, 0), pieces=2)
        self._texts = Recorded(self._texts_read, given=(2, 0, 0), gives=(2, 0), pieces=2)
        self._widths: tuple[int, ...] = ()  # of recorded texts
        self.recordings = (self._pictures, self._texts)

    def begin(
        self, image_tokens: Tensor, pictures: Sequence[int], prompts: Sequence[Sequence[int]], room: int
    ) -> tuple[Rows, Tensor]:
        device = image_tokens.device
        owners = sent(pictures, device)
        prefix, last = self._read_pictures(image_tokens, prompts[0][0])
        first = prefix.shape[4]
        prompt, last = _picked(prefix, 2, pictures), last.index_select(0, owners)
        mask = last.new_zeros(len(prompts), 1, 1, first)
        lengths = sent([len(prompt) - 1 for prompt in prompts], device)
        if longer := [row for row, prompt in enumerate(prompts) if len(prompt) > 1]:
            index = sent(longer, device)
            texts = [prompts[row][1:] for row in longer]
            text, hidden = self._read_texts(_picked(prompt, 2, longer), texts)
            width = text.shape[4]
            if len(longer) < len(prompts):
                text = self.block(len(prompts), width).index_copy_(2, index, text)
            prompt = torch.cat([prompt, text], 4)
            last = last.index_copy(0, index, hidden)
            padded = torch.arange(width, device=device) < width - lengths[:, None]
            mask = torch.cat(
                [mask, mask.new_zeros(len(prompts), 1, 1, width).masked_fill_(padded[:, None, None], MASKED)], 3
            )
        own = self.block(len(prompts), room)
        starts = (0,) * len(prompts)
        return Rows(prompt, mask, first + lengths, own, self.between(room), starts), self._logits(last)

    def step(self, rows: Rows, ids: Tensor, at: Tensor, layer: Layer) -> Tensor:
        positions = rows.positions.repeat_interleave(rows.sequences)[:, None] + at
        bias = rows.scores(at)
        hidden = self._embedded(self._embed(ids), positions)
        return self._logits(self._run(hidden, rows.own, at, bias, rows, layer))

    def between(self, places: int) -> Tensor:
        return _causal(places, self._like)

    def _read_pictures(self, image_tokens: Tensor, bos: int) -> tuple[Tensor, Tensor]:
        """Keys and values (layers, 2, U, heads, Q + 1, size) of the picture and BOS, and the last hidden state (U, D)."""
        start = self._embed(sent([bos], image_tokens.device)).expand(len(image_tokens), -1, -1)
        embeds = torch.cat([image_tokens, start], 1)
        own, last = (self._pictures if self._pictures.holds_any else self._pictures_read)(embeds)
        return own, last

    def _pictures_read(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        own = self.block(len(embeds), embeds.shape[1])
        at = torch.arange(embeds.shape[1], device=embeds.device)
        return own, self._last(self._embedded(embeds, at[None]), own, at, _causal(len(at), embeds))

    def _read_texts(self, prefix: Tensor, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """The same for texts behind their prefixes, padded on the left: every row's last token has the last place."""
        width, device = max(map(len, texts)), prefix.device
        if self._texts.holds(len(texts)):
            width = next((recorded for recorded in self._widths if recorded >= width), width)
        missing = sent([width - len(text) for text in texts], device)
        ids = sent([[*[0] * (width - len(text)), *text] for text in texts], device)
        own, last = (self._texts if self._texts.holds_any else self._texts_read)(prefix, ids, missing)
        return own, last

    def _texts_read(self, prefix: Tensor, ids: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        missing, (texts, width) = missing[:, None], ids.shape
        at = torch.arange(width, device=ids.device)
        own = self.block(texts, width)
        hidden = self._embedded(self._embed(ids), prefix.shape[4] + (at - missing).clamp(min=0))
        bias = _causal(width, hidden).masked_fill((at < missing)[:, None, None], MASKED)
        before = Rows(prefix, hidden.new_zeros(texts, 1, 1, prefix.shape[4]), missing, own, bias, (0,) * texts)
        return own, self._last(hidden, own, at, bias, before)

    def record(self, images: int, pool: Any, limit: int | None) -> None:
        first = images + 1
        widths = ((PLACES - first) // 2, PLACES - first)
        if widths[0] < 1 or (limit is not None and 4 * PROMPTS * PLACES * self.block(1, 1).nbytes > limit):
            return
        weight = self._embed.weight
        self._pictures.record([weight.new_zeros(PROMPTS, first, weight.shape[1])], pool)
        prefix, missing = self.block(PROMPTS, first), torch.zeros(PROMPTS, dtype=torch.long, device=weight.device)
        for width in widths:
            self._texts.record([prefix, missing.new_zeros(PROMPTS, width), missing], pool)
        self._widths = widths

    def _embedded(self, embeds: Tensor, positions: Tensor) -> Tensor:
        table = self._places
        return embeds + functional.embedding(positions + table.offset, table.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self._head(self._last_norm(hidden)))

    def _last(self, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, rows: Rows | None = None) -> Tensor:
        """The last token's hidden state (R, D) behind all layers: of the others the last layer takes keys and values only."""
        number = len(self._layers) - 1
        hidden = self._run(hidden, own, at, bias, rows, self.layer, layers=number)
        prompt = None if rows is None else (rows.prompt[number], rows.mask)
        return self.layer(self._layers[number], hidden, own[number], at, bias[..., -1:, :], prompt)[:, -1]

    def _run(
        self,
        hidden: Tensor,
        own: Tensor,
        at: Tensor,
        bias: Tensor,
        rows: Rows | None,
        layer: Layer,
        *,
        layers: int | None = None,
    ) -> Tensor:
        """Hidden states (R, T, D) through the layers; their keys and values go to the places `at` of `own`."""
        for number, part in enumerate(self._layers[:layers]):
            prompt = None if rows is None else (rows.prompt[number], rows.mask)
            hidden = layer(part, hidden, own[number], at, bias, prompt)
        return hidden

    def layer(self, part: Any, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, prompt: Prompt) -> Tensor:
        attention, asked = part.self_attn, bias.shape[-2]
        query = self._projected(attention, OPT_NAMES, part.self_attn_layer_norm(hidden), own, at)
        hidden, query = hidden[:, -asked:], query[:, :, -asked:] * self._scaling
        if prompt is None:
            keys, values = own
            seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        else:
            seen = _attend_both(query, *prompt, own, bias)
        hidden = hidden + attention.out_proj(seen.transpose(1, 2).flatten(2))
        return hidden + cast(Tensor, part.fc2(part.activation_fn(part.fc1(part.final_layer_norm(hidden)))))

    def quick(self) -> Layer | None:
        layers = [one for part in self._layers for one in (part.self_attn.out_proj, part.fc1, part.fc2)]
        fits = all(hasattr(part.self_attn, "joined_weight") for part in self._layers) and all(
            isinstance(part.activation_fn, nn.ReLU) for part in self._layers
        )
        return self._quick_layer if fits and kernels.available(layers) else None

    def _quick_layer(self, part: Any, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, prompt: Prompt) -> Tensor:
        attention, states, last = part.self_attn, hidden[:, 0], part.final_layer_norm
        parts = kernels.multiplied(
            states, attention.joined_weight, attention.joined_bias, norm=part.self_attn_layer_norm
        )
        seen = kernels.attended(parts, self._heads, self._scaling, prompt=prompt, own=(own, at, bias))
        output, inner, outer = attention.out_proj, part.fc1, part.fc2
        if len(states) == 1:
            states = kernels.multiplied(seen, output.weight, output.bias, plus=states)
            middle = kernels.multiplied(states, inner.weight, inner.bias, norm=last, relu=True)
        else:
            states, ready = kernels.normed(states, last, plus=functional.linear(seen, output.weight, output.bias))
            middle = kernels.multiplied(ready, inner.weight, inner.bias, relu=True)
        return kernels.multiplied(middle, outer.weight, outer.bias, plus=states)[:, None]


class T5(LanguageModel):
    """T5: the encoder reads image tokens and text, the decoder begins with its start token."""

    def _attentions(self, model: Any) -> Iterable[tuple[Any, tuple[str, str, str]]]:
        return ((part.layer[0].SelfAttention, T5_NAMES) for part in model.decoder.block)

    def __init__(self, model: Any, start: int) -> None:
        super().__init__(model)
        self._encoder, self._start = Encoder(model.encoder), start
        self._layers, self._last_norm = model.decoder.block, model.decoder.final_layer_norm
        across = [block.layer[1].EncDecAttention for block in self._layers]
        self._read = side_by_side([part for one in across for part in (one.k, one.v)])
        self._scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        attention = self._layers[0].layer[0].SelfAttention
        self._heads, self._size = attention.n_heads, attention.key_value_proj_dim

    def begin(
        self, image_tokens: Tensor, pictures: Sequence[int], prompts: Sequence[Sequence[int]], room: int
    ) -> tuple[Rows, Tensor]:
        device, images = image_tokens.device, image_tokens.shape[1]
        lengths = sent([images + len(prompt) for prompt in prompts], device)
        width = max(map(len, prompts))
        ids = sent([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device)
        embeds = torch.cat([image_tokens[sent(pictures, device)], self._embed(ids)], 1)
        filled = torch.arange(images + width, device=device) < lengths[:, None]
        encoded = self._encoder(embeds, filled)
        seen = torch.stack([self._split(part) for part in self._read(encoded)])
        prompt = seen.view(-1, 2, *seen.shape[1:])
        mask = embeds.new_zeros(filled.shape).masked_fill_(~filled, MASKED)[:, None, None]
        own = self.block(len(prompts), room)
        starts = (0,) * len(prompts)
        rows = Rows(prompt, mask, lengths.new_zeros(len(prompts)), own, self.between(room), starts)
        rows, logits = self.extend(rows, ids.new_full((len(prompts), 1), self._start))
        return rows, logits[:, -1]

    def step(self, rows: Rows, ids: Tensor, at: Tensor, layer: Layer) -> Tensor:
        bias = rows.scores(at)
        hidden = self._embed(ids)
        for number, block in enumerate(self._layers):
            hidden = layer(block, hidden, rows.own[number], at, bias, (rows.prompt[number], rows.mask))
        return cast(Tensor, self._head(self._last_norm(hidden) * self._scale))

    def between(self, places: int) -> Tensor:
        bias = relative_bias(self._layers[0].layer[0].SelfAttention, places, self._like.device, both_ways=False)
        return bias + _causal(places, self._like)

    def layer(self, part: Any, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, prompt: Prompt) -> Tensor:
        itself, cross, feed_forward = part.layer
        attention, (keys, values) = itself.SelfAttention, own
        query = self._projected(attention, T5_NAMES, itself.layer_norm(hidden), own, at)
        seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=1.0)
        hidden = hidden + attention.o(seen.transpose(1, 2).flatten(2))

        if prompt is None:
            raise ValueError("T5's decoder has nothing to look at")
        attention, ((keys, values), mask) = cross.EncDecAttention, prompt
        query = _folded(self._split(attention.q(cross.layer_norm(hidden))), len(keys))
        seen = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
        seen = _unfolded(seen, len(hidden))
        return cast(Tensor, feed_forward(hidden + attention.o(seen.transpose(1, 2).flatten(2))))

    def quick(self) -> Layer | None:
        layers: list[Any] = []
        for part in self._layers:
            itself, cross, forward = part.layer
            dense = forward.DenseReluDense
            if not hasattr(itself.SelfAttention, "joined_weight") or not hasattr(dense, "wi_1"):
                return None
            layers += [itself.SelfAttention.o, cross.EncDecAttention.q, cross.EncDecAttention.o]
            layers += [dense.wi_0, dense.wi_1, dense.wo]
        return self._quick_layer if kernels.available(layers) else None

    def _quick_layer(self, part: Any, hidden: Tensor, own: Tensor, at: Tensor, bias: Tensor, prompt: Prompt) -> Tensor:
        (itself, cross, forward), states = part.layer, hidden[:, 0]
        attention, dense = itself.SelfAttention, forward.DenseReluDense
        parts = kernels.multiplied(states, attention.joined_weight, None, norm=itself.layer_norm)
        seen = kernels.attended(parts, self._heads, 1.0, own=(own, at, bias))
        states = kernels.multiplied(seen, attention.o.weight, None, plus=states)
        attention = cross.EncDecAttention
        query = kernels.multiplied(states, attention.q.weight, None, norm=cross.layer_norm)
        seen = kernels.attended(query, self._heads, 1.0, prompt=prompt)
        states, ready = kernels.normed(states, forward.layer_norm, plus=functional.linear(seen, attention.o.weight))
        gate = dense.act(kernels.multiplied(ready, dense.wi_0.weight, None))
        middle = gate * kernels.multiplied(ready, dense.wi_1.weight, None)
        return kernels.multiplied(middle, dense.wo.weight, None, plus=states)[:, None]


def _join(attention: Any, names: tuple[str, str, str]) -> None:
    """One weight, and one bias, in the place of three that are multiplied with the same states.

    The three become parts of it, so that nothing is held twice. Those that are quantized, offloaded or spread stay as they are:
    calling such a module does more than multiply.
    """
    parts = [getattr(attention, name) for name in names]
    if all(hasattr(part, "together") for part in parts):  # of `quantized`: rounds their states once
        attention.joined = parts[0].together(parts[1:])
        return
    plain = all(
        type(part) is nn.Linear and part.weight.device.type in JOINED and not hasattr(part, "_hf_hook")
        for part in parts
    )
    if hasattr(attention, "joined_weight"):
        if plain and parts[0].weight.data_ptr() == attention.joined_weight.data_ptr():
            return
        del (
            attention.joined_weight,
            attention.joined_bias,
        )  # moved, copied or wrapped since: no longer what the parts are
    if not plain:
        return
    for kind in ("weight", "bias"):
        tensors = [getattr(part, kind) for part in parts]
        whole = None if tensors[0] is None else torch.cat([tensor.data for tensor in tensors])
        attention.register_buffer(f"joined_{kind}", whole, persistent=False)
        if whole is not None:
            for tensor, piece in zip(tensors, whole.chunk(3), strict=True):
                tensor.data = piece


def sent(values: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor on the device, without waiting for what the device has still to do."""
    return torch.tensor(values).to(device, non_blocking=True)  # pageable memory has been read when this returns


def _picked(states: Tensor, dim: int, numbers: Sequence[int]) -> Tensor:
    """`index_select`; the states themselves where that would copy all of them, as prompts of many rows are large."""
    if list(numbers) == list(range(states.shape[dim])):
        return states
    return states.index_select(dim, sent(numbers, states.device))


def _causal(places: int, like: Tensor) -> Tensor:
    """(1, 1, places, places) to add to scores: a token sees none after it."""
    return like.new_full((1, 1, places, places), MASKED).triu_(1)


def _lengthened(states: Tensor, places: int, dim: int, filler: float) -> Tensor:
    """The states with so many places in a dimension, counted from the last; new places hold the filler."""
    padding = [0] * (-2 * dim)
    padding[-1] = places - states.shape[dim]
    return functional.pad(states, padding, value=filler)


def _attend_both(query: Tensor, prompt: Tensor, mask: Tensor, own: Tensor, bias: Tensor) -> Tensor:
    """One attention (R, heads, T, size) over the row's prompt, which its sequences share, and the sequence's own tokens."""
    rows, (own_keys, own_values), (keys, values) = len(query), own, prompt
    shared = _unfolded(_folded(query, len(keys)) @ keys.transpose(2, 3) + mask, rows)
    scores = torch.cat([shared, query @ own_keys.transpose(2, 3) + bias], 3)
    weights = scores.softmax(3, dtype=torch.float32).to(query.dtype)
    places = keys.shape[2]
    shared = _folded(weights[..., :places], len(keys)) @ values
    seen: Tensor = _unfolded(shared, rows) + weights[..., places:] @ own_values
    return seen


def _folded(states: Tensor, rows: int) -> Tensor:
    """(R, heads, T, n) as (rows, heads, R / rows * T, n): the sequences of a row become further queries of one."""
    if len(states) == rows:
        return states
    return states.view(rows, -1, *states.shape[1:]).transpose(1, 2).flatten(2, 3)


def _unfolded(states: Tensor, sequences: int) -> Tensor:
    """The way back, to (sequences, heads, T, n)."""
    if len(states) == sequences:
        return states
    rows, heads, _, width = states.shape
    return states.view(rows, heads, sequences // rows, -1, width).transpose(1, 2).flatten(0, 1)
