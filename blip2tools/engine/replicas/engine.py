"""The gateway's side: it keeps nothing but what is under way, so that there may be as many gateways as one likes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.cache import CacheUse
from blip2tools.engine.line import Job
from blip2tools.engine.protocol import EngineStatus
from blip2tools.engine.replicas.cluster import has_gpus
from blip2tools.engine.replicas.pictures import Pictures, SharedStore
from blip2tools.engine.replicas.replica import Outcome, Replica
from blip2tools.engine.requests import Request, Sight
from blip2tools.errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    InvalidInputError,
    ModelUnavailableError,
    VisionError,
    error_of,
    to_vision_error,
)
from blip2tools.settings import HTTP_SETTINGS, Settings

if TYPE_CHECKING:
    from blip2tools.pictures.images import Target

APPLICATION: Final = "blip2tools"
PICTURES: Final = "blip2tools-pictures"
FACTS_S: Final = 2.0  # how old what is told of the replicas may be
TRIES: Final = 2  # a request that ends the process which answers it must not go through all of them
JOIN_S: Final = 5.0
_LOST: Final = "The process with the model ended during this call, and so did the next one; call again in a minute."

logger = logging.getLogger(__name__)


class ReplicaEngine:
    """Sends every request to one of the replicas; see `Engine`.

    What is told of batches, cache and stages is that of the replica that was asked last; requests are counted here.

    Args:
        handle: of the deployment.
        max_queue: requests that may be under way from here; one more is `busy`.
    """

    def __init__(self, handle: Any, *, max_queue: int) -> None:
        self._handle = handle
        self._max_queue = max_queue
        self._lock = threading.Lock()
        self._status = _UNKNOWN
        self._targets: tuple[Target, ...] = ()
        self._under_way: set[Job] = set()
        self._counts = {"completed": 0, "failed": 0, "cancelled": 0}
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blip2tools-replicas", daemon=True)
        self._thread.start()
        self._watch = asyncio.run_coroutine_threadsafe(self._watch_facts(), self._loop)

    def targets(self) -> Sequence[Target]:
        """See `Engine.targets`."""
        return self._targets

    def prepare(self, sight: Sight) -> Sight:
        """See `Engine.prepare`: a picture of bytes is a quarter of one of numbers, and the replica makes these itself."""
        return sight

    def expect(self, change: int) -> None:
        """See `Engine.expect`: where the others of a batch come from is not known here."""

    def submit(self, request: Request, *, deadline: float | None, caller: str = "") -> Job:
        """See `Engine.submit`."""
        job = Job(request, deadline, caller)
        with self._lock:
            if self._closed:
                raise CancelledError("The vision engine is closed.")
            if len(self._under_way) >= self._max_queue:
                raise BusyError(f"The queue is full ({self._max_queue} requests); try again in a few seconds.")
            self._under_way.add(job)
        work = asyncio.run_coroutine_threadsafe(self._serve(job, deadline), self._loop)
        job.future.add_done_callback(lambda _: work.cancel())
        work.add_done_callback(lambda _: self._end(job))
        return job

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        with self._lock:
            waiting = len(self._under_way)
            return replace(
                self._status,
                waiting=waiting,
                running=0,
                limit=self._max_queue,
                completed=self._counts["completed"],
                failed=self._counts["failed"],
                cancelled=self._counts["cancelled"],
            )

    def close(self) -> None:
        """See `Engine.close`. The replicas go on: they belong to all gateways."""
        with self._lock:
            self._closed = True
            jobs = list(self._under_way)
        for job in jobs:
            job.cancel()
        self._watch.cancel()
        if not self._loop.is_closed() and self._thread is not threading.current_thread():
            ended: Future[None] = asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop)
            try:
                ended.result(JOIN_S)
            except TimeoutError:
                logger.warning("calls to replicas did not end in time")
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(JOIN_S)
            self._loop.close()
        with self._lock:
            self._status = replace(self._status, state="closed", loaded=False)

    async def _serve(self, job: Job, deadline: float | None) -> None:
        try:
            code, value = await self._answer(job, deadline)
        except asyncio.CancelledError:  # whoever waited has gone
            with self._lock:
                self._counts["cancelled"] += 1
            raise
        except Exception as error:  # noqa: BLE001  whoever waits must be told
            self._deliver(job, to_vision_error(error))
            return
        self._deliver(job, error_of(code, value) if code else value)

    async def _answer(self, job: Job, deadline: float | None) -> Outcome:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        for _ in range(TRIES):
            seconds = None if deadline is None else deadline - time.monotonic()
            if seconds is not None and seconds <= 0:
                raise DeadlineError("The call ran out of time before it had an answer.")
            response = self._handle.answer.remote(job.request, seconds, job.caller)
            try:
                outcome: Outcome = await response
                return outcome
            except asyncio.CancelledError:
                response.cancel()
                raise
            except BackPressureError as error:
                raise BusyError(
                    "All replicas have as many calls waiting as they may; try again in a few seconds."
                ) from error
            except DeploymentUnavailableError as error:
                raise ModelUnavailableError("No replica can be started; the log of Ray Serve says why.") from error
            except RayActorError as error:
                logger.warning("a replica ended during a call (%s)", type(error).__name__)
        raise ModelUnavailableError(_LOST)

    def _deliver(self, job: Job, answer: object) -> None:
        if isinstance(answer, VisionError):
            delivered, kind = job.fail(answer), "failed"
        else:
            delivered, kind = job.answer(answer), "completed"
        with self._lock:
            self._counts[kind if delivered else "cancelled"] += 1

    def _end(self, job: Job) -> None:
        with self._lock:
            self._under_way.discard(job)

    async def _watch_facts(self) -> None:
        while True:
            try:
                status, targets = await self._handle.facts.remote()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  the next replica may answer
                logger.debug("no replica tells of itself (%s)", type(error).__name__)
            else:
                with self._lock:
                    if not self._closed:
                        self._status, self._targets = status, targets
            await asyncio.sleep(FACTS_S if self._status.loaded else FACTS_S / 8)


def deploy(settings: Settings, replicas: int, *, download: bool) -> tuple[ReplicaEngine, SharedStore]:
    """The engine and the pictures of a cluster; what does not run there yet is started.

    Args:
        settings: of the model, the queue and the caches. Those of a replica that runs already stay as they are.
        download: whether a named model that is not on a node may be downloaded there.
        replicas: how many, with a GPU each where the cluster has any and the settings do not ask for the CPU.

    Raises:
        InvalidInputError: the cluster serves another model.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    serve.start(proxy_location="Disabled")  # gateways are servers of ours, with their own guard
    model = settings.model_dump(exclude={*HTTP_SETTINGS, "allowed_dirs"})
    there = serve.status().applications
    gpus = 1 if settings.device not in ("cpu", "mps") and has_gpus() else 0
    if APPLICATION not in there:
        deployment = serve.deployment(Replica).options(
            name="Replica",
            num_replicas=replicas,
            max_ongoing_requests=settings.max_queue,  # they wait inside, where they can be batched
            max_queued_requests=settings.max_queue,
            graceful_shutdown_timeout_s=JOIN_S,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        )
        serve.run(deployment.bind(model, download), name=APPLICATION, route_prefix=None)
    if PICTURES not in there:
        keeper = serve.deployment(Pictures).options(
            name="Pictures",
            num_replicas=1,
            max_ongoing_requests=settings.max_queue,
            ray_actor_options={"num_cpus": 0},
        )
        serve.run(keeper.bind(settings.store_mb * 2**20), name=PICTURES, route_prefix=None)
    handle = serve.get_app_handle(APPLICATION)
    served = handle.serves.remote().result()
    mine = {name: model[name] for name in served}
    if differing := sorted(name for name in served if served[name] != mine[name]):
        raise InvalidInputError(
            f"This cluster serves with other settings ({', '.join(differing)}): give the same, or end what runs there with "
            "`serve shutdown`."
        )
    engine = ReplicaEngine(handle, max_queue=settings.max_queue)
    return engine, SharedStore(settings.store_mb * 2**20, serve.get_app_handle(PICTURES))


async def _end_tasks() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_UNKNOWN: Final = EngineStatus(
    model=None,
    matcher=None,
    device=None,
    dtype=None,
    state="waiting for the replicas",
    loading=True,
    loaded=False,
    notes=(),
    self_test=None,
    compiled=False,
    recorded=False,
    uncompiled=None,
    familiar=None,
    premises=Premises(),
    revision=None,
    matcher_revision=None,
    quantize=None,
    waiting=0,
    running=0,
    limit=0,
    completed=0,
    failed=0,
    cancelled=0,
    joined=0,
    cache=CacheUse(entries=0, bytes_used=0, bytes_limit=0, hits=0, misses=0, evicted=0),
    batches={},
    tokens=0,
    steps={},
    seconds={},
    memory_bytes=None,
)
