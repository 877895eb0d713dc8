"""Drawings by other code than the world's, in front of the demo model: colour and shape of each thing."""

from __future__ import annotations

import random
import re

from training.examination.outside import COLORS, SHAPES, drawing

NAMED = re.compile(rf"\b({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b")


def test_colour_and_shape_of_foreign_drawings(vision) -> None:
    rng = random.Random(99)
    drawn = [drawing(rng) for _ in range(60)]
    said = vision.caption([one.picture for one in drawn], num_beams=1)
    right = [sorted(NAMED.findall(result.text)) == sorted(one.things) for result, one in zip(said, drawn, strict=True)]
    assert sum(right) / len(right) >= 0.97
