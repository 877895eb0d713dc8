"""`blip2tools run VERB INPUT... --output FILE`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from blip2tools.cli.console import OK, SOME_FAILED, say
from blip2tools.cli.look import SPEECH
from blip2tools.cli.options import (
    AddCommand,
    given_replicas,
    given_settings,
    names_a_model,
    ray_options,
    setting_options,
)
from blip2tools.cli.progress import Progress
from blip2tools.errors import InvalidInputError
from blip2tools.schemas.shown import printable
from blip2tools.vision.styles import STYLES

if TYPE_CHECKING:
    from blip2tools.vision.bulk.inputs import Listing
    from blip2tools.vision.bulk.lines import Output
    from blip2tools.vision.bulk.record import Record
    from blip2tools.vision.bulk.tasks import Task

_TEXT: Final = """\
Caption, ask about, match or describe by features every picture of folders and lists, into one file.

Stopped or killed, the same command goes on where it was: no picture is left out and none is done twice. Rows are in the order
of the inputs; pictures that came since are added at the end. A picture that cannot be read is a row with its error."""
_INPUTS: Final = """\
a folder, with all below it; a pattern in quotes such as 'photos/**/*.jpg'; a picture; a list (.txt) of paths, one in each line;
or - for such lines on standard input"""
_SUMMARIES: Final = {
    "caption": "one caption for each picture",
    "ask": "the same questions about each picture",
    "match": "the same statements against each picture",
    "features": "contrastive (ITC) features of each picture",
}


def add_run_command(command: AddCommand) -> None:
    """Add `run` with its verbs."""
    parser = command("run", lambda arguments: _run(arguments), "one verb over many pictures, into a file", _TEXT)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB", dest="verb")
    for verb, summary in _SUMMARIES.items():
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}, into one file.\n\n{_TEXT.partition(chr(10) * 2)[2]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _common_options(sub)
        _verb_options(sub, verb)
        ray_options(sub)
        setting_options(sub, but=_useless(verb))


def _useless(verb: str) -> tuple[str, ...]:
    early = ("early_load",)
    return early + {"caption": ("vqa_template",), "ask": ("best_of",)}.get(verb, SPEECH)


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="+", metavar="INPUT", help=_INPUTS)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="where the rows go: .jsonl, .csv or .parquet; what made it is kept beside it, in FILE.run.json",
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N shares, from 1/N to N/N: they are the same in every run and on every machine, and together "
        "hold every picture once; each needs a FILE of its own",
    )
    parser.add_argument("--restart", action="store_true", help="throw away what FILE holds, and begin anew")
    parser.add_argument(
        "--region",
        type=float,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="look only at this part of each picture, as fractions from 0 to 1",
    )


def _verb_options(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb == "caption":
        parser.add_argument(
            "--prompt",
            help='beginning of the captions, which the model continues; default: that of its training, "" is none',
        )
        parser.add_argument(
            "--style", choices=tuple(STYLES), help="a prompt with options that belong to it (default plain)"
        )
        parser.add_argument(
            "--num-captions", type=int, metavar="N", help="captions for each picture, 1 to 5 (default 1)"
        )
    elif verb == "ask":
        parser.add_argument(
            "-q", "--question", action="append", required=True, help="a question, in English; may be given again"
        )
        parser.add_argument("-c", "--choice", action="append", help="a possible answer to score; give 2 to 20 of them")
    elif verb == "match":
        parser.add_argument("-t", "--text", action="append", required=True, help="a statement; give 1 to 64 of them")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the verb, by the names that it has in Python."""
    named = {"questions": "question", "choices": "choice", "texts": "text"}
    names = ("prompt", "style", "num_captions", "region", *named)
    return {name: getattr(arguments, named.get(name, name), None) for name in names}


def _run(arguments: argparse.Namespace) -> int:
    # Everything that can be wrong with the command is said before a model is loaded or a folder is read.
    from blip2tools.settings import Settings
    from blip2tools.vision.bulk.inputs import Shard, list_pictures
    from blip2tools.vision.bulk.running import check_output
    from blip2tools.vision.bulk.tasks import Task, bulk_settings

    if given_replicas(arguments):
        from blip2tools.engine.replicas.cluster import require

        require()
    task = Task.of(arguments.verb, _options(arguments))
    output: Path = arguments.output
    check_output(output)
    shard = None if arguments.shard is None else Shard.parse(arguments.shard)
    given = bulk_settings(given_settings(arguments))
    settings = Settings.load(**given)
    with _ended_in_order():
        listing = list_pictures(arguments.input, lines=sys.stdin.buffer, shard=shard)
        for folder in listing.unlisted:
            say(f"{printable(folder, 200)}: this folder cannot be listed, and its pictures are missing")
        run = {**task.told(settings), "shard": None if shard is None else str(shard)}
        return _Run(arguments, task, listing, given, run).result()


