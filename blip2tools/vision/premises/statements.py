"""Presuppositions as statements that an image-text matcher can judge: captions in plain English."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from blip2tools.vision.premises import words
from blip2tools.vision.premises.phrases import Phrase

Kind = Literal["thing", "attribute", "relation"]

_IRREGULAR: Final = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "knives": "knife", "leaves": "leaf", "loaves": "loaf", "wolves": "wolf",
    "firemen": "fireman", "policemen": "policeman", "snowmen": "snowman", "shelves": "shelf", "wives": "wife",
    "scarves": "scarf", "calves": "calf", "hooves": "hoof", "halves": "half", "persons": "person",
}  # fmt: skip
_PAIRS: Final = words.listed(
    "glasses pants jeans shorts scissors trousers sunglasses goggles tweezers pajamas clothes overalls tights leggings"
)
_SAME_IN_PLURAL: Final = words.listed("sheep fish deer elk moose bison aircraft police cattle")


@dataclass(frozen=True, slots=True)
class Statement:
    """Something that a question takes for granted.

    Attributes:
        kind: a thing, a thing with an attribute, or two things and how they lie: in this order they are judged.
        text: in the question's own words, with an article where English wants one: "a star", "a girl on a bench".
        plain: the same as a matcher reads it best: one thing rather than several, an object rather than a "one".
        thing: the name of the (first) thing, without article.
        attributes: what is said of it, of an attribute statement.
        relation: how it lies to the other, of a relation statement.
        other: the second thing with its article, of a relation statement.
    """

    kind: Kind
    text: str
    plain: str
    thing: str
    attributes: tuple[str, ...] = ()
    relation: str = ""
    other: str = ""

    def implies(self, other: Statement) -> bool:
        """Whether another statement is true wherever this one is: a thing with an attribute is such a thing."""
        return self.kind == "attribute" and other.kind == "thing" and self.thing == other.thing


def thing(phrase: Phrase) -> Statement:
    """That there is such a thing."""
    return Statement("thing", _told(phrase, ()), _told(_one(phrase), ()), " ".join(_one(phrase).nouns))


def attribute(phrase: Phrase, attributes: Sequence[str]) -> Statement:
    """That such a thing is as the question calls it."""
    one, kept = _one(phrase), tuple(_PLAIN_SIZES.get(word, word) for word in attributes)
    return Statement("attribute", _told(phrase, tuple(attributes)), _told(one, kept), " ".join(one.nouns), kept)


def relation(first: Phrase, how: str, second: Phrase) -> Statement:
    """That two things lie so to each other."""
    attributes, others = visible(first), visible(second)
    single, lone, plain = _one(first), _one(second), _plain(how)
    one, other = _told(single, visible(single)), _told(lone, visible(lone))
    return Statement(
        "relation",
        f"{_told(first, attributes)} {how} {_told(second, others)}",
        f"{one} {plain} {other}",
        one,
        attributes,
        plain,
        other,
    )


def near(statement: Statement) -> tuple[str, ...]:
    """Statements that could be true in its place: another colour, another size, the other way round.

    A matcher's scores crowd at both ends and are not calibrated, so that a statement is called false only where something
    near it fits far better.
    """
    match statement.kind:
        case "thing":
            return ()
        case "attribute":
            others: list[str] = []
            for place, word in enumerate(statement.attributes):
                for other in _others(word):
                    name = " ".join(
                        (*statement.attributes[:place], other, *statement.attributes[place + 1 :], statement.thing)
                    )
                    others.append(f"{_article(name)} {name}")
            return tuple(others) or (f"{_article(statement.thing)} {statement.thing}",)
        case "relation":
            turned = f"{statement.other} {statement.relation} {statement.thing}"
            opposite = _OPPOSITE.get(statement.relation)
            return (turned,) if opposite is None else (turned, f"{statement.thing} {opposite} {statement.other}")


def _others(word: str) -> tuple[str, ...]:
    if word in words.COLORS:
        return tuple(color for color in _COLORS if color not in (word, _SAME_COLOR.get(word)))
    return _OTHERS.get(word, ())


_COLORS: Final = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "white",
    "black",
    "gray",
    "brown",
)
_SAME_COLOR: Final = {
    "grey": "gray",
    "violet": "purple",
    "golden": "yellow",
    "gold": "yellow",
    "tan": "brown",
    "beige": "brown",
}
_OTHERS: Final = {
    "big": ("small",), "large": ("small",), "huge": ("small",), "giant": ("small",), "enormous": ("small",),
    "small": ("large",), "little": ("large",), "tiny": ("large",), "tall": ("short",), "short": ("tall", "long"),
    "long": ("short",), "wide": ("narrow",), "narrow": ("wide",), "thin": ("thick",), "thick": ("thin",), "old": ("young", "new"),
    "young": ("old",), "new": ("old",), "open": ("closed",), "closed": ("open",), "wet": ("dry",), "dry": ("wet",),
    "empty": ("full",), "full": ("empty",), "dirty": ("clean",), "clean": ("dirty",), "striped": ("plain", "checkered"),
    "checkered": ("plain", "striped"), "plain": ("striped", "checkered"), "round": ("square",),
}  # fmt: skip
_OPPOSITE: Final = {
    "to the left of": "to the right of", "to the right of": "to the left of", "above": "below", "below": "above",
    "in front of": "behind", "behind": "in front of", "with": "without", "without": "with", "inside": "outside",
}  # fmt: skip
_PLAIN: Final = {
    "under": "below", "beneath": "below", "underneath": "below", "over": "above", "on top of": "on", "beside": "next to",
    "adjacent to": "next to", "near": "next to", "close to": "next to", "by": "next to", "atop": "on", "inside of": "in",
}  # fmt: skip


def _plain(how: str) -> str:
    """A preposition as captions have it: "to the left of" for "on the left-hand side of" and "left of"."""
    for side in ("left", "right"):
        if how.endswith(" of") and side in how.replace("-", " ").split():
            return f"to the {side} of"
    return _PLAIN.get(how, how)


def visible(phrase: Phrase) -> tuple[str, ...]:
    """The visible attributes that a phrase gives its thing: not those that say which of several it is."""
    return tuple(word for word in phrase.modifiers if word not in _NOT_SEEN and not word.endswith("most"))


_NOT_SEEN: Final = (
    words.COMPARATIVES
    | words.PLACES
    | words.AMOUNTS
    | words.NUMBERS
    | words.listed(
        "main own other different similar present visible correct wrong proper favorite real actual original current entire "
        "whole exact specific certain available possible famous middle upper lower inner outer final opposite various such "
        "nearby closer same typical usual very too really so just best able likely last next previous"
    )
)


def _told(phrase: Phrase, attributes: tuple[str, ...]) -> str:
    name = " ".join((*attributes, *phrase.nouns))
    if not attributes and phrase.head in words.UNIQUE and len(phrase.nouns) == 1:
        return f"the {name}"
    if is_plural(phrase.head) or phrase.head in words.MASS:
        return name
    return f"{_article(name)} {name}"


def _article(name: str) -> str:
    """`a` or `an`, by the sound that a word begins with."""
    if name.startswith(("uni", "use", "eu", "one", "ut", "usb", "ufo")) and not name.startswith(("unin", "unim")):
        return "a"
    return "an" if name[:1] in "aeiou" or name.startswith(("hour", "honest", "heir")) else "a"


def is_plural(noun: str) -> bool:
    """Whether a noun stands for several."""
    if noun in words.PLURALS:
        return True
    return (
        noun.endswith("s")
        and not noun.endswith(("ss", "us", "is"))
        and noun not in words.SINGULAR_IN_S
        and noun not in words.MASS
        and len(noun) > 2
    )


def singular(noun: str) -> str:
    """One of them; a noun that has no other form, or is none of many, stays."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if not is_plural(noun) or noun in _PAIRS or noun in _SAME_IN_PLURAL:
        return noun
    if (
        noun.endswith("ies")
        and len(noun) > 4
        and noun not in ("cookies", "movies", "zombies", "hoodies", "pies", "ties")
    ):
        return noun[:-3] + "y"
    if noun.endswith(("sses", "shes", "ches", "xes", "zes")) or noun in (
        "buses",
        "tomatoes",
        "potatoes",
        "heroes",
        "mangoes",
    ):
        return noun[:-2]
    return noun[:-1]


def _one(phrase: Phrase) -> Phrase:
    """The phrase about one thing."""
    noun = singular(phrase.head)
    if noun in words.GENERIC:
        noun = "object"
    modifiers = tuple(_PLAIN_SIZES.get(word, word) for word in phrase.modifiers)
    return Phrase(phrase.start, phrase.determiner, modifiers, (*phrase.nouns[:-1], noun), phrase.owner)


_PLAIN_SIZES: Final = {
    "big": "large",
    "huge": "large",
    "little": "small",
    "tiny": "small",
    "grey": "gray",
    "colour": "color",
}
