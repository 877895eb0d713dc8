"""One verb over many pictures: results in order, failures and warnings beside them, progress for whoever watches."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from blip2tools.errors import InvalidInputError, ModelUnavailableError, VisionError, to_vision_error
from blip2tools.paths import printable

if TYPE_CHECKING:
    from blip2tools.schemas import ImageResult
    from blip2tools.vision import Vision

OK, SOME_FAILED, USAGE, NO_MODEL, INTERRUPTED = 0, 1, 2, 3, 130

# Pictures in work at once: enough to keep the engine busy, few enough to keep memory small over a long list.
IN_FLIGHT = 8
# From so many pictures on the seconds that it takes to record CUDA graphs come back: on an H100 5 to 8, and eight captions take
# 75 ms instead of 200.
MANY = 500
SHOWN = 200  # characters of a reference: a data: URI has millions


def look(
    arguments: argparse.Namespace,
    verb: Callable[[Vision, str], Awaitable[Any]],
    show: Callable[[Any], str],
    *,
    settings: Mapping[str, Any],
    download: bool,
) -> int:
    """Run a verb on every picture of the command line.

    Args:
        arguments: `image`, the references, and `json`.
        verb: one picture's result.
        show: a result for a person.
        settings: given as options.
        download: whether a model that is not here may be downloaded.

    Returns:
        The exit status.
    """
    from blip2tools.settings import Settings
    from blip2tools.vision import Vision

    if len(arguments.image) < MANY and "cuda_graphs" not in Settings.load(**settings).model_fields_set:
        settings = {**settings, "cuda_graphs": False}
    with Vision.load(download=download, **settings) as vision:
        return vision.run(_all(vision, arguments, verb, show))


async def _all(
    vision: Vision,
    arguments: argparse.Namespace,
    verb: Callable[[Vision, str], Awaitable[Any]],
    show: Callable[[Any], str],
) -> int:
    images: list[str] = arguments.image
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def guarded(image: str) -> Any:
        async with gate:
            try:
                return await verb(vision, image)
            except Exception as error:  # noqa: BLE001 - one bad picture must not stop the list
                return to_vision_error(error)

    tasks = [asyncio.ensure_future(guarded(image)) for image in images]
    report = _Report(arguments.json, show, several=len(images) > 1)
    with Bar("pictures", total=len(images), show=len(images) > 1) as bar:
        try:
            for image, task in zip(images, tasks, strict=True):
                outcome = await task
                bar.clear()
                report.add(image, outcome, of_all=vision.status().warnings)
                bar.step()
        finally:
            for task in tasks:
                task.cancel()
    return report.exit_status


class _Report:
    """Results on standard output in the order of the pictures; errors and warnings on standard error, each once."""

    def __init__(self, as_json: bool, show: Callable[[Any], str], *, several: bool) -> None:
        self._json = as_json
        self._show = show
        self._several = several
        self._warned: set[str] = set()
        self._failed: list[VisionError] = []
        self._count = 0

    def add(self, image: str, outcome: ImageResult | VisionError, *, of_all: Sequence[str]) -> None:
        """Report one picture; `of_all`: warnings that are about the model, and so about no picture in particular."""
        self._count += 1
        if isinstance(outcome, VisionError):
            self._failed.append(outcome)
            if self._json:
                tell(json.dumps({"source": image, "error": {"code": outcome.code, "message": outcome.message}}))
            else:
                say(f"{printable(image, SHOWN)}: {outcome}")
            return
        if self._json:
            tell(json.dumps({"source": image, **outcome.model_dump(mode="json")}, ensure_ascii=False))
            return
        shown = self._show(outcome)
        name = f"{printable(image, SHOWN)}: " if self._several else ""
        tell(f"{name}{shown}" if self._several else shown.lstrip("\n "))
        for warning in outcome.warnings:
            line = f"warning: {warning}" if warning in of_all else f"{name}warning: {warning}"
            if line not in self._warned:
                self._warned.add(line)
                say(line)

    @property
    def exit_status(self) -> int:
        if not self._failed:
            return OK
        if len(self._failed) == self._count:
            if all(isinstance(error, ModelUnavailableError) for error in self._failed):
                return NO_MODEL
            # One argument that is wrong is wrong for every picture.
            if all(isinstance(error, InvalidInputError) for error in self._failed):
                return USAGE
        return SOME_FAILED


class Bar:
    """A progress bar on standard error, where that is a terminal. Standard output stays clean for pipes."""

    def __init__(self, what: str, total: int | None = None, *, show: bool = True) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=what, total=total or 100, file=sys.stderr, leave=False, disable=not (show and sys.stderr.isatty())
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def clear(self) -> None:
        self._bar.clear()

    def step(self) -> None:
        self._bar.update()

    def __call__(self, what: str, share: float | None) -> None:
        """Show a report of a long job."""
        self._bar.set_description(what, refresh=False)
        if share is not None:
            self._bar.n = round(100 * share)
        self._bar.refresh()


def tell(text: str) -> None:
    """A line of the outcome, on standard output."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """A line beside the outcome, on standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


def fail(error: VisionError, status: int) -> int:
    """Say why a command failed; its exit status."""
    say(str(error))
    return status
