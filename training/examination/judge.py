"""The weights, asked in batches: greedy, on one thread, with the preparation of pictures that users get."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from blip2tools.checkpoints import load
from blip2tools.model import GenerationOptions, cosine
from blip2tools.settings import Settings

BATCH: Final = 64
CAPTION_TOKENS: Final = 30
ANSWER_TOKENS: Final = 12
ANSWER_TEMPLATE: Final = "Question: {question} Answer:"
_WARM: Final = 3
_PARTS: Final = {"model": "captioner", "matcher": "matcher"}  # setting → folder


@dataclass(frozen=True, slots=True)
class Words:
    """A generated text, and the mean log-probability of its tokens."""

    text: str
    logprob: float


def checkpoints_in(folder: Path) -> set[str]:
    """Which of `captioner` and `matcher` a folder of weights holds."""
    return {part for part in _PARTS.values() if (folder / part / "config.json").is_file()}


class Judge:
    """A captioner and a matcher.

    Args:
        weights: folder with `captioner` and `matcher`; None for the package's own.
        matcher: whether there is a matcher; without, only `captions`, `answers` and `choose` work.
        quantize: how the weights are kept, as the setting of this name.
    """

    def __init__(self, weights: Path | None = None, *, matcher: bool = True, quantize: str = "none") -> None:
        parts = {name: str(weights / part) if weights else "demo" for name, part in _PARTS.items()}
        parts |= {} if matcher else {"matcher": "none"}
        settings = Settings.check({**parts, "device": "cpu", "threads": 1, "quantize": quantize})
        self._loaded: Any = load(settings, download=False)
        self.threshold: float | None = self._loaded.familiar  # of familiarity, stored next to the weights
        self.shared_trunk: bool = self._loaded.shared_trunk

    def captions(self, pictures: Sequence[Image.Image], prompt: str | None = None) -> list[Words]:
        """A caption of each picture."""
        row = self._loaded.words.caption(prompt).ids
        return self._speak(pictures, [row] * len(pictures), CAPTION_TOKENS)

    def answers(
        self,
        pictures: Sequence[Image.Image],
        questions: Sequence[str],
        template: str = ANSWER_TEMPLATE,
        history: Sequence[Sequence[tuple[str, str]]] | None = None,
    ) -> list[Words]:
        """An answer to one question about each picture.

        Args:
            pictures: the pictures.
            questions: as many questions.
            template: the form of a question without history.
            history: earlier turns of each.
        """
        before = history or [()] * len(questions)
        rows = [
            self._loaded.words.question(question, turns, template).ids
            for question, turns in zip(questions, before, strict=True)
        ]
        return self._speak(pictures, rows, ANSWER_TOKENS)

    def choose(self, picture: Image.Image, question: str, choices: Sequence[str]) -> str:
        """The likeliest of the offered answers, by the mean log-probability of its tokens."""
        tokens = self._loaded.captioner.query(self._see([picture]))
        row = self._loaded.words.question(question, (), ANSWER_TEMPLATE).ids
        scores = self._loaded.captioner.rank(tokens, row, [self._loaded.words.candidate(choice) for choice in choices])
        return max(zip(choices, scores, strict=True), key=lambda pair: pair[1][0] / pair[1][1])[0]

    def matches(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """ITM's probability of each picture with its text."""
        found: list[float] = []
        for first in range(0, len(pictures), BATCH):
            states = self._see(pictures[first : first + BATCH], matcher=True)
            rows = [self._loaded.matcher_words(text).ids for text in texts[first : first + BATCH]]
            found += self._loaded.matcher.match(states, rows).softmax(-1)[:, 1].tolist()
        return found

    def similarity(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """ITC's cosine of every picture with every text, (pictures, texts)."""
        features = torch.cat(
            [
                self._loaded.matcher.image_features(self._see(pictures[first : first + BATCH], matcher=True))
                for first in range(0, len(pictures), BATCH)
            ]
        )
        return cosine(
            features, self._loaded.matcher.text_features([self._loaded.matcher_words(text).ids for text in texts])
        )

    def milliseconds(self, pictures: Sequence[Image.Image], question: str) -> tuple[float, float]:
        """The median processor time of a caption, and of an answer, one picture at a time, with its preparation.

        On an idle machine this is the elapsed time on one core; a busy one does not lengthen it much.
        """
        return (
            _median_of(lambda picture: self.captions([picture]), pictures),
            _median_of(lambda picture: self.answers([picture], [question]), pictures),
        )

    def _see(self, pictures: Sequence[Image.Image], *, matcher: bool = False) -> Tensor:
        pixels = self._loaded.matcher_pixels if matcher else self._loaded.pixels
        owner = self._loaded.matcher if matcher else self._loaded.captioner
        states: Tensor = owner.trunk.see(pixels(list(pictures)))
        return states

    def _speak(self, pictures: Sequence[Image.Image], rows: Sequence[Sequence[int]], longest: int) -> list[Words]:
        said: list[Words] = []
        for first in range(0, len(pictures), BATCH):
            some = pictures[first : first + BATCH]
            spoken = self._loaded.captioner.speak(
                self._loaded.captioner.query(self._see(some)),
                rows[first : first + BATCH],
                GenerationOptions(num_beams=1),
                max_new_tokens=[longest] * len(some),
            )
            said += [Words(self._loaded.words.decode(best.ids), best.logprob) for best, *_ in spoken]
        return said


def _median_of(work: Callable[[Image.Image], object], pictures: Sequence[Image.Image]) -> float:
    times = []
    for picture in pictures:
        started = time.process_time()
        work(picture)
        times.append(1000 * (time.process_time() - started))
    return median(times[_WARM:])
