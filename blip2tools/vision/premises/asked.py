"""What a question asks, and so does not take for granted: whether a thing is there, how many there are, what something is."""

from __future__ import annotations

from typing import Final

from blip2tools.vision.premises import statements, words
from blip2tools.vision.premises.phrases import Phrase
from blip2tools.vision.premises.sentence import THERE, Sentence
from blip2tools.vision.premises.tokens import Token

_SEEING: Final = words.listed("see find spot notice identify detect recognize locate observe make perceive")
_HOLDING: Final = words.listed("contain contains show shows have has include includes depict depicts feature features")
_COUNTING: Final = words.listed("number count amount quantity total")
_CLOSED: Final = frozenset(("the", "own"))


class Asked(Sentence):
    """A question, with tests of what is asked in it."""

    def _is_asked_for(self, place: int, phrase: Phrase) -> bool:
        """Whether the question is whether, or how often, it is there."""
        before = self._before(place)
        if self._is_counted(place, before):
            return True
        if self._is_wh("why") or self._is_wh("where"):
            return False
        if self._is_listed(place):
            return True
        if before is not None and before.tag == "there" and self._has(lambda token: token.tag == "be"):
            return self._wh is None or self._is_wh("what", "which")
        if self._wh is not None or self._command:
            return False
        subject = self._units[1] if len(self._units) > 1 else None
        if before is not None and before.text in _SEEING and isinstance(subject, Token) and subject.tag == "pronoun":
            return True
        if (
            before is not None
            and before.text in _HOLDING
            and isinstance(subject, Phrase)
            and subject.head in words.PICTURE
        ):
            return True
        return self._is_said_to_be_there(place)

    def _is_listed(self, place: int) -> bool:
        """Whether it follows, by "and" or a comma, something that is asked for."""
        before = self._token(place - 1)
        if before is None or before.text not in ("and", "or", "nor", ","):
            return False
        earlier = place - 2
        if before.text in ("and", "or") and (comma := self._token(earlier)) is not None and comma.tag == ",":
            earlier -= 1
        phrase = self._phrase(earlier)
        return phrase is not None and phrase.start not in _CLOSED and self._is_asked_for(earlier, phrase)

    def _is_counted(self, place: int, before: Token | None) -> bool:
        if before is None:
            command = self._phrase(place - 1)
            return command is not None and command.nouns == ("count",)
        if before.text in ("many", "much"):
            return True
        if before.text == "of":
            counted = self._phrase(place - 2)
            return counted is not None and (counted.head in _COUNTING)
        return before.text == "count"

    def _is_said_to_be_there(self, place: int) -> bool:
        """ "is the star visible?", "is a star in the picture?", "can a star be seen?", "does a star appear?"."""
        after = self._after(place)
        while (
            (token := self._token(after)) is not None
            and token.tag in ("be", "verb", "adverb")
            and token.text not in THERE
        ):
            if token.tag == "verb" and token.text not in ("appear", "exist", "appears", "exists", "occur"):
                return False
            if token.text in ("appear", "exist", "exists") and after == len(self._units) - 1:
                return True
            after += 1
        if token is None:
            return False
        rest = self._units[after + 1 :]
        if token.text in THERE:
            return not rest or all(isinstance(unit, Token) or unit.head in words.PICTURE for unit in rest)
        if token.text in ("in", "on", "within", "inside", "at") and rest and isinstance(rest[0], Phrase):
            return (
                len(rest) == 1
                and rest[0].head in words.PICTURE | {"view", "sight"}
                and rest[0].head not in ("background", "foreground")
            )
        return False

    def _is_predicate(self, place: int) -> bool:
        """Whether it is said of a person or thing: "is this a bathroom?", "is the man a cook?"."""
        before = self._units[place - 1] if place else None
        back = place - 1
        while isinstance(before, Token) and before.tag in ("adverb", "not"):
            back -= 1
            before = self._units[back] if back >= 0 else None
        if isinstance(before, Token) and before.text in ("or", "and", ","):
            earlier = self._phrase(back - 1)
            return earlier is not None and self._is_predicate(back - 1)
        if isinstance(before, Token) and before.tag == "be":
            # "the star is a ring", "which one is the star": the first is said of something, the second is what is asked about
            subject = self._units[back - 1] if back else None
            if subject is None or isinstance(subject, Token):
                return False
            return self._wh is None or self._is_which(place, subject)
        if not (isinstance(before, Phrase) or (isinstance(before, Token) and before.tag in ("this", "pronoun"))):
            return False
        if isinstance(before, Phrase) and self._wh is not None and self._belongs_to_wh(back):
            return False
        return self._has(lambda token: token.tag == "be", 0, back) and not self._has(
            lambda token: token.tag in ("ing", "participle", "verb", "there"), 0, back
        )

    def _is_which(self, place: int, subject: Phrase) -> bool:
        """Whether it is what one of several is asked to be: "which of the shapes is a star?", "which animal is a zebra?"."""
        phrase, first = self._phrase(place), None if self._wh is None else self._phrase(self._wh + 1)
        asked = first or subject
        ends = place == len(self._units) - 1
        return (
            ends
            and phrase is not None
            and not phrase.definite
            and self._is_wh("which")
            and asked.head not in words.ASKED_BEFORE
        )

    def _is_all_there_is(self, place: int, phrase: Phrase) -> bool:
        """Whether "this" and a name without article are all of a question: "is this pizza?", "are these cows or horses?"."""
        if phrase.determiner not in words.POINTING or not self._yes_no or place != 1:
            return False
        one_of_many = phrase.determiner in ("this", "that") and statements.is_plural(phrase.head)
        rest = self._units[place + 1 :]
        return one_of_many or all(isinstance(unit, Phrase) or unit.text in ("or", "and", ",") for unit in rest)

    def _is_where_this_is(self, place: int) -> bool:
        """Whether it is where the whole picture was taken: "is this in the kitchen?"."""
        prep, what = self._token(place - 1), self._units[1] if len(self._units) > 1 else None
        is_whole = what.tag == "this" if isinstance(what, Token) else what is not None and what.head in words.PICTURE
        if not (self._yes_no and is_whole and prep is not None and prep.text in ("in", "at", "on", "inside")):
            return False
        between = self._units[2 : place - 1]
        return all(
            isinstance(unit, Token) and unit.text in ("taken", "located", "set", "place", "likely") for unit in between
        )

    def _is_name_of_picture(self, place: int) -> bool:
        """ "is this a photo of the tower?" asks for the tower."""
        of, picture = self._token(place - 1), self._phrase(place - 2)
        return (
            of is not None
            and of.text == "of"
            and picture is not None
            and picture.head in words.PICTURE
            and picture.head not in ("background", "foreground")
        )
