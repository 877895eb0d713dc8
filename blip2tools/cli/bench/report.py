"""The facts that go with every measurement: date, machine and versions. Written as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blip2tools.__version__ import __version__
from blip2tools.checkpoints.memory import processor

PACKAGES = ("torch", "transformers")


def write_json(path: Path, measured: Mapping[str, Any]) -> None:
    """`measured` with date, machine and versions in front.

    Raises:
        OSError: it cannot be written there.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {"blip2tools": __version__, **{name: version(name) for name in PACKAGES}}
    whole = {"date": today, "machine": machine(), "versions": versions, **measured}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, str | int]:
    """The facts that figures depend on most, without anything that identifies this machine."""
    import torch

    found: dict[str, str | int] = {
        "processor": processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found
