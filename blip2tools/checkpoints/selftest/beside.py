"""A quantized model beside what it was made from, on the bundled pictures: part by part, and all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from blip2tools.checkpoints.selftest.samples import PICTURES
from blip2tools.model import Captioner, Matcher

if TYPE_CHECKING:
    from blip2tools.checkpoints.selftest.checks import Trial

DECIDED: Final = 0.5  # margin of a logit above all others from which on rounding should not change the word


@dataclass(frozen=True, slots=True)
class Whole:
    """A model in full precision; the matcher is there where the quantized model's is quantized, too."""

    captioner: Captioner
    matcher: Matcher | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """How far a quantized model is from full precision.

    Attributes:
        states: cosine of the vision tower's states.
        tokens: cosine of image tokens made of the same states.
        language: cosine of logits after the same image tokens.
        logits: cosine of logits, all parts together.
        same: share of the words that are decided in full precision and are the same; 1 where none is.
        decided: how many those are.
        gap: mean loss of log-probability of full precision's words.
        match: mean difference of match probabilities; None without a quantized matcher.
    """

    states: float
    tokens: float
    language: float
    logits: float
    same: float
    decided: int
    gap: float
    match: float | None

    @property
    def sentence(self) -> str:
        """The figures in words."""
        told = (
            f"logits have a cosine of {self.logits:.4f} with full precision's (vision tower {self.states:.4f}, Q-Former "
            f"{self.tokens:.4f}, language model {self.language:.4f}), {self.same:.0%} of {self.decided} decided words are the "
            f"same, full precision's words are {self.gap:.2f} per token less likely"
        )
        return told if self.match is None else f"{told}, match probabilities differ by {self.match:.3f}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a quantized model must reach. Broken kernels and lost outliers miss these by far, rounding does not."""

    logits: float
    same: float
    gap: float
    match: float

    def faults(self, found: Beside) -> list[str]:
        """The parts that miss them."""
        parts = (("vision tower", found.states), ("Q-Former", found.tokens), ("language model", found.language))
        faults = [name for name, cosine in parts if not cosine >= self.logits]
        if not faults and not (found.logits >= self.logits and found.same >= self.same and found.gap <= self.gap):
            faults.append("all parts together")
        if found.match is not None and not found.match <= self.match:
            faults.append("matcher")
        return faults


LIMITS: Final = {"8bit": Limits(0.99, 0.9, 0.3, 0.03), "4bit": Limits(0.9, 0.6, 1.0, 0.03)}


@torch.inference_mode()
def compare(trial: Trial, whole: Whole) -> Beside:
    """Both on the bundled pictures; the language models read the quantized one's captions.

    Args:
        trial: of the quantized model.
        whole: what it was made from.
    """
    ours, theirs = trial.captioner, whole.captioner
    states = theirs.trunk.see(trial.pixels)
    tokens = theirs.query(states)
    prompts = trial.prompts[: len(PICTURES)]
    texts = [spoken.ids for spoken in trial.batch[: len(PICTURES)]]
    expected = torch.cat(theirs.logits(tokens, prompts, texts))
    alone = torch.cat(ours.logits(tokens, prompts, texts))
    together = torch.cat(ours.logits(trial.tokens, prompts, texts))
    first, second = expected.topk(2).values.unbind(-1)
    decided = first - second > DECIDED
    words = expected.argmax(-1)
    agree = (together.argmax(-1) == words)[decided]
    lost = (expected.log_softmax(-1) - together.log_softmax(-1)).gather(-1, words[:, None])
    return Beside(
        states=_cosine(trial.states, states),
        tokens=_cosine(ours.query(states.to(trial.states.dtype)), tokens),
        language=_cosine(alone, expected),
        logits=_cosine(together, expected),
        same=float(agree.float().mean()) if len(agree) else 1.0,
        decided=len(agree),
        gap=float(lost.mean()),
        match=_match(trial, whole, states),
    )


def _match(trial: Trial, whole: Whole, states: Tensor) -> float | None:
    """Mean difference of the probabilities that each picture fits each statement."""
    ours, theirs, encode = trial.loaded.matcher, whole.matcher, trial.loaded.matcher_words
    if ours is None or theirs is None or encode is None:
        return None
    ids = [encode(picture.statement).ids for picture in PICTURES]
    shared = trial.loaded.shared_trunk
    own = trial.states if shared else ours.trunk.see(trial.matcher_pixels)
    full = states if shared else theirs.trunk.see(trial.matcher_pixels)
    return float((_fits(ours, own, ids) - _fits(theirs, full, ids)).abs().mean())


def _fits(matcher: Matcher, states: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([matcher.match(states[row : row + 1], ids).softmax(-1)[:, 1] for row in range(len(states))])


def _cosine(one: Tensor, other: Tensor) -> float:
    """Mean cosine of the last dimension."""
    return float(torch.cosine_similarity(one.float(), other.float().to(one.device), dim=-1).mean())
