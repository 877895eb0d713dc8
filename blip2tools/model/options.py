"""How text is generated, declared once: settings, requests and decoder share it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finish = Literal["eos", "length", "stopped"]

# How a beam search ends, and by which length a text's score is divided.
# transformers  as the library of today: new tokens count, the end included; the search goes on while the best text that has not
#               ended could still beat the worst of those that have
# lavis         as the reference (LAVIS 506965b with transformers 4.33.2, its pin): a cut text counts its start token too,
#               and the search goes on while the best next token of all could, an end included
BeamRule = Literal["transformers", "lavis"]


class Generation(BaseModel):
    """Options of one generated text. None means the reference's default for the task and the family (LAVIS).

    Sampling replaces the beam search, so `num_beams` has no effect when `do_sample` is set.
    """

    # A refused value of a subclass may be a token: pydantic must not print it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    num_beams: int = Field(default=5, ge=1, le=8, description="beams of the search; 1 is greedy")
    max_new_tokens: int | None = Field(
        default=None, ge=1, le=128, description="longest text, tokens; default 30 for a caption, 10 for an answer"
    )
    min_new_tokens: int = Field(default=1, ge=0, le=128, description="shortest text, tokens")
    length_penalty: float | None = Field(
        default=None,
        ge=-5,
        le=5,
        description="exponent on the length of a beam; default 1 for captions, 0 (OPT) or -1 (T5) for answers",
    )
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=5, description="above 1 discourages words already said")
    no_repeat_ngram_size: int = Field(default=0, ge=0, le=16, description="no n-gram of this size twice; 0 is off")
    do_sample: bool = Field(default=False, description="nucleus sampling instead of beam search")
    temperature: float = Field(default=1.0, ge=0.1, le=2, description="sampling temperature")
    top_p: float = Field(default=0.9, gt=0, le=1, description="nucleus of the sampling, probability mass")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="seed of the sampling; default: a fresh one for every call"
    )
    beam_rule: BeamRule = Field(
        default="transformers",
        description="how a beam search ends and what a length counts: as in transformers today, or as in the reference (`lavis`)",
    )

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens is above max_new_tokens")
        return self

    @classmethod
    def of(cls, other: Generation) -> Generation:
        """The generation options alone of something that has more, such as settings."""
        return Generation.model_construct(**{name: getattr(other, name) for name in Generation.model_fields})

    @property
    def repeatable(self) -> bool:
        """Whether the same request gives the same words again."""
        return not self.do_sample or self.seed is not None


class GenerationOptions(Generation):
    """Decoding options of the rows of one batch; hashable: rows with equal options can be decoded together.

    Each row has a longest text of its own, so `max_new_tokens` has no effect here. Without a length penalty it is 1, and
    without a seed every row draws a fresh one. Repetition counts over generated tokens only, as the prompt is given as
    embeddings.

    Raises:
        ValueError: a value out of bounds, or more return sequences than there are beams to take them from.
    """

    num_return_sequences: int = Field(default=1, ge=1, description="texts of one row")

    @model_validator(mode="after")
    def _beams_suffice(self) -> Self:
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError("num_return_sequences is above num_beams")
        return self

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
