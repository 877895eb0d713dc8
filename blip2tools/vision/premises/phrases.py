"""A question's noun phrases, and the words between them.

No grammar of English: a noun phrase is a determiner, what may stand before a noun, and nouns, and it ends where none of these
can go on. Only one rule needs the whole question: after "does" or "can" comes a subject and then a verb, and many verbs look
like nouns ("does the bus stop here?").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from blip2tools.vision.premises import words
from blip2tools.vision.premises.tokens import Tag, Token, tokens

_INSIDE: Final = ("adjective", "participle", "number", "amount", "ing")  # tags of what may stand before a noun
_VERBS: Final = ("verb", "ing", "participle")
_BETWEEN: Final = words.ALSO_NOUNS | words.COMPOUND_INSIDE
_AFTER_SUBJECT: Final = (
    "the",
    "a",
    "own",
    "vague",
    "number",
    "amount",
    "adverb",
    "prep",
    "to",
    "pronoun",
    "there",
    "adjective",
    ",",
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase.

    Attributes:
        start: the tag of what it begins with: a determiner, or None for a bare noun.
        determiner: that word, or "".
        modifiers: adjectives and the like, in order.
        nouns: its name; empty where it is called by an adjective alone ("the left").
        owner: whose it is ("the dog's tail"); a pronoun owner is a determiner instead.
    """

    start: Tag | None
    determiner: str
    modifiers: tuple[str, ...]
    nouns: tuple[str, ...]
    owner: Phrase | None = None

    @property
    def definite(self) -> bool:
        """Whether it speaks of something as known: "the star", "this star", "his star", "the dog's star"."""
        return self.start in ("the", "own") or self.owner is not None

    @property
    def head(self) -> str:
        """Its last noun; "" where there is none."""
        return self.nouns[-1] if self.nouns else ""


Unit: TypeAlias = "Phrase | Token"


def units(question: str) -> list[Unit]:
    """The question as noun phrases and the tokens between them, in order."""
    return _Reader(tokens(question)).read()


def _apostrophe(phrase: Phrase) -> Phrase:
    """The phrase with the owner that its writer forgot to mark: "the girls cup", "the mans hat"."""
    for place, noun in enumerate(phrase.nouns[:-1]):
        if noun in words.OWNERS:
            owner = replace(phrase, nouns=(*phrase.nouns[:place], noun))
            return replace(phrase, modifiers=(), nouns=phrase.nouns[place + 1 :], owner=owner)
    return phrase


