"""Whether a picture looks like what a small model was trained on.

A model that knows only a small world speaks of that world whatever it is shown. It is then less sure of its words, and its
matcher does not take them for a fitting caption: the mean log-probability of a caption's tokens plus the logarithm of the
probability that the caption fits is close to 0 for pictures of its world and lower for others. The threshold of a checkpoint
stands beside its weights; one without any gives no such warning.
"""

from __future__ import annotations

import math
from typing import Final

UNFAMILIAR: Final = (
    "this picture does not look like the world that this model knows: what it says of it may mean nothing"
)

_LEAST: Final = 1e-12  # a probability of 0 has no logarithm


def familiarity(mean_logprob: float, match: float) -> float:
    """How much a picture looks like those that a model knows, at most 0.

    Args:
        mean_logprob: of the tokens of the model's own caption, the end included.
        match: the matcher's probability that this caption fits, 0 to 1.
    """
    return min(0.0, mean_logprob) + math.log(max(_LEAST, min(1.0, match)))
