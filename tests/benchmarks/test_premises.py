"""The benchmark of what a judged premise costs: every kind of question, and things that really are not there."""

import random

from benchmarks import premises
from blip2tools.demo.world import WIDE, sample_scene


def test_every_kind_is_measured(capsys):
    assert premises.main(["--rounds", "1", "--pictures", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [*premises.KINDS]
    assert all(float(row[1]) > 0 for row in rows)


def test_what_is_said_not_to_be_there_is_not():
    for number in range(50):
        scene = sample_scene(random.Random(number), things=2, world=WIDE)
        absent = premises._absent(scene)
        assert absent
        for thing in scene.things:
            assert not [pair for pair in absent if thing.color == pair[0] or thing.shape == pair[1]]
