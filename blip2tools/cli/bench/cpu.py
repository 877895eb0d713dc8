"""Stock transformers and this package in full precision, 8 and 4 bits on a processor: `blip2tools bench cpu`.

Each side is a process of its own, so that its memory is its own. Where all fit beside each other they take turns, case by case;
where they do not, one runs after the other. Time is CPU time of the side's process.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blip2tools.cli.bench.cpu_process import Process, Subject
from blip2tools.cli.bench.cpu_side import CASES, MATCH, SIDES
from blip2tools.cli.console import say, tell
from blip2tools.errors import InvalidInputError

SUMMARY = "a processor: stock transformers, ours in full precision, 8 and 4 bits"
TEXT = """\
Measures what a caption, a question about a known picture and a match of 32 texts take on a processor: stock transformers, this
package in full precision, and in 8 and 4 bits, in turns; memory while loading and after it; the first start with quantized
weights and the second; and each stage beside the least that the machine's own rates allow.

Each side is a process of its own. Sides that do not fit in memory together run one after the other. --agreement
times nothing: it tells how far first words and matches in 8 and 4 bits are from full precision, one side after the other.

--random writes a checkpoint of random weights with outlier channels to a temporary folder: opt-2.7b takes 15 GB there, and as
much memory for stock."""

RANDOM: Final = ("mid", "itm", "opt-2.7b", "opt-6.7b", "flan-t5-xl")
FIRST, SECOND = "first start", "second start"
_SHARE: Final = 0.85  # of the free memory, for all sides together


@dataclass(slots=True)
class Side:
    """The figures of one side.

    Attributes:
        name: one of `SIDES`.
        seconds: of each case, round by round.
        memory: bytes after loading (`resident`), at most while loading (`peak`, of each start), after the cases (`worked`).
        starts: seconds of CPU time of each start, imports included.
        loads: the same without most imports.
        walls: seconds by the clock of the wall.
        stages: seconds of each stage, round by round.
        pause: seconds of CPU time in the pause after the first round, which does not count.
    """

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    walls: dict[str, float] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    pause: float = 0.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blip2tools bench cpu`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--random",
        default="mid",
        choices=RANDOM,
        metavar="SIZE",
        help="random weights: mid (default), itm (a matcher of published size), opt-2.7b, opt-6.7b or flan-t5-xl",
    )
    which.add_argument("--model", type=Path, metavar="DIR", help="folder of a checkpoint")
    parser.add_argument("--matcher", type=Path, metavar="DIR", help="folder of a matcher, for --model")
    parser.add_argument(
        "--side", action="append", choices=SIDES, help="only these sides (default: all); may be given several times"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="rounds of each case (default 3), after one that does not count unless it is the only one",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each side (default 1)")
    parser.add_argument(
        "--agreement",
        type=int,
        metavar="N",
        help="instead of times: how far 8 and 4 bits (those of --side) are from float32, in the logits of the first words about "
        "N pictures, with and without a question, and in the matches of each with 8 texts",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose name holds this")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where random weights are written, and left for another run"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write the figures."""
    if arguments.rounds < 1 or arguments.threads < 1:
        raise InvalidInputError("--rounds and --threads are at least 1.")
    names = [name for name in SIDES if name in (arguments.side or SIDES)]
    if arguments.agreement is not None:
        return _agree(arguments, [name for name in names if name.endswith("bit")])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(_folder(arguments.folder)))
        subject = _subject(arguments, scratch)
        cases = [case for case in CASES if arguments.only in case and _measured(case, subject)]
        plan = {"threads": arguments.threads, "cache": str(scratch / "cache")}
        shutil.rmtree(scratch / "cache", ignore_errors=True)  # or the first start would be a second one
        sides = measure(subject, names, cases, arguments.rounds, plan)
        floors = _floors(subject, names, arguments.threads)
    for line in table(subject.name, sides, cases, floors):
        tell(line)
    if arguments.output is not None:
        from blip2tools.cli.bench.report import write_json

        figures = {
            "model": subject.name,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "clock": "cpu",
            "sides": {one.name: _figures(one) for one in sides},
            "floors": floors,
        }
        write_json(arguments.output, figures)
    return 0


