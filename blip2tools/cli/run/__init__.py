"""`run`: one verb over many pictures, into a file.

command.py   options, and what a run does from its inputs to its exit status
progress.py  how far it is
"""

from __future__ import annotations

from blip2tools.cli.run.command import add_run_command

__all__ = ["add_run_command"]
