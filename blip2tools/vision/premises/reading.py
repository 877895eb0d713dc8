"""What a question takes for granted: its presuppositions, which are not what it asks.

A definite noun phrase ("the star", "this dog", "his hat") presupposes its thing; so does an indefinite one that a question about
something else is built on ("what is a man doing?"). What a question asks presupposes nothing: "is there a star?", "how many
stars?", and, of "is the star red?", only the star. A thing comes before the same thing with an attribute, and that before
two things and how they lie: the first false one is the explanation (Mahendru et al. 2017, arXiv 1705.00601).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from blip2tools.vision.premises import statements, words
from blip2tools.vision.premises.asked import Asked
from blip2tools.vision.premises.phrases import Phrase, Unit, units
from blip2tools.vision.premises.sentence import THERE, bare
from blip2tools.vision.premises.statements import Kind, Statement
from blip2tools.vision.premises.tokens import Token

_RELATIONS: Final = words.listed(
    "above under below beneath underneath over beside near behind on in inside atop against between with without holding "
    "wearing by at across onto within along around carrying riding"
)


_SENTENCES: Final = re.compile(r"(?<=[^\W\d_][^\W\d_][^\W\d_][.!?])\s+")
# A sentence before the question that says what is there.
_CLAIM: Final = re.compile(
    r"(?:(?:i|we|you) (?:can )?(?:see|notice|spot|found)|there(?: is|'s| are)|"
    r"(?:this|the) (?:picture|image|photo|photograph|scene) (?:shows|has|contains)) (?P<what>[^?]+)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The parts of a question that can be judged.

    Attributes:
        statements: what it takes for granted, in the order in which they are judged.
        pronoun: a pronoun that stands for something which the question does not name, "" if there is none: what it means cannot
            be judged.
    """

    statements: tuple[Statement, ...]
    pronoun: str = ""


def read(question: str) -> Reading:
    """What `question` takes for granted; it may be of several sentences."""
    readings = [_read_one(sentence) for sentence in _SENTENCES.split(question.strip())]
    if len(readings) == 1:
        return readings[0]
    found = {one.text: one for reading in readings for one in reading.statements}
    order: tuple[Kind, ...] = ("thing", "attribute", "relation")
    judged = sorted(found.values(), key=lambda one: order.index(one.kind))
    return Reading(tuple(judged), "" if judged else readings[-1].pronoun)


def _read_one(sentence: str) -> Reading:
    claim = _CLAIM.match(sentence)
    if claim is None:
        return _Question(units(bare(sentence))).reading()
    found: list[Statement] = []
    for unit in units(claim["what"]):
        if isinstance(unit, Phrase) and _is_thing(unit) and unit.start != "vague":
            found.append(statements.thing(unit))
            found += [statements.attribute(unit, seen)] if (seen := statements.visible(unit)) else []
    return Reading(tuple(dict.fromkeys(found)))


def named(caption: str, *, sized: bool = True) -> tuple[Statement, ...]:
    """The things that a caption names, each once, with what it says of them that can be seen; without sizes if not `sized`."""
    found: dict[str, Statement] = {}
    for unit in units(caption):
        if not isinstance(unit, Phrase) or not _is_thing(unit):
            continue
        if unit.start in ("a", "the", "number") or statements.is_plural(unit.head) or unit.head in words.MASS:
            seen = tuple(word for word in statements.visible(unit) if sized or word not in words.SIZES)
            one = statements.attribute(unit, seen) if seen else statements.thing(unit)
            found.setdefault(one.plain, one)
    return tuple(found.values())


def related(caption: str) -> tuple[Statement, ...]:
    """How a caption says that things lie to each other."""
    parts = units(caption)
    found: list[Statement] = []
    for first, how, second in zip(parts, parts[1:], parts[2:], strict=False):
        if isinstance(first, Phrase) and isinstance(how, Token) and isinstance(second, Phrase):
            lies = _relation(first, how, second)
            found += [] if lies is None else [lies]
    return tuple(found)


