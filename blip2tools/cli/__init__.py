"""The command line: `main` runs one command. Each command is thin: options become settings, one verb of `Vision` does the work.

command_line.py  all commands, and what their failures mean to a shell
options.py       settings as options of a command
console.py       lines, a progress bar and exit statuses
look.py          caption, ask, match, survey
view.py          view
serve.py         serve
models.py        models, pull, demo
setup.py         install, config and completion, with clients.py and jsonfile.py
run/  bench/  doctor/  evaluate/  demo/    the commands of these names
"""

from __future__ import annotations

from blip2tools.cli.command_line import main

__all__ = ["main"]
