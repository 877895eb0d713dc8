"""Waiting times under load, against stock transformers behind a lock: `blip2tools bench latency`.

Single questions arrive as a Poisson process at 70 % of what stock can serve. Both sides get the same arrivals, one after the
other, and what counts is wall-clock time from arrival to answer. On a busy machine both wait longer.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from blip2tools.bench.engine import Stock, make_pictures, open_eyes, questions

LOAD = 0.7
SEEN = 8  # pictures that the repeating stream asks about


@dataclass(frozen=True, slots=True)
class Waits:
    """Latencies of one side, in milliseconds."""

    median: float
    p99: float


def run(
    *,
    families: Sequence[str] = ("opt", "t5"),
    requests: int = 100,
    threads: int = 1,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> None:
    """Measure distinct pictures, then pictures seen before, for each family; tell each row as it comes."""
    import torch

    from blip2tools.bench.random_models import SIZES, build

    torch.set_num_threads(threads)
    tell(f"{'stream':44} {'stock p50 / p99 ms':>20} {'ours p50 / p99 ms':>20}  p99 ratio")
    for family in families:
        pair = build(SIZES["mid"], "opt" if family == "opt" else "t5")
        stock = Stock(pair, beams=1)
        rate = LOAD / _service_time(stock)
        for name, pictures in (
            ("distinct pictures", make_pictures(requests, seed)),
            ("pictures seen before", make_pictures(SEEN, seed + 1)),
        ):
            arrivals = _arrivals(requests, rate, seed)
            asked = [f"{questions(requests)[number]}" for number in range(requests)]
            theirs = asyncio.run(_stock_waits(stock, pictures, asked, arrivals))
            with open_eyes(pair, beams=1) as vision:
                if len(pictures) == SEEN:
                    vision.ask(pictures, "and now?")
                ours = vision.run(
                    _waits(lambda n, p=pictures, a=asked, v=vision: v.aask(p[n % len(p)], a[n]), arrivals)  # type: ignore[misc]
                )
            tell(
                f"{family + ': ' + name:44} {theirs.median:9.0f} / {theirs.p99:8.0f} "
                f"{ours.median:9.0f} / {ours.p99:8.0f}  {ours.p99 / theirs.p99:.2f}"
            )


def _service_time(stock: Stock) -> float:
    data = make_pictures(1, 99)[0]
    times = []
    for number in range(5):
        started = time.perf_counter()
        stock.generate(data, f"Question: {questions(5)[number]} Short answer:")
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _arrivals(count: int, rate: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    now, times = 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        times.append(now)
    return times


async def _stock_waits(
    stock: Stock, pictures: Sequence[bytes], asked: Sequence[str], arrivals: Sequence[float]
) -> Waits:
    lock = asyncio.Lock()

    async def one(number: int) -> None:
        prompt = f"Question: {asked[number]} Short answer:"
        async with lock:
            await asyncio.to_thread(stock.generate, pictures[number % len(pictures)], prompt)

    return await _waits(one, arrivals)


async def _waits(one: Callable[[int], Awaitable[object]], arrivals: Sequence[float]) -> Waits:
    started = time.perf_counter()

    async def timed(number: int, due: float) -> float:
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        await one(number)
        return time.perf_counter() - started - due

    waited = sorted(await asyncio.gather(*(timed(number, due) for number, due in enumerate(arrivals))))
    return Waits(1000 * statistics.median(waited), 1000 * waited[min(len(waited) - 1, int(0.99 * len(waited)))])
