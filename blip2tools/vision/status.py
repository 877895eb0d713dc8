"""The parts of `vision_status` that come from an engine."""

from __future__ import annotations

from typing import Final

from blip2tools.checkpoints.memory import process_bytes
from blip2tools.engine.protocol import EngineStatus
from blip2tools.pictures.reading.reader import INSTALL, is_installed
from blip2tools.schemas import BatchStatus, CacheStatus, QueueStatus, StageStatus

_COMMON: Final = (
    "count reliably above three or four",
    "identify people",
    "understand languages other than English",
    "see small things in a large picture: pass a region",
)


def cannot() -> list[str]:
    """What the model is no good at."""
    words = "read text: use read_text" if is_installed() else f"read text (for that: {INSTALL})"
    return [words, *_COMMON]


def queue(status: EngineStatus) -> QueueStatus:
    """The engine's counts."""
    return QueueStatus(
        waiting=status.waiting,
        running=status.running,
        limit=status.limit,
        completed=status.completed,
        failed=status.failed,
        cancelled=status.cancelled,
        tokens=status.tokens,
        compiled_steps=status.steps.get("compiled", 0),
        recorded_steps=status.steps.get("recorded", 0),
        eager_steps=status.steps.get("eager", 0),
        joined=status.joined,
        batches=[BatchStatus(size=size, times=times) for size, times in status.batches.items()],
        stages=[
            StageStatus(
                stage=stage,
                times=times,
                total_s=round(total, 6),
                median_ms=round(1000 * median, 3),
                p99_ms=round(1000 * worst, 3),
            )
            for stage, (times, total, median, worst) in sorted(status.seconds.items())
        ],
        tokens_per_s=_rate(status),
        memory_bytes=status.memory_bytes,
        process_bytes=process_bytes(),
    )


def cache(status: EngineStatus) -> CacheStatus:
    """The feature cache's counts."""
    use = status.cache
    return CacheStatus(
        features=use.entries,
        bytes_used=use.bytes_used,
        bytes_limit=use.bytes_limit,
        spilled=use.spilled_entries,
        spilled_bytes=use.spilled_bytes,
        spilled_limit=use.spilled_limit,
        hits=use.hits,
        misses=use.misses,
        evicted=use.evicted,
    )


def _rate(status: EngineStatus) -> float | None:
    _, seconds, _, _ = status.seconds.get("speak", (0, 0.0, 0.0, 0.0))
    return round(status.tokens / seconds, 1) if seconds else None
