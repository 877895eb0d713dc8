"""`blip2tools evaluate` with every evaluation."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from blip2tools.__version__ import __version__
from blip2tools.cli.console import OK, SOME_FAILED, Bar, say, tell
from blip2tools.cli.evaluate import datasets
from blip2tools.cli.options import AddCommand, given_settings, names_a_model, setting_options
from blip2tools.errors import InvalidInputError, ModelUnavailableError, VisionError
from blip2tools.settings import Settings
from blip2tools.vision.styles import STYLES, Style

TEXT: Final = """\
Evaluate a model on a data set on this computer, with the settings as for the other commands. Predictions are kept in the
folder --output as they come: a run that was stopped continues there. The report is JSON, on standard output and in that folder.

DATASET is a file or a folder: JSON Lines ({"image", "captions"} or {"image", "question", "answers"}), COCO captions, a list
with the captions of each picture (Karpathy's split), or VQAv2's questions with its annotations."""

CALIBRATION: Final = """\
Draw pictures of the demo's world, as it knows them and made hard (turned, noisy), and count how often the demo model is right,
how sure it is, and what --best-of corrects. The scaling that makes its confidence fit is found on the pictures of one seed and
tested on those of another."""


def add_evaluate_command(command: AddCommand) -> None:
    """Add `evaluate` with every evaluation to the command line.

    Args:
        command: adds one command.
    """
    parser = command(
        "evaluate", lambda arguments: int(arguments.evaluation(arguments)), "measure a model's answers", TEXT
    )
    names = parser.add_subparsers(title="evaluations", required=True, metavar="NAME")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str = TEXT
    ) -> argparse.ArgumentParser:
        sub = names.add_parser(
            name,
            help=summary,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(evaluation=run)
        return sub

    captions = add("captions", _captions, "CIDEr, BLEU and ROUGE-L of captions")
    _data_options(captions)
    captions.add_argument(
        "--style",
        choices=tuple(STYLES),
        help="prompt and options; default: coco, as the published figures were made, for the captioners that were tuned on COCO, "
        "else plain",
    )
    setting_options(captions)

    vqa = add("vqa", _vqa, "soft accuracy of answers")
    _data_options(vqa)
    vqa.add_argument(
        "--annotations", type=Path, metavar="FILE", help="the answers, where DATASET is a file of questions"
    )
    vqa.add_argument(
        "--reference-questions",
        action="store_true",
        help="lower-case questions without punctuation, as LAVIS asks them",
    )
    vqa.add_argument("--lemmatize", action="store_true", help="compare base forms of nouns and verbs, as for OK-VQA")
    vqa.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="scale confidences to fit half of the questions, test that on the others, and write it: a file for --calibration",
    )
    setting_options(vqa)

    retrieval = add("retrieval", _retrieval, "recall of pictures by text and of texts by picture")
    _data_options(retrieval)
    retrieval.add_argument(
        "-k", type=_positive, default=128, metavar="N", help="candidates of each query that ITM judges (default 128)"
    )
    setting_options(retrieval)

    calibration = add(
        "calibration", _calibration, "the demo model's confidence, and what best-of corrects", CALIBRATION
    )
    calibration.add_argument("--fit-seed", type=int, default=1, help="pictures to fit on (default 1)")
    calibration.add_argument("--test-seed", type=int, default=3, help="pictures to test on (default 3)")
    calibration.add_argument("--pictures", type=_positive, default=600, metavar="N", help="of each seed (default 600)")
    calibration.add_argument("--best-of", type=_positive, default=8, metavar="N", help="captions tried (default 8)")
    calibration.add_argument("--output", type=Path, metavar="FILE", help="where to write the scaling (JSON)")
    calibration.add_argument("--plot", type=Path, metavar="FILE", help="where to write the reliability diagram (SVG)")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a file or a folder, see above")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are (default: next to the file)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N entries")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for predictions and report (default: evaluation-NAME here)"
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="of a quantized model: evaluate full precision too, after it, and report both",
    )


# ---- evaluations ----


def _captions(arguments: argparse.Namespace) -> int:
    from blip2tools.cli.evaluate import tasks

    items = datasets.captioned(arguments.dataset, arguments.images)[: arguments.limit]
    style = arguments.style or published_style(Settings.load(**given_settings(arguments)))
    return _run(
        "captions",
        arguments,
        {"style": style},
        lambda run: tasks.evaluate_captions(run, items, style),
    )


def published_style(settings: Settings) -> Style:
    """How the published captions of a model were made."""
    from blip2tools import checkpoints
    from blip2tools.checkpoints.published import COCO_PROMPT

    return "coco" if checkpoints.locate(settings).captioner.prompt == COCO_PROMPT else "plain"


def _vqa(arguments: argparse.Namespace) -> int:
    from blip2tools.cli.evaluate import tasks

    items = datasets.asked(arguments.dataset, arguments.images, arguments.annotations)[: arguments.limit]
    return _run(
        "vqa",
        arguments,
        {"reference_questions": arguments.reference_questions},
        lambda run: tasks.evaluate_vqa(
            run,
            items,
            reference=arguments.reference_questions,
            lemmatize=arguments.lemmatize,
            calibration=arguments.calibrate,
        ),
    )


def _retrieval(arguments: argparse.Namespace) -> int:
    from blip2tools.cli.evaluate import tasks

    items = datasets.captioned(arguments.dataset, arguments.images)[: arguments.limit]
    return _run(
        "retrieval", arguments, {"k": arguments.k}, lambda run: tasks.evaluate_retrieval(run, items, arguments.k)
    )


def _run(
    task: str,
    arguments: argparse.Namespace,
    options: Mapping[str, Any],
    evaluate: Callable[[Any], Awaitable[dict[str, Any]]],
) -> int:
    settings = given_settings(arguments)
    # The caller's own pictures, whatever folders tools may read.
    settings.pop("allowed_dirs", None)
    folder = arguments.output or Path(f"evaluation-{task}")
    if arguments.side_by_side and _is_whole(Settings.load(**settings)):
        raise InvalidInputError(
            "--side-by-side compares a quantized model with full precision: add --quantize 8bit or 4bit."
        )
    report, failed = _evaluated(task, arguments, settings, options, evaluate, folder)
    if arguments.side_by_side:
        whole = folder / "full-precision"
        full: dict[str, Any] | None = None
        why = None
        try:
            full, more = _evaluated(task, arguments, {**settings, "quantize": "none"}, options, evaluate, whole)
            failed = {**failed, **{f"{name} (full precision)": error for name, error in more.items()}}
        except ModelUnavailableError as unavailable:  # it may not fit, which is why the model was quantized
            why = unavailable.message
            say(f"Full precision could not be evaluated: {why}")
        report = {"quantized": report, "full_precision": full, "without_full_precision": why}
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    tell(text)
    for name, error in failed.items():
        say(f"{name}: {error}")
    return SOME_FAILED if failed else OK


def _is_whole(settings: Settings) -> bool:
    from blip2tools import checkpoints

    return checkpoints.locate(settings).quantize == "none"


def _evaluated(
    task: str,
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    evaluate: Callable[[Any], Awaitable[dict[str, Any]]],
    folder: Path,
) -> tuple[dict[str, Any], dict[str, VisionError]]:
    """The report of one model, and what failed; predictions are kept in the folder."""
    from blip2tools.cli.evaluate.tasks import Run
    from blip2tools.vision import Vision

    with Vision.load(download=names_a_model(arguments), **settings) as vision:
        status = vision.status()
        facts = {
            "task": task,
            "version": __version__,
            "dataset": arguments.dataset.name,
            "limit": arguments.limit,
            "model": status.model,
            "matcher": status.matcher,
            "dtype": status.dtype,
            "quantize": status.quantize,
            "settings": {name: str(value) for name, value in sorted(settings.items())},
            **options,
        }
        with _Progress(task) as progress:
            run = Run(vision, folder / "predictions.jsonl", facts, progress)
            return vision.run(_awaited(evaluate(run))), run.failed


async def _awaited(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await work


def _calibration(arguments: argparse.Namespace) -> int:
    from blip2tools.cli.evaluate.demo_world import run_study

    if arguments.fit_seed == arguments.test_seed:
        raise InvalidInputError("The scaling is tested on other pictures: --fit-seed and --test-seed must differ.")
    with _Progress("pictures") as progress:
        report = run_study(
            fit_seed=arguments.fit_seed,
            test_seed=arguments.test_seed,
            pictures=arguments.pictures,
            best_of=arguments.best_of,
            output=arguments.output,
            plot=arguments.plot,
            progress=progress,
        )
    tell(json.dumps(report, indent=2))
    return OK


class _Progress:
    """The progress of a run, on standard error: a bar on a terminal, elsewhere a line for each tenth."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar = Bar(what)
        self._told = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def __call__(self, done: int, of: int) -> None:
        self._bar(f"{self._what} {done} of {of}", done / of)
        tenth = 10 * done // of
        if tenth > self._told and not sys.stderr.isatty():
            say(f"{self._what}: {done} of {of}")
        self._told = tenth


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
