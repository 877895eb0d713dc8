"""Many pictures and many callers: memory stays within its budgets, and the soak's judge sees what has grown."""

import io
import json
import random
import sys

import pytest
from PIL import Image

from benchmarks import soak
from benchmarks.soak import Record, Sample, judge
from blip2tools import Vision
from tests.conftest import REPOSITORY
from tests.support import forked


def small_pictures(count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        buffer = io.BytesIO()
        Image.frombytes("RGB", (8, 8), chance.randbytes(8 * 8 * 3)).save(buffer, "PNG")
        yield buffer.getvalue()


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_the_cache_stays_within_its_budget_under_many_pictures(count):
    """Different ones, through everything that a caller's picture goes through."""
    with Vision.load(model="demo", threads=1, cache_mb=1, keep_answers=0) as vision:
        for start in range(0, count, 100):
            vision.features(list(small_pictures(100, start)))
            cache = vision.status().cache
            assert cache.bytes_used <= cache.bytes_limit == 2**20
        assert cache.misses == 2 * count  # the trunk's states, and the features made of them
        assert cache.hits == 0
        assert cache.evicted == 2 * count - cache.features


def record(rss, threads=9, files=12, cache=5, ends=None):
    samples = [
        Sample(10.0 * n, int(rss(10 * n)), threads + 3 * (n > 100) * (threads > 10), files, cache, 0, 40 * n)
        for n in range(181)
    ]
    return Record(samples, ends or {"answered": 9000, "given up": 90, "timeout": 9}, 1000, cache_limit=10)


@pytest.mark.parametrize(
    ("shown", "problems"),
    [
        (record(lambda t: 4e8), []),
        (record(lambda t: min(4e8, 1e8 + 2e6 * t)), []),  # the first three minutes do not count
        (record(lambda t: 4e8 + 5e7 * (200 < t < 1700)), []),  # nor does what was given back
        (record(lambda t: 4e8 + 1e4 * t), []),
        (record(lambda t: 4e8 + 2e4 * t), ["memory grew by 7.7%"]),
        (record(lambda t: 4e8, threads=11), ["threads grew from 11 to 14"]),
        (record(lambda t: 4e8, cache=11), ["the cache held 11 bytes of 10"]),
        (record(lambda t: 4e8, ends={"answered": 1, "internal": 2}), ["2 calls ended with internal"]),
    ],
)
def test_the_judge(shown, problems):
    assert judge(shown).problems == problems


def test_a_short_soak(tmp_path):
    words = ["--minutes", "0.05", "--callers", "4"]
    words += ["--output", str(tmp_path / "soak.json"), "--plot", str(tmp_path / "soak.svg")]
    command = [sys.executable, "-W", "error", "-m", "benchmarks.soak", *words]
    done = forked.run(command, cwd=REPOSITORY, text=True)
    assert done.returncode in (0, 1), done.stderr  # so short a run may still be growing
    written = json.loads((tmp_path / "soak.json").read_text())
    assert sum(written["ends"].values()) >= 1
    assert written["verdict"]["unexpected"] == {}
    assert written["verdict"]["cache_most"] <= written["cache_limit"]
    assert len(written["samples"]) > 2
    assert written["machine"]["cpus"] >= 1
    assert "resident memory" in (tmp_path / "soak.svg").read_text()


@pytest.mark.parametrize("words", [("--minutes", "0"), ("--minutes", "x"), ("--callers", "1")])
def test_a_soak_of_nothing_is_refused(words):
    with pytest.raises(SystemExit) as exit:
        soak.main(words)
    assert exit.value.code == 2
