"""Vision states to text: the Q-Former's image tokens in front of a language model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from blip2tools.model.decoding import NucleusSampler, RowEnds, TokenChooser, collect
from blip2tools.model.trunk import Trunk, fingerprint, freeze, named, right_padded
from blip2tools.options import GenerationOptions, Spoken

Family = Literal["opt", "t5"]

VISION_EPS = 1e-6  # of every LayerNorm in the vision tower
RANK_CHUNK = 32  # candidates per forward pass


class Captioner:
    """Vision states to text: LayerNorm, Q-Former, projection, language model.

    Args:
        model: a loaded checkpoint with an OPT or T5 language model. Its Q-Former and query tokens are put back to
            float32 (in half precision the Q-Former overflows, LAVIS #267), its generation defaults are replaced.
        trunk: a trunk to use in place of the model's own, for instance one shared with a matcher.

    Raises:
        ValueError: a language model of another family.
    """

    def __init__(self, model: Blip2ForConditionalGeneration, trunk: Trunk | None = None) -> None:
        inner = cast(Any, model)
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
        self._fingerprint: str | None = None

        text = inner.config.text_config
        self.bos = int(text.bos_token_id) if family == "opt" else None
        self.eos = int(text.eos_token_id)
        self.pad = int(text.pad_token_id)
        self.num_queries = int(self._query_tokens.shape[1])
        self.vocabulary = int(inner.get_input_embeddings().num_embeddings)
        # Rows that OPT can place: image, prompt and all new tokens but the last. T5's positions are relative.
        self.positions: int | None = int(text.max_position_embeddings) if family == "opt" else None
        # T5 decodes from a start token, the padding, which `generate` returns; OPT given embeddings returns only new ones.
        start = getattr(text, "decoder_start_token_id", None)
        self._decoder_start = [] if family == "opt" else [self.pad if start is None else int(start)]
        self._start = len(self._decoder_start)
        # Nothing a checkpoint's generation_config.json says may change an answer: every call passes what it needs.
        self._language_model.generation_config = cast(Any, GenerationConfig)(
            bos_token_id=text.bos_token_id,
            eos_token_id=self.eos,
            pad_token_id=self.pad,
            decoder_start_token_id=self._decoder_start[0] if self._decoder_start else None,
        )

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
        """Digest of the language model; computed anew each time, as only the self-test asks for it."""
        return fingerprint(self._language_model.named_parameters())

    def oddities(self) -> list[str]:
        """In what the modules, as they stand, are not set up as the family was trained; empty if in nothing.

        Each of these gives words that look right and are not: an overflowing Q-Former (LAVIS #267), another epsilon in the
        vision LayerNorms (LAVIS #418), FLAN-T5 with the original T5's scaled or tied output layer, or in float16 (LAVIS
        #206).
        """
        model, found = self._language_model, []
        weights = [self._query_tokens, *self._qformer.parameters()]
        if any(weight.dtype != torch.float32 for weight in weights):
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
        normed = self._post_layernorm(states.to(self.device, self.trunk.dtype))
        queries = self._query_tokens.expand(states.shape[0], -1, -1)
        hidden = self._qformer(query_embeds=queries, encoder_hidden_states=normed).last_hidden_state
        return cast(Tensor, self._projection(hidden.to(self.dtype)))

    @torch.inference_mode()
    def speak(
        self,
        image_tokens: Tensor,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        max_new_tokens: Sequence[int],
        stop: Callable[[int], bool] | None = None,
    ) -> list[list[Spoken]]:
        """Texts for B rows, decoded together: `options.num_return_sequences` per row, best first.

        In float32 a greedy or beam row gets the same tokens alone and in any batch.

        Args:
            image_tokens: (B, Q, D) from `query`.
            prompts: B rows of ids in the family's form (see `blip2tools.text`): OPT begins with BOS, T5 ends with EOS.
            options: decoding options of the whole batch.
            max_new_tokens: the longest text of each row; cut further where OPT's positions end.
            stop: asked as `stop(row)` after each token of each running row; a row for which it is true ends there with
                what it has. A batch without running rows ends at once.

        Raises:
            ValueError: shapes or ids that do not fit; nothing has run.
        """
        if not len(prompts) == len(max_new_tokens) == image_tokens.shape[0]:
            raise ValueError("image tokens, prompts and max_new_tokens differ in number")
        caps = [self._cap(prompt, tokens) for prompt, tokens in zip(prompts, max_new_tokens, strict=True)]
        embeds, mask = self._pack(image_tokens, prompts)
        beams = 1 if options.do_sample else options.num_beams
        sampler = NucleusSampler.for_rows(options, len(prompts)) if options.do_sample else None
        if options.do_sample:
            embeds = embeds.repeat_interleave(options.num_return_sequences, 0)
            mask = mask.repeat_interleave(options.num_return_sequences, 0)
        chooser = TokenChooser(
            options,
            start=self._start,
            eos=self.eos,
            device=self.device,
            candidates=2 * beams if beams > 1 else 1,
            normalized=beams > 1,
            sampler=sampler,
        )
        ends = RowEnds(caps, start=self._start, stop=stop)
        search = {"length_penalty": options.length_penalty, "early_stopping": False} if beams > 1 else {}
        output = self._language_model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            do_sample=False,
            num_beams=beams,
            num_return_sequences=options.num_return_sequences if beams > 1 else 1,
            max_new_tokens=max(caps),
            eos_token_id=self.eos,
            pad_token_id=self.pad,
            logits_processor=[chooser],
            stopping_criteria=[ends],
            return_dict_in_generate=True,
            **search,
        )
        beam_indices = output.beam_indices.tolist() if beams > 1 else None
        return collect(output.sequences[:, self._start :].tolist(), beam_indices, chooser, ends, self.eos)

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
        embeds, mask = self._pack(image_tokens, [prompt])
        chunks = [candidates[first : first + RANK_CHUNK] for first in range(0, len(candidates), RANK_CHUNK)]
        scorer = self._rank_opt if self.family == "opt" else self._rank_t5
        return [score for logits, chunk in scorer(embeds, mask, chunks) for score in self._likelihood(logits, chunk)]

    def _rank_opt(
        self, embeds: Tensor, mask: Tensor, chunks: Sequence[Sequence[Sequence[int]]]
    ) -> Iterator[tuple[Tensor, Sequence[Sequence[int]]]]:
        prefix = self._language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1)
        for number, chunk in enumerate(chunks, start=1):
            # Widening a cache changes it, so all chunks but the last work on a copy.
            cache = prefix.past_key_values if number == len(chunks) else copy.deepcopy(prefix.past_key_values)
            cache.batch_repeat_interleave(len(chunk))
            ids, filled = self._right_padded(chunk)
            following = self._language_model(
                input_ids=ids,
                attention_mask=torch.cat([mask.expand(len(chunk), -1), filled], 1),
                past_key_values=cache,
                use_cache=True,
            )
            yield torch.cat([prefix.logits.expand(len(chunk), -1, -1), following.logits], 1), chunk

    def _rank_t5(
        self, embeds: Tensor, mask: Tensor, chunks: Sequence[Sequence[Sequence[int]]]
    ) -> Iterator[tuple[Tensor, Sequence[Sequence[int]]]]:
        encoded = self._language_model.get_encoder()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        for chunk in chunks:
            ids, _ = self._right_padded([[*self._decoder_start, *candidate] for candidate in chunk])
            output = self._language_model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.expand(len(chunk), -1, -1)),
                attention_mask=mask.expand(len(chunk), -1),
                decoder_input_ids=ids,
                use_cache=False,
            )
            yield output.logits, chunk

    def _likelihood(self, logits: Tensor, candidates: Sequence[Sequence[int]]) -> Iterator[tuple[float, int]]:
        """Scores from logits (C, at least longest + 1, V) whose first position predicts the first token."""
        targets, filled = self._right_padded([[*candidate, self.eos] for candidate in candidates])
        chosen = logits[:, : targets.shape[1]].float().log_softmax(-1).gather(2, targets[..., None]).squeeze(2)
        sums = (chosen * filled).sum(1).tolist()
        return zip(sums, (len(candidate) + 1 for candidate in candidates), strict=True)

    def _right_padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return right_padded(rows, self.pad, self.device)

    def packed(self, image_tokens: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the language model is given for B rows: embeddings (B, W, D) and mask (B, W)."""
        return self._pack(image_tokens, prompts)

    def _pack(self, image_tokens: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, W, D) and mask (B, W) of image + prompt; whole rows are padded, OPT left, T5 right.

        Padding between image and text, as the stock processor does, or on the other side moves the positions that the
        model was trained on (transformers #22014, #27251).
        """
        if image_tokens.ndim != 3 or image_tokens.shape[1] != self.num_queries:
            raise ValueError(f"image tokens must be (B, {self.num_queries}, D)")
        for prompt in prompts:
            self._check_prompt(prompt)
        embed = self._language_model.get_input_embeddings()
        features = image_tokens.to(self.device, embed.weight.dtype)
        width = self.num_queries + max(map(len, prompts))
        embeds = features.new_zeros(len(prompts), width, features.shape[-1])
        mask = torch.zeros(len(prompts), width, dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            length = self.num_queries + len(prompt)
            place = slice(width - length, width) if self.family == "opt" else slice(0, length)
            words = embed(torch.tensor(prompt, dtype=torch.long, device=self.device))
            embeds[row, place] = torch.cat([features[row], words])
            mask[row, place] = 1
        return embeds, mask

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
