"""The command line: `main` runs one command. Each command is thin: options become settings, one verb of `Vision` does the work.

command_line.py  all commands, and what their failures mean to a shell
options.py       settings as options of a command
console.py       lines, a progress bar and exit statuses
progress.py      rate and time left of a long job over pictures
look.py          caption, ask, match, read, survey
asking.py        a server of the user's that answers them, if one runs
collections.py   index, search
run.py           run
view.py          view
serve.py         serve
models.py        models, pull, demo
setup.py         install, config and completion, with clients.py and jsonfile.py
bench/  doctor/  evaluate/  demo/    the commands of these names
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; see `command_line.main`.

    An interrupt of the process's own command ends it at once: its threads may be in the middle of importing torch, which an
    orderly end would wait for.
    """
    try:
        from blip2tools.cli.command_line import main as run

        status = run(argv)
    except KeyboardInterrupt:
        if argv is None:
            _end()  # before what the interrupt has left behind is freed: a model would wait for its own import
        return INTERRUPTED
    if status == INTERRUPTED and argv is None:
        _end()
    return status


def _end() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)