class _Question(Asked):
    """One question's phrases, and what each of them is there for."""

    def reading(self) -> Reading:
        things: dict[str, Statement] = {}
        attributes: dict[str, Statement] = {}
        relations: dict[str, Statement] = {}
        for place, unit in enumerate(self._units):
            if not isinstance(unit, Phrase):
                continue
            owners = list(_owners(unit))
            if unit.head in words.QUANTITIES and (counted := self._counted(place)) is not None:
                if self._is_taken(place, unit) and not self._is_asked_for(place + 2, counted):
                    self._note(counted, things, attributes)
            elif self._is_taken(place, unit):
                self._note(unit, things, attributes)
                how = self._related(place, unit)
                if how is not None:
                    relations.setdefault(how.text, how)
                    self._note(self._units[place + 2], things, attributes)
            for owner in owners:
                if owner.definite or self._is_taken(place, unit):
                    self._note(owner, things, attributes)
        picked = self._picked()
        if picked is not None:
            attributes.setdefault(picked.text, picked)
        found = (*things.values(), *attributes.values(), *relations.values())
        return Reading(found, "" if found else self._pronoun())

    def _counted(self, place: int) -> Phrase | None:
        """The bare noun that a quantity is of: shoes, of "the pair of shoes"."""
        of, counted = self._token(place + 1), self._phrase(place + 2)
        return counted if of is not None and of.text == "of" and counted is not None and counted.start is None else None

    def _note(self, phrase: Unit, things: dict[str, Statement], attributes: dict[str, Statement]) -> None:
        if not isinstance(phrase, Phrase) or not phrase.nouns:
            return
        seen = statements.visible(phrase)
        if _is_thing(phrase):
            one = statements.thing(phrase)
            things.setdefault(one.text, one)
        elif phrase.head not in words.GENERIC and phrase.head != "background":
            return
        if seen:
            more = statements.attribute(phrase, seen)
            attributes.setdefault(more.text, more)

    def _is_taken(self, place: int, phrase: Phrase) -> bool:
        """Whether a phrase is taken for granted."""
        if not phrase.nouns or phrase.determiner in ("my", "your", "our"):
            return False
        if self._is_asked_for(place, phrase) or self._is_predicate(place) or self._is_name_of_picture(place):
            return False
        if self._is_where_this_is(place):
            return False
        if phrase.definite:
            return not self._is_all_there_is(place, phrase)
        listed = self._phrase(place - 2) if self._is_and(place - 1) else None
        if phrase.start is None and listed is not None and listed.definite and not self._belongs_to_wh(place - 2):
            return self._is_taken(place - 2, listed)
        if phrase.start == "vague" or (self._wh is None and not self._command):
            return False
        return self._is_wh_name(place) if self._belongs_to_wh(place) else self._is_built_on(place, phrase)

    # ---- questions with what, which, who, ... ----

    def _is_wh_name(self, place: int) -> bool:
        """Whether "what dog ..." presupposes a dog: it does unless it asks what something is, or whether there is one."""
        phrase = self._phrase(place)
        if phrase is None or not self._is_wh("what", "which", "whose") or self._modal:
            return False
        if self._is_wh("whose"):
            return True
        after = self._after(place)
        verb = self._token(after)
        if verb is None or verb.tag not in ("be", "do", "have", "verb"):
            return False
        if verb.tag != "be":
            return not (
                verb.tag == "do" and isinstance(self._token(after + 1), Token) and self._is_seen_by_you(after + 1)
            )
        following = self._units[self._after(after)] if self._after(after) < len(self._units) else None
        if following is None:
            return False
        if isinstance(following, Phrase) or following.tag in ("this", "pronoun", "there"):
            # "what animal is this" against "what animal is the man riding"
            return self._has(lambda token: token.tag in ("ing", "prep") or token.text == "wearing", after + 2) and not (
                isinstance(following, Token) and following.tag in ("this", "there")
            )
        if following.text in THERE:
            return False
        if following.tag == "prep":
            where = self._phrase(self._after(after) + 1)
            return where is not None and where.head not in words.PICTURE
        return following.tag in ("ing", "participle", "adjective")

    def _is_seen_by_you(self, place: int) -> bool:
        token = self._token(place)
        return token is not None and token.text in ("you", "we", "i")

    def _is_built_on(self, place: int, phrase: Phrase) -> bool:
        """Whether a question about something else is built on an indefinite phrase: "what is a man on a bench doing?"."""
        before = self._before(place)
        if before is None or self._modal or self._has(lambda token: token.text in ("you", "we", "one"), 0, place):
            return False
        if before.tag in ("be", "do"):
            named = (
                self._wh is not None and self._belongs_to_wh(self._wh + 1) and self._phrase(self._wh + 1) is not None
            )
            return self._after(place) < len(self._units) or named or self._is_wh("where", "why")
        if self._has(lambda token: token.tag == "to", 0, place) and before.text not in ("next to", "close to"):
            return False
        if before.tag == "prep" and phrase.start == "a":
            return before.text not in ("for", "like", "as", "of", "about", "by", "without", "from")
        return before.tag in ("ing", "there", "have") and self._is_wh("why", "who") and phrase.start in ("a", None)

    def _picked(self) -> Statement | None:
        """ "which shape is green?" presupposes a green shape."""
        if not self._is_wh("which", "what") or self._wh is None:
            return None
        name, be, how = self._phrase(self._wh + 1), self._token(self._wh + 2), self._token(self._wh + 3)
        if name is None or be is None or be.tag != "be" or how is None or how.tag != "adjective":
            return None
        if len(self._units) > self._wh + 4 or how.text in words.COMPARATIVES or how.text in THERE:
            return None
        if name.head not in words.GENERIC and not _is_thing(name):
            return None
        return statements.attribute(name, (*statements.visible(name), how.text))

    # ---- two things ----

    def _related(self, place: int, first: Phrase) -> Statement | None:
        """How a thing lies to another, where that tells which thing is meant; None where it is what is asked."""
        how, second = self._token(place + 1), self._phrase(place + 2)
        if how is None or second is None:
            return None
        lies = _relation(first, how, second)
        return lies if lies is not None and self._tells_which(place) else None

    def _tells_which(self, place: int) -> bool:
        """Whether what follows a thing tells which one is meant: it does if something else is asked about it."""
        rest = self._units[place + 3 :]
        goes_on = any(
            isinstance(unit, Phrase) or unit.tag in ("ing", "participle", "adjective", "verb", "have", "be", "do")
            for unit in rest
        ) and not (isinstance(rest[0], Token) and rest[0].tag in ("and", ",", "prep"))
        if self._wh is None:
            before = self._before(place)
            if not self._yes_no and before is not None and before.text == "of":
                return True  # "the size of the star above the ring"
            is_subject = place == 0 or (before is not None and before.tag in ("be", "do", "have", "modal"))
            return (goes_on and is_subject) or self._command
        if self._is_wh("where", "why", "when"):
            return True
        before = self._before(place)
        if place == 0 and self._wh > 2:
            return goes_on  # "the star above the ring is what color?"
        if before is None or before.tag in ("ing", "verb", "participle"):
            return False
        if before.tag in ("be", "do") and self._is_wh("what") and place == self._wh + 2:
            return goes_on
        return not (self._is_wh("how") and self._has(lambda token: token.text in ("many", "much")))

    def _pronoun(self) -> str:
        for unit in self._units:
            if isinstance(unit, Token) and unit.tag == "pronoun" and unit.text in words.PEOPLE_PRONOUNS:
                return unit.text
            if isinstance(unit, Phrase) and unit.determiner in words.PEOPLE_PRONOUNS:
                return unit.determiner
        return ""


def _owners(phrase: Phrase) -> list[Phrase]:
    owners = []
    owner = phrase.owner
    while owner is not None:
        if owner.start != "vague" and owner.determiner not in ("my", "your", "our"):
            owners.append(owner)
        owner = owner.owner
    return owners


def _is_thing(phrase: Phrase) -> bool:
    """Whether a phrase names something that can be there or not, and not a picture, a place in it, or a property."""
    head = phrase.head
    if len(phrase.nouns) > 1 and head == "camera":
        return True
    if not head or head in words.PICTURE or head in words.ABSTRACT or head in words.QUANTITIES:
        return False
    return head not in words.PLACES and head not in words.PROPERTIES


def _relation(first: Phrase, how: Token, second: Phrase) -> Statement | None:
    """How two things lie to each other, if that is what stands between them."""
    if not second.nouns or not _is_relation(how.text) or second.start == "vague":
        return None
    if not all(_is_thing(one) or (one.head in words.GENERIC and statements.visible(one)) for one in (first, second)):
        return None
    return statements.relation(first, how.text, second)


def _is_relation(how: str) -> bool:
    return how in _RELATIONS or how.endswith((" of", " to"))
