"""The engine: what one device does for many callers.

    submit(request) ─► waiting line ─► one worker thread, which alone touches the model ─► the job's future

A request is served in stages: *see* (the trunk; its states are cached), *query* (Q-Former and projection), then *speak*,
*rank* or *match*. Faces never see a tensor, and the engine never sees a path or an image format. Another `Engine`, a
remote one for instance, can stand in the same place.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from blip2tools.cache import CacheUse, FeatureCache
from blip2tools.errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    InvalidInputError,
    ModelUnavailableError,
    OutOfMemoryError,
    VisionError,
    to_vision_error,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from blip2tools.checkpoints import Loaded, Progress
    from blip2tools.model import Matcher, Pixels, Trunk

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0  # for the worker to notice that the engine is closing: far longer than one decoding step


@dataclass(frozen=True, slots=True)
class Sight:
    """The pixels to look at.

    Attributes:
        image: RGB, cropped to the region, any size.
        key: content digest and region; equal keys mean equal pixels.
    """

    image: Image
    key: str


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
class WarmRequest:
    """Load the model and do nothing else."""


Request = (
    CaptionRequest | AnswerRequest | ChoiceRequest | MatchRequest | FeatureRequest | TextFeatureRequest | WarmRequest
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text and the mean log-probability of its tokens, the end included."""

    text: str
    logprob: float
    finish: str  # "eos", or "length" when it was cut

    @property
    def confidence(self) -> float:
        """exp of the mean token log-probability: 0 to 1."""
        return min(1.0, math.exp(self.logprob))


@dataclass(frozen=True, slots=True)
class TextScore:
    """One text against a picture: ITM probability, ITC cosine, and whether the text had to be cut."""

    probability: float
    cosine: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for people and for `vision_status`."""

    model: str | None
    matcher: str | None
    device: str | None
    dtype: str | None
    state: str
    loading: bool
    loaded: bool
    notes: tuple[str, ...]
    waiting: int
    running: int
    limit: int
    completed: int
    failed: int
    cancelled: int
    cache: CacheUse


class Job:
    """One submitted request. `future` ends with its answer or a `VisionError`."""

    def __init__(self, request: Request, deadline: float | None) -> None:
        self.request = request
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
        return self._cancelled.is_set() or self.overdue()

    def overdue(self) -> bool:
        """Whether the deadline has passed."""
        return self._deadline is not None and time.monotonic() >= self._deadline

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

    def submit(self, request: Request, *, deadline: float | None) -> Job:
        """Queue a request.

        Args:
            deadline: on `time.monotonic()`'s clock; None waits for ever.

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


