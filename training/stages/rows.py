"""Captions and questions of a picture → one row of tokens for the language model.

All texts about a picture are in one row after its image tokens, so that the picture is read once for all of them. The
segments do not see each other: each begins at the position that it would have alone, right after the image tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from blip2tools.checkpoints.prompts import NEWEST_TURN, TURN, VQA_TEMPLATE
from blip2tools.demo.questions import QUESTION_WEIGHTS, QuestionKind, sample_questions
from blip2tools.demo.words import caption
from blip2tools.demo.world import Scene
from training.stages.tokenizers import PROMPTS
from training.wording import reword

PAD: Final = 1
ENDS: Final = 2  # OPT's `</s>` begins and ends every text
IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Segment:
    """Something the model is to say: after the prompt, the answer."""

    prompt: str
    answer: str
    kind: QuestionKind | None  # None for a caption


@dataclass(frozen=True, slots=True)
class Rows:
    """B packed rows of T tokens.

    Attributes:
        ids: (B, T) int64.
        wanted: (B, T) int64: the token that should follow, -100 where nothing is asked.
        segments: (B, T) int64: which segment a token belongs to, from 1; 0 is padding.
        positions: (B, T) int64: behind the image tokens, from 0, as if each segment stood alone.
        kinds: of each row, what its segments are.
    """

    ids: Tensor
    wanted: Tensor
    segments: Tensor
    positions: Tensor
    kinds: list[list[QuestionKind | None]]


def segments(
    scene: Scene, questions: int, rng: random.Random, weights: Mapping[QuestionKind, float] = QUESTION_WEIGHTS
) -> list[Segment]:
    """The caption, sometimes the caption after a prompt, and a few questions, some of them with earlier ones before them."""
    said = [Segment("", caption(scene), None)]
    if rng.random() < 0.3:
        said.append(Segment(rng.choice(PROMPTS), caption(scene), None))
    asked = sample_questions(scene, questions, rng, weights=weights, balanced=True)
    turns = [(reword(question.text, rng), question) for question in asked]
    for number, (text, question) in enumerate(turns):
        prompt = rng.choice((NEWEST_TURN, VQA_TEMPLATE)).format(question=text)
        if number and rng.random() < 0.25:
            earlier = turns[max(0, number - rng.choice((1, 2, 2, 3))) : number]
            told = [TURN.format(question=past, answer=one.answer) for past, one in earlier]
            prompt = " ".join([*told, NEWEST_TURN.format(question=text)])
        said.append(Segment(prompt, question.answer, question.kind))
    return said


def pack(said: Sequence[Sequence[Segment]], tokenizer: Any) -> Rows:
    """Rows of the segments of each picture.

    Args:
        said: the segments of B pictures.
        tokenizer: the fast tokenizer beneath the captioner's.
    """
    # An answer is what the model says itself, so it carries the space before it.
    texts = [text for row in said for segment in row for text in (segment.prompt, f" {segment.answer}")]
    encoded = iter([encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)])
    packed = [_row(len(row), encoded) for row in said]
    width = -(-max(len(ids) for ids, *_ in packed) // 8) * 8

    def tensor(part: int, filler: int) -> Tensor:
        return torch.tensor([row[part] + [filler] * (width - len(row[part])) for row in packed])

    kinds = [[segment.kind for segment in row] for row in said]
    return Rows(tensor(0, PAD), tensor(1, IGNORED), tensor(2, 0), tensor(3, 0), kinds)


def _row(number: int, encoded: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    ids: list[int] = []
    wanted: list[int] = []
    which: list[int] = []
    positions: list[int] = []
    for segment in range(1, number + 1):
        prompt, answer = [ENDS, *next(encoded)], [*next(encoded), ENDS]
        length = len(prompt) + len(answer) - 1
        ids += (prompt + answer)[:-1]
        wanted += [IGNORED] * (len(prompt) - 1) + answer
        which += [segment] * length
        positions += range(length)
    return ids, wanted, which, positions
