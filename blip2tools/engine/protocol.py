"""The engine's interface, between the verbs and whatever answers requests about pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blip2tools.checkpoints.confidence import Premises
from blip2tools.engine.cache import CacheUse
from blip2tools.engine.requests import Request, Sight

if TYPE_CHECKING:
    from blip2tools.engine.line import Job
    from blip2tools.pictures.images import Target


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
    compiled: bool  # whether decoding steps are compiled
    recorded: bool  # whether work on small batches is replayed as CUDA graphs
    uncompiled: str | None  # why not, where that was asked for
    familiar: float | None  # familiarity below which a picture is not of the model's world; None without a world
    premises: Premises  # how presuppositions of questions are judged
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
    seconds: Mapping[str, tuple[int, float, float, float]]  # stage -> count, total, recent median and 99th percentile
    memory_bytes: int | None  # taken on the device; None where it does not say
    prompt: str | None = None  # what captions continue by default; empty is nothing, None is not known yet


class Engine(Protocol):
    """Whatever answers requests about pictures: this process's device, a remote one, or a group."""

    def targets(self) -> Sequence[Target]:
        """Sizes that pictures may be resized to before submission; none while they are unknown, or not wanted."""
        ...

    def prepare(self, sight: Sight) -> Sight:
        """Do what can be done before the queue, in the caller's thread. May return `sight` unchanged."""
        ...

    def expect(self, change: int) -> None:
        """Announce that a caller will soon submit a request (1), or that it now does or will not (-1); may be ignored."""
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
        """A snapshot of what is loaded and how busy it is."""
        ...

    def close(self) -> None:
        """Shut down: waiting and running requests fail with `cancelled`, memory is freed. May be called twice."""
        ...