class _Run:
    """One run: the record, the file, the pictures that are left, and the model that looks at them."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        task: Task,
        listing: Listing,
        given: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        self._arguments = arguments
        self._path: Path = arguments.output
        self._task = task
        self._listing = listing
        self._given = given
        self._facts = facts

    def result(self) -> int:
        """Do the run; returns the exit status."""
        from blip2tools import checkpoints
        from blip2tools.checkpoints.identity import identity
        from blip2tools.settings import Settings
        from blip2tools.vision import Vision
        from blip2tools.vision.bulk.record import Record

        if self._arguments.restart:
            _discard(self._path)
        settings = Settings.load(**self._given)
        plan = checkpoints.locate(settings)
        if not plan.here:  # downloaded, where that is allowed: the record names the files
            Vision.load(download=names_a_model(self._arguments), **self._given).close()
            plan = checkpoints.locate(settings)
        facts = self._facts | {
            "model": identity(plan.captioner),
            "matcher": None if plan.matcher is None else identity(plan.matcher),
            "dtype": settings.dtype,
            "quantize": plan.quantize,
        }
        with Record(self._path, facts, str(Path.cwd())) as record:
            self._check_folder(record.folder)
            return self._write(record)

    def _check_folder(self, begun_in: str) -> None:
        """Paths of two folders must not meet under one name."""
        from blip2tools.vision.bulk.inputs import is_address

        if begun_in == str(Path.cwd()):
            return
        if any(not is_address(one) and not Path(one).is_absolute() for one in self._listing.sources):
            raise InvalidInputError(
                f"The rows that are there belong to paths below {printable(begun_in, 120)}: run the command there, or name the "
                "inputs by absolute paths."
            )

    def _write(self, record: Record) -> int:
        from blip2tools.vision.bulk.running import open_output, undone

        record.begin()  # before there is a file: one that nothing tells about is nobody's
        output = open_output(self._path, self._task, record.folder)
        total = len(self._listing.sources)
        left = list(undone(self._listing.sources, output.done))
        whole = False
        progress = Progress(total, total - len(left))
        try:
            with progress:
                try:
                    if left:
                        self._look(output, left, progress)
                    whole = True
                finally:
                    with _without_interrupts():
                        output.close(whole=whole)
                        if not whole and not progress.done:
                            record.forget_if_new()
        except OSError as error:
            raise InvalidInputError(
                f"The output cannot be written ({error.strerror or type(error).__name__}). What is there stays: make room, and "
                "the same command goes on."
            ) from error
        except KeyboardInterrupt:
            say(f"{progress.line()}; stopped: the same command goes on from here")
            raise
        before = f", {total - len(left):,} were done before" if total > len(left) else ""
        say(f"{progress.line()}{before}; written to {printable(str(self._path), 200)}")
        return SOME_FAILED if progress.failed or self._listing.unlisted else OK

    def _look(self, output: Output, left: list[str], progress: Progress) -> None:
        from blip2tools.vision import Vision
        from blip2tools.vision.bulk.running import check_model, write_all

        if replicas := given_replicas(self._arguments):
            self._look_on_ray(output, left, progress, replicas)
            return
        with Vision.load(download=names_a_model(self._arguments), **self._given) as vision:
            check_model(vision, self._task)
            for warning in vision.status().warnings:
                say(f"warning: {warning}")
            progress.start()
            vision.run(write_all(vision, self._task, left, output, lambda rows: _step(progress, rows)))

    def _look_on_ray(self, output: Output, left: list[str], progress: Progress, replicas: int) -> None:
        from blip2tools.engine.replicas.cluster import connected
        from blip2tools.vision.bulk.ray_data import rows_on_ray

        with connected(self._arguments.ray_address, cpus=replicas + 1):
            progress.start()  # rows come in blocks: from the first one on, they would seem to take no time
            for rows in rows_on_ray(self._task, left, self._given, replicas):
                output.add(rows)
                _step(progress, rows)


def _step(progress: Progress, rows: Sequence[Mapping[str, Any]]) -> None:
    progress.step(failed=any("error" in row for row in rows))


def _discard(path: Path) -> None:
    from blip2tools.vision.bulk.parts import remove_parts
    from blip2tools.vision.bulk.record import discard

    discard(path)
    remove_parts(path)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """End in order on SIGTERM, which announces that a machine is taken away: as for Ctrl-C, finished rows are written first."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile: a second one must not cut off what the first one has begun to write."""
    before: dict[signal.Signals, Any] = {}
    with suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
