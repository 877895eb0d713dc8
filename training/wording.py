"""Rewording of questions as other people would ask them: other words, British spelling, without a question mark.

One person calls an object what another calls a thing, and one says under the star where another says below it. None of
this changes the answer.
"""

from __future__ import annotations

import random
import re
from typing import Final

# A pattern of a whole question, and other ways to put it.
_REWORDINGS: Final[tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]] = tuple(
    (re.compile(pattern), others)
    for pattern, others in (
        (
            r"how many (.+) are (?:there|in the picture)\?",
            (r"how many \1 can you see?", r"how many \1 do you see?", r"what is the number of \1?", r"count the \1"),
        ),
        (
            r"(?:is there (.+?)(?: in the picture)?|does the picture contain (.+))\?",
            (r"do you see \1\2?", r"can you see \1\2?", r"is \1\2 in the picture?", r"is \1\2 there?"),
        ),
        (r"are there any (.+)\?", (r"do you see any \1?", r"can you see any \1?", r"are any \1 in the picture?")),
        (
            r"(?:what|which) color is the (circle|square|triangle|star|heart|cross|ring|diamond|sign)\?",
            (r"what is the color of the \1?", r"tell me the color of the \1", r"the \1 is what color?"),
        ),
        (r"which shape is (.+)\?", (r"what is \1?", r"what shape is \1?", r"which object is \1?")),
        (r"what size is the (.+)\?", (r"what is the size of the \1?", r"how big is the \1?", r"how large is the \1?")),
        (
            r"where (?:in the picture )?is the (.+)\?",
            (
                r"where can I find the \1?",
                r"in which part of the picture is the \1?",
                r"what is the position of the \1?",
            ),
        ),
        (r"what is the background(?: like)?\?", (r"describe the background", r"what does the background look like?")),
        (
            r"what (?:object )?is ((?:to the (?:left|right) of|above|below) the .+)\?",
            (r"which object is \1?", r"what can you see \1?", r"what do you see \1?"),
        ),
        (r"which is (\w+), (the .+) or (the .+)\?", (r"which one is \1, \2 or \3?", r"what is \1, \2 or \3?")),
        (r"are (the .+ and the .+) the same color\?", (r"do \1 have the same color?", r"are \1 of the same color?")),
        (r"what does the (.+) say\?", (r"what is written on the \1?", r"what can you read on the \1?")),
    )
)
# Words that may stand for others, and how often they do.
_SYNONYMS: Final = (
    (r"\bcolor\b", "colour", 0.4),
    (r"\bpicture\b", "image", 0.3),
    (r"\bpicture\b", "photo", 0.15),
    (r"\bobject(s?)\b", r"thing\1", 0.2),
    (r"\bto the (left|right) of\b", r"\1 of", 0.25),
    (r"\bto the (left|right) of\b", r"on the \1 of", 0.15),
    (r"\bbelow\b", "under", 0.25),
    (r"\bbelow\b", "beneath", 0.1),
    (r"\babove\b", "over", 0.15),
    (r"\bbigger\b", "larger", 0.2),
    (r"\blarge\b", "big", 0.2),
)


def reword(question: str, rng: random.Random) -> str:
    """The same question in other words; now and then unchanged.

    Args:
        question: as `questions.py` makes it.
        rng: the source of chance.
    """
    if rng.random() < 0.45:
        for pattern, others in _REWORDINGS:
            if pattern.fullmatch(question):
                question = pattern.sub(rng.choice(others), question)
                break
    for word, other, share in _SYNONYMS:
        if rng.random() < share:
            question = re.sub(word, other, question)
    if rng.random() < 0.4:
        question = question[0].upper() + question[1:]
    if question.endswith("?") and rng.random() < 0.15:
        question = question[:-1]
    return question
