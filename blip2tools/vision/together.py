"""Verbs made of several looks: what a survey and a comparison need besides the looks themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from blip2tools import call

T = TypeVar("T")
R = TypeVar("R")


def grid(rows: int, columns: int) -> list[list[float]]:
    """The tiles of a picture as regions, row by row."""
    return [
        [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows]
        for row in range(rows)
        for column in range(columns)
    ]


def similarity(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """How alike two pictures look, -1 to 1: the mean over the query tokens of the cosine of their ITC features.

    Query token k asks both pictures the same learned question, so its two answers are compared with each other and with
    no other's: 1 for a picture and itself, symmetric. Both must come from `Vision.features` of one matcher, whose vectors
    have length 1.
    """
    cosines = [sum(a * b for a, b in zip(left, right, strict=True)) for left, right in zip(one, other, strict=True)]
    return max(-1.0, min(1.0, sum(cosines) / len(cosines)))


async def each(
    verb: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    at_once: int | None = None,
    what: str | None = None,
) -> list[R]:
    """Run a verb on each item and give the results in order; the first failure stops the others and is raised as it is.

    Args:
        verb: what to run.
        items: on what.
        at_once: how many may run at a time; all of them by default.
        what: if given, progress is reported as "what 3 of 5".
    """
    listed = list(items)
    gate = asyncio.Semaphore(at_once or max(1, len(listed)))
    done = 0

    async def one(item: T) -> R:
        nonlocal done
        async with gate:
            result = await verb(item)
        done += 1
        if what is not None:
            await call.tell(f"{what} {done} of {len(listed)}", done, len(listed))
        return result

    tasks = [asyncio.ensure_future(one(item)) for item in listed]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
