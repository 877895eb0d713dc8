"""The demo model on pictures that are made hard for it: how often it is right, how sure it is, and what a matcher corrects.

Fit and test use different seeds, so different pictures. The scaling and the diagram are written where asked for.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blip2tools.checkpoints.confidence import Calibration, write
from blip2tools.cli.evaluate.mixture import FOR_ANSWERS, FOR_CAPTIONS, TROUBLES, Degrees, Sample, mixture
from blip2tools.cli.evaluate.reliability import Judged, Reliability, diagram, fit
from blip2tools.cli.evaluate.tasks import rounded
from blip2tools.vision import Vision

AT_ONCE: Final = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Told:
    """The model's text about one picture, and its judgement."""

    sample: Sample
    judged: Judged
    best: bool | None = None  # whether the caption that `best_of` gives is right


async def study(
    vision: Vision, *, fit_seed: int, test_seed: int, pictures: int, best_of: int, progress: Progress
) -> tuple[dict[str, Any], Calibration, list[Reliability]]:
    """Fit on one seed's pictures, test on another's.

    Args:
        vision: the demo model.
        fit_seed, test_seed: which pictures; they must differ.
        pictures: how many of each.
        best_of: captions tried where the matcher doubts one.
        progress: receives how many pictures are done, and of how many.

    Returns:
        The numbers, the scaling, and what the diagram shows.
    """
    if fit_seed == test_seed:
        raise ValueError("a scaling must be tested on other pictures than those that it was fitted on")
    done, total = 0, 4 * pictures

    async def each(seed: int, degrees: Degrees, verb: Callable[[Sample], Any]) -> list[_Told]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(sample: Sample) -> _Told:
            nonlocal done
            async with gate:
                told: _Told = await verb(sample)
            done += 1
            progress(done, total)
            return told

        return list(await asyncio.gather(*(one(sample) for sample in mixture(seed, pictures, degrees))))

    async def caption(sample: Sample) -> _Told:
        told = await vision.autterance(sample.image)
        best = await vision.acaption(sample.image, best_of=best_of, seed=test_seed)
        return _Told(sample, Judged.of(told, told.text == sample.caption), best.text == sample.caption)

    async def answer(sample: Sample) -> _Told:
        told = await vision.autterance(sample.image, sample.question.text)
        return _Told(sample, Judged.of(told, told.text == sample.question.answer))

    fitting = await each(fit_seed, FOR_CAPTIONS, caption), await each(fit_seed, FOR_ANSWERS, answer)
    testing = await each(test_seed, FOR_CAPTIONS, caption), await each(test_seed, FOR_ANSWERS, answer)
    tasks = [
        Reliability(name, fit([one.judged for one in fitted]), len(fitted), tuple(one.judged for one in tested))
        for name, fitted, tested in zip(("captions", "answers"), fitting, testing, strict=True)
    ]
    captions, answers = (rounded(task.scaling) for task in tasks)
    numbers = {
        "fit_seed": fit_seed,
        "test_seed": test_seed,
        "pictures": pictures,
        "reliability": [task.as_dict() for task in tasks],
        "best_of": {"n": best_of, "fit_seed": _best_of(fitting[0]), "test_seed": _best_of(testing[0])},
    }
    return numbers, Calibration(caption=captions, answer=answers), tasks


def _best_of(told: Sequence[_Told]) -> dict[str, dict[str, int]]:
    """How many captions are right word for word, by what was done to the pictures."""
    table = {}
    for trouble in (*TROUBLES, "all"):
        rows = [one for one in told if trouble in ("all", one.sample.trouble)]
        table[trouble] = {
            "pictures": len(rows),
            "search": sum(one.judged.right > 0.5 for one in rows),
            "best_of": sum(bool(one.best) for one in rows),
            "mended": sum(bool(one.best) and one.judged.right < 0.5 for one in rows),
            "spoilt": sum(not one.best and one.judged.right > 0.5 for one in rows),
        }
    return table


def run_study(
    *,
    fit_seed: int,
    test_seed: int,
    pictures: int,
    best_of: int,
    output: Path | None,
    plot: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """The study on the demo checkpoint, without the scaling that it already has; see `study`.

    Args:
        output: where to write the scaling, as `blip2tools.json`.
        plot: where to write the reliability diagram, SVG.
    """
    with Vision.load(model="demo", matcher="demo", calibration="none") as vision:
        numbers, found, tasks = vision.run(
            study(
                vision,
                fit_seed=fit_seed,
                test_seed=test_seed,
                pictures=pictures,
                best_of=best_of,
                progress=progress,
            )
        )
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    command = (
        f"blip2tools evaluate calibration --fit-seed {fit_seed} --test-seed {test_seed} --pictures {pictures} "
        f"--best-of {best_of}"
    )
    if output is not None:
        write(output, found, {"date": date, "command": command, "pictures": pictures, "fit_seed": fit_seed})
    if plot is not None:
        plot.write_text(diagram(tasks, f"{command}, {date}, demo checkpoint"), encoding="utf-8")
    return {"date": date, "command": command, "confidence": found.model_dump(), **numbers}
