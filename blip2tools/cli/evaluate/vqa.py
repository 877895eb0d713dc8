"""VQA accuracy as the benchmark defines it (visualqa.org/evaluation), and what the reference does to questions and answers.

An answer that three people gave is right, one that two gave is right by two thirds. To be fair to people, who are judged
against the nine others, the accuracy is the mean over all ways to leave one of the ten out: min(number who said it / 3, 1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from blip2tools.errors import InvalidInputError

_AGREEING: Final = 3  # people who must have said it

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA: Final = re.compile(r"\d,\d")
_FULL_STOP: Final = re.compile(r"\.(?!\d)")
_FULL_STOPS: Final = 32  # the benchmark's own script removes no more: it passes a flag where the count belongs
_NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS: Final = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES: Final = frozenset(("a", "an", "the"))
# Words that people write without their apostrophe. Those that are another word then (ill, wed, its, shell) are not among them.
_CONTRACTIONS: Final = """
    ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't oughtn't shan't
    shouldn't wasn't weren't won't wouldn't could've might've must've not've should've they've we've what've where've who've
    would've you've couldn't've hadn't've mightn't've shouldn't've wouldn't've he'd've it'd've she'd've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've you'd've he'd how'd it'd someone'd something'd there'd
    they'd where'd who'd you'd how'll it'll somebody'll someone'll something'll they'll what'll who'll why'll you'll
    there're they're what're why're you're he's how's somebody's someone's that's there's what's when's where's who's why's
    ma'am o'clock 'ow's'at 'twas y'all y'all'll y'all'd've
"""

# blip_question of LAVIS (`blip_processors.py`)
_DROPPED: Final = re.compile(r"[.!\"()*#:;~]")
_QUESTION_WORDS: Final = 50


@cache
def _with_apostrophes() -> dict[str, str]:
    """Each contraction by the spellings that leave one of its apostrophes out."""
    return {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTIONS.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }


def without_punctuation(text: str) -> str:
    """Replace punctuation, except apostrophes and colons, by a space, or by nothing next to one; full stops go, decimal
    points stay. In a text with a number such as 1,000 no punctuation leaves a space."""
    tight = _NUMBER_WITH_COMMA.search(text) is not None
    kept = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        kept = kept.replace(mark, "" if tight or beside_space else " ")
    return _FULL_STOP.sub("", kept, count=_FULL_STOPS)


def normalized(answer: str) -> str:
    """An answer as the benchmark compares it: lower case, without punctuation and articles, numbers to ten as digits, the
    apostrophes of contractions put back."""
    words = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    digits = (_DIGITS.get(word, word) for word in words)
    return " ".join(_with_apostrophes().get(word, word) for word in digits if word not in _ARTICLES)


def soft_accuracy(answer: str, truths: Sequence[str]) -> float:
    """How right an answer is, 0 to 1.

    Args:
        answer: what the model said.
        truths: what people said, ten in the benchmark. A single one, as in GQA, must be met exactly, both normalised.

    Raises:
        ValueError: no truth.
    """
    if not truths:
        raise ValueError("an answer needs at least one truth")
    said = normalized(answer)
    if len(truths) == 1:
        return float(said == normalized(truths[0]))
    # People's answers were normalised when they were collected; where they differ, punctuation is looked at again.
    given = [without_punctuation(truth) for truth in truths] if len(set(truths)) > 1 else list(truths)
    agreeing = sum(truth == said for truth in given)
    shares = (min(1.0, (agreeing - (truth == said)) / _AGREEING) for truth in given)
    return math.fsum(shares) / len(given)


def reference_question(question: str) -> str:
    """A question as the reference prepares it: lower case, without `. ! " ( ) * # : ; ~`, 50 words at most."""
    return " ".join(_DROPPED.sub("", question.lower()).rstrip(" ").split(" ")[:_QUESTION_WORDS])


class Lemmatizer:
    """Nouns and verbs of an answer in their base form: "two dogs running" becomes "two dog run".

    The reference does it for OK-VQA (`blip2_t5.py`, `_lemmatize`) with spaCy, whose tagger tells nouns and verbs from other
    words. Here a dictionary decides (lemminflect, which weighs 1 MB instead of 100): a form in -ing is a verb if it can be one;
    else a word is a noun if it can be one; else what can be an adjective, an adverb or an auxiliary stays as it is.

    Raises:
        InvalidInputError: the extra is missing.
    """

    def __init__(self) -> None:
        try:
            import lemminflect
        except ModuleNotFoundError as error:
            raise InvalidInputError("Lemmas need an extra: pip install 'blip2tools[evaluate]'") from error
        self._library: Any = lemminflect

    def __call__(self, text: str) -> str:
        """The text with base forms."""
        return " ".join(self._base(word) for word in text.split())

    def _base(self, word: str) -> str:
        known = self._library.getAllLemmas(word)
        if "VERB" in known and word.endswith("ing"):
            return str(known["VERB"][0])
        if "NOUN" in known:
            return str(known["NOUN"][0])
        if known.keys() & {"ADJ", "ADV", "AUX"}:
            return word
        guess = known.get("VERB") or self._library.getLemma(word, upos="NOUN") or (word,)
        return str(guess[0])


def by_group(scores: Iterable[tuple[str | None, float]]) -> dict[str, dict[str, float | int]]:
    """Mean score and number of each group that has a name."""
    groups: dict[str, list[float]] = {}
    for name, score in scores:
        if name is not None:
            groups.setdefault(name, []).append(score)
    return {
        name: {"accuracy": math.fsum(values) / len(values), "questions": len(values)}
        for name, values in sorted(groups.items())
    }
