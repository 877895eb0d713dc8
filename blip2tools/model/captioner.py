"""Vision states to text: the Q-Former's image tokens in front of a language model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from blip2tools.model.compiled import Steps
from blip2tools.model.decoding import Beams, Begun, Chooser, Eager, Row, Samples, decode
from blip2tools.model.language import T5, LanguageModel, Opt, Rows
from blip2tools.model.options import GenerationOptions, Spoken
from blip2tools.model.qformer import Reader
from blip2tools.model.recorded import MORE, Recorded
from blip2tools.model.trunk import Trunk, right_padded
from blip2tools.model.weights import fingerprint, freeze, named

Family = Literal["opt", "t5"]

VISION_EPS = (
    1e-6  # of every LayerNorm in the vision tower, as transformers has it; LAVIS' last one has 1e-5, see FAMILY.md
)
RANK_CHUNK = 32  # candidates per forward pass


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows that join a batch; see `Captioner.speak`."""

    image_tokens: Tensor
    prompts: Sequence[Sequence[int]]
    max_new_tokens: Sequence[int]
    pictures: Sequence[int] | None = None


@contextmanager
def _any_shape(device: torch.device) -> Iterator[None]:
    """Switch off cuDNN's attention, which makes a plan for each new shape: on an H100 that takes a quarter of a second for
    every number of rows and every length, without a measurable gain."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


@contextmanager
def _as_precise(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute float32 products with the precision of this dtype, if that is half precision.

    TensorFloat-32 has float32's range, so that nothing overflows, and as many digits as float16, which the states and
    the image tokens have.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the host program has set it in its own way
        before = None
    if device.type != "cuda" or dtype == torch.float32 or before != "highest":
        yield
        return
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Captioner:
    """Vision states to text: LayerNorm, Q-Former, projection, language model.

    Args:
        model: a loaded checkpoint with an OPT or T5 language model: a `modules.CaptionerModel`, or the library's. Its
            Q-Former and query tokens are converted back to float32 (in half precision the Q-Former overflows, LAVIS #267).
        trunk: a trunk to use in place of the model's own, for instance one shared with a matcher.
        fingerprints: the two of this class, where they are known; else they are computed.

    Raises:
        ValueError: a language model of another family.
    """

    def __init__(
        self, model: Any, trunk: Trunk | None = None, fingerprints: tuple[str | None, str | None] = (None, None)
    ) -> None:
        inner = model
        inner.eval()
        family = inner.config.text_config.model_type
        if family not in ("opt", "t5"):
            raise ValueError("the language model is neither OPT nor T5")
        self.family: Family = family
        self.trunk = trunk or Trunk(inner.vision_model)
        self._post_layernorm: nn.Module = inner.vision_model.post_layernorm
        self._qformer: nn.Module = inner.qformer.float()
        self._query_tokens = inner.query_tokens.data.float()
        self._projection: nn.Linear = inner.language_projection
        self._language_model = inner.language_model
        freeze(self._post_layernorm, self._qformer, self._projection, self._language_model)
        self._plain: Any = None  # the library's own model over the same weights
        self._fingerprint, self._language_fingerprint = fingerprints

        text = inner.config.text_config
        self.bos = int(text.bos_token_id) if family == "opt" else None
        self.eos = int(text.eos_token_id)
        self.pad = int(text.pad_token_id)
        self.num_queries = int(self._query_tokens.shape[1])
        self.vocabulary = int(inner.get_input_embeddings().num_embeddings)
        # Rows that OPT can place: image, prompt and all new tokens but the last. T5's positions are relative.
        self.positions: int | None = int(text.max_position_embeddings) if family == "opt" else None
        # T5 decodes from a start token, the padding.
        start = getattr(text, "decoder_start_token_id", None)
        self._decoder_start = [] if family == "opt" else [self.pad if start is None else int(start)]
        inner = self._language_model
        self._words: LanguageModel = Opt(inner) if family == "opt" else T5(inner, self._decoder_start[0])
        self.steps = Steps(self._words)
        """Decoding steps of `speak`, which may be recorded and compiled."""
        self._eager = Eager(self._words, self.steps.count)
        self._reader = Reader(self._qformer)
        self._query = Recorded(self._image_tokens)

    @property
    def dtype(self) -> torch.dtype:
        return self._projection.weight.dtype

    @property
    def device(self) -> torch.device:
        return self._projection.weight.device

    @property
    def fingerprint(self) -> str:
        """Digest of what turns trunk states into image tokens: LayerNorm, Q-Former, query tokens, projection."""
        if self._fingerprint is None:
            parts = {"layernorm": self._post_layernorm, "qformer": self._qformer, "projection": self._projection}
            self._fingerprint = fingerprint([*named(parts), ("query_tokens", self._query_tokens)])
        return self._fingerprint

    @property
    def language_fingerprint(self) -> str:
        """Digest of the language model; computed each time, as only the self-test needs it."""
        return self._language_fingerprint or fingerprint(self._language_model.named_parameters())

    def modules(self) -> Iterator[nn.Module]:
        """Every module, the trunk's included."""
        for part in (self._post_layernorm, self._qformer, self._projection, self._language_model):
            yield from part.modules()
        yield from self.trunk.modules()

    def oddities(self) -> list[str]:
        """Ways in which the modules are not set up as the family was trained; empty if there are none.

        Each of these gives words that look right but are not: an overflowing Q-Former (LAVIS #267), another epsilon in the
        vision LayerNorms (LAVIS #418), FLAN-T5 with the original T5's scaled or tied output layer, or in float16 (LAVIS
        #206).
        """
        model, found = self._language_model, []
        weights = [self._query_tokens, *self._qformer.parameters()]
        # Whole numbers are those of quantized layers, which compute in float32.
        if any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in weights):
            found.append("the Q-Former is not float32")
        layernorms = [self._post_layernorm, *(part for part in self.trunk.encoder.modules())]
        if any(isinstance(part, nn.LayerNorm) and part.eps != VISION_EPS for part in layernorms):
            found.append(f"the vision tower's layer_norm_eps is not {VISION_EPS}")
        if self.family == "t5":
            if model.config.scale_decoder_outputs or model.lm_head.weight is model.shared.weight:
                found.append("FLAN-T5's output layer is scaled or tied")
            if self.dtype == torch.float16:
                found.append("FLAN-T5 is in float16")
        return found

    @torch.inference_mode()
    def query(self, states: Tensor) -> Tensor:
        """Image tokens (B, Q, D) for the language model, in the model's dtype, from trunk states (B, 1 + P, Dv)."""
        tokens = self._query if self._query.holds_any else self._image_tokens
        return tokens(states.to(self.device, self.trunk.dtype))[0]

    def _image_tokens(self, states: Tensor) -> tuple[Tensor]:
        queries = self._query_tokens.expand(states.shape[0], -1, -1)
        with _as_precise(self.device, states.dtype):
            hidden = self._reader.look(queries, self._post_layernorm(states))
        return (self._projection(hidden.to(self.dtype)),)

    def record(self, pool: Any, limit: int | None) -> None:
        """Record the work on a few pictures and prompts, except steps; see `recorded`.

        Args:
            pool: as for `Recorded.record`.
            limit: the most bytes for what is kept of prompts; if that is too little, they are read as before.
        """
        self.trunk.record(pool)
        shape = (MORE, *self.trunk.states_shape)
        self._query.record([torch.zeros(shape, dtype=self.trunk.dtype, device=self.device)], pool)
        with _any_shape(self.device):  # for prompts of 33 places cuDNN's is slower, too
            self._words.record(self.num_queries, pool, limit)

    @property
    def recordings(self) -> tuple[Recorded, ...]:
        """The work that `record` records."""
        return *self.trunk.recordings, self._query, *self._words.recordings

    @torch.inference_mode()
    def speak(
        self,
        image_tokens: Tensor,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        max_new_tokens: Sequence[int],
        pictures: Sequence[int] | None = None,
        stop: Callable[[int], bool] | None = None,
        said: Callable[[int, list[Spoken]], None] | None = None,
        more: Callable[[], Asked | None] | None = None,
    ) -> list[list[Spoken]]:
        """Texts for B rows, decoded together: `options.num_return_sequences` per row, best first.

        In float32 a greedy or beam row gets the same tokens alone and in any batch, whenever it joins.

        Args:
            image_tokens: (U, Q, D) from `query`.
            prompts: B rows of ids in the family's form (`checkpoints.prompts`): OPT begins with BOS, T5 ends with EOS.
            options: decoding options of the whole batch.
            max_new_tokens: the longest text of each row; cut further where OPT's positions end.
            pictures: which of the U pictures each row is about; without it, row i is about picture i. OPT reads a picture
                once for all its rows.
            stop: called as `stop(row)` after each token of each running row; a row for which it is true ends there with
                what it has. A batch without running rows ends at once.
            said: called as `said(row, texts)` when a row has ended, before the rest of the batch; an error that it raises
                ends the batch.
            more: called before each token for rows that join the batch; they get the next numbers.

        Raises:
            ValueError: shapes or ids that do not fit; nothing has run.
        """
        numbers = itertools.count()

        def begun(asked: Asked) -> Begun:
            rows, logits, caps = self._begin(asked)
            stops = [(lambda: False) if stop is None else partial(stop, next(numbers)) for _ in caps]
            requests = [self._request(cap, options, stopped) for cap, stopped in zip(caps, stops, strict=True)]
            return requests, rows, logits.repeat_interleave(len(requests[0].texts), 0)

        def joining() -> Begun | None:
            asked = more() if more is not None else None
            return None if asked is None else begun(asked)

        start = [self.bos] if self.bos is not None and options.beam_rule == "lavis" else self._decoder_start
        chooser = Chooser(options, start, self.eos)
        with _any_shape(self.device):
            first = begun(Asked(image_tokens, prompts, max_new_tokens, pictures))
            return decode(self.steps if self.steps.recorded else self._eager, first, chooser, said, joining)

    def _begin(self, asked: Asked) -> tuple[Rows, Tensor, list[int]]:
        """The result of `LanguageModel.begin`, and the most new tokens of each row."""
        count, pictures = len(asked.prompts), asked.pictures
        owners = list(range(count)) if pictures is None else list(pictures)
        if not count == len(asked.max_new_tokens) == len(owners) or set(owners) != set(range(len(asked.image_tokens))):
            raise ValueError("pictures, prompts and max_new_tokens differ in number")
        caps = [self._cap(prompt, tokens) for prompt, tokens in zip(asked.prompts, asked.max_new_tokens, strict=True)]
        return *self._read(asked.image_tokens, owners, asked.prompts, max(caps)), caps

    def _request(self, cap: int, options: GenerationOptions, stop: Callable[[], bool]) -> Row:
        if options.num_beams > 1 and not options.do_sample:
            return Beams(cap, options, self.eos, stop)
        return Samples(cap, options.num_return_sequences, self.eos, stop)

    @torch.inference_mode()
    def rank(
        self, image_tokens: Tensor, prompt: Sequence[int], candidates: Sequence[Sequence[int]]
    ) -> list[tuple[float, int]]:
        """(summed log-probability, number of tokens) of each candidate as the continuation of `prompt`, both with EOS.

        Image and prompt are computed once and shared. With the end-of-sequence token "red" and "red car" compare
        fairly.

        Args:
            image_tokens: (1, Q, D) of the one picture.
            prompt: ids as for `speak`.
            candidates: ids without special tokens, none empty.

        Raises:
            ValueError: shapes or ids that do not fit, or a candidate too long for the positions.
        """
        if image_tokens.shape[0] != 1 or not candidates or not all(candidates):
            raise ValueError("one picture and at least one candidate with tokens are needed")
        for candidate in candidates:
            self._check(candidate)
        longest = max(map(len, candidates))
        if self.positions is not None and self.num_queries + len(prompt) + longest > self.positions:
            raise ValueError("prompt and candidate do not fit in the model's positions")
        scores: list[tuple[float, int]] = []
        with _any_shape(self.device):
            before, first = self._read(image_tokens, [0], [prompt], longest + 1)
            for start in range(0, len(candidates), RANK_CHUNK):
                chunk = candidates[start : start + RANK_CHUNK]
                ids, _ = right_padded(chunk, self.pad, self.device)
                _, following = self._words.extend(before.widened(len(chunk)), ids)
                logits = torch.cat([first.expand(len(chunk), 1, -1), following], 1)
                targets, filled = right_padded([[*candidate, self.eos] for candidate in chunk], self.pad, self.device)
                chosen = logits.float().log_softmax(-1).gather(2, targets[..., None]).squeeze(2)
                sums = (chosen * filled).sum(1).tolist()
                scores += zip(sums, (len(candidate) + 1 for candidate in chunk), strict=True)
        return scores

    @torch.inference_mode()
    def plain_logits(self, image_tokens: Tensor, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Logits (len(ids), V), float32, that predict each of `ids` after picture and prompt.

        One pass of the library's own forward without a cache: slow, but the standard that `speak` must agree with.

        Args:
            image_tokens: (1, Q, D) from `query`.
            prompt: ids as for `speak`.
            ids: what `speak` said.
        """
        if self._plain is None:
            from blip2tools.model.plain import language_model

            self._plain = language_model(self._language_model)
        model, embed = self._plain, self._plain.get_input_embeddings()

        def embedded(tokens: Sequence[int]) -> Tensor:
            return cast(Tensor, embed(torch.tensor([list(tokens)], device=self.device)))

        row = torch.cat([image_tokens.to(self.device, self.dtype), embedded(prompt)], 1)
        if self.family == "opt":
            if len(ids) > 1:
                row = torch.cat([row, embedded(ids[:-1])], 1)
            logits = model(inputs_embeds=row, use_cache=False).logits
        else:
            told = torch.tensor([[*self._decoder_start, *ids[:-1]]], device=self.device)
            logits = model(inputs_embeds=row, decoder_input_ids=told, use_cache=False).logits
        return cast(Tensor, logits[0, -len(ids) :].float())

    @torch.inference_mode()
    def logits(
        self, image_tokens: Tensor, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Logits (T + 1, V), float32, of what may follow the prompt and each of the T tokens of rows about a picture each.

        Args:
            image_tokens: (B, Q, D) from `query`.
            prompts: B rows of ids as for `speak`.
            texts: what each row says; empty is nothing yet.
        """
        room = max(map(len, texts))
        rows, first = self._read(image_tokens, range(len(prompts)), prompts, room + 1)
        found = first[:, None].float()
        if room:
            ids, _ = right_padded(texts, self.pad, self.device)
            found = torch.cat([found, self._words.extend(rows, ids)[1].float()], 1)
        return [row[: len(text) + 1] for row, text in zip(found, texts, strict=True)]

    @torch.inference_mode()
    def first_logits(self, image_tokens: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V), float32, of the first new tokens of rows that are each about a picture of a batch."""
        return self._read(image_tokens, range(len(prompts)), prompts, 1)[1].float()

    @torch.inference_mode()
    def places(self, image_tokens: Tensor, prompts: Sequence[Sequence[int]]) -> list[int]:
        """How many places of each row, of a batch about as many pictures, the language model looks at when it answers."""
        rows, _ = self._read(image_tokens, range(len(prompts)), prompts, 1)
        return cast(list[int], (rows.mask == 0).flatten(1).sum(1).tolist())

    def _read(
        self, image_tokens: Tensor, pictures: Sequence[int], prompts: Sequence[Sequence[int]], room: int
    ) -> tuple[Rows, Tensor]:
        if image_tokens.ndim != 3 or image_tokens.shape[1] != self.num_queries:
            raise ValueError(f"image tokens must be (U, {self.num_queries}, D)")
        for prompt in prompts:
            self._check_prompt(prompt)
        return self._words.begin(image_tokens.to(self.device, self.dtype), pictures, prompts, room)

    def _cap(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        room = max_new_tokens
        if self.positions is not None:
            # Beyond its table OPT would index past the end: an exception on a CPU, a dead process on a GPU.
            room = min(room, self.positions - self.num_queries - len(prompt) + 1)
        if room < 1:
            raise ValueError("no room for a new token")
        return room

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        special, place = (self.eos, -1) if self.bos is None else (self.bos, 0)
        if not prompt or prompt[place] != special or list(prompt).count(special) != 1:
            raise ValueError("an OPT prompt begins with its only BOS, a T5 prompt ends with its only EOS")
        self._check(prompt)

    def _check(self, ids: Sequence[int]) -> None:
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise ValueError("a token id is outside the vocabulary")
