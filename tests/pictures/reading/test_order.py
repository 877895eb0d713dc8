"""Reading order from boxes alone: columns, tables, sidebars, wrapped cells."""

import random

import pytest

from blip2tools.pictures.reading.order import Box, arranged


def box(left, top, width, height=16.0):
    return Box(left, top, left + width, top + height)


def column(left, width, count, *, top=0.0, pitch=24.0, short=()):
    return [box(left, top + number * pitch, width / 2 if number in short else width) for number in range(count)]


def order(boxes, seed=1):
    """The places of the boxes in reading order, whatever order they came in."""
    shuffled = list(range(len(boxes)))
    random.Random(seed).shuffle(shuffled)
    return [shuffled[number] for row in arranged([boxes[one] for one in shuffled]) for number in row]


def test_nothing_has_an_order():
    assert arranged([]) == []


@pytest.mark.parametrize("offset", [0.0, 7.0, 12.0])
def test_two_columns_of_prose_are_read_one_after_the_other(offset):
    """Also where their lines stand exactly side by side, as they do on most pages."""
    boxes = column(0, 400, 9, short=(3, 8)) + column(440, 400, 9, top=offset, short=(5,))
    assert order(boxes) == list(range(18))


def test_a_heading_over_two_columns_comes_first_and_a_footer_last():
    boxes = [
        box(200, 0, 460, 30),
        *column(0, 400, 6, top=50, short=(5,)),
        *column(440, 400, 5, top=50),
        box(0, 260, 120),
    ]
    assert order(boxes) == list(range(len(boxes)))


def test_three_columns():
    boxes = [*column(0, 250, 6), *column(290, 250, 6, short=(5,)), *column(580, 250, 4)]
    assert order(boxes) == list(range(16))


def test_a_table_is_read_row_by_row():
    boxes = [box(left, 30.0 * row, width) for row in range(8) for left, width in ((0, 90), (200, 120), (420, 60))]
    assert order(boxes) == list(range(24))
    assert [len(row) for row in arranged(boxes)] == [3] * 8


def test_a_cell_of_several_lines_is_read_to_its_end():
    boxes = [
        *(box(left, 0, 90) for left in (0, 200, 420)),
        box(0, 40, 90), box(200, 40, 180), box(200, 60, 150), box(420, 40, 60),
        *(box(left, 100, 90) for left in (0, 200, 420)),
    ]  # fmt: skip
    assert order(boxes) == list(range(10))


def test_a_sidebar_is_read_before_what_stands_beside_it():
    boxes = [*column(0, 90, 7, pitch=33), *column(150, 500, 9, pitch=24)]
    assert order(boxes) == list(range(16))


def test_line_numbers_stay_beside_their_lines():
    boxes = [one for number in range(9) for one in (box(0, 22.0 * number, 14), box(40, 22.0 * number, 300))]
    assert order(boxes) == list(range(18))


def test_one_column_goes_down():
    boxes = column(0, 300, 12, short=(2, 5, 11))
    assert order(boxes) == list(range(12))
    assert [len(row) for row in arranged(boxes)] == [1] * 12


def test_many_boxes_take_no_time_to_speak_of():
    """The worst case that a page of small letters comes to: it ends."""
    chance = random.Random(3)
    boxes = [box(chance.uniform(0, 4000), chance.uniform(0, 4000), chance.uniform(10, 200)) for _ in range(800)]
    assert sorted(order(boxes)) == list(range(800))


@pytest.mark.parametrize("pitch", [30.0, 31.0, 34.0])
def test_a_sidebar_is_read_apart_from_what_stands_beside_it(pitch):
    """Also where its entries stand exactly beside lines of text and rows of a table."""
    sidebar = [box(0, 30.0 * number, width) for number, width in enumerate((50, 90, 70, 60, 80, 40, 60))]
    text = [box(200, 0, 240), *(box(200, pitch * number, 700) for number in (1, 2))]
    rows = [box(left, pitch * row, width) for row in range(3, 7) for left, width in ((210, 80), (480, 60), (700, 90))]
    boxes = [*sidebar, *text, *rows]
    assert order(boxes) == list(range(len(boxes)))


def test_numbers_of_lines_stay_with_code_that_is_in_columns():
    rows = [[box(0, 24.0 * row, 20), box(60, 24.0 * row, 120), box(300, 24.0 * row, 90)] for row in range(6)]
    rows += [[box(0, 24.0 * row, 20), box(60, 24.0 * row, 400)] for row in range(6, 9)]
    boxes = [one for row in rows for one in row]
    assert order(boxes) == list(range(len(boxes)))


def test_a_column_goes_on_below_the_end_of_the_other():
    """A paragraph's distance is no end of a section where the column has it higher up, too."""
    paragraphs = [*column(0, 400, 4, short=(3,)), *column(0, 400, 4, top=122, short=(3,)), *column(0, 400, 2, top=244)]
    boxes = [*paragraphs, *column(440, 400, 8, short=(7,)), box(0, 340, 120)]
    assert order(boxes) == list(range(len(boxes)))
