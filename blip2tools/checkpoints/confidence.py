"""How sure to say a text is: its log-probability on the scale of how often such texts are right.

What a model gives to the whole of its text is a probability that these words are right, an over-confident one. Dividing its
log-odds by a temperature and adding a shift, both fitted (Platt 1999; the temperature alone is Guo et al. 2017, arXiv
1706.04599), makes it fit what was counted and leaves the order of any two texts as it was. The numbers of a checkpoint stand
beside its weights; one without any reports exp of the mean token log-probability, which is not calibrated.
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


class Scaling(BaseModel):
    """What turns log-odds into a confidence: sigmoid(log-odds / temperature + shift)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(gt=0)
    shift: float = 0.0


class Calibration(BaseModel):
    """How one checkpoint's confidences are scaled; None for a task that was not fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    caption: Scaling | None = None
    answer: Scaling | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    confidence: Calibration = Field(default_factory=Calibration)
    familiarity: float | None = Field(default=None, le=0)  # of pictures below it the model knows nothing, as a rule
    fitted: dict[str, Any] = Field(default_factory=dict)  # how, for people


def log_odds(logprob: float) -> float:
    """Log-odds of a probability that is given by its natural logarithm, at most about 21."""
    bounded = min(logprob, _SURE)
    return bounded - math.log(-math.expm1(bounded))


def sigmoid(odds: float) -> float:
    """The probability, 0 to 1, of log-odds; never overflows."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def confidence(mean_logprob: float, tokens: int, scaling: Scaling | None) -> float:
    """How sure a text is, 0 to 1.

    Args:
        mean_logprob: mean log-probability of its tokens, the end included.
        tokens: how many there are.
        scaling: of the checkpoint and task; None gives exp of the mean.
    """
    if scaling is None:
        return min(1.0, math.exp(mean_logprob))
    return sigmoid(log_odds(mean_logprob * tokens) / scaling.temperature + scaling.shift)


def find(setting: str, folder: Path) -> Calibration:
    """The scaling to use.

    Args:
        setting: "auto" for those beside the weights, "none", or a file.
        folder: of the captioner's weights.

    Raises:
        ModelUnavailableError: the file is missing or is none of these.
    """
    if setting == "none":
        return Calibration()
    if setting == "auto":
        return read(folder / FILE) if (folder / FILE).is_file() else Calibration()
    return read(Path(setting).expanduser())


def read(path: Path) -> Calibration:
    """The scaling in a file.

    Raises:
        ModelUnavailableError: it is missing or is none of these.
    """
    return _read(path).confidence


def familiarity_threshold(folder: Path) -> float | None:
    """The least familiarity of pictures that a checkpoint knows (see `familiarity`); None where none was fitted.

    Raises:
        ModelUnavailableError: the file beside the weights is not one of ours.
    """
    return _read(folder / FILE).familiarity if (folder / FILE).is_file() else None


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            return _File.model_validate_json(file.read(MAX_BYTES))
    except (OSError, ValidationError) as error:
        raise ModelUnavailableError(
            f"The calibration in {path.name!r} cannot be read; fit it again, or set `calibration` to none."
        ) from error


def write(path: Path, calibration: Calibration, fitted: Mapping[str, Any]) -> None:
    """Write a calibration, with how it was fitted for people to read; a threshold of familiarity there stays."""
    _write(path, {"confidence": calibration}, fitted)


def write_familiarity(path: Path, threshold: float, fitted: Mapping[str, Any]) -> None:
    """Write a threshold of familiarity, with how it was fitted; a calibration there stays."""
    _write(path, {"familiarity": threshold}, fitted)


def _write(path: Path, content: Mapping[str, Any], fitted: Mapping[str, Any]) -> None:
    before = _read(path) if path.is_file() else _File()
    after = before.model_copy(update={**content, "fitted": {**before.fitted, **fitted}})
    path.write_text(after.model_dump_json(indent=2) + "\n", encoding="utf-8")


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
