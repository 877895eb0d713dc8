"""From a model's name to a loaded model: its files, dtype and device, and whether it is what it claims to be.

access.py         load and fetch, with our own error messages
plan.py           what a name stands for, and what would be loaded
family.py         the published checkpoints, with published.py and sizes.py
hub.py            the local cache and downloads
configuration.py  files of a checkpoint as its configuration, with adapters.py
loading.py        weights into a model
devices.py        device and dtype, with budget.py and memory.py: what fits
prompts.py        words to token ids, as the model was trained to read them
confidence.py     how probable it is that a text is right, and whether the model knows such pictures
selftest/         whether a model is what it claims to be

Loading never uses the network and never runs code from a checkpoint: safetensors only, explicit classes, local
files. Every failure is a `ModelUnavailableError` whose sentence names the model and the remedy.
"""

from __future__ import annotations

from blip2tools.checkpoints.access import choose_device, fetch, load
from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.plan import DEMO_WARNING, Choice, Loaded, Located, Plan, is_cached, locate, pull

__all__ = [
    "DEMO_WARNING",
    "Choice",
    "Loaded",
    "Located",
    "Plan",
    "Progress",
    "choose_device",
    "fetch",
    "is_cached",
    "load",
    "locate",
    "pull",
]
