"""Questions that only reading answers: "What does the sign say?" A captioner answers them with words that it makes up.

Rules over the question's own words: asked is what is written, not what colour it has, where it is or whether there is any.
"""

from __future__ import annotations

import re
from typing import Final

from blip2tools.pictures.reading.reader import INSTALL, is_installed
from blip2tools.schemas import AnswerResult

NOT_READ: Final = f"not read: this model makes up words; install the reader with {INSTALL}, then call read_text"
READ_ELSEWHERE: Final = "not read: this model makes up words; call read_text, which reads them"

# "What color are the letters?", "Which language is the sign in?", "What would you say it is?": nothing of that is read.
_OF_ITS_LOOKS: Final = re.compile(
    r"\b(?:what|which)(?:['’]s| is| are)?(?: the)?"
    r" (?:colou?rs?|fonts?|sizes?|shapes?|styles?|kinds?|types?|sorts?|languages?|materials?|positions?)\b"
    r"|\bhow (?:many|much|big|large|long|tall|old)\b|\byou (?:say|call)\b"
)
_PEOPLE: Final = (
    r"(?:man|men|woman|women|boy|girl|child|children|kid|kids|person|people|lady|guy|he|she|they|you|we|i|player|"
    r"teacher|dog|cat|bird)\b(?!['’]s)"
)
_CARRIERS: Final = (
    r"(?:sign|signs|street sign|road sign|label|banner|billboard|poster|plaque|placard|name ?tag|badge|ticket|receipt|"
    r"licen[cs]e plate|number plate|nameplate|menu|headline)"
)
_NAMED: Final = (
    r"(?:store|shop|street|road|restaurant|hotel|bank|cafe|café|bar|station|airport|airline|company|team|book|magazine|"
    r"newspaper|movie|film|song|boat|ship|product|brand|building|school|page|article|file|menu|column|button|sign)"
)
_RULES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?:please )?(?:read|transcribe|spell|ocr|type out|copy out)\b",
        r"\b(?:can|could|would|will) you (?:please )?(?:read|transcribe|spell)\b",
        r"\b(?:what|which)\b.*\b(?:words?|texts?|letters?|lettering|writing|inscription|slogan|headline|digits?|numerals?)\b"
        r"(?! ?box)",
        r"\b(?:what|which)(?:['’]s)?\b.*\b(?:written|printed|engraved|inscribed|stamped|typed|spelled|spelt)"
        r"(?: on| in| at| across| above| below| here| there|\?|$)",
        rf"\bwhat (?:does|do|did)\b(?! (?:the |this |that |a |an )?(?:\w+ )?{_PEOPLE}).* (?:say|read|spell)\b",
        rf"\bwhat(?:['’]s| is| are)\b(?! (?:the |this |that |a |an )?(?:\w+ )?{_PEOPLE}).* saying\b",
        r"\bwhat (?:it|that|this|the [\w -]+) (?:says|reads|spells)\b",
        r"\b(?:what|which) (?:is the |are the |(?!the )\w+ )?"
        r"(?:numbers?|name|title|date|price|address|initials|message|warning)\b.* (?:on|across|shown|displayed)\b",
        rf"\bwhat(?:['’]s| is| are)(?: written)? on the {_CARRIERS}\b",
        rf"\bwhat(?:['’]s| is) the (?:name|title) of (?:the|this|that) {_NAMED}\b",
        r"\bwhat(?:['’]s| is) the (?:licen[cs]e|number) plate(?: number)?\b",
        r"\bhow (?:is|do you|does one) .*\bspell(?:ed|t)?\b",
    )
)

_OF_THE_ANSWER: Final = ("low confidence", "not sure", "the answer was cut", "the model gave an empty")


def is_asked(question: str) -> bool:
    """Whether a question asks what is written in the picture."""
    words = " ".join(question.lower().split()).strip(" .")
    return not _OF_ITS_LOOKS.search(words) and any(rule.search(words) for rule in _RULES)


def told(result: AnswerResult, *, small_world: bool) -> AnswerResult:
    """The answer to such a question: what reads the words, instead of words that the model made up.

    Offered answers keep their order, which is told to be a guess.

    Args:
        result: the model's own answer.
        small_world: whether the model was made for a world of its own, and the picture is of it: the demo's has signs with one
            letter or digit, which it does read.
    """
    answers = [choice.text for choice in result.choices] if result.choices else [result.answer]
    seen = result.premise is None or result.premise.holds is not False
    if small_world and seen and all(len(answer) == 1 and answer.isalnum() for answer in answers):
        return result
    advice = READ_ELSEWHERE if is_installed() else NOT_READ
    if result.choices is not None:
        return result.model_copy(update={"warnings": [*result.warnings, f"the choices are a guess: {advice}"]})
    # What the model was unsure of was its own answer.
    about = [one for one in result.warnings if not one.startswith(_OF_THE_ANSWER)]
    return result.model_copy(
        update={"answer": advice, "confidence": 0.0, "abstained": True, "warnings": [*about, advice]}
    )
