"""Reproducible evaluations: `blip2tools evaluate captions|vqa|retrieval DATASET`, and `evaluate calibration` on the demo world.

command.py       the command and its names
datasets.py      local data sets in their usual forms
journal.py       predictions on the disk, so that a stopped run goes on
tasks.py         one evaluation from predictions to its report
captions.py      CIDEr, BLEU, ROUGE-L
vqa.py           soft accuracy
reliability.py   calibration error, AUROC, the scaling that fits, the diagram
demo_world.py    the demo model on pictures made hard for it
"""

from __future__ import annotations

from blip2tools.cli.evaluate.command import add_evaluate_command

__all__ = ["add_evaluate_command"]
