"""What `generate` is handed for a call: token choice with a record of log-probabilities, and per-row ends.

Everything here is built anew for each call and thrown away after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.generation.stopping_criteria import StoppingCriteria

from blip2tools.options import Finish, GenerationOptions, Spoken


class NucleusSampler:
    """Draws one token per row from the smallest set of tokens whose mass reaches `top_p`.

    Each row has its own stream of random numbers, one number per step, so that a row's tokens depend neither on the
    global generator nor on its neighbours in the batch, and are the same on every device.
    """

    def __init__(self, temperature: float, top_p: float, streams: Sequence[random.Random]) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._streams = streams

    @classmethod
    def for_rows(cls, options: GenerationOptions, rows: int) -> NucleusSampler:
        """A sampler for `rows` requests of `options.num_return_sequences` adjacent decoder rows each.

        Requests of one batch share the seed but not the streams: alone or together, a request draws the same numbers.
        """
        entropy = random.SystemRandom()
        streams = []
        for _ in range(rows):
            seed = entropy.getrandbits(63) if options.seed is None else options.seed
            streams += [random.Random(f"{seed}:{number}") for number in range(options.num_return_sequences)]
        return cls(options.temperature, options.top_p, streams)

    def __call__(self, scores: Tensor) -> Tensor:
        """Token ids (rows,) drawn from scores (rows, vocabulary)."""
        ordered, order = (scores / self._temperature).sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        mass = share.cumsum(-1)
        kept = ((mass - share < self._top_p) & (share > 0)).sum(-1, keepdim=True).clamp(min=1)
        # Below 1 by more than one float32 rounding, or the product below could reach the whole mass.
        uniform = [min(stream.random(), 1 - 2**-22) for stream in self._streams]
        target = mass.gather(1, kept - 1) * torch.tensor(uniform, dtype=mass.dtype, device=mass.device)[:, None]
        position = (mass <= target).sum(-1, keepdim=True).minimum(kept - 1)
        return order.gather(1, position).squeeze(1)


class TokenChooser(LogitsProcessor):
    """Applies every option that changes scores, and keeps the log-probabilities that confidence needs.

    `generate` would apply penalties of its own before any processor of ours and so hide the raw distribution; it would
    also warn on every call that prompts given as embeddings are not penalised, and, with left padding, skip as many
    *generated* tokens as a row has padding, which makes a penalised row depend on its neighbours. Hence they are
    applied here instead.

    Of each step only the tokens that can still be chosen are kept, `candidates` per row: a few numbers rather than the
    vocabulary.

    Args:
        options: decoding options.
        start: length of the ids before the first generated token (0 for a decoder-only model, 1 for an
            encoder-decoder).
        eos: end-of-sequence id.
        candidates: tokens kept per row: 1 when the best one is taken, 2 x num_beams for a beam search.
        normalized: scores arrive as log-probabilities, as they do in a beam search.
        sampler: draws the tokens; the best one is taken without it.
    """

    def __init__(
        self,
        options: GenerationOptions,
        *,
        start: int,
        eos: int,
        device: torch.device,
        candidates: int = 1,
        normalized: bool = False,
        sampler: NucleusSampler | None = None,
    ) -> None:
        self._processors: list[Any] = []
        if options.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram_size:
            self._processors.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        if options.min_new_tokens:
            minimum = MinNewTokensLengthLogitsProcessor(start, options.min_new_tokens, [eos], device=str(device))
            self._processors.append(minimum)
        self._candidates = candidates
        self._normalized = normalized
        self._sampler = sampler
        self._tokens: list[Tensor] = []
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) as the search shall see them; `scores` itself is left as it is."""
        processed = scores
        for processor in self._processors:
            processed = processor(input_ids, processed)
        if self._sampler is None:
            tokens = processed.topk(min(self._candidates, processed.shape[-1]), dim=-1).indices
        else:
            tokens = self._sampler(processed)[:, None]
            processed = torch.full_like(processed, float("-inf")).scatter(1, tokens, 0.0)
        logprobs = scores.gather(1, tokens)
        if not self._normalized:
            logprobs = logprobs - scores.logsumexp(-1, keepdim=True)
        self._tokens.append(tokens)
        self._logprobs.append(logprobs)
        return processed

    def record(self) -> tuple[list[list[list[int]]], list[list[list[float]]]]:
        """Kept token ids and their log-probabilities: step x row x candidate."""
        return torch.stack(self._tokens).tolist(), torch.stack(self._logprobs).tolist()