class _Reader:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._units: list[Unit] = []
        self._wants_verb = False  # a subject and a verb are still to come
        self._subject = False  # the subject has come

    def read(self) -> list[Unit]:
        place = 0
        while place < len(self._tokens):
            token = self._tokens[place]
            if self._is_verb_now(token):
                self._put(Token(token.text, "verb"))
                place += 1
            elif self._starts(place):
                phrase, place = self._phrase(place)
                self._put(phrase)
            else:
                self._put(self._alone(token))
                place += 1
        return self._units

    def _put(self, unit: Unit) -> None:
        self._units.append(unit)
        if isinstance(unit, Phrase):
            self._subject = True
        elif unit.tag in ("do", "modal"):
            self._wants_verb, self._subject = True, False
        elif unit.tag in ("pronoun", "this", "there"):
            self._subject = True
        elif unit.tag in ("and", "prep"):
            self._subject = False
        elif unit.tag in (*_VERBS, "be", "have"):
            self._wants_verb = False

    def _is_verb_now(self, token: Token) -> bool:
        before = self._units[-1] if self._units else None
        if isinstance(before, Token) and before.tag == "to":
            return token.text in words.SURE_VERBS
        if not (self._wants_verb and self._subject):
            return False
        return token.tag in ("noun", *_VERBS, "have", "do") or (
            token.tag in ("adjective", "prep") and token.text in words.SURE_VERBS
        )

    def _alone(self, token: Token) -> Token:
        return Token(token.text, "this") if token.text in words.POINTING else token

    # ---- one phrase ----

    def _at(self, place: int) -> Token | None:
        return self._tokens[place] if place < len(self._tokens) else None

    def _starts(self, place: int) -> bool:
        token = self._tokens[place]
        match token.tag:
            case "noun":
                return True
            case "a" | "own":
                return True
            case "the":
                return token.text == "the" or self._points_at_noun(place + 1)
            case "pronoun":
                return token.text in ("his", "her") and self._noun_ahead(place + 1)
            case "vague" | "number" | "amount":
                return self._noun_ahead(place + 1) or self._is_of(place + 1)
            case "adjective":
                return self._noun_ahead(place) and not self._after_noun()
            case "participle" | "ing":
                return self._may_modify(place)
            case _:
                return False

    def _points_at_noun(self, place: int) -> bool:
        """Whether "this" or "those" stands before a noun, and is not the whole subject: "does this look new?"."""
        token, after = self._at(place), self._at(place + 1)
        if self._wants_verb and token is not None and token.text in words.SURE_VERBS and token.tag == "noun":
            return after is not None and after.tag in ("noun", "verb", "have", "do", "'s")
        return self._noun_ahead(place) or self._is_one(place)

    def _may_modify(self, place: int) -> bool:
        """Whether a form of a verb belongs to a noun that follows, without a determiner: "covered bridges"."""
        token, before = self._tokens[place], self._tokens[place - 1] if place else None
        if token.tag == "ing":
            return (
                token.text in words.COMPOUND_ING
                and self._noun_ahead(place)
                and before is not None
                and (before.tag in ("wh", "prep", "ing", "verb"))
            )
        return self._noun_ahead(place) and before is not None and before.tag in ("prep", "ing", "verb", "number")

    def _after_noun(self) -> bool:
        """Whether a phrase has just ended, so that an adjective is what is said of it: "is the dog black?"."""
        return bool(self._units) and isinstance(self._units[-1], Phrase) and self._units[-1].definite

    def _is_of(self, place: int) -> bool:
        of, the = self._at(place), self._at(place + 1)
        return of is not None and of.text == "of" and the is not None and the.tag in ("the", "own")

    def _is_one(self, place: int) -> bool:
        token = self._at(place)
        return token is not None and token.text in ("one", "ones")

    def _noun_ahead(self, place: int) -> bool:
        """Whether a noun comes, after nothing but what may stand before one."""
        while (token := self._at(place)) is not None and (token.tag in (*_INSIDE, "'s") or self._joins(place)):
            if token.text == "one" and not self._noun_ahead(place + 1):
                return True
            place += 1
        return token is not None and token.tag == "noun"

    def _joins(self, place: int) -> bool:
        """Whether "and" joins two adjectives: "the black and white sign"."""
        before, joint, after = self._at(place - 1), self._at(place), self._at(place + 1)
        return (
            place > 0
            and joint is not None
            and joint.text == "and"
            and before is not None
            and before.tag == "adjective"
            and after is not None
            and after.tag == "adjective"
        )

    def _phrase(self, place: int) -> tuple[Phrase, int]:
        start: Tag | None = None
        determiner = ""
        if self._tokens[place].tag in ("amount", "vague", "number") and self._is_of(place + 1):
            place += 2  # "both of the dogs" are the dogs
        while (token := self._at(place)) is not None and token.tag in ("the", "own", "a", "vague", "amount", "pronoun"):
            if start not in ("the", "own"):
                start, determiner = token.tag, token.text
            place += 1
        if start == "pronoun" or determiner == "both":
            start = "own" if start == "pronoun" else "the"
        phrase, place = self._name(place, start, determiner)
        phrase = _apostrophe(phrase)
        while (token := self._at(place)) is not None and token.tag == "'s":
            owned, after = self._name(place + 1, None, "")
            if not owned.nouns:
                place += 1
                break
            phrase, place = replace(owned, owner=phrase), after
        return phrase, place

    def _name(self, place: int, start: Tag | None, determiner: str) -> tuple[Phrase, int]:
        modifiers: list[str] = []
        numbered = start
        while (token := self._at(place)) is not None and self._is_inside(place):
            if token.tag == "number" and start is None:
                numbered = "number"
            elif token.tag != "number":
                modifiers.append(token.text)
            place += 1
        first = place
        place = self._end_of_nouns(place)
        if (
            modifiers
            and place > first
            and modifiers[-1] in words.COMPOUND_ING
            and self._tokens[first - 1].text == modifiers[-1]
        ):
            modifiers, first = modifiers[:-1], first - 1  # "the parking meter" is called so
        if place - first > 1 and self._after_wh(first) and self._tokens[first].text in words.ASKED_BEFORE:
            first += 1  # "what color hat": a hat
        nouns = [token.text for token in self._tokens[first:place]]
        if not nouns and (token := self._at(place)) is not None and self._may_be_name(token, start):
            nouns, place = [token.text], place + 1
        elif not nouns and start in ("the", "own") and token is not None and token.tag == "adjective":
            modifiers, place = [*modifiers, token.text], place + 1
        return Phrase(numbered, determiner, tuple(modifiers), tuple(nouns)), place

    def _is_inside(self, place: int) -> bool:
        return (self._tokens[place].tag in _INSIDE or self._joins(place)) and self._noun_ahead(place + 1)

    def _may_be_name(self, token: Token, start: Tag | None) -> bool:
        """Whether a word that is usually no noun is one here, at the end of a phrase: "the orange", "the left one"."""
        if token.text in ("one", "ones") or (token.tag == "adjective" and token.text in words.ALSO_NOUNS):
            return True
        return start is not None and token.tag == "ing"

    def _end_of_nouns(self, first: int) -> int:
        place = first
        while (token := self._at(place)) is not None:
            if token.tag == "noun":
                if place > first and token.capital and not self._tokens[place - 1].capital:
                    break  # "is the man Santa?"
            elif not (
                place > first
                and token.text in _BETWEEN
                and self._is_noun(place + 1)
                and not (self._wants_verb and token.text in words.SURE_VERBS)
            ):
                break
            place += 1
        return self._before_verb(first, place) if self._wants_verb and not self._subject else place

    def _after_wh(self, place: int) -> bool:
        return place > 0 and self._tokens[place - 1].tag == "wh"

    def _is_noun(self, place: int) -> bool:
        token = self._at(place)
        return token is not None and token.tag == "noun"

    def _before_verb(self, first: int, end: int) -> int:
        """The end of a subject whose verb looks like one more noun: at a word that is hardly ever a noun, else at the last."""
        run = [self._tokens[place].text for place in range(first + 1, end)]
        for place, word in enumerate(run, start=first + 1):
            if word in words.SURE_VERBS and word not in words.NOUNS_TOO:
                return place
        after = self._at(end)
        if after is not None and after.tag not in _AFTER_SUBJECT:
            return end
        if self._verb_later(end):
            return end
        candidates = [place for place, word in enumerate(run, start=first + 1) if word in words.NOUNS_TOO]
        if candidates:
            return candidates[-1]
        return end - 1 if end - first > 1 else end

    def _verb_later(self, place: int) -> bool:
        """Whether the verb comes behind something else that belongs to the subject: "does the truck in the road have"."""
        for token in self._tokens[place:]:
            if token.tag in ("and", "to"):
                return False
            sure = (
                token.text in words.SURE_VERBS
                and token.text not in words.NOUNS_TOO
                and token.tag not in ("prep", "adjective")
            )
            if sure or token.tag in ("have", "do", "be"):
                return True
        return False