class LocalEngine:
    """The model of this process behind one worker thread.

    Args:
        load: loads the checkpoint; gets a function to report progress to (what, share 0-1 or None) and runs in the
            worker at the first request. After a failure the next request tries again.
        max_queue: requests that may wait.
        cache_bytes: budget of the feature cache.
    """

    def __init__(self, load: Callable[[Progress], Loaded], *, max_queue: int, cache_bytes: int) -> None:
        self._load = load
        self._max_queue = max_queue
        self._cache: FeatureCache[Tensor] = FeatureCache(cache_bytes)
        self._wake = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._loaded: Loaded | None = None
        self._loading = False
        self._state = "not loaded"
        self._closed = False
        self._worker: threading.Thread | None = None
        self._completed = self._failed = self._cancelled = 0

    def submit(self, request: Request, *, deadline: float | None) -> Job:
        """See `Engine.submit`."""
        job = Job(request, deadline)
        with self._wake:
            if self._closed:
                raise CancelledError("The vision engine is closed.")
            while self._waiting and self._waiting[0].stopped():
                self._drop(self._waiting.popleft())
            if len(self._waiting) >= self._max_queue:
                raise BusyError(f"{self._max_queue} requests are waiting already; try again in a few seconds.")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="blip2tools-engine", daemon=True)
                self._worker.start()
            self._waiting.append(job)
            self._wake.notify()
        return job

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        with self._wake:
            loaded = self._loaded
            return EngineStatus(
                model=loaded.model if loaded else None,
                matcher=loaded.matcher_name if loaded else None,
                device=loaded.device if loaded else None,
                dtype=loaded.dtype if loaded else None,
                state=self._state,
                loading=self._loading,
                loaded=loaded is not None,
                notes=loaded.notes if loaded else (),
                waiting=len(self._waiting),
                running=0 if self._running is None else 1,
                limit=self._max_queue,
                completed=self._completed,
                failed=self._failed,
                cancelled=self._cancelled,
                cache=self._cache.use(),
            )

    def close(self) -> None:
        """See `Engine.close`."""
        with self._wake:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
            self._wake.notify_all()
        for job in jobs:
            job.cancel()
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join(JOIN_SECONDS)
        with self._wake:
            self._loaded = None
            self._state = "closed"
        self._cache.clear()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._serve(job)
            finally:
                with self._wake:
                    self._running = None

    def _next(self) -> Job | None:
        with self._wake:
            while not self._waiting:
                if self._closed:
                    return None
                self._wake.wait()
            self._running = self._waiting.popleft()
            return self._running

    def _serve(self, job: Job) -> None:
        if job.stopped():
            self._drop(job)
            return
        try:
            answer = self._answer(job)
        except Exception as error:  # noqa: BLE001 - the worker must outlive every request
            with self._wake:
                self._failed += job.fail(_translate(error))
            return
        with self._wake:
            if job.stopped():
                self._drop(job)
            else:
                self._completed += job.answer(answer)

    def _drop(self, job: Job) -> None:
        job.fail(DeadlineError("The time for this call was over before it had an answer."))
        self._cancelled += 1

    def _answer(self, job: Job) -> object:
        eyes = Eyes(self._ensure_loaded(), self._cache)
        if job.stopped():  # while the model was being loaded
            return None
        try:
            return eyes.answer(job.request, job.stopped)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            logger.warning("out of memory; trying once more with an empty feature cache")
        self._cache.clear()
        _free_device_memory()
        return eyes.answer(job.request, job.stopped)

    def _ensure_loaded(self) -> Loaded:
        if self._loaded is not None:
            return self._loaded
        with self._wake:
            self._loading, self._state = True, "loading"
        try:
            loaded = self._load(self._progress)
        except Exception as error:
            failure = _translate(error)
            with self._wake:
                self._loading, self._state = False, f"unavailable: {failure.message}"
            if isinstance(failure, OutOfMemoryError):
                raise ModelUnavailableError(
                    "There is not enough memory to load the model; choose a smaller one or another device."
                ) from error
            raise failure from error
        with self._wake:
            self._loading, self._state, self._loaded = False, "ready", loaded
        return loaded

    def _progress(self, what: str, share: float | None) -> None:
        with self._wake:
            self._state = what if share is None else f"{what} ({share:.0%})"