def _agree(arguments: argparse.Namespace, names: Sequence[str]) -> int:
    if arguments.agreement < 1:
        raise InvalidInputError("--agreement is at least 1.")
    if arguments.only:
        raise InvalidInputError("--only chooses among what is timed, and --agreement times nothing.")
    if not names:
        raise InvalidInputError("--agreement compares 8 and 4 bits with full precision; --side names neither.")
    from blip2tools.cli.bench import cpu_agreement

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(_folder(arguments.folder)))
        subject = _subject(arguments, scratch)
        plan = {"threads": arguments.threads, "cache": str(scratch / "cache")}
        found = cpu_agreement.measure(subject, names, arguments.agreement, plan)
    for line in cpu_agreement.table(subject.name, found):
        tell(line)
    if arguments.output is not None:
        from blip2tools.cli.bench.report import write_json

        write_json(arguments.output, {"model": subject.name, "threads": arguments.threads, "agreement": found})
    return 0


def measure(
    subject: Subject, names: Sequence[str], cases: Sequence[str], rounds: int, plan: dict[str, Any]
) -> list[Side]:
    """All sides, in turns where they fit in memory together.

    Args:
        subject: what is loaded.
        names: of the sides.
        cases: what they do.
        rounds: how often, after a first time that does not count; of a single one it does.
        plan: threads, and the folder for kept weights.
    """
    from blip2tools.checkpoints.memory import free_memory

    free = free_memory()
    together = free is None or sum(_needed(subject, name) for name in names) <= free * _SHARE
    say(f"{subject.name}: {', '.join(names)}, {'in turns' if together else 'one after the other'}")
    groups = [list(names)] if together else [[name] for name in names]
    found: list[Side] = []
    for group in groups:
        with ExitStack() as stack:
            pairs = []
            for name in group:
                side, process = _started(subject, name, plan)
                stack.callback(process.close)
                pairs.append((side, process))
            _take_turns(pairs, cases, rounds)
            found += [side for side, _ in pairs]
    return found


def _started(subject: Subject, name: str, plan: dict[str, Any]) -> tuple[Side, Process]:
    """A side that is loaded. A quantized one was so before, and has its weights from a file."""
    asked = subject.asked(name, plan)
    side, quantized = Side(name), name.endswith("bit")
    for start in (FIRST, SECOND) if quantized else (FIRST,):
        process = Process(asked)
        side.starts[start] = process.start["start_cpu_s"]
        side.loads[start] = process.start["load_cpu_s"]
        side.walls[start] = process.start["load_wall_s"]
        side.memory[f"peak, {start}"] = process.start["peak"]
        side.memory["resident"] = process.start["resident"]
        say(
            f"  {name}, {start}: {side.starts[start]:.1f} s of CPU time, of which {side.loads[start]:.1f} s loading; "
            f"peak {_gb(process.start['peak'])}, then {_gb(process.start['resident'])}"
        )
        if quantized and start == FIRST:
            process.close()
    return side, process


def _take_turns(pairs: Sequence[tuple[Side, Process]], cases: Sequence[str], rounds: int) -> None:
    first = 0 if rounds > 1 else 1
    for number in range(first, rounds + 1):
        for case in cases:
            for side, process in pairs:
                seconds = process.ask(case, 1000 + number)["seconds"]
                if number:  # the first warms up code paths and allocators
                    side.seconds.setdefault(case, []).append(seconds)
                    say(f"  {side.name}: {case}: {seconds:.2f} s")
        for side, process in pairs:
            for stage, seconds in process.ask("stages", 2000 + number).items():
                if number:
                    side.stages.setdefault(stage, []).append(seconds)
        if not number:
            for side, process in pairs:
                side.pause = process.ask("pause")["seconds"]
    for side, process in pairs:
        side.memory["worked"] = process.ask("memory")["resident"]


