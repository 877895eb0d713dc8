"""The queue: how many may wait, who is served next, and which requests are served together.

Callers take turns, so that one caller's five hundred requests do not hold up another's single one. A batch is led by the oldest
request of the caller whose turn it is, and filled with requests of all callers, in turns again, that can share its work.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import Any

from blip2tools.call import CALLER
from blip2tools.engine.requests import (
    AnswerRequest,
    CaptionRequest,
    ChoiceRequest,
    ExtractRequest,
    FeatureRequest,
    FitRequest,
    MatchRequest,
    Request,
    TextFeatureRequest,
)
from blip2tools.errors import BusyError, CancelledError, VisionError
from blip2tools.model.options import Generation

# A batch decodes until its longest row ends, so rows of very different lengths would hold up the short ones.
LENGTHS = (16, 32, 64, 128)
CAPTION_TOKENS, ANSWER_TOKENS = 30, 10  # LAVIS: `generate` and `predict_answers` of blip2_opt and blip2_t5


class Admission:
    """A limit on the calls in progress: pictures that wait for a decoder take memory before the engine's queue sees them.

    One of several callers may take three quarters of the places, which leaves some for the others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = limit - limit // 4
        self._inside = 0
        self._of: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one call in and out.

        Raises:
            BusyError: the limit is reached.
        """
        caller = CALLER.get()
        with self._lock:
            if self._inside > self._limit:
                raise BusyError(f"The queue is full ({self._limit} calls); try again in a few seconds.")
            if caller and self._of[caller] > self._share:
                raise BusyError(f"The queue already holds {self._share} of your calls; try again in a few seconds.")
            self._inside += 1
            self._of[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._of[caller] -= 1
                if not self._of[caller]:
                    del self._of[caller]


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
        """Whether the answer is no longer wanted."""
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


class Work:
    """One request and all jobs that wait for its answer."""

    def __init__(self, job: Job) -> None:
        self.request = job.request
        self.caller = job.caller
        self.jobs = [job]
        self.group = group(job.request)
        self.rows = rows(job.request)
        self.since = time.monotonic()
        self.answered = False  # possibly before the rest of its batch

    def stopped(self) -> bool:
        """Whether the answer is no longer wanted."""
        return all(job.stopped() for job in self.jobs)


class Line:
    """Waiting work items, in an order that is fair to callers. Not thread-safe: its owner holds a lock."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, deque[Work]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Work]:
        for works in self._callers.values():
            yield from works

    def oldest(self) -> float:
        """The time at which the item that has waited longest arrived, on `time.monotonic()`'s clock."""
        return min(works[0].since for works in self._callers.values())

    def add(self, work: Work) -> None:
        """Append an item to its caller's own queue."""
        self._callers.setdefault(work.caller, deque()).append(work)
        self._length += 1

    def drop_stopped(self) -> list[Work]:
        """Remove every item that is no longer wanted."""
        dropped = [work for work in self if work.stopped()]
        for work in dropped:
            self._remove(work)
        return dropped

    def take(self, limit: int, fits: Callable[[Work], bool] = lambda work: True) -> list[Work]:
        """The next batch: at least one item, together at most `limit` decoder rows unless the first alone has more.

        Args:
            fits: which items may be taken besides the first.
        """
        caller, works = next(iter(self._callers.items()))
        batch = [works[0]]
        self._callers.move_to_end(caller)
        self._remove(works[0])
        room = limit - batch[0].rows
        while room > 0:
            joined = [work for work in self._one_of_each(batch[0].group) if work.rows <= room and fits(work)]
            if not joined:
                break
            for work in joined:
                if work.rows > room:
                    break
                self._remove(work)
                batch.append(work)
                room -= work.rows
        return batch

    def join(self, wanted: Hashable, limit: int, fits: Callable[[Work], bool]) -> list[Work]:
        """The items that can join a running batch of this group, at most `limit` decoder rows.

        None, when the item whose turn it is cannot join: those that join could hold it up for ever.
        """
        if not self._callers:
            return []
        first = next(iter(self._callers.values()))[0]
        return self.take(limit, fits) if first.group == wanted and first.rows <= limit and fits(first) else []

    def clear(self) -> list[Work]:
        """Remove everything."""
        works = list(self)
        self._callers.clear()
        self._length = 0
        return works

    def _one_of_each(self, wanted: Hashable) -> list[Work]:
        found = (next((work for work in works if work.group == wanted), None) for works in self._callers.values())
        return [work for work in found if work is not None]

    def _remove(self, work: Work) -> None:
        works = self._callers[work.caller]
        works.remove(work)
        self._length -= 1
        if not works:
            del self._callers[work.caller]


def group(request: Request) -> Hashable:
    """The traits that requests must share to be decoded or matched together."""
    match request:
        case CaptionRequest(generation=generation, count=count):
            return _speech(generation, count, "caption", CAPTION_TOKENS)
        case AnswerRequest(generation=generation):
            return _speech(generation, 1, "answer", ANSWER_TOKENS)
        case ChoiceRequest():
            return "choose"
        case MatchRequest() | FeatureRequest():
            return "match"
        case FitRequest():
            return "fit"
        case TextFeatureRequest():
            return "words"
        case ExtractRequest():
            return "extract"
        case _:
            return "warm"


def rows(request: Request) -> int:
    """Rows that a request takes in a batch."""
    match request:
        case CaptionRequest(generation=generation, count=count):
            return count if generation.do_sample else max(generation.num_beams, count)
        case AnswerRequest(generation=generation):
            return 1 if generation.do_sample else generation.num_beams
        case ChoiceRequest(choices=choices):
            return len(choices)
        case MatchRequest(texts=texts) | TextFeatureRequest(texts=texts):
            return len(texts)
        case FitRequest(statements=statements):
            return len(statements)
        case _:
            return 1


def _speech(generation: Generation, count: int, task: str, longest: int) -> Hashable:
    tokens = generation.max_new_tokens or longest
    length = next(bound for bound in LENGTHS if tokens <= bound)
    repeating = (generation.repetition_penalty, generation.no_repeat_ngram_size)
    common = (generation.min_new_tokens, *repeating, generation.beam_rule, length)
    if generation.do_sample:
        return "sample", generation.temperature, generation.top_p, generation.seed, count, *common
    beams = max(generation.num_beams, count)
    if beams == 1:
        return "greedy", *common  # where a length penalty has no effect
    penalty = task if generation.length_penalty is None else generation.length_penalty
    return "beam", beams, count, penalty, *common
