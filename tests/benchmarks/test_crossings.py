"""A fresh picture's way through the package stays short: few files, few steps from room to room."""

import re
import subprocess
import sys

from tests.conftest import REPOSITORY


def test_a_fresh_picture_passes_few_rooms():
    """In a process of its own: the hook follows every thread that is started."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.crossings"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files, crossings = map(int, re.search(r"^(\d+) files, (\d+) crossings$", done.stdout, re.M).groups())
    assert 20 < files <= 32, done.stdout
    assert 50 < crossings <= 215, done.stdout
