"""The status of a `Vision`: all of it for operators, and the part that an agent needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from blip2tools.schemas.results import Result

_BRIEF_QUEUE = ("waiting", "running", "limit", "completed", "failed", "cancelled", "tokens")
_BRIEF_CACHE = ("features", "hits", "misses", "bytes_used")


class Limits(BaseModel):
    """The limits on pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_folders: list[str] = Field(description="Folders whose pictures may be read.")
    urls: bool = Field(description="Whether http(s) pictures may be fetched.")
    formats: list[str] = Field(description="Picture formats that are read.")
    max_image_bytes: int
    max_data_bytes: int = Field(description="Largest picture in a data: URI, before base64.")
    max_pixels: int
    max_side: int
    deadline_s: float


class BatchStatus(BaseModel):
    """How many batches had a certain number of requests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    times: int


class StageStatus(BaseModel):
    """How long one stage of an answer takes: the median and 99th percentile are over the last few hundred."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stage: str = Field(
        description="wait (in the queue), see, query, speak, rank or match; request: from first to last."
    )
    times: int
    total_s: float
    median_ms: float
    p99_ms: float


class QueueStatus(BaseModel):
    """Requests in the engine, now and since the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    waiting: int
    running: int
    limit: int
    completed: int
    failed: int
    cancelled: int
    tokens: int = Field(description="Tokens generated so far, including those of stopped rows.")
    compiled_steps: int = Field(description="Decoding steps that were compiled, each for a whole batch.")
    recorded_steps: int = Field(description="Decoding steps that were replayed as CUDA graphs, uncompiled.")
    eager_steps: int = Field(description="Decoding steps that were neither.")
    joined: int = Field(description="Requests that shared the work, or the kept answer, of an identical one.")
    batches: list[BatchStatus]
    stages: list[StageStatus]
    tokens_per_s: float | None = Field(description="Tokens per second of decoding; null before the first.")
    memory_bytes: int | None = Field(description="Memory taken on the device; null where it does not say.")
    process_bytes: int = Field(description="Main memory that this process takes: its resident set.")


class CacheStatus(BaseModel):
    """The cache of vision features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: int = Field(description="Kept on the device; a picture has up to three kinds.")
    bytes_used: int
    bytes_limit: int
    spilled: int = Field(description="Features that were moved from the device to main memory.")
    spilled_bytes: int
    spilled_limit: int = Field(description="0 where there is only one kind of memory.")
    hits: int
    misses: int
    evicted: int = Field(description="Features that were evicted since the start.")


