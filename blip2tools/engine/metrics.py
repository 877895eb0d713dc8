"""The engine's counts and timings, of bounded size."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

LATE = 512  # durations kept per stage for the quantiles


class Metrics:
    """Counts since the start, and recent durations of the stages. Written by the engine; read from any thread."""

    def __init__(self) -> None:
        self.completed = self.failed = self.cancelled = self.joined = self.tokens = 0
        self.batches: Counter[int] = Counter()
        self.steps: Counter[str] = Counter()  # of decoding, "compiled", "recorded" and "eager"
        self._lock = threading.Lock()
        self._count: Counter[str] = Counter()
        self._total: defaultdict[str, float] = defaultdict(float)
        self._late: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LATE))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time the block, in wall-clock seconds; failures are not counted."""
        started = time.perf_counter()
        yield
        self.observe(stage, time.perf_counter() - started)

    def observe(self, stage: str, seconds: float) -> None:
        """Count one duration."""
        with self._lock:
            self._count[stage] += 1
            self._total[stage] += seconds
            self._late[stage].append(seconds)

    def seconds(self) -> Mapping[str, tuple[int, float, float, float]]:
        """The timings of each stage: count, total seconds, median and 99th percentile of the last few hundred."""
        with self._lock:
            late = {stage: sorted(kept) for stage, kept in self._late.items()}
            return {
                stage: (self._count[stage], self._total[stage], _quantile(kept, 0.5), _quantile(kept, 0.99))
                for stage, kept in late.items()
            }


def _quantile(ordered: list[float], share: float) -> float:
    """The nearest-rank quantile."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