class Eyes:
    """A loaded model and the stages of an answer. Used by the worker thread alone."""

    def __init__(self, loaded: Loaded, cache: FeatureCache[Tensor]) -> None:
        self._loaded = loaded
        self._cache = cache

    def answer(self, request: Request, stopped: Callable[[], bool]) -> object:
        """Serve one request; `stopped` is asked at every decoding step."""
        match request:
            case CaptionRequest():
                return self._caption(request, stopped)
            case AnswerRequest():
                return self._ask(request, stopped)
            case ChoiceRequest():
                return self._choose(request)
            case MatchRequest():
                return self._match(request)
            case FeatureRequest():
                return self._image_features(request)
            case TextFeatureRequest():
                return self._text_features(request)
            case WarmRequest():
                return None

    def _caption(self, request: CaptionRequest, stopped: Callable[[], bool]) -> list[Utterance]:
        prompt = self._loaded.words.caption(request.prompt)
        # The reference's captions: at most 30 tokens, no length penalty (LAVIS, `generate` of blip2_opt and blip2_t5).
        return self._speak(request.sight, prompt.ids, request.generation, request.count, 30, 1.0, stopped)

    def _ask(self, request: AnswerRequest, stopped: Callable[[], bool]) -> Utterance:
        # The reference's answers: at most 10 tokens; OPT's beams compare by their sums, T5's favour short ones
        # (LAVIS, `predict_answers` of blip2_opt and blip2_t5).
        penalty = 0.0 if self._loaded.captioner.family == "opt" else -1.0
        ids = self._question(request.question)
        return self._speak(request.sight, ids, request.generation, 1, 10, penalty, stopped)[0]

    def _choose(self, request: ChoiceRequest) -> list[float]:
        text = self._loaded.words
        candidates = [text.candidate(choice) for choice in request.choices]
        if empty := [choice for choice, ids in zip(request.choices, candidates, strict=True) if not ids]:
            raise InvalidInputError(f"The choice '{empty[0]}' holds nothing that the model can read.")
        sums = [
            total
            for total, _ in self._loaded.captioner.rank(
                self._tokens(request.sight), self._question(request.question), candidates
            )
        ]
        best = max(sums)
        shares = [math.exp(total - best) for total in sums]
        return [share / sum(shares) for share in shares]

    def _match(self, request: MatchRequest) -> list[TextScore] | None:
        matcher, words, pixels = self._loaded.matcher, self._loaded.matcher_words, self._loaded.matcher_pixels
        if matcher is None or words is None or pixels is None:
            return None
        from blip2tools.model import cosine

        prompts = [words(text) for text in request.texts]
        ids = [prompt.ids for prompt in prompts]
        states = self._states(matcher.trunk, pixels, request.sight)
        probabilities = matcher.match(states, ids).softmax(-1)[:, 1].tolist()
        cosines = (
            cosine(self._features(matcher, states, request.sight), matcher.text_features(ids))[0].clamp(-1, 1).tolist()
        )
        return [
            TextScore(probability, similarity, prompt.truncated)
            for probability, similarity, prompt in zip(probabilities, cosines, prompts, strict=True)
        ]

    def _image_features(self, request: FeatureRequest) -> list[list[float]] | None:
        matcher, pixels = self._loaded.matcher, self._loaded.matcher_pixels
        if matcher is None or pixels is None:
            return None
        states = self._states(matcher.trunk, pixels, request.sight)
        return cast("list[list[float]]", self._features(matcher, states, request.sight)[0].tolist())

    def _text_features(self, request: TextFeatureRequest) -> list[list[float]] | None:
        matcher, words = self._loaded.matcher, self._loaded.matcher_words
        if matcher is None or words is None:
            return None
        return cast("list[list[float]]", matcher.text_features([words(text).ids for text in request.texts]).tolist())

    def _question(self, question: Question) -> tuple[int, ...]:
        return self._loaded.words.question(question.text, question.history, question.template).ids

    def _speak(
        self,
        sight: Sight,
        prompt: tuple[int, ...],
        generation: Generation,
        count: int,
        longest: int,
        length_penalty: float,
        stopped: Callable[[], bool],
    ) -> list[Utterance]:
        from blip2tools.options import GenerationOptions

        options = GenerationOptions(
            num_beams=max(generation.num_beams, count),
            min_new_tokens=generation.min_new_tokens,
            length_penalty=length_penalty if generation.length_penalty is None else generation.length_penalty,
            repetition_penalty=generation.repetition_penalty,
            no_repeat_ngram_size=generation.no_repeat_ngram_size,
            do_sample=generation.do_sample,
            temperature=generation.temperature,
            top_p=generation.top_p,
            num_return_sequences=count,
            seed=generation.seed,
        )
        texts = self._loaded.captioner.speak(
            self._tokens(sight),
            [prompt],
            options,
            max_new_tokens=[generation.max_new_tokens or longest],
            stop=lambda row: stopped(),
        )
        decode = self._loaded.words.decode
        return [Utterance(decode(spoken.ids), spoken.logprob, spoken.finish) for spoken in texts[0]]

    def _states(self, trunk: Trunk, pixels: Pixels, sight: Sight) -> Tensor:
        key = (sight.key, pixels.key, trunk.fingerprint)
        return self._cached(key, lambda: trunk.see(pixels(sight.image)))

    def _tokens(self, sight: Sight) -> Tensor:
        captioner, pixels = self._loaded.captioner, self._loaded.pixels
        key = (sight.key, pixels.key, captioner.trunk.fingerprint, captioner.fingerprint)
        return self._cached(key, lambda: captioner.query(self._states(captioner.trunk, pixels, sight)))

    def _features(self, matcher: Matcher, states: Tensor, sight: Sight) -> Tensor:
        key = (sight.key, matcher.trunk.fingerprint, matcher.fingerprint)
        return self._cached(key, lambda: matcher.image_features(states))

    def _cached(self, key: tuple[str, ...], compute: Callable[[], Tensor]) -> Tensor:
        value = self._cache.get(key)
        if value is None:
            value = compute()
            self._cache.put(key, value)
        return value


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    import torch

    return isinstance(error, torch.OutOfMemoryError)


def _free_device_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _translate(error: BaseException) -> VisionError:
    if _is_out_of_memory(error):
        return OutOfMemoryError(
            "The device has not enough free memory for this request; try again, or with fewer texts."
        )
    return to_vision_error(error)
