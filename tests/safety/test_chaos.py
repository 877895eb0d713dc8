"""Many clients while the server dies and comes back: every call has a right answer or one clear error."""

from __future__ import annotations

import os

import pytest

from blip2tools.errors import ERROR_CODES
from tests.support import chaos


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_minute_of_chaos():
    """`python -m tests.support.chaos --minutes 30` is the whole of it."""
    report = chaos.run(minutes=1, clients=16, kills=2, think_s=0.3)
    assert report["wrong"] == []
    assert report["restarts"] == report["kills"] == 2
    assert report["tracebacks"] == 0
    assert report["outcomes"]["right"] > 50
    lawful = {"right", "away", "cancelled", *(f"error {code}" for code in ERROR_CODES)}
    assert set(report["outcomes"]) <= lawful
