"""Strips cover a picture, and every line comes out of them once."""

import numpy as np
import pytest

from blip2tools.pictures.reading.boxes import Seen, Strip, angle_of, merged, strips


def quad(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


def seen_in(lines, places):
    """What a perfect detector sees of lines: each strip its part."""
    for number, place in enumerate(places):
        for left, top, right, bottom in lines:
            part = (max(left, place.left), max(top, place.top), min(right, place.right), min(bottom, place.bottom))
            if part[2] - part[0] > 2 and part[3] - part[1] > 2:
                yield Seen(quad(*part), number)


@pytest.mark.parametrize("size", [(420, 6000), (1280, 900), (4000, 3000), (16384, 400), (3000, 16000), (200, 200)])
def test_strips_cover_the_picture_and_are_small_enough(size):
    width, height = size
    places = strips(width, height, 2_000_000, 132)
    covered = np.zeros((height // 8, width // 8), bool)
    for place in places:
        assert (place.right - place.left) * (place.bottom - place.top) <= 2_000_000
        assert place.left >= 0
        assert place.top >= 0
        assert place.right <= width
        assert place.bottom <= height
        covered[place.top // 8 : -(-place.bottom // 8), place.left // 8 : -(-place.right // 8)] = True
    assert covered.all()


@pytest.mark.parametrize("size", [(420, 6000), (3000, 4000), (9000, 1200)])
def test_every_line_comes_out_once_and_whole(size):
    width, height = size
    lines = [(20, top, width - 30, top + 17) for top in range(5, height - 20, 24)]
    places = strips(width, height, 2_000_000, 132)
    assert len(places) > 1
    found = merged(list(seen_in(lines, places)), places, width, height)
    edges = sorted((one[:, 1].min(), one[:, 0].min(), one[:, 0].max(), one[:, 1].max()) for one in found)
    assert edges == [(top, left, right, bottom) for left, top, right, bottom in lines]


def test_lines_of_one_strip_are_left_as_they_are():
    boxes = [quad(0, 0, 100, 20), quad(0, 12, 100, 32)]
    found = merged([Seen(one, 0) for one in boxes], [Strip(0, 0, 100, 100)], 100, 100)
    assert len(found) == 2


@pytest.mark.parametrize("degrees", [-4.0, 0.0, 3.0])
def test_the_angle_is_that_of_most_of_the_text(degrees):
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    boxes = [(quad(0, top, 400, top + 20) @ matrix.T).astype(np.float32) for top in range(0, 300, 30)]
    assert angle_of([*boxes, quad(0, 0, 30, 20), quad(0, 0, 300, 20)]) == pytest.approx(degrees, abs=0.1)
