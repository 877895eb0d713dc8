"""Huge pages, with the memory of this very process."""

import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from blip2tools.checkpoints.memory import process_bytes
from blip2tools.engine import pages

BYTES = 2**26


def huge_kb(address):
    """How much of the mapping that holds an address is in huge pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            begin, end = (int(one, 16) for one in name.split("-"))
            inside = begin <= address < end
        elif inside and name == "AnonHugePages:":
            return int(rest[0])
    return 0


def huge_in_all():
    """Bytes in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages:"))


def moves_here():
    """Whether this system does what is asked of it, by the call itself."""
    if pages._huge() is None:
        return False
    library, size = ctypes.CDLL(None), pages._huge()
    with mmap.mmap(-1, 3 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as some:
        some.write(b"1" * 3 * size)
        place = ctypes.addressof(at := ctypes.c_char.from_buffer(some))
        failed = library.madvise(ctypes.c_void_p(-(-place // size) * size), ctypes.c_size_t(size), pages._COLLAPSE)
        del at
    return not failed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_what_is_in_memory_moves_and_keeps_its_values():
    if not moves_here():
        pytest.skip("no memory moves into huge pages here")
    full = mmap.mmap(-1, BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    untouched = mmap.mmap(-1, BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(full, dtype=np.uint8)
    values[:] = np.arange(BYTES, dtype=np.uint8)
    before, resident = huge_kb(values.ctypes.data), process_bytes()
    steps = sum(1 for _ in pages.collapse())
    assert steps > 1
    assert huge_kb(values.ctypes.data) >= before + BYTES // 2**11
    assert process_bytes() < resident + BYTES // 2, "memory that nobody used was taken"
    assert len(untouched) == BYTES
    assert (values == np.arange(BYTES, dtype=np.uint8)).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_a_caller_may_stop_after_each_step():
    if not moves_here():
        pytest.skip("no memory moves into huge pages here")
    list(pages.collapse())
    with mmap.mmap(-1, 3 * BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as full:
        full.write(b"1" * 3 * BYTES)
        before = huge_in_all()
        steps = pages.collapse()
        next(steps)
        steps.close()
        assert huge_in_all() < before + BYTES, "it went on"


@pytest.mark.parametrize("said", ["always madvise [never]", "nonsense", None])
def test_nothing_moves_where_huge_pages_are_switched_off(tmp_path, monkeypatch, said):
    monkeypatch.setattr(pages, "_SETTINGS", tmp_path)
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    assert not list(pages.collapse())


def test_other_systems_have_none(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not list(pages.collapse())
