"""Hours of use in minutes: `python -m benchmarks.soak`.

Many callers at once, on an event loop and in threads, ask everything that can be asked about ever new pictures and some seen
before; some give up halfway, some have too little time, some send what is not a picture. Meanwhile memory, threads and open
files are sampled. What grows with use, and not just with the first minutes, is a leak.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blip2tools.vision import Vision

TEXT = """\
Runs a mixed load on the demo checkpoint, cancelled and overdue calls among it, samples memory, threads and open files, and
compares the end with the level after minute 3. Exits with 1 when something has grown."""

# Small enough to be full within the first minutes: what still grows then is not a cache.
BUDGETS = {"cache_mb": 8, "store_mb": 4, "keep_answers": 256}
SETTLED_S = 180.0
GROWTH = 1.05
LATE_THREADS = 2  # pools start their threads when they first need them
HURRIED_S = 0.05
# Ends that the load provokes; `not_found` is a handle whose picture was evicted.
EXPECTED = ("answered", "given up", "timeout", "unsupported_image", "corrupt_image", "not_found", "busy")


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment."""

    seconds: float
    rss: int
    threads: int
    files: int  # open ones; handles on Windows
    cache_bytes: int
    waiting: int
    completed: int


@dataclass(frozen=True, slots=True)
class Record:
    """The results of a run."""

    samples: list[Sample]  # one every ten seconds
    ends: Mapping[str, int]  # how calls ended -> how many
    pictures: int  # different ones
    cache_limit: int  # bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Medians of a minute after the start has settled, and of the last one."""

    rss_settled: int
    rss_end: int
    growth: float
    threads: tuple[int, int]
    files: tuple[int, int]
    cache_limit: int
    cache_most: int
    unexpected: dict[str, int]

    @property
    def problems(self) -> list[str]:
        """The problems, in words; empty if there are none."""
        found = []
        if self.growth > GROWTH:
            found.append(f"memory grew by {self.growth - 1:.1%}")
        if self.threads[1] > self.threads[0] + LATE_THREADS:
            found.append(f"threads grew from {self.threads[0]} to {self.threads[1]}")
        if self.files[1] > self.files[0]:
            found.append(f"open files grew from {self.files[0]} to {self.files[1]}")
        if self.cache_most > self.cache_limit:
            found.append(f"the cache held {self.cache_most} bytes of {self.cache_limit}")
        return found + [f"{times} calls ended with {code}" for code, times in self.unexpected.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Load, sample, judge.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 1 when something has grown.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=_minutes, default=30.0, metavar="N", help="how long (default 30)")
    parser.add_argument("--callers", type=_callers, default=8, metavar="N", help="callers at once (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="draws pictures and calls (default 0)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write samples and verdict as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the samples as SVG")
    arguments = parser.parse_args(argv)
    seconds = 60 * arguments.minutes
    record = soak(seconds, arguments.callers, arguments.seed, _tell)
    verdict = judge(record)
    if arguments.output is not None:
        from blip2tools.cli.bench.report import write_json

        write_json(
            arguments.output,
            {
                "minutes": arguments.minutes,
                "callers": arguments.callers,
                "seed": arguments.seed,
                "verdict": {**asdict(verdict), "problems": verdict.problems},
                **asdict(record),
            },
        )
    if arguments.plot is not None:
        arguments.plot.write_text(_drawn(record.samples, verdict), encoding="utf-8")
    calls = ", ".join(f"{times} {end}" for end, times in sorted(record.ends.items(), key=lambda pair: -pair[1]))
    _tell(f"{sum(record.ends.values())} calls about {record.pictures} pictures: {calls}")
    _tell(
        f"memory: {verdict.rss_settled / 2**20:.1f} MiB settled, {verdict.rss_end / 2**20:.1f} MiB at the end "
        f"({verdict.growth - 1:+.2%}); threads {verdict.threads[0]} and {verdict.threads[1]}, "
        f"files {verdict.files[0]} and {verdict.files[1]}; cache at most {verdict.cache_most / 2**20:.2f} of "
        f"{verdict.cache_limit / 2**20:.2f} MiB"
    )
    _tell("nothing has grown" if not verdict.problems else "; ".join(verdict.problems))
    return 1 if verdict.problems else 0


def judge(record: Record) -> Verdict:
    """Compare the end of a run with its beginning.

    The first three minutes (of a short run, a tenth) do not count: code is being imported, pools and caches fill.
    """
    samples = record.samples
    total = samples[-1].seconds
    settled, window = min(SETTLED_S, total / 10), min(60.0, total / 10)
    early = [one for one in samples if settled <= one.seconds <= settled + window] or [samples[0]]
    late = [one for one in samples if one.seconds >= total - window]

    def both(what: Callable[[Sample], int]) -> tuple[int, int]:
        return int(statistics.median(map(what, early))), int(statistics.median(map(what, late)))

    before, after = both(lambda one: one.rss)
    return Verdict(
        rss_settled=before,
        rss_end=after,
        growth=after / before,
        threads=both(lambda one: one.threads),
        files=both(lambda one: one.files),
        cache_limit=record.cache_limit,
        cache_most=max(one.cache_bytes for one in samples),
        unexpected={code: times for code, times in record.ends.items() if code not in EXPECTED},
    )


def soak(seconds: float, callers: int, seed: int, tell: Callable[[str], None]) -> Record:
    """Load and sample for this long; a quarter of the callers have threads of their own, the others share an event loop."""
    from benchmarks.load import Load
    from blip2tools import checkpoints
    from blip2tools.engine.local import LocalEngine
    from blip2tools.engine.requests import WarmRequest
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

    settings = Settings.check({"model": "demo", "threads": 1, **BUDGETS})
    engine = LocalEngine(
        lambda progress: checkpoints.load(settings, progress, download=False),
        max_queue=settings.max_queue,
        max_batch=settings.max_batch,
        cache_bytes=settings.cache_mb * 2**20,
        kept_answers=settings.keep_answers,
    )
    hurried_settings = settings.model_copy(update={"deadline_s": HURRIED_S})
    with Vision(settings, engine, trusted=True) as vision, Vision(hurried_settings, engine, trusted=True) as hurried:
        engine.submit(WarmRequest(), deadline=None).future.result()
        until = time.monotonic() + seconds
        load = Load(vision, hurried, until)
        with _sampled(vision, until, min(10.0, seconds / 30), tell) as samples:
            threads = [
                threading.Thread(target=load.wait_for_answers, args=(seed + number,))
                for number in range(1, callers + 1, 4)
            ]
            for thread in threads:
                thread.start()
            asyncio.run(load.many(range(seed + callers + 1, seed + 2 * callers + 1 - len(threads))))
            for thread in threads:
                thread.join()
        return Record(samples, dict(load.ends), load.pictures, vision.status().cache.bytes_limit)


@contextmanager
def _sampled(vision: Vision, until: float, every: float, tell: Callable[[str], None]) -> Iterator[list[Sample]]:
    """Samples of this process while the block runs."""
    import psutil

    process = psutil.Process()
    open_files: Callable[[], int] = getattr(process, "num_fds" if hasattr(process, "num_fds") else "num_handles")
    started = time.monotonic()
    samples: list[Sample] = []

    def sample() -> None:
        while (now := time.monotonic()) < until:
            status = vision.status()
            one = Sample(
                seconds=round(now - started, 3),
                rss=process.memory_info().rss,
                threads=process.num_threads(),
                files=open_files(),
                cache_bytes=status.cache.bytes_used,
                waiting=status.queue.waiting,
                completed=status.queue.completed,
            )
            samples.append(one)
            if len(samples) % 6 == 1:
                tell(
                    f"{now - started:6.0f} s  {one.rss / 2**20:7.1f} MiB  {one.threads} threads  {one.files} files  "
                    f"{one.completed} requests"
                )
            time.sleep(max(0.0, min(every, until - time.monotonic())))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        thread.join()


def _drawn(samples: Sequence[Sample], verdict: Verdict) -> str:
    from blip2tools.cli.bench.plot import Panel, panels

    minutes = [one.seconds / 60 for one in samples]
    rates = [
        (after.completed - before.completed) / max(after.seconds - before.seconds, 1e-9)
        for before, after in itertools.pairwise(samples)
    ]
    settled = verdict.rss_settled / 2**20
    return panels(
        "Mixed load for a long time",
        "minutes",
        [
            Panel("resident memory, MiB", minutes, [one.rss / 2**20 for one in samples], band=(settled, GROWTH)),
            Panel("requests per second", minutes[1:], rates),
            Panel("threads", minutes, [one.threads for one in samples]),
            Panel("open files", minutes, [one.files for one in samples]),
        ],
    )


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0.05 <= minutes <= 10_000:
        raise argparse.ArgumentTypeError("must be from 0.05 to 10000")
    return minutes


def _callers(text: str) -> int:
    callers = int(text)
    if not 2 <= callers <= 200:
        raise argparse.ArgumentTypeError("must be from 2 to 200")
    return callers


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
