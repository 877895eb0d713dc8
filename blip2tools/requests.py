"""What may be asked of an engine, what it answers, and the protocol that any engine keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from blip2tools import calibration
from blip2tools.cache import CacheUse
from blip2tools.errors import CancelledError, VisionError
from blip2tools.options import BeamRule

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from blip2tools.images import Target


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
class Generation:
    """How text is generated; None means the reference's default for the task and the family (LAVIS)."""

    num_beams: int = 5
    max_new_tokens: int | None = None
    min_new_tokens: int = 1
    length_penalty: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int | None = None
    beam_rule: BeamRule = "transformers"

    @property
    def repeatable(self) -> bool:
        """Whether the same request gives the same words again."""
        return not self.do_sample or self.seed is not None


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
    """Answer a question in the model's own words."""

    sight: Sight
    question: Question
    generation: Generation


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Score each of `choices` as the answer."""

    sight: Sight
    question: Question
    choices: tuple[str, ...]


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
    | MatchRequest
    | FeatureRequest
    | TextFeatureRequest
    | ExtractRequest
    | WarmRequest
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text and the mean log-probability of its tokens, the end included."""

    text: str
    logprob: float
    finish: str  # "eos", or "length" when it was cut
    unread: bool = False  # the prompt was too long, and its beginning was left out
    tokens: int = 1  # the end included
    scaling: calibration.Scaling | None = None  # of the checkpoint for this task, where it was fitted

    @property
    def confidence(self) -> float:
        """0 to 1: exp of the mean token log-probability, or calibrated where there is a scaling."""
        return calibration.confidence(self.logprob, self.tokens, self.scaling)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The probability of each choice, in the order of the request; together 1."""

    shares: tuple[float, ...]
    unread: bool  # as in `Utterance`


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


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for people, for `vision_status` and for metrics."""

    model: str | None
    matcher: str | None
    device: str | None
    dtype: str | None
    state: str
    loading: bool
    loaded: bool
    notes: tuple[str, ...]
    self_test: str | None  # of the loaded model, in one line
    compiled: bool  # whether decoding steps are
    recorded: bool  # whether what is done with few rows is replayed as CUDA graphs
    uncompiled: str | None  # why not, where that was asked for
    familiar: float | None  # familiarity below which a picture is not of the model's world; None without a world
    revision: str | None  # commit of the captioner's files on the hub
    matcher_revision: str | None
    quantize: str | None  # `none`, `8bit` or `4bit`
    waiting: int
    running: int
    limit: int
    completed: int
    failed: int
    cancelled: int
    joined: int  # requests that shared the work of an identical one, or found its answer kept
    cache: CacheUse
    batches: Mapping[int, int]  # size of a batch in requests -> how many there were
    tokens: int  # generated
    steps: Mapping[str, int]  # of decoding, "compiled", "recorded" and "eager"
    seconds: Mapping[str, tuple[int, float, float, float]]  # stage -> count, total, median and 99th percentile of late
    memory_bytes: int | None  # taken on the device; None where it does not say


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


class Engine(Protocol):
    """Whatever answers requests about pictures: this process's device, a remote one, or a group."""

    def targets(self) -> Sequence[Target]:
        """What pictures may be resized to before they come here; none while that is not known, or not wanted."""
        ...

    def prepare(self, sight: Sight) -> Sight:
        """Do what can be done before the queue, in the caller's thread. May give back `sight` as it is."""
        ...

    def expect(self, change: int) -> None:
        """A caller is about to submit something (1), or just about to do so or not to (-1); may be ignored."""
        ...

    def submit(self, request: Request, *, deadline: float | None, caller: str = "") -> Job:
        """Queue a request.

        Args:
            deadline: on `time.monotonic()`'s clock; None waits for ever.
            caller: whose request it is; waiting callers take turns.

        Raises:
            BusyError: the queue is full; nothing was started.
            CancelledError: the engine is closed.
        """
        ...

    def status(self) -> EngineStatus:
        """What is loaded and how busy it is."""
        ...

    def close(self) -> None:
        """End: waiting and running requests fail with `cancelled`, memory is given back. May be called twice."""
        ...
