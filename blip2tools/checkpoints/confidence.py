"""Confidence in a text: its log-probability, scaled to how often such texts are right.

The probability that a model gives to the whole of its text is over-confident. Dividing its log-odds by a temperature and adding
a shift, both fitted (Platt 1999; the temperature alone is Guo et al. 2017, arXiv 1706.04599), makes it fit counted frequencies
and keeps the order of any two texts. A checkpoint's numbers are stored next to its weights; without them the confidence is exp
of the mean token log-probability, which is not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blip2tools.errors import ModelUnavailableError
from blip2tools.settings.file import content_of

FILE: Final = "blip2tools.json"
MAX_BYTES: Final = 100_000

_SURE: Final = -1e-9  # a summed log-probability above this has no finite odds


class Scaling(BaseModel):
    """The conversion of log-odds to a confidence: sigmoid(log-odds / temperature + shift)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float = Field(gt=0)
    shift: float = 0.0


class Calibration(BaseModel):
    """How one checkpoint's confidences are scaled; None for a task that was not fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    caption: Scaling | None = None
    answer: Scaling | None = None


class Premises(BaseModel):
    """The rule by which an image-text matcher's log-odds (ITM) tell whether what a question presupposes is there.

    The defaults are for published matchers, whose scores crowd at both ends and were never calibrated: 0 is the threshold of
    BLIP's authors, and a statement fails only where it is far below that and something near it fits far better.

    Attributes:
        holds: log-odds from which a statement holds.
        fails: log-odds up to which it may fail.
        margin: by how much something near must fit better for it to fail.
        others: what may be there instead of any thing, for comparison.
        known: whether that is all there can be, so that something the matcher has no word for is not there.
        relations: the relations of two things that the captioner was trained on and so judges alone; None: captioner and
            matcher must agree on any.
        scaling: turns the log-odds of a premise that fails into the factor that lowers a confidence.
        said: the captioner's probability of all offered choices together below which none of them fits; None: not judged.
        none: the factor that lowers the confidence where none of the choices fits.
        unfamiliar: of a picture that is not of the model's world, by how much the log-odds of an answer fall for each unit by
            which the mean log-probability of the model's own caption is below 0; not where the picture shows what the question
            takes for granted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    holds: float = 0.0
    fails: float = -2.2
    margin: float = Field(default=2.2, ge=0)
    others: tuple[str, ...] = (
        "a person",
        "an animal",
        "a vehicle",
        "a building",
        "food on a plate",
        "furniture in a room",
        "a landscape",
        "a sign with text",
    )
    known: bool = False
    relations: tuple[str, ...] | None = None
    scaling: Scaling = Scaling(temperature=1.0)
    said: float | None = Field(default=0.001, gt=0, lt=1)
    none: float = Field(default=1.0, gt=0, le=1)
    unfamiliar: float = Field(default=0.0, ge=0)

    def factor(self, odds: float) -> float:
        """The factor, 0 to 1, by which a failed premise of these log-odds lowers a confidence."""
        return sigmoid(odds / self.scaling.temperature + self.scaling.shift)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    confidence: Calibration = Field(default_factory=Calibration)
    familiarity: float | None = Field(default=None, le=0)  # of pictures below it the model knows nothing, as a rule
    premises: Premises = Field(default_factory=Premises)
    fitted: dict[str, Any] = Field(default_factory=dict)  # how it was fitted, for readers


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


def lowered(probability: float, drop: float) -> float:
    """A probability whose log-odds have fallen by `drop`; unchanged, to the last bit, by 0."""
    if not drop or probability <= 0:
        return probability
    return sigmoid(log_odds(math.log(min(1.0, probability))) - drop)


def find(setting: str, folder: Path) -> Calibration:
    """The scaling to use.

    Args:
        setting: "auto" for the file next to the weights, "none", or a file.
        folder: of the captioner's weights.

    Raises:
        ModelUnavailableError: the file is missing or is not a calibration.
    """
    if setting == "none":
        return Calibration()
    if setting == "auto":
        return read(folder / FILE) if (folder / FILE).is_file() else Calibration()
    return read(Path(setting).expanduser())


def read(path: Path) -> Calibration:
    """The scaling in a file.

    Raises:
        ModelUnavailableError: it is missing or is not a calibration.
    """
    return _read(path).confidence


def familiarity_threshold(folder: Path) -> float | None:
    """The least familiarity of pictures that a checkpoint knows (see `familiarity`); None where none was fitted.

    Raises:
        ModelUnavailableError: the file next to the weights is not one of ours.
    """
    return _read(folder / FILE).familiarity if (folder / FILE).is_file() else None


def premises_rule(folder: Path) -> Premises:
    """The rule for premises that belongs to a checkpoint; the cautious default where none was fitted.

    Raises:
        ModelUnavailableError: the file next to the weights is not one of ours.
    """
    return _read(folder / FILE).premises if (folder / FILE).is_file() else Premises()


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(content_of(path, MAX_BYTES))
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


def write_premises(path: Path, rule: Premises, fitted: Mapping[str, Any]) -> None:
    """Write the rule for premises, with how it was fitted; everything else there stays."""
    _write(path, {"premises": rule}, fitted)


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
