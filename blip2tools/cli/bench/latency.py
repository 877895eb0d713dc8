"""Waiting times under load, against stock transformers behind a lock: `blip2tools bench latency`.

Single questions arrive as a Poisson process at 70 % of what stock can serve. Both sides get the same arrivals, in turns; what
counts is the time from arrival to answer.

On a CPU the clock is this process's own CPU time, and skips the moments in which no request is being served: so other load on
the machine, which would decide every 99th percentile, does not count. Several threads at once count several times, which is
to our disadvantage, as stock has one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip2tools.cli.bench.engine import Clock, Stock, make_pictures, open_eyes, questions

if TYPE_CHECKING:
    from blip2tools.cli.bench.pairs import Subject
    from blip2tools.cli.bench.random_models import Pair

LOAD = 0.7
SEEN = 8  # pictures that the repeating stream asks about


@dataclass(frozen=True, slots=True)
class Stream:
    """Latencies of one stream of questions, in milliseconds, over all rounds, and the ratios of the rounds."""

    model: str
    stream: str
    clock: Clock
    service_ms: float  # of stock, one question alone
    stock_p50: float
    stock_p99: float
    ours_p50: float
    ours_p99: float
    ratio: float  # ours / stock of the 99th percentiles over all rounds
    lowest: float  # of a single round
    highest: float


class Watch:
    """The time of a measurement, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._cpu = clock == "cpu"
        self._skipped = 0.0

    def now(self) -> float:
        """The current time."""
        return (time.process_time() if self._cpu else time.perf_counter()) + self._skipped

    async def until(self, due: float, busy: Callable[[], bool]) -> None:
        """Wait until it shows `due`. Without work there is no CPU time to wait for, and the watch jumps ahead."""
        while (left := due - self.now()) > 0:
            if self._cpu and not busy():
                self._skipped += left
            else:
                await asyncio.sleep(max(left, 0.001))


def run(
    subjects: Iterable[Subject],
    *,
    requests: int = 200,
    rounds: int = 3,
    seed: int = 0,
    clock: Clock | None = None,
    tell: Callable[[str], None] = print,
) -> list[Stream]:
    """Measure distinct pictures, then pictures seen before, for each model; report each row as it is measured.

    Args:
        subjects: the models, see `pairs.subjects`.
        requests: arrivals of each stream in each round.
        clock: as in `engine.run`.
    """
    tell(f"{'stream':40} {'stock p50 / p99 ms':>20} {'ours p50 / p99 ms':>20}   p99 ratio, rounds")
    found: list[Stream] = []
    for subject in subjects:
        chosen: Clock = clock or ("cpu" if subject.device == "cpu" else "wall")
        for name, count in (("distinct pictures", requests), ("pictures seen before", SEEN)):
            stream = _stream(subject, name, count, requests, rounds, seed, chosen)
            found.append(stream)
            tell(
                f"{stream.model + ': ' + name:40} {stream.stock_p50:9.0f} / {stream.stock_p99:8.0f} "
                f"{stream.ours_p50:9.0f} / {stream.ours_p99:8.0f}   "
                f"{stream.ratio:.2f} ({stream.lowest:.2f}-{stream.highest:.2f})"
            )
    return found


def _stream(subject: Subject, name: str, pictures: int, requests: int, rounds: int, seed: int, clock: Clock) -> Stream:
    stock = Stock(subject.pair, beams=1)
    service = _service_time(stock, Watch(clock))
    theirs: list[list[float]] = []
    ours: list[list[float]] = []
    for number in range(rounds):
        data = make_pictures(pictures, seed + 100 * number + len(name))
        arrivals = _arrivals(requests, LOAD / service, seed + number)
        theirs.append(asyncio.run(_stock_waits(stock, data, arrivals, Watch(clock))))
        ours.append(_our_waits(subject.pair, data, arrivals, Watch(clock), seen=name == "pictures seen before"))
    ratios = [_quantile(mine, 0.99) / _quantile(other, 0.99) for mine, other in zip(ours, theirs, strict=True)]
    their_all, our_all = list(itertools.chain(*theirs)), list(itertools.chain(*ours))
    return Stream(
        model=subject.name,
        stream=name,
        clock=clock,
        service_ms=1000 * service,
        stock_p50=1000 * _quantile(their_all, 0.5),
        stock_p99=1000 * _quantile(their_all, 0.99),
        ours_p50=1000 * _quantile(our_all, 0.5),
        ours_p99=1000 * _quantile(our_all, 0.99),
        ratio=_quantile(our_all, 0.99) / _quantile(their_all, 0.99),
        lowest=min(ratios),
        highest=max(ratios),
    )


def _service_time(stock: Stock, watch: Watch) -> float:
    data = make_pictures(1, 99)[0]
    times = []
    for question in questions(8):
        started = watch.now()
        stock.generate(data, f"Question: {question} Short answer:")
        times.append(watch.now() - started)
    return statistics.median(times[1:])


def _arrivals(count: int, rate: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    now, times = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        times.append(now)
    return times


async def _stock_waits(stock: Stock, data: Sequence[bytes], arrivals: Sequence[float], watch: Watch) -> list[float]:
    lock = asyncio.Lock()
    asked = questions(len(arrivals))

    async def one(number: int) -> None:
        prompt = f"Question: {asked[number]} Short answer:"
        async with lock:
            await asyncio.to_thread(stock.generate, data[number % len(data)], prompt)

    return await _waits(one, arrivals, watch)


def _our_waits(
    pair: Pair, data: Sequence[bytes], arrivals: Sequence[float], watch: Watch, *, seen: bool
) -> list[float]:
    asked = questions(len(arrivals))
    with open_eyes(pair, beams=1) as vision:
        vision.ask(list(data) if seen else make_pictures(1, 98), "and now?")  # the latter warms up what the former does

        async def one(number: int) -> None:
            await vision.aask(data[number % len(data)], asked[number])

        return vision.run(_waits(one, arrivals, watch))


async def _waits(one: Callable[[int], Awaitable[None]], arrivals: Sequence[float], watch: Watch) -> list[float]:
    """Seconds from each arrival to its answer."""
    started = watch.now()
    inside: set[int] = set()
    waited: list[float] = []

    async def timed(number: int, due: float) -> None:
        await one(number)
        inside.discard(number)
        waited.append(watch.now() - due)

    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(arrivals):
            await watch.until(started + due, lambda: bool(inside))
            inside.add(number)
            group.create_task(timed(number, started + due))
    return waited


def _quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
