"""A question as a row of phrases and words, and what stands where in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from blip2tools.vision.premises import words
from blip2tools.vision.premises.phrases import Phrase, Unit
from blip2tools.vision.premises.tokens import Token

# How a question may begin before it begins; what follows is a question or a sentence of its own.
_OPENING: Final = re.compile(
    r"(?:"
    r"(?:please|hey|hi|hello|ok|okay|so|well|and|but|also|now)\b"
    r"|(?:can|could|would|will) (?:you|we|one) (?:please )?(?:tell|show|inform) (?:me|us)\b"
    r"|(?:please )?(?:tell|show) (?:me|us)\b"
    r"|(?:do|would|could|can) you (?:happen to )?(?:know|say|think|believe|agree|guess|confirm|determine|figure out)\b"
    r"|i (?:wonder|want to know|would like to know|need to know)\b|i'd like to know\b|any idea\b"
    r"|(?:is|was) it (?:really )?(?:true|correct|right|the case|so|possible|likely|certain|fair to say)\b"
    r"|would it be (?:true|correct|right|fair|accurate) to (?:say|call|describe)\b"
    r"|(?:check|find out|verify|determine|make sure)(?= (?:if|whether|that)\b)"
    r"|am i right(?: in thinking)?\b"
    r"|does it (?:look like|look as if|look as though|seem like|seem as if|seem|appear as if|appear)"
    r"(?= (?:that|the|this|there|a)\b.* (?:is|are|was|were|has|have|can|will|would|do|does|\w+ing)\b)"
    r"|(?:in|from|on|based on|according to|looking at|judging by|given) (?:your opinion|(?:the|this|that) "
    r"(?:picture|image|photo|photograph|scene|shot))\b"
    r"|that(?= (?:the|there|a|an|this|these)\b)"
    r")[,:]?\s*",
    re.IGNORECASE,
)
_CLOSING: Final = re.compile(
    r"\s*[?.!\s]*$|(?:,\s*(?:right|correct|true|yes|no|huh|ok|okay)|,?\s+(?:or not|yes or no|please))\s*[?.!\s]*$"
    r"|,\s*(?:is|are|was|were|does|do|did|has|have|can|could)(?:n't| not)? (?:it|they|he|she|there|you)\s*[?.!\s]*$",
    re.IGNORECASE,
)

_COMMANDS: Final = words.listed("describe name identify read find locate count list point state give explain specify")
_KIND_OF: Final = words.listed(
    "kind kinds type types sort sorts brand breed style color colors colour colours make model variety"
)
# What says of a thing that it is there.
THERE: Final = words.listed(
    "visible present shown seen found pictured depicted displayed there here anywhere available somewhere detected spotted "
    "displayed drawn advertised featured mentioned"
)


# Other spellings of a question word.
_SPELT: Final = (
    (re.compile(r"\bwhere ?abouts\b", re.IGNORECASE), "where"),
    (re.compile(r"\bhow come\b", re.IGNORECASE), "why"),
)
# How a thing is where it is: "the star that lies above the ring".
_LYING: Final = words.listed(
    "is are was were lies lie sits sit stands stand hangs hang rests rest appears located placed situated positioned drawn shown "
    "found seen"
)


def bare(question: str) -> str:
    """The question without politeness before and after."""
    text = question.strip()
    for spelling, word in _SPELT:
        text = spelling.sub(word, text)
    for _ in range(4):
        shorter = _OPENING.sub("", text, count=1) if _OPENING.match(text) else text
        shorter = _CLOSING.sub("", shorter, count=1)
        if shorter == text or not shorter:
            break
        text = shorter
    return text


class Sentence:
    """The phrases and words of one question, by place.

    Args:
        found: what `phrases.units` made of it.
    """

    def __init__(self, found: list[Unit]) -> None:
        self._units = found
        self._shorten_clauses()
        self._wh = self._find_wh()
        first = self._token(0)
        self._yes_no = self._wh is None and first is not None and first.tag in ("be", "do", "have", "modal")
        self._part_predicate()
        command = self._phrase(0)
        self._command = (
            command is not None and command.start is None and command.nouns[:1] != () and command.nouns[0] in _COMMANDS
        )
        self._modal = self._has(lambda token: token.tag == "modal")

    def _find_wh(self) -> int | None:
        for place, unit in enumerate(self._units):
            if isinstance(unit, Token) and unit.tag == "wh":
                return place
        return None

    def _shorten_clauses(self) -> None:
        """ "the star that is above the ring" is the star above the ring, and "the star which is red" the red star."""
        for place in range(len(self._units) - 1, -1, -1):
            named, joint, after = self._phrase(place), self._token(place + 1), place + 2
            if named is None or not named.nouns or joint is None or joint.text not in ("that", "which", "who"):
                continue
            while (token := self._token(after)) is not None and (token.text in _LYING or token.tag == "adverb"):
                after += 1
            if after == place + 2 or token is None:
                continue
            if token.tag == "prep":
                self._units[place + 1 : after] = []
            elif token.tag == "adjective" and token.text not in words.COMPARATIVES:
                self._units[place : after + 1] = [replace(named, modifiers=(*named.modifiers, token.text))]

    def _part_predicate(self) -> None:
        """Take what is said of the subject off its name, where it looks like one more noun: "is the grass lush or dry?"."""
        subject, rest = self._phrase(1), self._units[2:]
        said = all(isinstance(unit, Token) and unit.tag in ("adjective", "participle", "ing") for unit in rest[1:])
        ends = not rest or (isinstance(rest[0], Token) and rest[0].text == "or" and said)
        be = self._token(0)
        if not (self._yes_no and ends and be is not None and be.tag == "be") or subject is None:
            return
        if len(subject.nouns) > 1 and subject.definite and subject.determiner not in words.POINTING:
            predicate = Token(subject.nouns[-1], "adjective")
            self._units = [be, replace(subject, nouns=subject.nouns[:-1]), predicate, *rest]

    def _token(self, place: int) -> Token | None:
        if 0 <= place < len(self._units):
            unit = self._units[place]
            return unit if isinstance(unit, Token) else None
        return None

    def _phrase(self, place: int) -> Phrase | None:
        if 0 <= place < len(self._units):
            unit = self._units[place]
            return unit if isinstance(unit, Phrase) else None
        return None

    def _before(self, place: int) -> Token | None:
        """The token before a place, adverbs left out; None where a phrase stands, or nothing."""
        place -= 1
        while (token := self._token(place)) is not None and token.tag in ("adverb", "not"):
            place -= 1
        return self._token(place)

    def _after(self, place: int) -> int:
        """The place after a place, adverbs left out."""
        place += 1
        while (token := self._token(place)) is not None and token.tag in ("adverb", "not") and token.text not in THERE:
            place += 1
        return place

    def _has(self, test: Callable[[Token], bool], first: int = 0, last: int | None = None) -> bool:
        return any(isinstance(unit, Token) and test(unit) for unit in self._units[first:last])

    def _is_wh(self, *those: str) -> bool:
        return self._wh is not None and isinstance(token := self._units[self._wh], Token) and token.text in those

    def _belongs_to_wh(self, place: int) -> bool:
        """Whether a phrase is what "what", "which" or "how many" stands before: "what kind of dog"."""
        if self._wh is None:
            return False
        if place == self._wh + 1:
            return not self._is_wh("who", "why", "where", "when", "how")
        of, kind = self._token(place - 1), self._phrase(place - 2)
        return (
            of is not None
            and of.text == "of"
            and kind is not None
            and place - 2 == self._wh + 1
            and kind.head in _KIND_OF
        )

    def _is_and(self, place: int) -> bool:
        token = self._token(place)
        return token is not None and token.text in ("and", "or")
