"""One device for many callers: `LocalEngine` queues requests, batches them, cancels them and remembers what it saw.

requests.py  what can be asked about a picture, and what comes back
protocol.py  what any engine must do
line.py      how many may wait, and whose turn it is
stages.py    see, query, speak and match for batches
cache.py     vision features, by picture
metrics.py   how busy it was
local.py     the engine of this process, on one device
replicas/    one engine made of many processes, on Ray
"""

from __future__ import annotations

from blip2tools.engine.line import Job
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.protocol import Engine, EngineStatus

__all__ = ["Engine", "EngineStatus", "Job", "LocalEngine"]
