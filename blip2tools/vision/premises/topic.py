"""Whether a question is about a picture at all: "what is the capital of France?" is not.

Two small vocabularies are weighed against each other: words that point at something in view ("this", "wearing", "in the
picture", "is the dog ..."), and words of general knowledge (names, years, "capital of", "who wrote"). A question counts as
about no picture only where the second clearly outweighs the first: to doubt a good question is worse than to let a quiz
question pass, which is often doubted by what it presupposes anyway.
"""

from __future__ import annotations

import re
from typing import Final

from blip2tools.vision.premises import words
from blip2tools.vision.premises.sentence import bare

NO_PICTURE: Final = "the question is about the picture"
# Among as many photograph questions as quiz questions, the share of photograph questions in those called "about no picture":
# 0.0065 of 121,512 questions were called so, and 0.857 of 9,961 (see `training/premises/real_questions.py`).
SHARE_ABOUT_PICTURES: Final = 0.01
ENOUGH: Final = 3  # points of general knowledge, those of a view taken off

_SUM: Final = re.compile(r"\d\s*[-+*/×÷^]\s*\d")
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def _weighed(*groups: tuple[int, str]) -> dict[str, int]:
    return {word: weight for weight, text in groups for word in text.split()}


# What a quiz asks about, and how people ask it.
_KNOWLEDGE: Final = _weighed(
    (
        3,
        "invented discovered founded wrote composed composer novelist novel author opera symphony poet playwright "
        "shakespeare dickens beethoven mozart biblical mythology mythological phobia etymology surname maiden "
        "nicknamed pseudonym assassinated reigned reign crowned emperor empress pope president presidents prime minister "
        "chancellor treaty treaties colony colonies currency population capital continent hemisphere planet planets "
        "astronomer chemist chemical molecule isotope theorem mathematician philosopher philosophy theory theology "
        "literally synonym antonym proverb anagram abbreviation acronym collective century centuries ancient medieval "
        "wimbledon olympics olympic oscar oscars nobel pulitzer grammy billboard bestseller sitcom filmed starred directed "
        "premiered actress actor actors sang singer album albums lyrics soundtrack sequel cartoonist born died buried "
        "widow assassin patron saint saints apostle disciple zodiac heraldry numeral numerals roman latin greek norse "
        "egyptian etymologically named dynasty empire revolution battle battles war wars ww1 ww2 wwi wwii parliament "
        "constitution amendment senate legislature capitals national anthem motto explorer expedition voyage inventor "
        "patented inventing painted sculptor sculpted painter composers musician scientist physicist biologist "
        "microscope vitamin vitamins gland glands disease diseases mammal mammals species genus gestation symbolise "
        "symbolize translates translated meaning",
    ),
    (
        2,
        "film films movie movies book books song songs singers band series king queen prince princess duke lord "
        "god goddess gods countries nation nations us usa uk england english britain british france "
        "french germany german italy italian spain spanish russia russian japan japanese china chinese america american "
        "europe european africa african asia asian india indian greece ireland irish scotland scottish australia australian "
        "canada canadian mexico mexican london paris york california texas world's world earth moon sun's rivers "
        "islands highest deepest oldest fastest "
        "famous famously fictional nickname origin originally originate originated term means "
        "meant called known legend legendary won winner record played plays player created introduced produced "
        "published released killed murdered married divorced lived ruled led title titles role "
        "characters hero heroine villain creature element percent percentage average law legal "
        "illegal banned science scientific study studies medical history historical traditionally tradition name's "
        "theological implications physics quantum society human humans people's did according",
    ),
    (
        1,
        "was were had names common which whose title country state american british english french chinese japanese "
        "largest smallest longest only last first word phrase stands mean sea river island lake ocean symbol gas type "
        "invention language languages year years city cities town sport sports game games team product company food "
        "drink bird animal fish plant insect fruit flower tree colour body blood bone brain job who whom would could "
        "does if",
    ),
)
# What points at something in view.
_VIEW: Final = _weighed(
    (
        6,
        "this these picture pictures image images photo photos photograph photographed scene shown pictured depicted visible "
        "seen background foreground",
    ),
    (
        4,
        "there wearing holding looking sitting standing those here he she they his her their him doing happening anyone "
        "someone everyone anybody",
    ),
    (
        3,
        "left right front behind beside color colors colour colours woman man men women boy girl person child people kid wall "
        "table room it shirt hat umbrella train bus car truck street plate pizza kite surfboard skateboard giraffe elephant "
        "zebra cat dog horse bench clock sign toilet bathroom kitchen",
    ),
)
_START: Final = (
    "what|who|whom|whose|which|where|when|why|how|is|are|was|were|do|does|did|has|have|had|can|could|will|would|if|"
    "whether"
)
_OPEN: Final = (
    "should|may|any|isn't|aren't|and|please|to|at|on|in|from|of|for|by|with|whats|the|describe|name|tell|count|list|state|give|"
    "find|look|looking|compare|check|say|show|point"
)
_PHRASES: Final = tuple(
    (re.compile(pattern), weight)
    for pattern, weight in (
        # how people ask for what they could look up
        (
            r"^(?:who|what|which \w+) (?:was|were|wrote|invented|discovered|founded|composed|painted|directed|played|sang|"
            r"said|won|had|did|first|created)\b",
            2,
        ),
        (
            r"\b(?:capital|president|king|queen|population|currency|history|inventor|author|birthplace|father|founder|meaning|"
            r"definition|plural|opposite|name) of\b",
            3,
        ),
        (
            r"\bstands? for\b|\bshort for\b|\bbetter known\b|\bknown as\b|\bdo you call\b|\bis called\b|\bwritten by\b|"
            r"\bmade by\b|\bname(?:d)? (?:given|after)\b",
            2,
        ),
        (
            r"\bthe world(?:'?s)?\b|\bin the us\b|\bthe most \w+|\bmost common\b|\bthe average\b|"
            r"\bthe only \w+ (?:to|that|who|with|whose)\b",
            2,
        ),
        (r"\b1[0-9]{3}s?\b|\b20[0-9]{2}\b|\b[0-9]{1,2}(?:st|nd|rd|th)\b", 3),
        (
            r"^(?:in|on|at|of|from|by|to|with|for|between|under|during|after|before) (?:what|which|whom|whose|the|a|an)\b",
            1,
        ),
        (r"^(?:in|on|at|of|from|by|for|with) (?!what|which|whose|whom|how|the|this)\w+", 3),
        (r"^(?:if|when|who|where|why|how) (?:a|an|you|did|was|were|would|could|do|does|is|are)\b", 1),
        (r"^(?:where|what|who) (?:would|could|can|might|do) (?:you|a|an|one|we)\b", 2),
        (r"^how (?:do|can|would) (?:i|you|one|we|people)\b", 2),
        (r"\b(?:does|do|did|would|is|was) (?:a|an) \w+", 1),
        (r"^what (?:is|was|are) (?:a|an) \w+$", 3),
        (r"^what links\b", 5),
        # a statement with a question word in it, or at its end
        (rf"^(?!(?:{_START}|{_OPEN})\b)", 3),
        (rf"^(?!{_START}|name|tell|describe)\w+ (?:\w+ )+(?:what|who|whom|which|whose|where)\b", 2),
        (r"\b(?:what|who|whom|where|which|when|why|whose|how many)$", 4),
        (r"^the \w+", 2),
        # what is known of the world
        (
            r"\b(?:boiling|melting|freezing) point\b|\bspeed of (?:light|sound)\b|\bsquare root\b|\bopposite of\b|"
            r"\b(?:chemical|atomic) (?:symbol|formula|number|weight)\b|\bhow many (?:continents|planets|countries)\b",
            6,
        ),
        (
            r"\b(?:legs|sides|bones|continents|planets|days|hours|minutes|seconds) (?:does|do|has|have|are|is|in) "
            r"(?:a|an|there in|the (?:world|human|solar))\b",
            4,
        ),
        (
            r"^how many countries\b|^how many (?:\w+ )+(?:in|make) (?:a|an|one)\b|"
            r"\bhow (?:far|old|big|large|hot|heavy) is the (?:moon|sun|earth|universe)\b",
            4,
        ),
        (
            r"\b[0-9]+ (?:plus|minus|times|divided by) [0-9]+\b|"
            r"^(?:translate|convert|calculate|compute|solve|define|spell|write|explain)\b",
            4,
        ),
        (
            r"\b(?:universe|life|joke|recipe|poem|code|python|javascript|http|internet|website|email|photosynthesis|gravity|"
            r"democracy)\b",
            2,
        ),
        # how people ask about what they see
        (
            r"^(?:is|are|was|were|does|do|did|has|have|can|could|will|would|if) "
            r"(?:the|this|these|that|there|it|he|she|they|you|anyone|any)\b",
            -4,
        ),
        (r"\bname of (?:the|this|that) \w+(?: \w+)?$|\bwritten (?:on|in|above|below|under|at)\b", -3),
        (r"\b(?:is|are) (?:the|that|a|an|his|her|their) (?:\w+ ){1,4}\w+ing\b", -3),
        (r"^what (?:time|brand|sport|game|room|year|street|number|team)\b", -2),
        (r"^why (?:is|are) (?:the|there|this)\b", -2),
        (r"\b(?:is|are) (?:on|in|under|next to|above) the\b", -2),
        (r"\bthe \w+(?: \w+)? (?:and|or) the \w+\b", -5),  # two things to compare
        (r"\bwhat (?:color|colour|kind|type|did|does|is|are) (?:the|this|that|his|her)\b", -1),
        (r"^what(?: is|'s| are) (?:the|on|in|under|above|behind|next|near)\b", -1),
        (r"^where (?:is|are) the\b", -1),
        (r"^how many\b|^how much\b", -1),
    )
)


