"""Free main memory (limits of containers included), memory of this process, its processor, and out-of-memory errors."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory() -> int | None:
    """Bytes that a new model could take; None where the system does not say."""
    known = [value for value in (_system(), *(_cgroup(*files) for files in _CGROUP_FILES)) if value is not None]
    return min(known) if known else None


def process_bytes() -> int:
    """The resident set of this process: what it holds in main memory."""
    import psutil  # takes 30 ms, which no start should pay

    return int(psutil.Process().memory_info().rss)


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the system ran out of memory. On a CPU torch raises a plain `RuntimeError`."""
    if isinstance(error, MemoryError):
        return True
    import torch

    refused = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return refused or isinstance(error, torch.OutOfMemoryError)


def _system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _cgroup(limit: str, used: str) -> int | None:
    """Memory that a container may still take. Its page cache counts as used but is freed when needed."""
    try:
        allowed, taken = (int(Path(file).read_text(encoding="ascii")) for file in (limit, used))
        cache = 0
        for line in Path(used).with_name("memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("inactive_file "):
                cache = int(line.split()[1])
    except (OSError, ValueError):
        return None
    return max(0, allowed - taken + cache)
