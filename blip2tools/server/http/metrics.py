"""Numbers for Prometheus: its text exposition format, version 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from blip2tools.schemas import StatusResult

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One number, or one of several under the same name that differ in their labels."""

    help: str
    type: Literal["counter", "gauge"]
    value: float
    labels: Mapping[str, str] = {}


Metrics: TypeAlias = Mapping[str, Metric | Iterable[Metric]]


def render(metrics: Metrics) -> str:
    """The text that a scrape gets; help and type of a name are those of its first number."""
    return "".join(f"{line}\n" for name, found in metrics.items() for line in _lines(name, found))


def engine(status: StatusResult) -> dict[str, Metric | Iterable[Metric]]:
    """The engine's status as metrics."""
    queue, cache = status.queue, status.cache
    what = {"version": status.version, "model": status.model, "matcher": status.matcher or ""}
    return {
        "blip2tools_info": Metric("What is running.", "gauge", 1, what),
        "blip2tools_ready": Metric("Whether the model is loaded.", "gauge", status.loaded),
        "blip2tools_requests_waiting": Metric("Requests in the queue.", "gauge", queue.waiting),
        "blip2tools_requests_running": Metric("Requests on the device.", "gauge", queue.running),
        "blip2tools_requests_limit": Metric("Requests that may wait.", "gauge", queue.limit),
        "blip2tools_requests_total": [
            Metric("Requests since the start, by outcome.", "counter", getattr(queue, end), {"end": end})
            for end in ("completed", "failed", "cancelled")
        ],
        "blip2tools_requests_joined_total": Metric(
            "Requests that shared the work of an identical one.", "counter", queue.joined
        ),
        "blip2tools_batches_total": [
            Metric("Batches, by how many requests were in them.", "counter", batch.times, {"size": str(batch.size)})
            for batch in queue.batches
        ],
        "blip2tools_tokens_total": Metric("Tokens generated.", "counter", queue.tokens),
        "blip2tools_decoding_compiled": Metric("Whether decoding steps are compiled.", "gauge", status.compiled),
        "blip2tools_cuda_graphs": Metric(
            "Whether work on small batches is replayed as CUDA graphs.", "gauge", status.cuda_graphs
        ),
        "blip2tools_decoding_steps_total": [
            Metric("Decoding steps, each for a whole batch.", "counter", count, {"way": way})
            for way, count in (
                ("compiled", queue.compiled_steps),
                ("recorded", queue.recorded_steps),
                ("eager", queue.eager_steps),
            )
        ],
        "blip2tools_stage_seconds_total": [
            Metric("Time spent in a stage.", "counter", stage.total_s, {"stage": stage.stage}) for stage in queue.stages
        ],
        "blip2tools_stage_runs_total": [
            Metric("How often a stage ran.", "counter", stage.times, {"stage": stage.stage}) for stage in queue.stages
        ],
        "blip2tools_stage_seconds": [
            Metric("Recent duration of a stage.", "gauge", ms / 1000, {"stage": stage.stage, "quantile": quantile})
            for stage in queue.stages
            for quantile, ms in (("0.5", stage.median_ms), ("0.99", stage.p99_ms))
        ],
        **(
            {}
            if queue.memory_bytes is None
            else {"blip2tools_device_memory_bytes": Metric("Memory taken on the device.", "gauge", queue.memory_bytes)}
        ),
        "blip2tools_process_memory_bytes": Metric("Resident set of this process.", "gauge", queue.process_bytes),
        "blip2tools_cache_features": Metric("Cached features on the device.", "gauge", cache.features),
        "blip2tools_cache_bytes": Metric("Memory of cached features.", "gauge", cache.bytes_used),
        "blip2tools_cache_limit_bytes": Metric("Memory that cached features may take.", "gauge", cache.bytes_limit),
        "blip2tools_cache_spilled_features": Metric("Features moved to main memory.", "gauge", cache.spilled),
        "blip2tools_cache_spilled_bytes": Metric("Main memory of those.", "gauge", cache.spilled_bytes),
        "blip2tools_cache_spilled_limit_bytes": Metric("Main memory that they may take.", "gauge", cache.spilled_limit),
        "blip2tools_cache_evictions_total": Metric("Features that were evicted.", "counter", cache.evicted),
        "blip2tools_cache_hits_total": Metric("Features found in the cache.", "counter", cache.hits),
        "blip2tools_cache_misses_total": Metric("Features computed.", "counter", cache.misses),
    }


def _lines(name: str, found: Metric | Iterable[Metric]) -> Iterator[str]:
    samples = [found] if isinstance(found, Metric) else list(found)
    if samples:
        yield f"# HELP {name} {_escaped(samples[0].help, quotes=False)}"
        yield f"# TYPE {name} {samples[0].type}"
    for sample in samples:
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
        yield f"{name}{{{labels}}} {_number(sample.value)}" if labels else f"{name} {_number(sample.value)}"


def _escaped(text: str, *, quotes: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(float(value))]
    return str(int(value)) if float(value).is_integer() else repr(float(value))
