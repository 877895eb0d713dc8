"""The self-test of a loaded model on bundled pictures: is it what it claims to be, on this machine?

examination.py  when a model is tested, and what the verdict means for it
findings.py     what a check found
samples.py      the bundled pictures and what is true of them
checks.py       the checks
beside.py       a quantized model beside full precision
remembered.py   verdicts kept on disk, per weights, versions, device and dtype
compiling.py    recorded and compiled decoding steps against eager ones

A model is tested when it is first loaded, before it answers; that costs a fraction of what loading costs. A model
that fails is still used, but every result then carries a warning. Only a quantized model is always tested, and refused if it
fails: its faults do not show in an answer (transformers #30383).
"""

from __future__ import annotations

from blip2tools.checkpoints.selftest.examination import examine, load, verdict_on
from blip2tools.checkpoints.selftest.findings import Finding, Status, Verdict, failed

__all__ = ["Finding", "Status", "Verdict", "examine", "failed", "load", "verdict_on"]
