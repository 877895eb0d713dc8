"""From decoded pixels to the picture that a person sees: sRGB, upright, whole, on a background that shows it."""

from __future__ import annotations

from PIL import Image

from blip2tools.pictures import colours, rgb, tiff
from blip2tools.pictures.frames import First
from blip2tools.pictures.icc import UnusableError
from blip2tools.pictures.metadata import Metadata

BLACK: rgb.Colour = (0, 0, 0)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How stored pixels are rotated or flipped for display, by EXIF orientation (CIPA DC-008, tag 0x0112)."""

_KEYED = frozenset({"1", "L", "I;16", "RGB"})  # with one transparent colour, mostly a drawing's background
ON_BLACK = "it is drawn in white or nearly white on transparency, and so it is shown on black"
ON_WHITE = "it is drawn in white or nearly white on a transparent colour, and so next to nothing shows on white"
NOTHING = "it is wholly transparent: there is nothing to see"


def render(image: Image.Image, first: First, said: Metadata) -> tuple[Image.Image, list[str]]:
    """The picture as a person sees it, and notes about it. The loaded image must not be used afterwards."""
    notes = []
    _mend(image, first.data)
    convert, problem = None, said.problem
    if said.colours is not None:
        try:
            convert = colours.conversion(said.colours, rgb.base_of(image.mode))
        except UnusableError as error:
            problem = str(error)
    if problem:
        notes.append(f"its colour profile {problem} and was not applied")
    _let_go(image)
    if first.is_opaque and image.mode == "RGBA":
        image = image.convert("RGB")
    seen = _on(image, first, convert, rgb.WHITE)
    if (first.canvas or image.has_transparency_data) and rgb.is_lost_on(seen, rgb.WHITE):
        del seen
        seen = _on(image, first, convert, BLACK)
        is_nothing = rgb.is_lost_on(seen, BLACK)
        if is_nothing or image.mode in _KEYED:
            del seen
            seen = _on(image, first, convert, rgb.WHITE)
        notes.append(NOTHING if is_nothing else ON_WHITE if image.mode in _KEYED else ON_BLACK)
    turn = UPRIGHT.get(said.orientation)
    return (seen if turn is None else seen.transpose(turn)), notes


def _on(image: Image.Image, first: First, convert: rgb.Conversion | None, ground: rgb.Colour) -> Image.Image:
    seen = rgb.to_rgb(image, convert, ground)
    if first.canvas is None:
        return seen
    left, top = first.place
    if first.is_cut_out:
        canvas = Image.new("RGB", first.canvas, ground)
        canvas.paste(seen, (left, top))
        return canvas
    # Around a first frame a browser shows nothing; Pillow fills it with a colour of the palette, or with black.
    right, bottom = left + first.canvas[0], top + first.canvas[1]
    width, height = seen.size
    for box in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        if box[0] < box[2] and box[1] < box[3]:
            seen.paste(ground, box)
    return seen


def _mend(image: Image.Image, data: bytes) -> None:
    """Correct what Pillow gets wrong in some formats."""
    if image.format == "PNG":
        _scale_transparent_colour(image, data[24])
        palette = image.getpalette() if image.mode == "P" else None
        if palette and len(palette) < 768:
            # An index beyond the palette is its last colour in browsers, and black in Pillow.
            image.putpalette(palette + palette[-3:] * ((768 - len(palette)) // 3))
    elif image.format == "TIFF" and rgb.is_deep(image.mode) and image.mode != "F":
        first = next(tiff.directories(data), {})
        if first.get(tiff.PHOTOMETRIC) == 0 and tiff.PHOTOMETRIC in first:
            rgb.invert(image)


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """The transparent colour of a PNG in the scale of the pixels: Pillow scales 2, 4 and 3 x 16 bits to 8, but not their key.

    Of 3 x 16 bits the lower bytes are gone by now: a colour that differs from the key only there is hidden too.
    """
    key = image.info.get("transparency")
    most = 2**depth - 1
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = (key & most) * 255 // most
    elif isinstance(key, tuple):
        image.info["transparency"] = tuple((value & most) >> max(0, depth - 8) for value in key)


def _let_go(image: Image.Image) -> None:
    """Detach a loaded image from its decoder, which for some formats holds two or three copies of the canvas."""
    vars(image).pop("_decoder", None)
    vars(image)["fp"] = None