def table(name: str, sides: Sequence[Side], cases: Sequence[str], floors: dict[str, Any]) -> Iterator[str]:
    """The figures as lines.

    Args:
        name: of the model.
        sides: with their figures.
        cases: in their order.
        floors: see `cpu_floor.floors`.
    """
    stock = next((one for one in sides if one.name == "stock"), None)
    own = next((one for one in sides if one.name == "float32"), None)
    yield f"{name}: seconds of CPU time, median (lowest-highest); times faster than stock, than ours in float32"
    for case in cases:
        for side in sides:
            taken = side.seconds[case]
            spread = f"{statistics.median(taken):9.2f} ({min(taken):.2f}-{max(taken):.2f})"
            yield f"  {case:32} {side.name:8} {spread:28} {_times(case, stock, side):>8} {_times(case, own, side):>8}"
    yield "start: seconds of CPU time, in brackets without imports; memory, in brackets of stock's after work"
    # The library maps its files: their pages count once they are used.
    base = stock.memory["worked"] if stock else None
    for side in sides:
        for start, seconds in side.starts.items():
            again = "" if start == FIRST else f", {side.loads[start] / side.loads[FIRST]:.2f} of the first"
            peak = side.memory[f"peak, {start}"]
            yield f"  {side.name:8} {start:13} {seconds:7.1f} ({side.loads[start]:.1f}{again}), peak {_share(peak, base)}"
        if round(side.pause, 1):
            yield f"  {side.name:8} {'first pause':13} {side.pause:7.1f} (matrices are packed)"
        resident, worked = side.memory["resident"], side.memory["worked"]
        yield f"  {side.name:8} resident {_share(resident, base)}, after work {_share(worked, base)}"
    yield (
        f"stages: milliseconds, floor, times the floor: memory is read at {floors['bandwidth'] / 1e9:.1f} GB/s, "
        f"products are made at {floors['float32'] / 1e9:.0f} GFLOP/s in float32 and {floors['int8'] / 1e9:.0f} in int8"
    )
    for side in sides:
        for stage, values in side.stages.items():
            least = floors["stages"][side.name].get(stage)
            median = statistics.median(values)
            beside = "" if not least else f"{1000 * least:9.1f} {median / least:7.1f}x"
            yield f"  {side.name:8} {stage:28} {1000 * median:9.1f} {beside}"


def _times(case: str, base: Side | None, side: Side) -> str:
    if base is None or base is side:
        return ""
    pairs = list(zip(base.seconds[case], side.seconds[case], strict=True))
    return f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}x"


def _share(size: int, base: int | None) -> str:
    return _gb(size) if base is None else f"{_gb(size)} ({size / base:.2f})"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _needed(subject: Subject, name: str) -> int:
    """About what a side takes at most."""
    from blip2tools.checkpoints.family import memory_bytes, processor_bytes
    from blip2tools.checkpoints.sizes import weights_of

    total = 2**29  # Python and torch
    for folder in (subject.model, subject.matcher):
        if folder is not None:
            parts = weights_of(folder)
            total += memory_bytes(parts, 4) if name in ("stock", "float32") else 2 * processor_bytes(parts, "8bit")
    return total


def _measured(case: str, subject: Subject) -> bool:
    return subject.matcher is not None if case == MATCH else subject.captions


@contextmanager
def _folder(given: Path | None) -> Iterator[str]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield str(given)
        return
    with tempfile.TemporaryDirectory(prefix="blip2tools-bench-") as made:
        yield made


def _subject(arguments: argparse.Namespace, scratch: Path) -> Subject:
    """The checkpoint that the options ask for, written first where it is random.

    Raises:
        InvalidInputError: there is no such folder, or no room for random weights.
    """
    if arguments.model is not None:
        for folder in filter(None, (arguments.model, arguments.matcher)):
            if not (folder / "config.json").is_file():
                raise InvalidInputError(f"{str(folder)!r} holds no checkpoint.")
        return Subject(arguments.model.name, arguments.model, arguments.matcher, captions=True)
    from blip2tools.cli.bench import random_checkpoint

    size, family = random_checkpoint.sizes(arguments.random)
    kinds: list[random_checkpoint.Which] = ["captioner"]
    kinds += ["matcher"] if arguments.random in ("mid", "itm") else []
    made = {}
    for kind in kinds:
        made[kind] = scratch / f"{arguments.random}-{kind}"
        if not (made[kind] / "model.safetensors.index.json").is_file():
            say(f"writing random weights: {made[kind]}")
            shutil.rmtree(made[kind], ignore_errors=True)
            try:
                random_checkpoint.write(made[kind], size, family, kind)
            except OSError as error:
                raise InvalidInputError(f"The random weights cannot be written ({error.strerror}).") from error
    return Subject(arguments.random, made["captioner"], made.get("matcher"), captions=arguments.random != "itm")


def _floors(subject: Subject, names: Sequence[str], threads: int) -> dict[str, Any]:
    from blip2tools.cli.bench.cpu_floor import floors

    return floors(subject.model, subject.matcher, names, threads)


def _figures(side: Side) -> dict[str, Any]:
    return {
        "seconds": side.seconds,
        "stages": side.stages,
        "memory": side.memory,
        "start_cpu_s": side.starts,
        "load_cpu_s": side.loads,
        "load_wall_s": side.walls,
        "pause_cpu_s": side.pause,
    }
