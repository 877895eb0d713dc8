"""`python -m training.train`: the demo's weights from scratch, on pictures that the world draws itself.

A whole training takes about three hours on two cores of an EPYC (25 November 2026). With `--from`, weights that are there
already learn more about what they see, their vision tower and matcher staying as they are. Either can be killed at any
time; the same command goes on where it was. What was seen and done is logged in the state folder, one line of JSON for each
25 steps of each stage.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from blip2tools.demo.world import STUDY, WIDE
from training.examination.judge import checkpoints_in
from training.stages.further import RATE, Further, train_further
from training.stages.loop import OtherTrainingError
from training.stages.plan import Training, set_up, train

_WORLDS = {world.name: world for world in (STUDY, WIDE)}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the checkpoints are written."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, metavar="FOLDER", help="keeps all that is needed to go on")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="gets the checkpoints (default: STATE/weights)")
    parser.add_argument(
        "--from", dest="given", type=_weights, metavar="FOLDER", help="go on from its `captioner`; `matcher` stays"
    )
    parser.add_argument(
        "--world", choices=_WORLDS, default=WIDE.name, help="where the pictures are from (default wide)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another run from other random numbers (default 0)")
    parser.add_argument("--share", type=_above_zero, default=1.0, help="of the steps of a whole training (default 1)")
    parser.add_argument("--rate", type=_above_zero, help=f"with --from: the highest learning rate (default {RATE:g})")
    parser.add_argument("--keep", type=_part, help="with --from: how much of the given weights stays in (default 0)")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="keep six pairs of colour and shape out of all pictures; gives a captioner alone, for `evaluate --held-out`",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        choices=(0, 1, 2),
        help="from scratch, 2: batches and the matcher in parallel; 0: only one process",
    )
    arguments = parser.parse_args(words)
    if arguments.given and arguments.held_out:
        parser.error("weights that are there have seen all pairs: --held-out is for a training from scratch")
    if (arguments.rate or arguments.keep) and not arguments.given:
        parser.error("--rate and --keep go with --from: a training from scratch has a rate for each stage")
    set_up()
    try:
        _train(arguments)
    except OtherTrainingError as error:
        parser.error(f"{error}; give a folder of its own")
    return 0


def _train(arguments: argparse.Namespace) -> None:
    output = arguments.output or arguments.state / "weights"
    world = _WORLDS[arguments.world]
    if arguments.given:
        rate, keep = arguments.rate or RATE, arguments.keep or 0.0
        train_further(
            Further(arguments.given, arguments.state, output, world, arguments.seed, arguments.share, rate, keep)
        )
        return
    train(
        Training(
            state=arguments.state,
            output=output,
            knows=world,
            seed=arguments.seed,
            share=arguments.share,
            held_out=arguments.held_out,
            processes=arguments.processes,
        )
    )


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _part(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def _weights(text: str) -> Path:
    folder = Path(text)
    if len(checkpoints_in(folder)) < 2:
        raise argparse.ArgumentTypeError(f"there are no captioner and matcher in {text}")
    return folder


if __name__ == "__main__":
    sys.exit(main())
