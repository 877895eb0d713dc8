"""`blip2tools doctor`: what stands between this machine and a model that sees, each thing in one line with its remedy.

command.py      the command and the order of its sections
report.py       the report, for programs and for people
environment.py  Python, packages, extras, settings
machine.py      torch and the device, caches and disk, folders, the hub
model.py        the model: where it is, whether it fits, loads and passes its self-test
files.py        its files, one by one
scan.py         something else: every file of a folder, read as a picture

It changes nothing and downloads nothing; what it finds out about a model it remembers for the next start.
"""

from __future__ import annotations

from blip2tools.cli.doctor.command import LOOKED_AT, add_doctor_command

__all__ = ["LOOKED_AT", "add_doctor_command"]
