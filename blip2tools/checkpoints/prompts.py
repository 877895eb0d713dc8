"""Words to token ids and back, in the forms that the models were trained on, so that `model/` only sees ids.

Nothing that a caller types can become a special token: "</s>" in a question is the four characters, not the end of the
text.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tokenizers import Tokenizer

VQA_TEMPLATE = "Question: {question} Short answer:"  # zero-shot VQA configurations of LAVIS
TURN = "Question: {question} Answer: {answer}."
NEWEST_TURN = "Question: {question} Answer:"

CANDIDATE_TOKENS = 32  # of an answer to rank
MATCH_TOKENS = 32  # max_txt_len of LAVIS's matcher, [CLS] and [SEP] included
STATEMENTS = 1024  # rows of short texts that are kept, a few hundred bytes each
RETRIEVAL_TOKENS = 35  # of LAVIS's `compute_sim_matrix`, by which the published recall was measured
_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")  # lavis/processors/blip_processors.py, pre_caption
# What the tokenizers of the reference join when they decode (transformers 4, `clean_up_tokenization_spaces`), in this order.
_JOINED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids for one row, and whether all of the text is in them."""

    ids: tuple[int, ...]
    truncated: bool = False


class PlainEncoder:
    """Text to ids without special tokens, whatever the text holds.

    Args:
        tokenizer: changed by this: truncation, padding and the recognition of special tokens are switched off.
        reserved: further ids that no text may produce, such as an end-of-sequence id that is an ordinary token.
    """

    def __init__(self, tokenizer: Tokenizer, reserved: Iterable[int] = ()) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        unknown = _unknown_id(tokenizer)
        self._tokenizer = tokenizer
        self._reserved = ({*added, *reserved}) - ({unknown} - {*reserved})
        self._names = sorted((token.content for token in added.values()), key=len, reverse=True)

    def __call__(self, text: str) -> list[int]:
        """Ids of `text`, none of them reserved.

        A sentencepiece vocabulary (T5) holds its special tokens as ordinary pieces too, so that switching off their
        recognition is not enough there; then a space after their first character keeps them from being one piece.
        """
        ids = self._encode(text)
        if self._reserved.isdisjoint(ids):
            return ids
        for name in self._names:
            text = text.replace(name, f"{name[0]} {name[1:]}")
        return [token for token in self._encode(text) if token not in self._reserved]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out, without space around it and before punctuation."""
        text = str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
        for spaced in _JOINED:
            text = text.replace(spaced, spaced.strip())
        return text.strip()

    @property
    def fingerprint(self) -> str:
        """Digest of the tokenizer's whole definition."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:16]

    @property
    def vocabulary(self) -> int:
        """One more than the largest id that a text can give.

        Special tokens are none of them: the published matcher's tokenizer has `<image>`, for which there is no row.
        """
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return 1 + max((number for number in ids if number not in self._reserved), default=-1)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class CaptionerText:
    """Prompts for a captioner: OPT rows are BOS + text, T5 rows are text + EOS.

    Args:
        tokenizer: the checkpoint's tokenizer; changed by this.
        family: "opt" or "t5".
        special: the BOS id (OPT) or the EOS id (T5).
        budget: the most ids in a prompt, the special one included.
        reserved: further ids that no text may produce.
        template: the form of questions, with `{question}` in it.
        prompt: the beginning that captions were trained to continue; empty is none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        family: Literal["opt", "t5"],
        *,
        special: int,
        budget: int,
        reserved: Iterable[int] = (),
        template: str = VQA_TEMPLATE,
        prompt: str = "",
    ) -> None:
        self._template = template
        self.prompt = prompt
        self.family = family
        self.budget = budget
        self._special = special
        self._encode = PlainEncoder(tokenizer, {special, *reserved})

    @property
    def fingerprint(self) -> str:
        """Digest of the tokenizer."""
        return self._encode.fingerprint

    @property
    def vocabulary(self) -> int:
        """One more than the largest id that a text can give."""
        return self._encode.vocabulary

    def caption(self, prompt: str | None = None) -> Prompt:
        """The row for a caption that continues `prompt`, or for a free one. A prompt too long loses its beginning."""
        ids = self._encode(_line(prompt or ""))
        return self._row(ids[-(self.budget - 1) :], truncated=len(ids) > self.budget - 1)

    def question(self, question: str, history: Sequence[tuple[str, str]] = (), template: str | None = None) -> Prompt:
        """The row for an answer.

        Args:
            question: what is asked.
            history: earlier (question, answer) pairs, oldest first. With them the dialogue form of the demonstrations
                of LAVIS is used instead of the template. Where it is too long, the oldest pairs go first.
            template: text with `{question}`, for a question without history; None is the checkpoint's own.
        """
        turns = [TURN.format(question=_line(past), answer=_line(told).rstrip(".")) for past, told in history]
        newest = NEWEST_TURN if turns else template or self._template
        asked = _line(question)
        for first in range(len(turns) + 1):
            ids = self._encode(" ".join([*turns[first:], newest.replace("{question}", asked)]))
            if len(ids) < self.budget:
                return self._row(ids, truncated=first > 0)
        return self._row(self._end_of(asked, newest), truncated=True)

    def _end_of(self, question: str, template: str) -> Sequence[int]:
        """Ids of as much of the question's end as fits, in the whole template: what is asked usually stands at the end."""
        low, high = 1, len(question)
        while low < high:
            middle = (low + high) // 2
            fits = len(self._encode(template.replace("{question}", question[middle:]))) < self.budget
            low, high = (low, middle) if fits else (middle + 1, high)
        _, space, whole_words = question[low - 1 :].partition(" ")
        end = whole_words if space else question[low:]
        return self._encode(template.replace("{question}", end))[-(self.budget - 1) :]

    def candidate(self, text: str) -> tuple[int, ...]:
        """Ids of an answer to rank after a prompt, without EOS: as the model itself would continue. 32 at most."""
        # OPT's byte-level words carry the space before them; sentencepiece adds it by itself.
        ids = self._encode(" " + _line(text) if self.family == "opt" else _line(text))
        return tuple(ids[:CANDIDATE_TOKENS])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids."""
        return self._encode.decode(ids)

    def _row(self, ids: Sequence[int], *, truncated: bool) -> Prompt:
        row = (self._special, *ids) if self.family == "opt" else (*ids, self._special)
        return Prompt(row, truncated)


class MatcherText:
    """Texts for a matcher: lower case, most punctuation removed as LAVIS does, [CLS] ... [SEP], 32 ids at most.

    Args:
        tokenizer: the checkpoint's BERT tokenizer; changed by this.
        cls: id of [CLS].
        sep: id of [SEP].
        limit: the most ids, the special ones included.
    """

    def __init__(self, tokenizer: Tokenizer, *, cls: int, sep: int, limit: int = MATCH_TOKENS) -> None:
        self._encode = PlainEncoder(tokenizer, {cls, sep})
        self._cls, self._sep, self._limit = cls, sep, limit
        itself = weakref.proxy(self)  # else it would keep itself, and the tokenizer, alive
        self.statement = lru_cache(maxsize=STATEMENTS)(lambda text: (itself(text), itself.spells(text)))
        """The row for a short text, and whether `spells` is true of it; questions take the same few things for granted."""

    @property
    def fingerprint(self) -> str:
        """Digest of the tokenizer."""
        return self._encode.fingerprint

    @property
    def vocabulary(self) -> int:
        """One more than the largest id that a text can give."""
        return self._encode.vocabulary

    def __call__(self, text: str, limit: int | None = None) -> Prompt:
        """The row for one text. A text of punctuation alone keeps it.

        Args:
            text: what to read.
            limit: the most ids, the special ones included, if not the same as for a match.
        """
        lowered = _line(text.lower())
        ids = self._encode(_line(_PUNCTUATION.sub(" ", lowered)) or lowered)
        room = (limit or self._limit) - 2
        return Prompt((self._cls, *ids[:room], self._sep), truncated=len(ids) > room)

    def spells(self, text: str) -> bool:
        """Whether a word of a text is spelt out, in pieces of fewer than two letters, because the vocabulary lacks it.

        A vocabulary of English words has longer pieces, whatever the word.
        """
        words = [word for word in text.lower().split() if len(word) > 2 and word.isalpha()]
        return any(len(word) < 2 * len(self._encode(word)) for word in words)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        return self._encode.decode(ids)


def _line(text: str) -> str:
    """One line, single spaces: a newline is OPT's end of sequence."""
    return " ".join(text.split())


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id for what the vocabulary lacks; the one special id that plain text may rightly produce."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    if isinstance(unknown, str):
        found = tokenizer.token_to_id(unknown)
        return None if found is None else int(found)
    return next((i for i, t in tokenizer.get_added_tokens_decoder().items() if t.content in ("<unk>", "[UNK]")), None)
