"""How sure to say a text is: its log-probability on the scale of how often such texts are right.

What a model gives to the whole of its text is a probability that these words are right, an over-confident one. Dividing its
log-odds by one fitted number, a temperature (Guo et al. 2017, arXiv 1706.04599), makes it fit what was counted and leaves the
order of any two texts as it was. The temperatures of a checkpoint stand beside its weights; one without any reports
exp of the mean token log-probability, which is not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blip2tools.errors import ModelUnavailableError

FILE: Final = "blip2tools.json"
MAX_BYTES: Final = 100_000

_SURE: Final = -1e-9  # a summed log-probability above this has no finite odds


class Temperatures(BaseModel):
    """Temperatures of one checkpoint; None for a task that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    caption: float | None = Field(default=None, gt=0)
    answer: float | None = Field(default=None, gt=0)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    confidence: Temperatures
    fitted: dict[str, Any] = Field(default_factory=dict)  # how, for people


def log_odds(logprob: float) -> float:
    """Log-odds of a probability that is given by its natural logarithm, at most about 21."""
    bounded = min(logprob, _SURE)
    return bounded - math.log(-math.expm1(bounded))


def sigmoid(odds: float) -> float:
    """The probability, 0 to 1, of log-odds; never overflows."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def confidence(mean_logprob: float, tokens: int, temperature: float | None) -> float:
    """How sure a text is, 0 to 1.

    Args:
        mean_logprob: mean log-probability of its tokens, the end included.
        tokens: how many there are.
        temperature: of the checkpoint and task; None gives exp of the mean.
    """
    if temperature is None:
        return min(1.0, math.exp(mean_logprob))
    return sigmoid(log_odds(mean_logprob * tokens) / temperature)


def find(setting: str, folder: Path) -> Temperatures:
    """The temperatures to use.

    Args:
        setting: "auto" for those beside the weights, "none", or a file.
        folder: of the captioner's weights.

    Raises:
        ModelUnavailableError: the file is missing or is not one of temperatures.
    """
    if setting == "none":
        return Temperatures()
    if setting == "auto":
        return read(folder / FILE) if (folder / FILE).is_file() else Temperatures()
    return read(Path(setting).expanduser())


def read(path: Path) -> Temperatures:
    """The temperatures in a file.

    Raises:
        ModelUnavailableError: it is missing or is not one of temperatures.
    """
    try:
        with path.open("rb") as file:
            return _File.model_validate_json(file.read(MAX_BYTES)).confidence
    except (OSError, ValidationError) as error:
        raise ModelUnavailableError(
            f"The confidence temperatures in {path.name!r} cannot be read; fit them again, or set `calibration` to none."
        ) from error


def write(path: Path, temperatures: Temperatures, fitted: Mapping[str, Any]) -> None:
    """Write a file of temperatures, with how they were fitted for people to read."""
    content = _File(confidence=temperatures, fitted=dict(fitted))
    path.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
