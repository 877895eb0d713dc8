"""A question as tagged tokens: what kind of word each one is, as far as the question itself tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from blip2tools.vision.premises import words

Tag = Literal[
    "the", "own", "a", "vague", "number", "amount", "wh", "be", "do", "have", "modal", "pronoun", "this", "there", "and",
    "prep", "to", "not", "adverb", "adjective", "ing", "participle", "verb", "noun", "'s", ",",
]  # fmt: skip

_TOKEN: Final = re.compile(r"[^\W_]+(?:[-.&/][^\W_]+)*|n't|['’]\w+|[,;:]", re.UNICODE)
_IS: Final = words.QUESTION_WORDS | words.PRONOUNS | {"there", "that", "here", "this"}
_SIMPLE: Final[tuple[tuple[frozenset[str], Tag], ...]] = (
    (frozenset(("there",)), "there"),
    (frozenset(("to",)), "to"),
    (frozenset(("not", "n't")), "not"),
    (words.DEFINITE, "the"),
    (words.POSSESSIVE - {"her", "his", "whose"}, "own"),
    (words.QUESTION_WORDS, "wh"),
    (words.INDEFINITE, "a"),
    (words.VAGUE, "vague"),
    (words.NUMBERS, "number"),
    (words.AMOUNTS, "amount"),
    (words.BE, "be"),
    (words.DO, "do"),
    (words.HAVE, "have"),
    (words.MODALS, "modal"),
    (words.PRONOUNS, "pronoun"),
    (words.CONJUNCTIONS, "and"),
    (words.PREPOSITIONS, "prep"),
    (words.ADVERBS, "adverb"),
)
_TAGS: Final[dict[str, Tag]] = {}
for _group, _kind in _SIMPLE:
    for _word in _group:
        _TAGS.setdefault(_word, _kind)

# Prepositions of several words, longest first: "the left of" is not a noun phrase.
_COMPLEX: Final = tuple(
    tuple(phrase.split())
    for phrase in sorted(
        (
            f"{start}{side}{side_word} of"
            for start in ("to the ", "on the ", "at the ", "in the ", "")
            for side in ("left", "right", "left-hand", "right-hand")
            for side_word in ("", " side", " hand side")
        ),
        key=len,
        reverse=True,
    )
) + tuple(
    tuple(phrase.split())
    for phrase in (
        "on the other side of", "in the middle of", "in the center of", "in the centre of", "on the side of",
        "in the back of", "at the back of", "on the back of", "at the top of", "at the bottom of", "on the top of",
        "on the bottom of", "in the corner of", "at the end of", "on the edge of", "in front of", "on top of",
        "next to", "close to", "closest to", "nearest to", "attached to", "connected to", "adjacent to", "away from",
        "out of", "inside of", "outside of", "off of", "instead of", "because of", "as well as", "along with",
        "in between", "up against", "in back of", "beside of", "underneath of", "by the side of",
    )
)  # fmt: skip
_COMPLEX_BY_FIRST: Final[dict[str, list[tuple[str, ...]]]] = {}
for _phrase in _COMPLEX:
    _COMPLEX_BY_FIRST.setdefault(_phrase[0], []).append(_phrase)


@dataclass(frozen=True, slots=True)
class Token:
    """One word, or a preposition of several, and its kind."""

    text: str  # lower case
    tag: Tag
    capital: bool = False  # whether it was written with a capital inside the question


def tokens(question: str) -> list[Token]:
    """The question's words in order, contractions taken apart, without the marks that end it."""
    spelt = _TOKEN.findall(_apart(question))
    lowered = [word.lower().replace("’", "'") for word in spelt]
    found: list[Token] = []
    place = 0
    while place < len(lowered):
        phrase = _complex_at(lowered, place)
        if phrase:
            found.append(Token(" ".join(phrase), "prep"))
            place += len(phrase)
            continue
        word, capital = lowered[place], place > 0 and spelt[place][:1].isupper()
        if word == "'s" and (not found or _is_after(found[-1], lowered[place + 1 : place + 2])):
            word = "is"
        found.append(Token(word, _tag(word, capital), capital))
        place += 1
    return found


def _apart(question: str) -> str:
    """Contractions with a space before their second part."""
    text = question.replace("’", "'")
    text = re.sub(r"(?i)\bcan't\b|\bcannot\b", "can not", text)
    text = re.sub(r"(?i)\bwon't\b", "will not", text)
    text = re.sub(r"(?i)n't\b", " not", text)
    text = re.sub(r"(?i)'re\b", " are", text)
    text = re.sub(r"(?i)\bwhats\b", "what is", text)
    return re.sub(r"(?i)s'(?=\s)", "s 's", re.sub(r"(?i)'s\b", " 's", text))


def _complex_at(lowered: list[str], place: int) -> tuple[str, ...] | None:
    for phrase in _COMPLEX_BY_FIRST.get(lowered[place], ()):
        if tuple(lowered[place : place + len(phrase)]) == phrase:
            return phrase
    return None


def _is_after(before: Token, after: list[str]) -> bool:
    """Whether 's stands for "is": after a pronoun, or before what no owner has."""
    if before.text in _IS and not before.text.endswith(("one", "body")):
        return True
    if not after:
        return False
    tag = _TAGS.get(after[0])
    return tag in ("the", "own", "a", "prep", "wh", "not", "and") or (
        after[0].endswith("ing") and after[0] not in words.ING_NOUNS | words.COMPOUND_ING
    )


def _tag(word: str, capital: bool) -> Tag:
    simple = _TAGS.get(word)
    if simple is not None:
        return simple
    if word in (",", ";", ":"):
        return ","
    if word == "'s":
        return "'s"
    if word[0].isdigit() or word[0] == "'":
        return "number"
    if word in words.ADJECTIVES:
        return "adjective"
    if capital:
        return "noun"
    return _by_form(word)


def _by_form(word: str) -> Tag:
    if word in words.PARTICIPLES:
        return "participle"
    if word in words.FINITE:
        return "verb"
    if word.endswith("ing") and len(word) > 4 and word not in words.ING_NOUNS:
        return "ing"
    if word.endswith("ed") and len(word) > 3 and word not in words.NOT_PARTICIPLES:
        return "participle"
    if word.endswith("ly") and word not in words.NOT_ADVERBS:
        return "adverb"
    ending = word.endswith(("ful", "less", "ous", "able", "ible", "ish", "ive")) or (
        word.endswith("most") and len(word) > 5
    )
    if ending and word not in words.NOT_ADJECTIVES:
        return "adjective"
    return "noun"
