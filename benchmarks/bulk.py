"""What `blip2tools run` leaves of the engine's throughput: `python -m benchmarks.bulk --pictures 300 --rounds 5`.

By hand means: open each file with Pillow, give the engine its requests, all at once, and wait. `run` lists, reads and hashes
the same files, decodes them in a process that can be killed, judges the answers, and writes a row for each. Both sides ask the
same engine for the same; nothing is kept from one round to the next. Rounds alternate; each row is the median of the rounds'
ratios, above 1 where `run` is faster. A busy machine slows both sides.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.world import sample_scene
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.requests import CaptionRequest, FeatureRequest, MatchRequest, Sight
from blip2tools.model.options import Generation
from blip2tools.settings import Settings
from blip2tools.vision.bulk.running import open_output, write_all
from blip2tools.vision.bulk.tasks import Task

Clock = Callable[[], float]


def by_hand(engine: LocalEngine, verb: str, paths: Sequence[Path]) -> None:
    """One verb about every file, with nothing between the files and the engine but Pillow."""
    sights = []
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            sights.append(engine.prepare(Sight(f"{number}:{path}:{time.monotonic_ns()}", image.convert("RGB"))))
    if verb == "features":
        jobs = [engine.submit(FeatureRequest(sight), deadline=None) for sight in sights]
        for job in jobs:
            job.future.result()
        return
    jobs = [engine.submit(CaptionRequest(sight, Generation()), deadline=None) for sight in sights]
    texts = [job.future.result()[0].text for job in jobs]
    jobs = [
        engine.submit(MatchRequest(*pair), deadline=None)
        for pair in zip(sights, ((one,) for one in texts), strict=True)
    ]
    for job in jobs:
        job.future.result()


def by_run(vision: Vision, verb: str, paths: Sequence[Path], output: Path) -> None:
    """What the command does once its model is loaded."""
    output.unlink(missing_ok=True)
    task = Task.of(verb)
    rows = open_output(output, task, str(output.parent))
    vision.run(write_all(vision, task, map(str, paths), rows, lambda _: None))
    rows.close(whole=True)


def compare(verb: str, ending: str, paths: Sequence[Path], rounds: int, folder: Path) -> str:
    """One line of the table."""
    settings = Settings.load(
        model="demo",
        threads=1,
        cache_mb=0,
        keep_answers=0,
        max_queue=100_000,
        deadline_s=3600.0,
        cache_dir=folder / "cache",
    )
    wall: list[float] = []
    cpu: list[float] = []
    rates: list[float] = []
    engine = LocalEngine.of(settings, download=False)
    with Vision(settings, engine, trusted=True) as vision:
        for number in range(rounds + 1):  # the first one loads the model
            taken = []
            for work in (
                partial(by_hand, engine, verb, paths),
                partial(by_run, vision, verb, paths, folder / f"out{ending}"),
            ):
                start = [clock() for clock in CLOCKS]
                work()
                taken.append([clock() - begun for clock, begun in zip(CLOCKS, start, strict=True)])
            if number:
                (hand, run) = taken
                wall.append(hand[0] / run[0])
                cpu.append(hand[1] / run[1])
                rates.append(len(paths) / run[0])
    return (
        f"| {verb}, {ending} | {statistics.median(wall):.2f} ({min(wall):.2f}–{max(wall):.2f}) | {statistics.median(cpu):.2f} "
        f"| {statistics.median(rates):.1f} |"
    )


CLOCKS: tuple[Clock, Clock] = (time.perf_counter, time.process_time)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{number:05}.png" for number in range(arguments.pictures)]
        for path in paths:
            draw(sample_scene(chance)).save(path)
        lines = ["| | run ÷ by hand, wall (range) | of the process's CPU | pictures a second |", "|---|---|---|---|"]
        sys.stdout.write("\n".join(lines) + "\n")
        for verb, ending in (("caption", ".jsonl"), ("caption", ".parquet"), ("features", ".parquet")):
            sys.stdout.write(compare(verb, ending, paths, arguments.rounds, folder) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
