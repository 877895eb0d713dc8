"""One device for many callers: `LocalEngine` queues requests, batches them, cancels them and caches what it computed.

requests.py  requests about pictures, and their answers
protocol.py  the interface of any engine
line.py      how many may wait, and whose turn it is
stages.py    see, query, speak and match for batches
cache.py     vision features, by picture
metrics.py   how busy it was
memory.py    memory of the device
local.py     the engine of this process, on one device
replicas/    one engine made of many processes, on Ray
"""

from __future__ import annotations

from blip2tools.engine.line import Job
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.protocol import Engine, EngineStatus

__all__ = ["Engine", "EngineStatus", "Job", "LocalEngine"]
