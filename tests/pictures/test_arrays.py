"""Numpy arrays as pictures: equal to the same pixels as a `PIL.Image`, or refused with what to do."""

import io

import numpy as np
import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.errors import InvalidInputError, TooLargeError, UnsupportedImageError, VisionError
from blip2tools.pictures.arrays import to_image
from blip2tools.settings import Settings

SETTINGS = Settings()


@pytest.fixture(scope="module")
def pixels(picture):
    with Image.open(picture.path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def eyes():
    with Vision.load(model="demo", threads=1, preload=False) as found:
        yield found


def handle(eyes, image):
    return eyes.keep(image).handle


def test_every_form_of_the_same_pixels_is_the_same_picture(eyes, pixels):
    height, width, _ = pixels.shape
    apart = np.zeros((height, 2 * width, 3), np.uint8)
    apart[:, ::2] = pixels
    grey, mask = pixels[:, :, 1], pixels[:, :, 1] > 128
    alpha = np.dstack([pixels, np.full((height, width), 100, np.uint8)])
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for array, same in (
        (pixels, Image.fromarray(pixels)),
        (frozen, Image.fromarray(pixels)),
        (apart[:, ::2], Image.fromarray(pixels)),
        (pixels[::-1, ::-1], Image.fromarray(pixels[::-1, ::-1].copy())),
        (pixels[:, :, ::-1], Image.fromarray(pixels[:, :, ::-1].copy())),  # OpenCV's order turned round
        (np.asfortranarray(pixels), Image.fromarray(pixels)),
        (pixels.astype(np.float32) / 255, Image.fromarray(pixels)),
        ((pixels.astype(np.float64) / 255).astype(">f8"), Image.fromarray(pixels)),
        (grey, Image.fromarray(grey)),
        (grey[:, :, None], Image.fromarray(grey)),
        (grey.astype(np.float16) / 255, Image.fromarray(grey)),
        (mask, Image.fromarray(mask.astype(np.uint8) * 255)),
        (mask[:, :, None], Image.fromarray(mask.astype(np.uint8) * 255)),
        (alpha, Image.fromarray(alpha)),
    ):
        assert handle(eyes, array) == handle(eyes, same), (array.dtype, array.shape)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((3, 40, 50), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((1, 40, 50), np.float32), "transpose(1, 2, 0)"),
        (np.zeros((2, 40, 50, 3), np.uint8), "list(array)"),
        (np.zeros((40, 50, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((40,), np.uint8), "(H, W, C)"),
        (np.zeros((), np.uint8), "(H, W, C)"),
        (np.zeros((0, 50, 3), np.uint8), "no pixels"),
        (np.zeros((40, 50), np.uint16), "convert it to uint8"),
        (np.zeros((40, 50), np.int64), "convert it to uint8"),
        (np.zeros((40, 50), np.complex64), "complex64"),
        (np.zeros((40, 50), object), "object"),
        (np.zeros((40, 50), "datetime64[s]"), "convert it to uint8"),
        (np.full((40, 50, 3), 255.0), "0 to 1"),
        (np.full((40, 50, 3), -0.5), "Undo a normalisation"),
        (np.full((40, 50, 3), np.nan), "0 to 1"),
        (np.full((40, 50), np.inf), "0 to 1"),
        (np.zeros((40, 50, 3), bool), "black and white"),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_what_is_not_a_picture_for_sure_is_refused(eyes, array, sentence):
    with pytest.raises(InvalidInputError) as raised:
        eyes.keep(array)
    assert sentence in raised.value.message
    assert raised.value.message.endswith(".")


def test_nothing_is_a_picture_that_only_looks_like_an_array(eyes):
    import torch

    with pytest.raises(InvalidInputError, match=r"not Tensor\. Make an array of it"):
        eyes.keep(torch.zeros(4, 4))
    with pytest.raises(UnsupportedImageError):
        eyes.keep(np.zeros((1, 1), np.uint8))
    with pytest.raises(InvalidInputError):
        eyes.keep(7)


def test_verbs_take_arrays(vision, picture, pixels):
    assert vision.caption(pixels).text == picture.caption
    assert vision.caption(pixels).image.source == "numpy.ndarray"
    both = vision.caption([pixels, pixels[::-1]], return_errors=True)
    assert both[0].text == picture.caption
    failed = vision.caption([pixels, pixels.transpose(2, 0, 1)], return_errors=True)
    assert isinstance(failed[1], VisionError)
    matched = vision.match(pixels, [picture.caption, "a dog"], region=[0, 0, 1, 1])
    assert matched.matches[0].text == picture.caption
    assert vision.compare([pixels, picture.path]).similarity[0][1] > 0.99
    answers = vision.ask_each([pixels, np.zeros((3, 9, 8), np.uint8)], "what is there?").answers
    assert [getattr(one, "source", None) for one in answers] == [None, "numpy.ndarray"]
    assert vision.search(image=pixels).searched >= 1


def test_rounding_and_order():
    assert to_image(np.array([[0.0, 0.5, 1.0]] * 2), SETTINGS).tobytes() == bytes([0, 128, 255] * 2)
    assert to_image(np.array([[[1, 2, 3]] * 2] * 2, np.uint8), SETTINGS).getpixel((0, 0)) == (1, 2, 3)
    assert to_image(np.ma.masked_array(np.ones((2, 2), np.uint8), mask=True), SETTINGS).size == (2, 2)


@pytest.mark.parametrize("shape", [(10**6, 10**6, 3), (10**6, 10**6), (1, 10**9), (2, 20_000), (8_000, 8_000, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.float64, bool])
def test_a_view_of_one_number_in_a_huge_shape_is_judged_by_its_shape(eyes, shape, kind):
    if kind is bool:
        shape = shape[:2]
    with pytest.raises(TooLargeError, match="Make it smaller first"):
        eyes.keep(np.broadcast_to(kind(1), shape))


def test_an_image_that_was_only_opened_is_judged_before_it_has_pixels(eyes):
    small = io.BytesIO()
    Image.new("1", (16_000, 4_000)).save(small, "PNG")
    with Image.open(small) as image:
        with pytest.raises(TooLargeError, match="Make it smaller first"):
            eyes.keep(image)
        assert image.tile, "its pixels were made"
