"""Distance from the limits of a card: `blip2tools bench gpu`.

First what the card can do: bytes it copies and products it adds in a second, both measured. From these the floor, which no code
for these weights can go below: every weight is read for every token, and every product is computed. Then, in turns, stock
transformers, our way one operation after the other (eager), and in a second and third run recorded (as CUDA graphs) and compiled,
as multiples of the floor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2tools.cli.bench import engine, pairs
from blip2tools.cli.bench.engine import NEW_TOKENS

if TYPE_CHECKING:
    from blip2tools.cli.bench.pairs import Subject
    from blip2tools.cli.bench.random_models import Pair
    from blip2tools.model.compiled import Way

SUMMARY = "a caption's time as a multiple of what memory and arithmetic of the card allow"
TEXT = """\
Measures how fast the device copies and multiplies, works out the least time that a caption of 12 tokens can take, and prints how
far from it stock transformers and our eager, recorded (CUDA graphs) and compiled ways are, in turns. `--random opt-2.7b` is for
a large GPU; on a CPU the same is done with a smaller model, to see that it works."""

BATCHES = (1, 32)
SAMPLES = 10  # of each limit; the best counts

Side = Callable[[], Any]  # does the work once


@dataclass(frozen=True, slots=True)
class Rates:
    """The best rates of the device, measured."""

    bytes_per_s: float  # read and written, by a large copy
    flops_per_s: float  # of a large product of matrices in the dtype of the weights

    def seconds(self, weights: int, size: int, rows: int, more: float = 0) -> float:
        """The least time to multiply so many rows by so many weights of this size in bytes, with more operations besides."""
        return max(weights * size / self.bytes_per_s, (2 * weights * rows + more) / self.flops_per_s)


@dataclass(frozen=True, slots=True)
class Timing:
    """One way through one case."""

    model: str
    case: str
    side: str
    median_ms: float
    lowest_ms: float
    highest_ms: float
    floor_ms: float | None  # None where none is known
    faster_than_stock: float  # median of the rounds' ratios

    @property
    def floors(self) -> float | None:
        """The median as a multiple of the floor."""
        return None if self.floor_ms is None else self.median_ms / self.floor_ms


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench gpu`."""
    pairs.add_options(parser)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed rounds of each case (default 5)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from blip2tools.cli.bench.report import write_json

    found: list[Rates] = []
    rows: list[Timing] = []
    for subject in pairs.subjects(arguments, _tell):
        found.append(limits(subject))
        _tell(f"copies {found[-1].bytes_per_s / 1e9:.1f} GB/s, multiplies {found[-1].flops_per_s / 1e12:.3f} TFLOP/s")
        rows += measure(subject, found[-1], rounds=arguments.rounds, tell=_tell)
    if arguments.output is not None:
        figures = [{**asdict(row), "floors": row.floors} for row in rows]
        write_json(
            arguments.output,
            {"rounds": arguments.rounds, "limits": [asdict(limit) for limit in found], "rows": figures},
        )
    return 0


def limits(subject: Subject) -> Rates:
    """Measure what the device can do; a GPU gets buffers far larger than its caches, and random numbers, not zeros."""
    import torch

    cuda, dtype = subject.device.startswith("cuda"), subject.pair.loaded.captioner.dtype
    source = torch.randn(2**28 if cuda else 2**24, device=subject.device)
    target = torch.empty_like(source)
    copied = _best(subject, lambda: target.copy_(source))
    side = 8192 if cuda else 1024
    left, right = (torch.randn(side, side, device=subject.device).to(dtype) for _ in range(2))
    multiplied = _best(subject, lambda: left @ right)
    return Rates(2 * source.nbytes / copied, 2 * side**3 / multiplied)


def floor(pair: Pair, limit: Rates, batch: int) -> float:
    """The least seconds for captions of `NEW_TOKENS` tokens without a prompt, from pixels on.

    The Q-Former, the positions' keys and values, and everything that is not a product of matrices are taken to cost nothing.
    """
    model = pair.captioner
    vision, text = model.vision_model, model.language_model
    size = pair.loaded.captioner.dtype.itemsize
    places, width = pair.loaded.captioner.trunk.states_shape
    attention = 4 * places**2 * width * vision.config.num_hidden_layers
    seconds = limit.seconds(_weights(vision), size, batch * places, batch * attention)
    read = batch * (pair.loaded.captioner.num_queries + 1)
    head = text.lm_head.weight.numel()
    if pair.loaded.captioner.family == "opt":
        layers = _weights(text) - head
        seconds += limit.seconds(layers, size, read) + (NEW_TOKENS - 1) * limit.seconds(layers, size, batch)
    else:
        layers = _weights(text.decoder)
        seconds += limit.seconds(_weights(text.encoder), size, read) + NEW_TOKENS * limit.seconds(layers, size, batch)
    return seconds + NEW_TOKENS * limit.seconds(head, size, batch)


