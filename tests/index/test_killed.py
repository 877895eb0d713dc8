"""An index that is killed twenty times, at any moment, is the one that was not; while folders change under it."""

import os
import random
import signal
import sqlite3
import time

import numpy as np

from tests.index import killed


def contents(cache):
    """Every file's features, and how often a content is there twice."""
    (base,) = cache.glob("index/*/catalogue.sqlite")
    (rows,) = cache.glob("index/*/rows-*.f16")
    values = np.fromfile(rows, np.float16).reshape(-1, *killed.SHAPE)
    opened = sqlite3.connect(base)
    files = opened.execute("SELECT name, slot FROM files").fetchall()
    (doubled,) = opened.execute("SELECT count(*) - count(DISTINCT digest) FROM contents").fetchone()
    (number,) = opened.execute("SELECT count(*) FROM contents").fetchone()
    opened.close()
    return {name: values[slot] for name, slot in files}, doubled, number


def in_a_child(folder, cache):
    child = os.fork()
    if child == 0:
        try:
            killed.main(str(folder), str(cache))
        finally:
            os._exit(0)
    return child


def test_killed_twenty_times_it_is_the_same(tmp_path):
    chance = random.Random(6)
    folder = (tmp_path / "pictures").resolve()
    folder.mkdir()
    for number in range(400):
        (folder / f"{number}.png").write_text(str(number % 390))  # ten of them are copies
    kills = 0
    while kills < 20:
        child = in_a_child(folder, tmp_path / "killed")
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += 1
        if not os.WIFSIGNALED(status):  # it had ended: more to do
            for name in chance.sample(sorted(path.name for path in folder.iterdir()), 40):
                (folder / name).write_text(str(chance.randrange(1000, 9999)))
    os.waitpid(in_a_child(folder, tmp_path / "killed"), 0)
    os.waitpid(in_a_child(folder, tmp_path / "calm"), 0)
    (one, doubled, number), (other, _, expected) = contents(tmp_path / "killed"), contents(tmp_path / "calm")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert (doubled, number) == (0, expected)
