"""`blip2tools doctor`: everything that a working model needs on this machine, checked in one line each, with a remedy.

command.py      the command and the order of its sections
report.py       the report, for programs and for people
environment.py  Python, packages, extras, settings
machine.py      torch and the device, caches and disk, folders, the hub
model.py        the model: where it is, whether it fits, loads and passes its self-test
files.py        its files, one by one
scan.py         something else: every file of a folder, read as a picture

It changes nothing and downloads nothing; only a model's self-test is remembered for the next start.
"""

from __future__ import annotations

from blip2tools.cli.doctor.command import LOOKED_AT, add_doctor_command

__all__ = ["LOOKED_AT", "add_doctor_command"]
