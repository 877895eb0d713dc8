"""CIDEr, BLEU and ROUGE-L of captions, by the benchmark's own code (`pycocoevalcap`).

Its tokenizer is a Java program. Where there is no Java, a plain one of ours is used, the report says so, and its numbers
are near the published ones but not comparable to the last digit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from blip2tools.errors import InvalidInputError

TokenizerName = Literal["ptb", "plain"]

_WORD: Final = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*(?:-[^\W_]+)*|[^\W_]+")
_NOT: Final = re.compile(r"(\w+)(n['’]t)$")
_ENDING: Final = re.compile(r"(\w+)(['’](?:s|re|ve|ll|d|m))$")


def plain_tokens(text: str) -> list[str]:
    """Lower-case words without punctuation, contractions in two as the Penn treebank has them: `do n't`, `dog 's`."""
    tokens: list[str] = []
    for word in _WORD.findall(text.lower()):
        parts = _NOT.match(word) or _ENDING.match(word)
        tokens += [part.replace("’", "'") for part in parts.groups()] if parts else [word]
    return tokens


def tokenizer() -> TokenizerName:
    """The benchmark's where Java is there."""
    return "ptb" if shutil.which("java") else "plain"


def check() -> None:
    """Check that the benchmark's code is installed.

    Raises:
        InvalidInputError: the extra is missing.
    """
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise InvalidInputError("These scores need an extra: pip install 'blip2tools[evaluate]'")


def scores(
    truths: Mapping[str, Sequence[str]], told: Mapping[str, str], which: TokenizerName | None = None
) -> dict[str, float]:
    """BLEU-1 to -4, ROUGE-L and CIDEr, as fractions (the benchmark's tables show hundredfolds).

    Args:
        truths: what people wrote about each picture, by its id.
        told: one caption of each, by the same ids.
        which: a tokenizer; the benchmark's where Java is there.

    Raises:
        InvalidInputError: the extra is missing.
    """
    check()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    people = {name: [{"caption": text} for text in texts] for name, texts in truths.items()}
    model = {name: [{"caption": text}] for name, text in told.items()}
    if (which or tokenizer()) == "ptb":
        people, model = PTBTokenizer().tokenize(people), PTBTokenizer().tokenize(model)
    else:
        people, model = _plain(people), _plain(model)
    found: dict[str, float] = {}
    with _silence():  # it prints its progress
        bleu, _ = Bleu(4).compute_score(people, model, verbose=0)
        found |= {f"BLEU-{number}": float(value) for number, value in enumerate(bleu, start=1)}
        found["ROUGE-L"] = float(Rouge().compute_score(people, model)[0])
        found["CIDEr"] = float(Cider().compute_score(people, model)[0])
    return found


def _plain(captions: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    return {name: [" ".join(plain_tokens(one["caption"])) for one in texts] for name, texts in captions.items()}


@contextlib.contextmanager
def _silence() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        yield
