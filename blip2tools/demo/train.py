"""`python -m blip2tools.demo.train`: the demo's weights from scratch, on pictures that the world draws itself.

By the processor time of single steps (2 cores of a Xeon, 23 November 2026) a whole training takes about three and a quarter
hours on two free cores; none has been run to its end yet. It can be killed at any time; the same command goes on where it was.
What it saw and did is logged in the state folder, one line of JSON for each 25 steps of each stage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from blip2tools.demo.training.plan import Training, set_up, train


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the checkpoints are written."""
    parser = argparse.ArgumentParser(prog="python -m blip2tools.demo.train", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, metavar="FOLDER", help="keeps all that is needed to go on")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="gets the checkpoints (default: STATE/weights)")
    parser.add_argument("--seed", type=int, default=0, help="another run from other random numbers (default 0)")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of a whole training (default 1)")
    parser.add_argument(
        "--held-out", action="store_true", help="keep six pairs of colour and shape out of all pictures"
    )
    parser.add_argument(
        "--processes", type=int, default=2, choices=(0, 1, 2), help="2: batches, and the matcher, beside; 0: only one"
    )
    arguments = parser.parse_args(words)
    set_up()
    train(
        Training(
            state=arguments.state,
            output=arguments.output or arguments.state / "weights",
            seed=arguments.seed,
            share=arguments.share,
            held_out=arguments.held_out,
            processes=arguments.processes,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
