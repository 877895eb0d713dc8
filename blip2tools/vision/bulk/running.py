"""The pictures in work, and their rows in the order of the inputs."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.vision.bulk import lines, parts
from blip2tools.vision.bulk.inputs import key_of
from blip2tools.vision.bulk.lines import Output
from blip2tools.vision.bulk.tasks import NEEDS_MATCHER, Row, Task, spelled

if TYPE_CHECKING:
    from blip2tools.vision import Vision

ENDINGS: Final = (".jsonl", ".csv", ".parquet")
AHEAD: Final = (
    4  # how many times the pictures in work may wait for the row of a slow one: so much memory its order costs
)

Report = Callable[[Sequence[Row]], None]


def check_output(path: Path) -> None:
    """Make sure that a file of this name can be written.

    Raises:
        InvalidInputError: of this kind it cannot, or what such a file needs is not installed.
    """
    if path.suffix.lower() not in ENDINGS or path.is_dir():
        raise InvalidInputError("The --output must be a file that ends in .jsonl, .csv or .parquet.")
    if path.suffix.lower() == ".parquet":
        parts.require()


def open_output(path: Path, task: Task, folder: str) -> Output:
    """The file of rows, with what is in it; what was cut off is taken away.

    Args:
        path: ends in one of `ENDINGS`.
        task: whose rows it holds.
        folder: that its relative paths belong to.

    Raises:
        InvalidInputError: it holds what no run has written, or cannot be opened.
    """
    kinds: dict[str, Callable[[Path, Task, str], Output]] = {
        ".jsonl": lines.json_lines,
        ".csv": lines.csv_lines,
        ".parquet": parts.Parts,
    }
    try:
        return kinds[path.suffix.lower()](path, task, folder)
    except OSError as error:
        raise InvalidInputError("The file of --output cannot be opened; name another one.") from error


def undone(sources: Iterable[str], done: Counter[str]) -> Iterator[str]:
    """The sources that have no rows yet, in order; `done` is used up."""
    for source in sources:
        key = key_of(spelled(source))
        if done.get(key, 0):
            done[key] -= 1
        else:
            yield source


def check_model(vision: Vision, task: Task) -> None:
    """Make sure that the loaded model can do a task at all, before every picture fails for the same reason.

    Raises:
        ModelUnavailableError: there is no matcher.
    """
    if task.verb in NEEDS_MATCHER and vision.status().matcher is None:
        raise ModelUnavailableError(
            f"'{task.verb}' needs an image-text matcher, and there is none beside this model: name one with --matcher."
        )


async def rows_of(
    vision: Vision, task: Task, sources: Iterable[str], images: Sequence[Any] | None = None
) -> AsyncGenerator[list[Row], None]:
    """The rows of each picture, in the order of the sources, many pictures in work at a time.

    Args:
        vision: looks.
        task: what is asked.
        sources: paths and addresses.
        images: what is looked at in their places, any kind of image.

    Raises:
        CancelledError, ModelUnavailableError: nothing can be looked at any more.
    """
    gate = asyncio.Semaphore(task.at_once)

    async def look(place: int, source: str) -> list[Row]:
        async with gate:
            return await task.look(vision, source, None if images is None else images[place])

    waiting: deque[asyncio.Task[list[Row]]] = deque()
    try:
        for place, source in enumerate(sources):
            waiting.append(asyncio.ensure_future(look(place, source)))
            while len(waiting) >= AHEAD * task.at_once or (waiting and waiting[0].done()):
                yield await waiting[0]
                waiting.popleft()
        while waiting:
            yield await waiting[0]
            waiting.popleft()
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def looked_at(
    vision: Vision, task: Task, sources: Sequence[str], images: Sequence[Any] | None = None
) -> list[list[Row]]:
    """The rows of a batch, a list for each picture, in order; see `rows_of`."""
    return [rows async for rows in rows_of(vision, task, sources, images)]


async def write_all(vision: Vision, task: Task, sources: Iterable[str], output: Output, report: Report) -> None:
    """Look at every picture and write its rows.

    Args:
        vision: looks.
        task: what is asked.
        sources: the pictures.
        output: gets the rows.
        report: hears of every picture that is done.

    Raises:
        OSError: the rows cannot be written.
        CancelledError, ModelUnavailableError: as `rows_of`.
    """
    found = rows_of(vision, task, sources)
    try:
        async for rows in found:
            output.add(rows)
            report(rows)
    finally:
        await found.aclose()
