"""The real server on a machine that fails: memory ends at a chosen stage, the device breaks, the clock jumps.

    python -m tests.support.faulty_server ARMED.json serve ...

ARMED.json holds `{"stage": ..., "kind": ..., "times": n}`; the next n calls of that stage fail. It may be written at any
time. The clock of the day goes to and fro by years from the first moment on.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blip2tools.cli import main as run_command

STAGES = {
    "load": ("blip2tools.checkpoints", "load"),
    "see": ("blip2tools.model.trunk", "Trunk.see"),
    "query": ("blip2tools.model.captioner", "Captioner.query"),
    "speak": ("blip2tools.model.captioner", "Captioner.speak"),
    "rank": ("blip2tools.model.captioner", "Captioner.rank"),
    "match": ("blip2tools.model.matcher", "Matcher.match", "Matcher.match_kept"),
    "image features": ("blip2tools.model.matcher", "Matcher.image_features"),
    "text features": ("blip2tools.model.matcher", "Matcher.text_features"),
}


def failure(kind: str) -> Exception:
    if kind == "host memory":
        return MemoryError()
    import torch

    if kind == "device memory":
        return torch.OutOfMemoryError("CUDA out of memory: tried to allocate 2 GiB at 0x7f3a")
    return RuntimeError("CUDA error: device-side assert triggered at 0x7f3a in /usr/lib/libtorch.so")


def main(armed: str, *words: str) -> int:
    file, lock = Path(armed), threading.Lock()

    def due(stage: str) -> str | None:
        with lock:
            plan = json.loads(file.read_text())
            if plan.get("stage") != stage or plan["times"] < 1:
                return None
            plan["times"] -= 1
            file.write_text(json.dumps(plan))
            return str(plan["kind"])

    def fragile(stage: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*arguments: Any, **options: Any) -> Any:
            kind = due(stage)
            if kind is not None:
                raise failure(kind)
            return real(*arguments, **options)

        return call

    def break_stages() -> None:
        for stage, (module, *paths) in STAGES.items():
            for path in paths:
                holder: Any = importlib.import_module(module)
                *parents, name = path.split(".")
                for parent in parents:
                    holder = getattr(holder, parent)
                setattr(holder, name, fragile(stage, getattr(holder, name)))

    real_time, jumps = time.time, itertools.cycle((0, -1e8, 3e8, -5e7))
    time.time = lambda: real_time() + next(jumps)
    break_stages()
    return run_command(words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