class BriefStatus(Result):
    """Result of `vision_status`."""

    version: str
    model: str = Field(description="The captioner, which also answers questions.")
    matcher: str | None = Field(description="The matcher, or null when there is none.")
    device: str | None = Field(description="Where the model runs; null until it is loaded.")
    dtype: str | None = Field(description="Number format of the weights; null until it is loaded.")
    loaded: bool
    state: str = Field(description="'not loaded', 'loading' with its progress, 'ready', or why it is unavailable.")
    limits: Annotated[Limits, WithJsonSchema({"type": "object"})] = Field(description="What may be sent: see `Limits`.")
    queue: dict[str, int] = Field(description="The counts of `QueueStatus` that an agent may want.")
    cache: dict[str, int] = Field(description="The same for `CacheStatus`.")
    handles: list[str] = Field(description="Pictures seen lately, newest first: handles that any tool accepts.")
    cannot: list[str] = Field(description="What this model cannot do.")
    warnings: list[str]
    prompt: str | None = Field(
        None, description="The default prompt, which captions continue and do not repeat; null for none."
    )

    def text_block(self) -> str:
        where = f" on {self.device}, {self.dtype}" if self.loaded else ""
        limits = self.limits
        lines = [
            f"model: {self.model}; matcher: {self.matcher or 'none'}; {self.state}{where}",
            *([f"captions continue '{self.prompt}' and do not repeat it"] if self.prompt else []),
            f"pictures from: {', '.join(limits.allowed_folders) or 'no folder'}; URLs: {'yes' if limits.urls else 'no'}; "
            f"{', '.join(limits.formats)}, {limits.max_image_bytes // 2**20} MiB, {limits.max_pixels / 1e6:g} megapixels",
            f"queue: {self.queue['running']} running, {self.queue['waiting']} waiting of {self.queue['limit']}",
            f"handles: {', '.join(self.handles) or 'none yet'}",
            f"cannot: {'; '.join(self.cannot)}",
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


class StatusResult(Result):
    """Everything that is known about a running model; `brief` is the result of `vision_status`."""

    version: str
    model: str = Field(description="The captioner, which also answers questions.")
    matcher: str | None = Field(description="The matcher, or null when there is none.")
    device: str | None = Field(description="Where the model runs; null until it is loaded.")
    dtype: str | None = Field(description="Number format of the weights; null until it is loaded.")
    revision: str | None = Field(
        description="Commit of the captioner's files on the model hub; null if not from there."
    )
    matcher_revision: str | None = Field(description="The same for the matcher.")
    quantize: str = Field(
        description="Whether the language model, on a CPU the whole model, is quantized: 'none', '8bit' or '4bit'."
    )
    loaded: bool
    state: str = Field(description="'not loaded', 'loading' with its progress, 'ready', or why it is unavailable.")
    self_test: str | None = Field(
        description="Whether the loaded model passed its self-test, when, and which checks; null if there was none."
    )
    compiled: bool = Field(
        description="Whether decoding steps are compiled; where they should be and are not, a warning says why."
    )
    cuda_graphs: bool = Field(description="Whether work on small batches is replayed as CUDA graphs.")
    limits: Limits
    queue: QueueStatus
    cache: CacheStatus
    handles: list[str] = Field(description="Pictures seen lately, newest first: handles that any tool accepts.")
    cannot: list[str] = Field(description="What this model cannot do.")
    warnings: list[str]
    prompt: str | None = Field(
        None, description="The default prompt, which captions continue and do not repeat; null for none."
    )

    def text_block(self) -> str:
        where = f" on {self.device}, {self.dtype}" if self.loaded else ""
        part = "all" if self.device == "cpu" else "language model"
        where += "" if self.quantize == "none" else f", {part} in {self.quantize}"
        pinned = [f"{self.model} {self.revision}"] if self.revision else []
        pinned += [f"{self.matcher} {self.matcher_revision}"] if self.matcher_revision else []
        folders = ", ".join(self.limits.allowed_folders) or "none"
        lines = [
            f"model: {self.model}; matcher: {self.matcher or 'none'}; {self.state}{where}",
            *([f"revisions: {', '.join(pinned)}"] if pinned else []),
            *([] if self.self_test is None else [f"self-test: {self.self_test}"]),
            *([f"captions continue '{self.prompt}' and do not repeat it"] if self.prompt else []),
            f"pictures may come from: {folders}; http(s) URLs: {'yes' if self.limits.urls else 'no'}",
            f"limits: {', '.join(self.limits.formats)}; {self.limits.max_image_bytes // 2**20} MiB, "
            f"as a data: URI {self.limits.max_data_bytes // 2**20} MiB, "
            f"{self.limits.max_pixels / 1e6:g} megapixels",
            f"queue: {self.queue.running} running, {self.queue.waiting} waiting of {self.queue.limit}",
            *self._work_lines(),
            f"handles: {', '.join(self.handles) or 'none yet'}",
            "cannot: " + "; ".join(self.cannot),
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def brief(self) -> BriefStatus:
        """The part that an agent needs."""
        return BriefStatus(
            **{name: getattr(self, name) for name in BriefStatus.model_fields if name not in ("queue", "cache")},
            queue={name: getattr(self.queue, name) for name in _BRIEF_QUEUE},
            cache={name: getattr(self.cache, name) for name in _BRIEF_CACHE},
        )

    def _work_lines(self) -> list[str]:
        batches = sum(batch.times for batch in self.queue.batches)
        if not batches:
            return []
        served = sum(batch.size * batch.times for batch in self.queue.batches)
        stages = ", ".join(
            f"{stage.stage} {stage.median_ms:.0f} ms (99 %: {stage.p99_ms:.0f})" for stage in self.queue.stages
        )
        return [
            f"so far: {served} requests in {batches} batches, {self.queue.joined} shared with another; {stages}",
            f"features cached: {self.cache.features}, found {self.cache.hits} times of {self.cache.hits + self.cache.misses}; "
            f"{self.cache.bytes_used / 2**20:.0f} of {self.cache.bytes_limit / 2**20:.0f} MiB{self._spilled()}",
            *([f"decoding steps: {self._steps()}"] if self.compiled or self.cuda_graphs else []),
            f"memory: {self._memory()}",
        ]

    def _spilled(self) -> str:
        cache = self.cache
        return f", {cache.spilled} more in main memory" if cache.spilled_limit else ""

    def _steps(self) -> str:
        way, count = (
            ("compiled", self.queue.compiled_steps) if self.compiled else ("recorded", self.queue.recorded_steps)
        )
        return f"{count} {way}, {self.queue.eager_steps} eager"

    def _memory(self) -> str:
        process = f"{self.queue.process_bytes / 2**20:.0f} MiB of main memory"
        device = self.queue.memory_bytes
        return process if device is None else f"{device / 2**20:.0f} MiB on the device, {process}"