def measure(subject: Subject, limit: Rates, *, rounds: int, tell: Callable[[str], None]) -> list[Timing]:
    """Every case, with all its sides in turns; reports each row as it is measured."""
    from blip2tools.checkpoints.selftest.compiling import drop

    rows: list[Timing] = []
    ways: tuple[Way, ...] = ("compiled",) if subject.device == "cpu" else ("recorded", "compiled")
    for way in ways:
        pair = _switched(subject.pair, way, tell)
        if pair.loaded.uncompiled is not None and rows:
            drop(pair.loaded)
            continue  # stock and eager are measured already
        again = replace(subject, pair=pair)
        for batch in BATCHES:
            least = 1000 * floor(pair, limit, batch)
            sides = _captions(pair, batch, way)
            rows += _in_turns(again, f"captions of {NEW_TOKENS} tokens, batch of {batch}", sides, rounds, least, tell)
        if pair.matcher is not None:
            with _mixed(pair, way) as sides:
                rows += _in_turns(again, engine.CASES[0].name, sides, rounds, None, tell)
        drop(pair.loaded)
    return rows


def _switched(pair: Pair, way: Way, tell: Callable[[str], None]) -> Pair:
    """The pair with recorded steps, uncompiled or compiled, unless that is impossible or fails its test."""
    from blip2tools.checkpoints.selftest.compiling import switch_on
    from blip2tools.settings import Settings

    started = time.perf_counter()
    wanted = {"num_beams": 1, "max_batch": max(BATCHES), "compile": way == "compiled"}
    loaded = switch_on(pair.loaded, Settings.check(wanted))
    tell(loaded.uncompiled or f"{way} and tested in {time.perf_counter() - started:.0f} s")
    return replace(pair, loaded=loaded)


def _captions(pair: Pair, batch: int, way: Way) -> dict[str, Side]:
    """Captions from pixels on: the work before is done on the CPU."""
    import torch

    from blip2tools.model.options import GenerationOptions

    captioner, device = pair.loaded.captioner, pair.loaded.device
    options = GenerationOptions(num_beams=1, min_new_tokens=NEW_TOKENS)
    prompts = [pair.loaded.words.caption().ids] * batch
    image = torch.randn(batch, 3, captioner.trunk.image_size, captioner.trunk.image_size, device=device)
    pixels = image.to(captioner.dtype)

    def stock() -> None:
        with torch.inference_mode():
            pair.captioner.generate(
                pixel_values=pixels,
                do_sample=False,
                num_beams=1,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
            )

    def ours() -> None:
        tokens = captioner.query(captioner.trunk.see(pixels))
        captioner.speak(tokens, prompts, options, max_new_tokens=[NEW_TOKENS] * batch)

    return _both(pair, way, stock, ours)


@contextmanager
def _mixed(pair: Pair, way: Way) -> Iterator[dict[str, Side]]:
    """The mixed requests of `bench engine`, end to end, about new pictures."""
    case = engine.CASES[0]
    stock = engine.Stock(pair, 1)
    with engine.open_eyes(pair, 1) as vision:
        seeds = iter(
            range(10_000, 20_000)
        )  # each way has pictures of its own: ours would have them cached the second time
        yield _both(
            pair,
            way,
            lambda: case.stock(stock, engine.make_pictures(case.pictures, seed=next(seeds))),
            lambda: vision.run(case.ours(vision, engine.make_pictures(case.pictures, seed=next(seeds)))),
        )


def _both(pair: Pair, way: Way, stock: Side, ours: Side) -> dict[str, Side]:
    from blip2tools.checkpoints.selftest.compiling import recordings

    steps = pair.loaded.captioner.steps

    def side(recorded: bool) -> Side:
        def work() -> None:
            steps.recorded = recorded
            for one in recordings(pair.loaded):
                one.used = recorded
            ours()

        return work

    sides = {"stock": stock, "ours, eager": side(False)}
    return {**sides, f"ours, {way}": side(True)} if steps.shapes else sides


def _in_turns(
    subject: Subject, case: str, sides: dict[str, Side], rounds: int, least: float | None, tell: Callable[[str], None]
) -> list[Timing]:
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds + 1):
        for side, work in sides.items():
            times[side].append(1000 * _timed(subject, work))
    rows = []
    for side, taken in times.items():
        ratios = [stock / mine for stock, mine in zip(times["stock"][1:], taken[1:], strict=True)]
        kept = taken[1:]  # the first warms up code paths and allocators
        row = Timing(
            subject.name, case, side, statistics.median(kept), min(kept), max(kept), least, statistics.median(ratios)
        )
        rows.append(row)
        floors = "" if row.floors is None else f"   {row.floors:7.2f} x the floor of {least:.2f} ms"
        spread = f"{row.median_ms:9.2f} ms ({row.lowest_ms:.2f}-{row.highest_ms:.2f})"
        tell(f"{row.model + ': ' + case:56} {side:15} {spread:>34}   {row.faster_than_stock:6.2f} x stock{floors}")
    return rows


def _weights(module: Any) -> int:
    """Numbers in the matrices that every row is multiplied with."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, kinds))


def _best(subject: Subject, work: Callable[[], Any]) -> float:
    times = (
        1 if subject.device == "cpu" else SAMPLES
    )  # in a row, so that starting the first and waiting count for little

    def often() -> None:
        for _ in range(times):
            work()

    return min(_timed(subject, often) for _ in range(SAMPLES)) / times


def _timed(subject: Subject, work: Callable[[], Any]) -> float:
    """Seconds: of the wall clock on a GPU, of this process on a CPU, where other load counts otherwise."""
    engine.finish(subject.pair)
    now = time.process_time if subject.device == "cpu" else time.perf_counter
    started = now()
    work()
    engine.finish(subject.pair)
    return now() - started


def _tell(line: str) -> None:
    import sys

    sys.stdout.write(line + "\n")
    sys.stdout.flush()
