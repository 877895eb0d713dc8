"""The engine: one device for many callers.

    submit ─► the queue ─► a batch ─► the stages, on one worker thread that alone touches the model ─► futures

1. `submit` joins a request to an identical one in progress, or queues it (`line.py`), or refuses it at once when the queue is
   full. A cached answer is returned at once.
2. The worker takes the next batch as soon as it is free; while it is busy, the queue grows into the next batch. An idle
   device waits only for requests whose picture is being decoded right now, and at most a few milliseconds. Callers take
   turns.
3. `stages.py` answers the batch: features come from the cache where possible; a row is answered when it ends, not when
   the batch does, and a cancelled row ends at its next token. Requests of the same kind that arrive meanwhile join it
   before any token, unless it is the turn of others.
4. A batch that fails is halved until the failing request stands alone, so that it fails alone.

Faces never see a tensor, and the engine never sees a path or an image format.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Self

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine import memory
from blip2tools.engine.cache import KEYS_SHARE, FeatureCache, Kept
from blip2tools.engine.line import Job, Line, Work
from blip2tools.engine.metrics import Metrics
from blip2tools.engine.protocol import EngineStatus
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    ExtractRequest,
    MatcherRequest,
    Request,
    Sight,
    TextFeatureRequest,
    WarmRequest,
)
from blip2tools.errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    ModelUnavailableError,
    OutOfMemoryError,
    VisionError,
    to_vision_error,
)

if TYPE_CHECKING:
    from torch import Tensor

    from blip2tools.checkpoints import Loaded, Progress
    from blip2tools.engine.stages import Stages
    from blip2tools.pictures.images import Target
    from blip2tools.settings import Settings

logger = logging.getLogger(__name__)

GATHER_S = 0.010  # how long a burst's first request waits for the others: less than one decoding step of most models
PAUSE_S = 1.0  # without a request: whoever works through a folder makes no such pause
WORKER = "blip2tools-engine"  # the name of its thread
JOIN_SECONDS = 10.0  # for the worker to notice that the engine is closing: far longer than one decoding step


class LocalEngine:
    """The model of this process behind one worker thread.

    Args:
        load: loads the checkpoint; gets a function to report progress to (what, share 0-1 or None) and runs in the
            worker at the first request. After a failure the next request tries again.
        max_queue: requests that may wait.
        max_batch: decoder rows of one batch; a request takes as many as it has beams. Out of memory halves it for good.
        cache_bytes: budget of the feature cache on the device.
        spill_bytes: budget of its second tier in main memory, where the device has memory of its own.
        kept_answers: answers kept for repeated requests; 0 keeps none.
        idle_unload_s: seconds without a request after which the model's memory is freed; 0 is never.
        pause_s: seconds without a request after which there is time for work that makes later ones quicker; 0 is never.
    """

    def __init__(
        self,
        load: Callable[[Progress], Loaded],
        *,
        max_queue: int,
        cache_bytes: int,
        spill_bytes: int = 0,
        max_batch: int = 160,
        kept_answers: int = 0,
        idle_unload_s: float = 0,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._load = load
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._kept_answers = kept_answers
        self._idle_unload_s, self._pause_s = idle_unload_s, pause_s
        for_keys = int(cache_bytes * KEYS_SHARE)
        self._cache: FeatureCache[Tensor] = FeatureCache(cache_bytes - for_keys)
        self._spill_bytes = spill_bytes
        self._metrics = Metrics()
        self._wake = threading.Condition()
        self._line = Line()
        self._running: list[Work] = []
        self._expected = 0
        self._under_way: dict[Request, Work] = {}
        self._answers: OrderedDict[Request, object] = OrderedDict()
        self._kept = Kept(FeatureCache(for_keys))
        self._loaded: Loaded | None = None
        self._loading = False
        self._unsettled = False  # whether a pause can be used, see `memory.settle`
        self._state = "not loaded"
        self._closed = False
        self._worker: threading.Thread | None = None

    @classmethod
    def of(cls, settings: Settings, *, download: bool) -> Self:
        """The engine that settings ask for; the model is loaded, and tested, at the first request.

        Args:
            settings: of the model, the queue and the caches.
            download: whether a named model that is not here may be downloaded.
        """

        def load(progress: Progress) -> Loaded:
            from blip2tools.checkpoints import selftest

            return selftest.load(settings, progress, download=download)

        return cls(
            load,
            max_queue=settings.max_queue,
            max_batch=settings.max_batch,
            kept_answers=settings.keep_answers,
            idle_unload_s=settings.idle_unload_s,
            cache_bytes=settings.cache_mb * 2**20,
            spill_bytes=settings.spill_mb * 2**20,
        )

    # ---- the callers' side ----

    def targets(self) -> tuple[Target, ...]:
        """See `Engine.targets`: the sizes of the vision towers, once they are loaded."""
        loaded = self._loaded
        wanted = (loaded.pixels, loaded.matcher_pixels) if loaded else ()
        return tuple(dict.fromkeys(pixels.target for pixels in wanted if pixels is not None))

    def prepare(self, sight: Sight) -> Sight:
        """See `Engine.prepare`: resize for the vision towers, so that the worker need not and the picture can be freed."""
        loaded = self._loaded
        if loaded is None or (sight.image is None and not sight.resized):
            return sight
        from blip2tools.engine.stages import prepared

        wanted = [loaded.pixels] + ([loaded.matcher_pixels] if loaded.matcher_pixels else [])
        return Sight(sight.key, None, {pixels.key: prepared(sight, pixels) for pixels in wanted})

    def expect(self, change: int) -> None:
        """See `Engine.expect`: the worker waits a moment for announced callers to join the first one's batch."""
        with self._wake:
            self._expected += change

    def submit(self, request: Request, *, deadline: float | None, caller: str = "") -> Job:
        """See `Engine.submit`."""
        job = Job(request, deadline, caller)
        with self._wake:
            if self._closed:
                raise CancelledError("The vision engine is closed.")
            if self._join(job):
                return job
            for work in self._line.drop_stopped():
                self._drop(work)
            if len(self._line) >= self._max_queue:
                raise BusyError(f"The queue is full ({self._max_queue} requests); try again in a few seconds.")
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=WORKER, daemon=True)
                self._worker.start()
            work = Work(job)
            self._line.add(work)
            if _repeatable(request):
                self._under_way[request] = work
            self._wake.notify()
        return job

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        loaded = self._loaded
        taken = memory.taken(loaded.device) if loaded and loaded.device.startswith("cuda") else None
        with self._wake:
            loaded, metrics = self._loaded, self._metrics
            return EngineStatus(
                model=loaded.model if loaded else None,
                matcher=loaded.matcher_name if loaded else None,
                device=loaded.device if loaded else None,
                dtype=loaded.dtype if loaded else None,
                state=self._state,
                loading=self._loading,
                loaded=loaded is not None,
                notes=loaded.notes if loaded else (),
                self_test=loaded.self_test if loaded else None,
                compiled=loaded.compiled if loaded else False,
                recorded=loaded.recorded if loaded else False,
                uncompiled=loaded.uncompiled if loaded else None,
                familiar=loaded.familiar if loaded else None,
                premises=loaded.premises if loaded else Premises(),
                revision=loaded.revision if loaded else None,
                matcher_revision=loaded.matcher_revision if loaded else None,
                quantize=loaded.quantize if loaded else None,
                waiting=len(self._line),
                running=sum(not work.answered for work in self._running),
                limit=self._max_queue,
                completed=metrics.completed,
                failed=metrics.failed,
                cancelled=metrics.cancelled,
                joined=metrics.joined,
                cache=self._cache.use() + self._kept.keys.use(),
                batches=dict(sorted(metrics.batches.items())),
                tokens=metrics.tokens,
                steps=dict(metrics.steps),
                seconds=metrics.seconds(),
                memory_bytes=taken,
                prompt=loaded.words.prompt if loaded else None,
            )

    def close(self) -> None:
        """See `Engine.close`."""
        with self._wake:
            self._closed = True
            works = [*self._line.clear(), *self._running]
            self._wake.notify_all()
        for work in works:
            for job in work.jobs:
                job.cancel()
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join(JOIN_SECONDS)
        with self._wake:
            self._state = "closed"
        self._unload()

    def _join(self, job: Job) -> bool:
        """Whether the job needs no work of its own. Called with the lock held."""
        if job.request in self._answers:
            self._answers.move_to_end(job.request)
            job.answer(self._answers[job.request])
        elif (work := self._under_way.get(job.request)) is not None and not work.stopped():
            work.jobs.append(job)
        else:
            return False
        self._metrics.joined += 1
        return True

    def _drop(self, work: Work) -> None:
        for job in work.jobs:
            job.fail(DeadlineError("The call ran out of time before it had an answer."))
        self._metrics.cancelled += len(work.jobs)
        self._forget(work)

    def _forget(self, work: Work) -> None:
        if self._under_way.get(work.request) is work:
            del self._under_way[work.request]

    # ---- the worker's side ----

    def _work(self) -> None:
        while (batch := self._next()) != []:
            if batch is None:
                self._use_pause()
                continue
            try:
                self._serve(batch)
            finally:
                with self._wake:
                    for work in batch:
                        self._forget(work)
                    self._running = []

    def _next(self) -> list[Work] | None:
        """The next batch; None when a pause can be used; empty when the engine closes."""
        with self._wake:
            while True:
                for work in self._line.drop_stopped():
                    self._drop(work)
                if len(self._line) and not self._closed:
                    moment = self._line.oldest() + GATHER_S - time.monotonic()
                    if self._expected > 0 and moment > 0 and len(self._line) < self._max_batch:
                        self._wake.wait(moment)
                        continue
                if len(self._line):
                    self._running = self._line.take(self._max_batch)
                    return self._running
                if self._closed:
                    return []
                if self._unsettled:
                    if not self._wake.wait(self._pause_s) and not len(self._line) and not self._closed:
                        return None
                    continue
                patience = self._idle_unload_s if self._loaded is not None and self._idle_unload_s else None
                if not self._wake.wait(patience) and not len(self._line) and not self._closed:
                    self._state = "unloaded after a time without requests; the next one loads it again"
                    self._unload()

    def _use_pause(self) -> None:
        """Do what makes later requests quicker until one comes; it waits for the step that is under way."""
        try:
            for _ in memory.settle(self._ensure_loaded()):
                with self._wake:
                    if len(self._line) or self._closed:
                        return
        except Exception as error:  # too little memory, say: the model works as it is
            logger.warning("packing stopped (%s)", type(error).__name__, exc_info=error)
        self._unsettled = False

    def _serve(self, batch: list[Work]) -> None:
        try:
            loaded = self._ensure_loaded()
        except VisionError as error:
            for work in batch:
                self._deliver(work, error)
            return
        from blip2tools.engine.stages import Stages

        stages = Stages(loaded, self._cache, self._metrics, self._kept)
        for work in [work for work in batch if work.stopped()]:  # cancelled while the model was being loaded
            self._deliver(work, None)
        live = [work for work in batch if not work.answered]
        if live:
            self._count(live)
            self._answer(stages, live, retry=True)

    def _answer(self, stages: Stages, batch: list[Work], *, retry: bool) -> None:
        batch = [work for work in batch if not work.answered]
        if not batch:
            return
        try:
            answers = stages.answer(batch, self._deliver, partial(self._join_batch, batch))
        except Exception as error:  # noqa: BLE001 - the worker must outlive every request
            failure: BaseException = error
        else:
            for work, answer in zip(batch, answers, strict=True):
                self._deliver(work, answer)
            return
        short = memory.is_short(failure)
        if short:
            if isinstance(failure, MemoryError):
                self._cache.clear()  # main memory: there is nowhere to move anything to
            else:
                self._cache.vacate()
            self._kept.keys.clear()
            memory.free()
        if len(batch) > 1:
            # Half the batch needs half the memory, and a request that never fits must not make others fail.
            logger.warning("a batch of %d failed (%s); trying its halves", len(batch), type(failure).__name__)
            middle = len(batch) // 2
            if short:
                # What did not fit once will not fit the next time, and every attempt empties the feature cache.
                self._max_batch = max(1, min(self._max_batch, sum(work.rows for work in batch) // 2))
            self._answer(stages, batch[:middle], retry=retry)
            self._answer(stages, batch[middle:], retry=retry)
        elif short and retry:
            self._answer(stages, batch, retry=False)
        else:
            self._deliver(batch[0], _translate(failure))

    def _join_batch(self, batch: list[Work], fits: Callable[[Work], bool]) -> list[Work]:
        """Append to a running batch the requests that have arrived since; see `Stages.answer`.

        Rows that ended free no room: otherwise a batch might run for ever and keep all of its pictures in memory.
        """
        room = self._max_batch - sum(work.rows for work in batch)
        with self._wake:
            for work in self._line.drop_stopped():
                self._drop(work)
            joined = [] if self._closed else self._line.join(batch[0].group, room, fits)
            self._running += joined
        if joined:
            self._count(joined)
        batch += joined
        return joined

    def _count(self, taken: list[Work]) -> None:
        """Count what was taken from the queue together."""
        self._metrics.batches[len(taken)] += 1
        for work in taken:
            self._metrics.observe("wait", time.monotonic() - work.since)

    def _deliver(self, work: Work, answer: object) -> None:
        metrics = self._metrics
        with self._wake:
            if work.answered:  # as soon as its row had ended
                return
            work.answered = True
            self._forget(work)
            if work.stopped():
                self._drop(work)
                return
            if isinstance(answer, VisionError):
                metrics.failed += sum(job.fail(answer) for job in work.jobs)
                return
            if self._kept_answers and _repeatable(work.request):
                self._answers[_without_pixels(work.request)] = answer
                while len(self._answers) > self._kept_answers:
                    self._answers.popitem(last=False)
            delivered = sum(job.answer(answer) for job in work.jobs)
            metrics.completed += delivered
            metrics.observe("request", time.monotonic() - work.since)
            metrics.cancelled += len(work.jobs) - delivered

    def _ensure_loaded(self) -> Loaded:
        if self._loaded is not None:
            return self._loaded
        with self._wake:
            self._loading, self._state = True, "loading"
        try:
            loaded = self._load(self._progress)
        except Exception as error:
            failure = _translate(error)
            if isinstance(failure, OutOfMemoryError):
                failure = ModelUnavailableError(
                    "There is not enough memory to load the model; choose a smaller one or another device."
                )
            with self._wake:
                self._loading, self._state = False, f"unavailable: {failure.message}"
            raise failure from error
        with self._wake:
            self._loading = False
            if self._closed:  # closed during loading: the model would never be freed
                raise CancelledError("The vision engine is closed.")
            self._state, self._loaded = "ready", loaded
            self._unsettled = self._pause_s > 0
            self._cache.spill_to(memory.second_tier(loaded.device, self._spill_bytes))
        return loaded

    def _unload(self) -> None:
        """Free the model's memory. A `Loaded` that a caller's `prepare` still holds is freed with that call."""
        left = None if self._loaded is None else memory.parts(self._loaded)
        self._loaded, self._unsettled = None, False
        self._answers.clear()
        self._kept.fits.clear()
        self._kept.keys.clear()
        self._cache.clear()
        if left is not None:
            memory.free(left)

    def _progress(self, what: str, share: float | None) -> None:
        with self._wake:
            self._state = what if share is None else f"{what} ({share:.0%})"


def _without_pixels(request: Request) -> Request:
    """An equal request that keeps no picture alive: a thousand kept answers would hold hundreds of megabytes."""
    if isinstance(request, TextFeatureRequest | ExtractRequest | MatcherRequest | WarmRequest):
        return request
    return replace(request, sight=Sight(request.sight.key, None))


def _repeatable(request: Request) -> bool:
    match request:
        case CaptionRequest(generation=generation) | AnswerRequest(generation=generation):
            return generation.repeatable
        case (
            WarmRequest() | MatcherRequest() | ExtractRequest()
        ):  # a thousand kept answers of that size would take a gigabyte
            return False
        case _:
            return True


def _translate(error: BaseException) -> VisionError:
    if memory.is_short(error):
        return OutOfMemoryError(
            "The device does not have enough free memory for this request; try again, or with fewer texts."
        )
    return to_vision_error(error)
