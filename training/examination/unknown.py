"""Whether the weights notice pictures of what they do not know: by their own caption, and whether it fits.

A picture's familiarity is the mean log-probability of the words of its own caption plus the logarithm of the probability that
the matcher gives this caption. Both are close to 0 in the world and lower outside it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from blip2tools.checkpoints.confidence import FILE, familiarity, write_familiarity
from blip2tools.demo.draw import draw
from blip2tools.demo.world import World, sample_scene
from training.examination.figures import Figure, Miss, counted
from training.examination.judge import Judge
from training.examination.strange import STRANGE

FALSE_ALARMS: Final = 0.05
VALIDATION_SEED: Final = 777
VALIDATION_PICTURES: Final = 600  # of each world
_AIM: Final = 0.035  # of the validation pictures lie below a fitted threshold: other ones then seldom exceed 5 %


def scored(judge: Judge, pictures: Sequence[Image.Image]) -> list[float]:
    """The familiarity of each picture."""
    said = judge.captions(pictures)
    fits = judge.matches(pictures, [words.text for words in said])
    return [familiarity(words.logprob, share) for words, share in zip(said, fits, strict=True)]


def store_threshold(weights: Path, worlds: Sequence[World], number: int = VALIDATION_PICTURES) -> float:
    """Find the familiarity below which a picture is not one of these worlds, as a rule, and store it next to the weights.

    Args:
        weights: folder with `captioner` and `matcher`.
        worlds: what they know.
        number: of pictures from each world. They come from a seed of their own.
    """
    scores = sorted(scored(Judge(weights), _pictures(worlds, number, random.Random(VALIDATION_SEED))))
    threshold = round(scores[math.floor(_AIM * len(scores))], 6)
    fitted = {"seed": VALIDATION_SEED, "pictures": len(scores), "worlds": [world.name for world in worlds]}
    write_familiarity(weights / "captioner" / FILE, threshold, {"familiarity": fitted})
    return threshold


def unknown(
    judge: Judge, worlds: Sequence[World], threshold: float | None, number: int, rng: random.Random
) -> list[Figure]:
    """How well strange pictures are distinguished from those of the worlds, by the area under the ROC curve and at the
    threshold.

    Args:
        judge: the weights.
        worlds: what they know.
        threshold: below it a picture is taken for a strange one; None where none is stored.
        number: of pictures of each strange kind, and three times as many of each world.
        rng: the source of chance.
    """
    section = "unknown"
    known = scored(judge, _pictures(worlds, 3 * number, rng))
    figures, every, alarms = [], [], []
    for kind, make in STRANGE.items():
        pictures = [make(rng) for _ in range(number)]
        scores = scored(judge, pictures)
        every += scores
        figures.append(Figure(section, f"AUROC, {kind}", auroc(known, scores), number))
        if threshold is not None:
            flagged = [score < threshold for score in scores]
            alarms += flagged
            passed = (
                Miss(picture, kind, f"taken for a known one ({score:.4f})", "not of this world")
                for picture, score in zip(pictures, scores, strict=True)
                if score >= threshold
            )
            figures.append(counted(section, f"flagged, {kind}", flagged, misses=passed))
    figures.append(Figure(section, "AUROC, all", auroc(known, every), len(every), 0.97))
    if threshold is not None:
        figures.append(counted(section, "flagged, all", alarms, bar=0.9))
        figures.append(counted(section, "false alarms", [score < threshold for score in known], at_most=FALSE_ALARMS))
    return figures


def auroc(high: Sequence[float], low: Sequence[float]) -> float:
    """The share of pairs in which the score that should be higher is; ties count half."""
    wins = sum((one > two) + 0.5 * (one == two) for one in high for two in low)
    return wins / (len(high) * len(low))


def _pictures(worlds: Sequence[World], number: int, rng: random.Random) -> list[Image.Image]:
    return [draw(sample_scene(rng, world=world)) for world in worlds for _ in range(number)]