def is_about_no_picture(question: str) -> bool:
    """Whether a question asks for general knowledge and not for anything in view."""
    return knowledge(question) >= ENOUGH


def knowledge(question: str) -> int:
    """How much a question asks for general knowledge rather than for something in view, in points; may be negative."""
    spelt = _WORD.findall(bare(question))
    lowered = [word.lower().replace("’", "'") for word in spelt]
    if not lowered:
        return 0
    points = sum(_KNOWLEDGE.get(word, 0) - _VIEW.get(word, 0) for word in lowered)
    text = " ".join(lowered)
    points += sum(weight for pattern, weight in _PHRASES if pattern.search(text))
    if len(lowered) == 3 and lowered[0] == "what" and lowered[1] in ("is", "are") and _is_name(lowered[2]):
        points += 3  # "what is fumet"
    return points + min(6, 2 * _names(spelt)) + (4 if _SUM.search(question) else 0)


def _is_name(word: str) -> bool:
    return word not in words.ADJECTIVES | words.PARTICIPLES | words.ADVERBS and not word.endswith(("ing", "ed"))


def _names(spelt: list[str]) -> int:
    """How many words are written as names are, the first one left out; none where all are."""
    inner = spelt[1:]
    capital = [word for word in inner if word[:1].isupper() and word.lower() not in _NO_NAMES]
    return len(capital) if len(capital) * 2 < len(inner) + 2 else 0


_NO_NAMES: Final = words.QUESTION_WORDS | words.listed("i tv pm am ok wii cd dvd pc a the")
