"""How text is generated and scores are ordered, and what comes out: plain data, shared by all. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["eos", "length", "stopped"]

# How a beam search ends, and by which length a text's score is divided.
# transformers  as the library of today: new tokens count, the end included; the search goes on while the best text that has not
#               ended could still beat the worst of those that have
# lavis         as the reference (LAVIS 506965b with transformers 4.33.2, its pin): a cut text counts its start token too,
#               and the search goes on while the best next token of all could, an end included
BeamRule = Literal["transformers", "lavis"]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Decoding options of one request. Hashable: rows with equal options can be decoded in one batch.

    The defaults are those of the reference's `generate` (LAVIS, `blip2_opt.py`). Sampling takes the place of the beam
    search, so `num_beams` counts for nothing when `do_sample` is set.

    Raises:
        ValueError: a value without meaning, or more return sequences than there are beams to take them from.
    """

    num_beams: int = 5  # 1 is greedy
    min_new_tokens: int = 1  # the end-of-sequence token is forbidden before
    length_penalty: float = 1.0  # beams only: scores are divided by length ** length_penalty
    repetition_penalty: float = 1.0  # over generated tokens only, as the prompt is given as embeddings
    no_repeat_ngram_size: int = 0  # 0 is off
    do_sample: bool = False
    temperature: float = 1.0  # sampling only
    top_p: float = 0.9  # sampling only
    num_return_sequences: int = 1
    seed: int | None = None  # sampling only; None draws a fresh one for every row
    beam_rule: BeamRule = "transformers"

    def __post_init__(self) -> None:
        if (
            self.num_beams < 1
            or self.num_return_sequences < 1
            or self.min_new_tokens < 0
            or self.no_repeat_ngram_size < 0
        ):
            raise ValueError("counts of beams, sequences and tokens cannot be that small")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError("num_return_sequences is above num_beams")
        if self.temperature <= 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ValueError("temperature and repetition_penalty must be above 0, top_p in (0, 1]")

    @property
    def width(self) -> int:
        """Decoder rows that one request takes: what a batch's size should be counted in."""
        return self.num_return_sequences if self.do_sample else self.num_beams


@dataclass(frozen=True, slots=True)
class Spoken:
    """One generated text, as token ids."""

    ids: tuple[int, ...]  # generated tokens, without the end-of-sequence token and the padding after it
    logprob: float  # mean log-probability of the tokens (end-of-sequence included) under the unprocessed model
    tokens: int  # tokens generated, end-of-sequence included
    finish: Finish  # "length": the row's max_new_tokens was reached; "stopped": the caller stopped the row
