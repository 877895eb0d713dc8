"""The cost of a command before it answers, as a multiple of `import torch`: processor time of processes started in turns.

    python -m benchmarks.start [--rounds N]

The children of a command count (the decoder of pictures is one). Medians; the spread is that of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLIP2TOOLS = [sys.executable, "-m", "blip2tools"]
BASE = [sys.executable, "-c", "import torch"]
CAPTION = [*BLIP2TOOLS, "caption", "examples/shapes.png"]
LENT = "caption examples/shapes.png, a server running"
COMMANDS = {
    "caption nofile.png": [*BLIP2TOOLS, "caption", "nofile.png", "--no-use-server"],
    "caption examples/shapes.png": [*CAPTION, "--no-use-server"],
    LENT: CAPTION,
    "models": [*BLIP2TOOLS, "models"],
}


@contextmanager
def server() -> Iterator[None]:
    """A server that answers the commands of this user while the block runs."""
    process = subprocess.Popen(  # noqa: S603
        [*BLIP2TOOLS, "serve", "--http", "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        for _ in range(60):
            done = subprocess.run(CAPTION, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
            if f"(pid {process.pid})" in done.stderr:
                break
            time.sleep(1)
        else:
            raise SystemExit("no command is answered by the server")
        yield
    finally:
        process.terminate()
        process.wait()


def processor_seconds(command: list[str]) -> float:
    """User and system time of a process and its children."""
    process = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    base: list[float] = []
    with server():
        for command in (
            BASE,
            *COMMANDS.values(),
        ):  # bytecode, the verdict on the model, and the system's cache of files
            processor_seconds(command)
        for _ in range(rounds):
            base.append(processor_seconds(BASE))
            for name, command in COMMANDS.items():
                found[name].append(processor_seconds(command))
    unit = statistics.median(base)
    sys.stdout.write(f"import torch: {unit:.2f} s ({min(base):.2f}-{max(base):.2f})\n")
    for name, times in found.items():
        ratio = statistics.median(times) / unit
        sys.stdout.write(f"{name}: {ratio:.2f} x ({min(times):.2f}-{max(times):.2f} s)\n")


if __name__ == "__main__":
    main()