class RowEnds(StoppingCriteria):
    """Ends each row at its own number of new tokens, or when its caller has gone.

    `stop(row)` is asked after every token of every row that still runs. A row may own several adjacent sequences
    (beams, samples); they end together.
    """

    def __init__(self, caps: Sequence[int], *, start: int, stop: Callable[[int], bool] | None) -> None:
        self.caps = tuple(caps)
        self.stopped_at: list[int | None] = [None] * len(self.caps)
        self._start = start
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Whether each of the sequences (rows x sequences per row) ends here."""
        length = input_ids.shape[1] - self._start
        for row, cap in enumerate(self.caps):
            if self._stop is not None and length < cap and self.stopped_at[row] is None and self._stop(row):
                self.stopped_at[row] = length
        ends = [length >= cap or stopped is not None for cap, stopped in zip(self.caps, self.stopped_at, strict=True)]
        return torch.tensor(ends, device=input_ids.device).repeat_interleave(input_ids.shape[0] // len(ends))


def collect(
    sequences: Sequence[Sequence[int]],
    beam_indices: Sequence[Sequence[int]] | None,
    chooser: TokenChooser,
    ends: RowEnds,
    eos: int,
) -> list[list[Spoken]]:
    """The generated texts of each row, best first.

    Args:
        sequences: new tokens of each sequence, padded; the sequences of a row are adjacent.
        beam_indices: for each token of each sequence the decoder row that it was chosen in, -1 behind the end; None
            without beams.
        chooser: what was recorded while decoding.
        ends: where rows were told to end.
        eos: end-of-sequence id.
    """
    tokens, logprobs = chooser.record()
    per_row = len(sequences) // len(ends.caps)
    texts: list[list[Spoken]] = [[] for _ in ends.caps]
    for number, sequence in enumerate(sequences):
        row = number // per_row
        if beam_indices is None:
            length = _greedy_length(sequence, ends.caps[row], ends.stopped_at[row], eos)
            sources: Sequence[int] = [number] * length
        else:
            sources = [source for source in beam_indices[number] if source >= 0]
            length = len(sources)
        total = 0.0
        for step, (token, source) in enumerate(zip(sequence[:length], sources, strict=True)):
            kept = tokens[step][source]
            # A token that is not among those kept ties with the last one that is: half precision has many equal logits.
            total += logprobs[step][source][kept.index(token) if token in kept else -1]
        texts[row].append(_spoken(sequence[:length], total, ends.stopped_at[row], eos, beams=beam_indices is not None))
    return texts


def _greedy_length(sequence: Sequence[int], cap: int, stopped_at: int | None, eos: int) -> int:
    length = min(cap, len(sequence), len(sequence) if stopped_at is None else stopped_at)
    return next((place + 1 for place, token in enumerate(sequence[:length]) if token == eos), length)


def _spoken(generated: Sequence[int], total: float, stopped_at: int | None, eos: int, *, beams: bool) -> Spoken:
    closed = generated[-1] == eos
    finish: Finish = "eos" if closed else "length" if stopped_at is None else "stopped"
    if beams and stopped_at is not None:
        # A search that was cut short may hold a closed text, but not the one that it would have found.
        finish = "stopped"
    ids = tuple(generated[:-1] if closed else generated)
    return Spoken(ids=ids, logprob=total / len(generated), tokens=len(generated), finish=finish)
