"""Pairs of a true statement and one that is an edit away → rows of tokens for the matcher.

Besides whether a text fits its picture, each row asks for the right word at places where a word is masked or wrong, and for
the places of wrong words. Yes or no alone, about texts that differ in one word, is too little to learn from at first.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from blip2tools.demo.statements import ALL_EDITS, Edit, Statement, StatementKind, falsify, true_statement
from blip2tools.demo.world import Scene

IGNORED: Final = -100
MORE_EDITS: Final[tuple[Edit, ...]] = ("color", "shape", "size")
_EASY: Final = 0.1  # weight of a word that is there already
_FUNCTION: Final = frozenset(
    {
        *("[CLS]", "[SEP]", "[PAD]", ",", "a", "an", "the", "of", "on", "in", "at", "to", "and"),
        *("saying", "background", "object", "objects"),
    }
)
# Statements that can be edited so, the short ones first.
_SHORT: Final[dict[Edit, tuple[StatementKind, ...]]] = {
    "color": ("one", "relation", "two", "place"),
    "shape": ("one", "relation", "two", "place"),
    "size": ("one", "relation", "two", "place"),
    "swap": ("relation", "two"),
    "relation": ("relation",),
    "place": ("place",),
    "background": ("background", "one", "relation", "two", "place"),
    "number": ("number",),
    "addition": ("one", "two"),
    "character": ("one", "relation", "two", "place"),
}
_LONG: Final[dict[Edit, tuple[StatementKind, ...]]] = {
    **dict.fromkeys(ALL_EDITS, ("caption", "summary")),
    "place": ("caption", "place"),
    "number": ("number",),
    "relation": ("caption", "summary", "relation"),
}
_SHORT_MASKED: Final[tuple[StatementKind, ...]] = ("one", "relation", "two", "place", "background", "number")
_LONG_MASKED: Final[tuple[StatementKind, ...]] = ("caption", "summary")


@dataclass(frozen=True, slots=True)
class Claim:
    """One text about a picture, as tokens.

    Attributes:
        ids: [CLS] ... [SEP].
        right: the right word at each place; -100 where it is not asked for.
        weight: how much that counts.
        wrong: 1 where a word is wrong, else 0; -100 where that is not asked for.
        true: 1 or 0; -100 where words are masked.
        edit: which edit this is about, as a number; -1 where words are masked.
    """

    ids: list[int]
    right: list[int]
    weight: list[float]
    wrong: list[int]
    true: int
    edit: int


@dataclass(frozen=True, slots=True)
class Claims:
    """N claims, equally many for each picture, in the pictures' order; tensors (N, T), (N) for `true`."""

    ids: Tensor
    right: Tensor
    weight: Tensor
    wrong: Tensor
    true: Tensor
    edits: list[int]


class Words:
    """The matcher's tokenizer on what the world says: a look-up, many times faster than the tokenizer itself."""

    def __init__(self, tokenizer: Any) -> None:
        self._ids: dict[str, int] = tokenizer.get_vocab()
        self.mask = self._ids["[MASK]"]
        self.size = len(tokenizer)
        self._cls, self._sep, self._says = (self._ids[word] for word in ("[CLS]", "[SEP]", "saying"))
        self._function = {self._ids[word] for word in _FUNCTION if word in self._ids}

    def __call__(self, text: str) -> list[int]:
        """Ids, [CLS] and [SEP] included."""
        return [self._cls, *(self._ids[word] for word in text.lower().replace(",", " ,").split()), self._sep]

    def content(self, ids: Sequence[int]) -> list[int]:
        """The places of words that say something about a picture: not of articles, but of what a sign says."""
        return [
            place
            for place, word in enumerate(ids)
            if word not in self._function or (ids[place - 1] == self._says and place > 1)
        ]


