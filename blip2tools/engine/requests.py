"""What may be asked of an engine, what it answers, and one asked thing with its answer to come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blip2tools.checkpoints import confidence
from blip2tools.errors import CancelledError, VisionError
from blip2tools.model.options import Generation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from blip2tools.pictures.images import Target


@dataclass(frozen=True, slots=True)
class Sight:
    """The pixels to look at.

    Attributes:
        key: content digest and region; equal keys mean equal pixels, and equal sights.
        image: RGB, cropped to the region, any size; None once `pixels` holds all that a model wants.
        pixels: ready for a vision tower, by the key of its preprocessing.
        resized: the image as each target has it, where it was resized before it came here.
    """

    key: str
    image: Image | None = field(compare=False, repr=False)
    pixels: Mapping[str, Tensor] = field(compare=False, repr=False, default_factory=dict)
    resized: Mapping[Target, Image] = field(compare=False, repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """Say what is there: `count` captions that continue `prompt`."""

    sight: Sight
    generation: Generation
    prompt: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the (question, answer) turns before it, oldest first, and the template to put it in.

    Without a template the one that the checkpoint was trained with is used.
    """

    text: str
    history: tuple[tuple[str, str], ...]
    template: str | None


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Answer a question in the model's own words, and say how well each of `statements` fits the same picture."""

    sight: Sight
    question: Question
    generation: Generation
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Score each of `choices` as the answer, and say how well each of `statements` fits the same picture."""

    sight: Sight
    question: Question
    choices: tuple[str, ...]
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FitRequest:
    """Say how well each of `statements` fits, by ITM alone."""

    sight: Sight
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """Score how well each text fits."""

    sight: Sight
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The contrastive features of a picture."""

    sight: Sight


@dataclass(frozen=True, slots=True)
class TextFeatureRequest:
    """The contrastive features of texts."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """The Q-Former's hidden states: of a picture, of a text, or of both read together."""

    sight: Sight | None
    text: str | None


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """Load the model and do nothing else."""


Request = (
    CaptionRequest
    | AnswerRequest
    | ChoiceRequest
    | FitRequest
    | MatchRequest
    | FeatureRequest
    | TextFeatureRequest
    | ExtractRequest
    | WarmRequest
)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a statement fits a picture, by ITM alone.

    Attributes:
        odds: log-odds of a match; ITM's probability is their sigmoid.
        unread: whether a word of it is spelt out in letters, as the matcher has no better name for it.
    """

    odds: float
    unread: bool = False

    @property
    def probability(self) -> float:
        """ITM's probability of a match, 0 to 1."""
        return confidence.sigmoid(self.odds)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text and the mean log-probability of its tokens, the end included."""

    text: str
    logprob: float
    finish: str  # "eos", or "length" when it was cut
    unread: bool = False  # the prompt was too long, and its beginning was left out
    tokens: int = 1  # the end included
    scaling: confidence.Scaling | None = None  # of the checkpoint for this task, where it was fitted
    fits: tuple[Fit, ...] | None = None  # of the request's statements, in their order; None without a matcher

    @property
    def confidence(self) -> float:
        """0 to 1: exp of the mean token log-probability, or calibrated where there is a scaling."""
        return confidence.confidence(self.logprob, self.tokens, self.scaling)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The probability of each choice, in the order of the request; together 1."""

    shares: tuple[float, ...]
    unread: bool  # as in `Utterance`
    said: float = 1.0  # probability that the model itself would have answered one of them, word for word
    fits: tuple[Fit, ...] | None = None  # as in `Utterance`


@dataclass(frozen=True, slots=True)
class TextScore:
    """One text against a picture: ITM probability, ITC cosine, whether the text had to be cut, and ITM's logit of a match."""

    probability: float
    cosine: float
    truncated: bool
    logit: float

    @property
    def ranking(self) -> float:
        """What the reference orders candidates by: the logit of a match plus the cosine (LAVIS, `compute_sim_matrix`)."""
        return self.logit + self.cosine


@dataclass(frozen=True, slots=True)
class Extract:
    """Hidden states (rows x H), and their ITC projections (rows x D) where the mode has them."""

    states: list[list[float]]
    projected: list[list[float]] | None
    truncated: bool


class Job:
    """One submitted request. `future` ends with its answer or a `VisionError`."""

    def __init__(self, request: Request, deadline: float | None, caller: str = "") -> None:
        self.request = request
        self.caller = caller
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # so that only `cancel` below can stop it
        self._deadline = deadline
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop: the future fails at once, and the decoder ends the row at its next token."""
        self._cancelled.set()
        self.fail(CancelledError("The call was cancelled."))

    def stopped(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def answer(self, value: Any) -> bool:
        """Deliver the answer unless the job has already ended."""
        return self._settle(lambda: self.future.set_result(value))

    def fail(self, error: VisionError) -> bool:
        """Deliver an error unless the job has already ended."""
        return self._settle(lambda: self.future.set_exception(error))

    def _settle(self, deliver: Callable[[], None]) -> bool:
        # Two threads may end a job: the worker and the one that cancels. The future lets exactly one of them win.
        try:
            deliver()
        except InvalidStateError:
            return False
        return True
