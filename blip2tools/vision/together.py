"""Verbs made of several looks: what a survey and a comparison need besides the looks themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from blip2tools import call

T = TypeVar("T")


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


async def together(works: Sequence[Coroutine[Any, Any, T]], what: str | None = None) -> list[T]:
    """Run all at once and give their results in order; the first failure stops the others and is raised as it is.

    Args:
        works: what to run.
        what: if given, a listener hears how many of them are done: "what 3 of 5".
    """
    done = 0

    async def counted(work: Coroutine[Any, Any, T]) -> T:
        nonlocal done
        result = await work
        done += 1
        if what is not None:
            await call.tell(f"{what} {done} of {len(works)}", done, len(works))
        return result

    tasks = [asyncio.ensure_future(counted(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