def claims(
    scene: Scene,
    words: Words,
    rng: random.Random,
    *,
    pairs: int,
    masked: int,
    short: bool,
    more: float,
    weights: Sequence[float],
) -> list[Claim]:
    """Claims about one scene: pairs of a true and a false one, and true ones with masked words.

    Args:
        scene: what they are about.
        words: the matcher's tokenizer.
        rng: the source of chance.
        pairs: how many pairs.
        masked: how many with masked words.
        short: whether they are short.
        more: the share of false ones with further edits.
        weights: how often each edit is made.
    """
    made: list[Claim] = []
    while len(made) < 2 * pairs:
        edit = rng.choices(range(len(ALL_EDITS)), weights)[0]
        pair = _pair(scene, rng, ALL_EDITS[edit], (_SHORT if short else _LONG)[ALL_EDITS[edit]], more)
        if pair:
            made += _compared(words(pair[0].text), words(pair[1].text), words, edit)
    for _ in range(masked):
        kind = rng.choice(_SHORT_MASKED if short else _LONG_MASKED)
        made.append(_masked(words(true_statement(scene, rng, kind).text), words, rng))
    return made


def batched(rows: Sequence[Claim], pad: int) -> Claims:
    """Rows padded on the right."""
    width = max(len(row.ids) for row in rows)

    def ids(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in values])

    return Claims(
        ids=ids([row.ids for row in rows], pad),
        right=ids([row.right for row in rows], IGNORED),
        weight=torch.tensor([row.weight + [0.0] * (width - len(row.weight)) for row in rows]),
        wrong=ids([row.wrong for row in rows], IGNORED),
        true=torch.tensor([row.true for row in rows]),
        edits=[row.edit for row in rows],
    )


def _pair(
    scene: Scene, rng: random.Random, edit: Edit, kinds: Sequence[StatementKind], more: float
) -> tuple[Statement, Statement] | None:
    for _ in range(6):
        truth = true_statement(scene, rng, rng.choice(kinds))
        found = falsify(truth, scene, rng, edit)
        if found is None or truth.truth(scene) is not True:
            continue
        false = found[0]
        if rng.random() < more:
            for _ in range(rng.randint(1, 2)):
                further = falsify(false, scene, rng, rng.choice(MORE_EDITS))
                false = further[0] if further else false
        return truth, false
    return None


def _compared(true: list[int], false: list[int], words: Words, edit: int) -> tuple[Claim, Claim]:
    content = set(words.content(true))
    right = [word if place in content else IGNORED for place, word in enumerate(true)]
    first = Claim(true, right, [_EASY] * len(true), [0] * len(true), 1, edit)
    if len(true) == len(false):
        differs = [one != other for one, other in zip(true, false, strict=True)]
        right = [word if place in content or differs[place] else IGNORED for place, word in enumerate(true)]
        weight = [1.0 if changed else _EASY for changed in differs]
        return first, Claim(false, right, weight, [int(changed) for changed in differs], 0, edit)
    # Of unequal length: all that stands between what they begin and end with alike is wrong.
    begin = next((place for place, (one, two) in enumerate(zip(true, false, strict=False)) if one != two), 0)
    shortest = min(len(true), len(false)) - begin
    end = next((place for place in range(shortest) if true[-1 - place] != false[-1 - place]), shortest)
    wrong = [int(begin <= place < len(false) - end) for place in range(len(false))]
    if not any(wrong):
        wrong[max(0, begin - 1)] = 1
    return first, Claim(false, [IGNORED] * len(false), [0.0] * len(false), wrong, 0, edit)


def _masked(true: list[int], words: Words, rng: random.Random) -> Claim:
    content = words.content(true)
    share = rng.uniform(0.2, 0.6)
    hidden = {place for place in content if rng.random() < share} or {rng.choice(content)}
    return Claim(
        ids=[words.mask if place in hidden else word for place, word in enumerate(true)],
        right=[word if place in hidden else IGNORED for place, word in enumerate(true)],
        weight=[1.0] * len(true),
        wrong=[IGNORED] * len(true),
        true=IGNORED,
        edit=-1,
    )
