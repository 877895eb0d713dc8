"""Predictions as they come, one line each, so that a run that was stopped resumes where it was.

The first line says what run it is; a run with another model, data set or option does not go on with these predictions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from blip2tools.errors import InvalidInputError, VisionError, to_vision_error

AT_ONCE: Final = 16  # enough to keep the engine's batches full


class Item(Protocol):
    """Something to predict about."""

    @property
    def id(self) -> str:
        """Its name in the journal."""
        ...


T = TypeVar("T", bound=Item)
Prediction = dict[str, Any]


class Journal:
    """The file of one run's predictions.

    Args:
        path: made if it is not there.
        run: what must be the same for its predictions to be used again.

    Raises:
        InvalidInputError: the file is of another run, or not one of ours.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._path = path
        self.done: dict[str, Prediction] = {}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        if lines:
            self._check(lines[0], run)
            kept = [lines[0], *self._kept(lines[1:])]
            if len(kept) < len(lines):  # the end of the last run may have cut its last line
                path.write_text("".join(kept), encoding="utf-8")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"run": run}, ensure_ascii=False) + "\n", encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def add(self, name: str, prediction: Prediction) -> None:
        """Keep a prediction, on the disk too."""
        self.done[name] = prediction
        self._file.write(json.dumps({"id": name, **prediction}, ensure_ascii=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self._file.close()

    def _check(self, line: str, run: Mapping[str, Any]) -> None:
        try:
            written = json.loads(line)["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"{self._path.name!r} is not a file of predictions; name another --output."
            ) from error
        if written != json.loads(json.dumps(run)):
            differing = sorted(name for name in {*written, *run} if written.get(name) != run.get(name))
            raise InvalidInputError(
                f"The output holds predictions of another run (other {', '.join(differing)}); name another --output."
            )

    def _kept(self, lines: Sequence[str]) -> Iterator[str]:
        for line in lines:
            try:
                prediction = json.loads(line)
                name = prediction.pop("id")
            except (ValueError, KeyError, TypeError, AttributeError):
                return
            if not line.endswith("\n"):
                return
            self.done[name] = prediction
            yield line


async def predict(
    items: Sequence[T],
    journal: Journal,
    verb: Callable[[T], Awaitable[Prediction]],
    progress: Callable[[int, int], None],
) -> dict[str, VisionError]:
    """Predict about every item that is missing from the journal, a few at a time.

    Args:
        items: all items.
        journal: holds, and gets, the predictions.
        verb: one item's prediction.
        progress: receives how many are done, and of how many, those of an earlier run included.

    Returns:
        The failures, by item. They are not in the journal: the next run tries again.
    """
    waiting = iter([item for item in items if item.id not in journal.done])
    failed: dict[str, VisionError] = {}

    async def worker() -> None:
        for item in waiting:
            try:
                journal.add(item.id, await verb(item))
            except Exception as error:  # noqa: BLE001 - one bad picture must not end the run
                failed[item.id] = to_vision_error(error)
            progress(len(journal.done) + len(failed), len(items))

    workers = [asyncio.ensure_future(worker()) for _ in range(AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for one in workers:
            one.cancel()
    return failed
