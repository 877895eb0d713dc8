"""Scene → picture, at any size."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Final, TypeAlias

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from blip2tools.demo.glyphs import glyph
from blip2tools.demo.world import RGB, Background, Scene, Shape, Thing

Point: TypeAlias = tuple[float, float]

_ARM: Final = 0.34  # half the width of a cross's arm
_CIRCLE_RADIUS: Final = 0.93
_RING_WIDTH: Final = 0.38
_ROUND: Final = 40  # corners of a circle where it has to be a polygon
_BOARD: Final = (0.98, 0.80)  # half the sides of a sign
_LETTER: Final = 1.3  # height of what it says
_LINE: Final = 0.13  # width of an outline
_SOFT: Final = 96  # side in pixels at which soft things are computed; larger adds nothing to them
_BRIGHT: Final = 140  # from this luminance on a sign is written in black
_WHITE: Final = (250, 250, 250)
_INK: Final = (20, 20, 20)


def _star(inner: float) -> Iterator[Point]:
    for corner in range(10):
        reach = inner if corner % 2 else 1.08
        angle = corner * math.pi / 5
        yield reach * math.sin(angle), -reach * math.cos(angle)


def _heart(height: float) -> Iterator[Point]:
    """The classical heart curve, a little raised so that it sits in the middle."""
    for step in range(28):
        t = step * 2 * math.pi / 28
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        yield 16 * math.sin(t) ** 3 / 16.5, (-y / 16 - 0.1) * height


def _round(radius: float) -> tuple[Point, ...]:
    angles = (step * 2 * math.pi / _ROUND for step in range(_ROUND))
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


def _rectangle(width: float, height: float) -> tuple[Point, ...]:
    return (-width, -height), (width, -height), (width, height), (-width, height)


def _cross(arm: float) -> tuple[Point, ...]:
    return (
        *((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)),
        *((arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)),
    )


@cache
def outlines(shape: Shape, form: float = 0.0) -> tuple[tuple[Point, ...], ...]:
    """The closed lines around a thing of radius 1 at (0, 0): two for a ring, one for all others.

    Args:
        shape: which.
        form: -1 to 1: its proportions.
    """
    match shape:
        case "circle":
            return (_round(_CIRCLE_RADIUS),)
        case "ring":
            return _round(1.0), _round(1 - ring_width(form))
        case "square":
            return (_rectangle(0.82 + 0.04 * form, 0.82 + 0.04 * form),)
        case "triangle":
            return (((0, -1), (0.95 + 0.08 * form, 0.8), (-0.95 - 0.08 * form, 0.8)),)
        case "diamond":
            return (((0, -1.1), (0.75 + 0.08 * form, 0), (0, 1.1), (-0.75 - 0.08 * form, 0)),)
        case "star":
            return (tuple(_star(0.45 + 0.06 * form)),)
        case "heart":
            return (tuple(_heart(1 + 0.08 * form)),)
        case "cross":
            return (_cross(_ARM + 0.08 * form),)
        case "sign":
            return (_rectangle(_BOARD[0], _BOARD[1] + 0.08 * form),)


def ring_width(form: float) -> float:
    """How thick a ring of radius 1 is."""
    return _RING_WIDTH + 0.08 * form


def draw(scene: Scene, size: int = 224, *, smoothing: int = 3) -> Image.Image:
    """A square RGB picture of a scene.

    Args:
        scene: what to draw.
        size: side of the picture in pixels.
        smoothing: how many times larger it is drawn before it is reduced to `size`; 1 leaves every edge rough.
    """
    side = size * smoothing
    image = _draw_background(scene.background, side, scene.grain)
    draw_things(image, scene)
    return image if smoothing == 1 else image.resize((size, size), Image.Resampling.LANCZOS)


def draw_things(image: Image.Image, scene: Scene) -> None:
    """Draw the things of a scene on a square picture, a later one over an earlier one."""
    side = image.width
    for number, thing in enumerate(scene.things):
        match scene.style:
            case "filled":
                _draw_filled(image, thing, side)
            case "outlined":
                _draw_outlined(image, thing, side)
            case "shaded":
                _draw_shaded(image, thing, side)
            case "hand-drawn":
                _draw_by_hand(image, thing, side, random.Random(f"{scene.grain}/{number}"))
        if thing.character:
            _write(image, thing, side, _letter_paint(scene, thing))


def silhouettes(things: Iterable[Thing], side: int) -> Image.Image:
    """A mask of the things in a picture of this side: 255 there, 0 elsewhere and in the holes of rings."""
    mask = Image.new("L", (side, side), 0)
    canvas = ImageDraw.Draw(mask)
    for thing in things:
        _fill(canvas, thing, side, 255)
    return mask


# What lies behind


def _draw_background(background: Background, side: int, grain: int) -> Image.Image:
    if background.name in ("gradient", "textured"):
        soft = _gradient(background) if background.name == "gradient" else _clouds(random.Random(f"{grain}/ground"))
        image = _mix(soft, background.paints).resize((side, side), Image.Resampling.BILINEAR)
    else:
        image = _draw_pattern(background, side)
    if background.turn and background.name not in ("white", "black", "gray", "brown"):
        fill = background.paints[0]
        image = image.rotate(-background.turn, Image.Resampling.BILINEAR, fillcolor=fill)
    return image


def _draw_pattern(background: Background, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), background.paints[0])
    canvas = ImageDraw.Draw(image)
    width = side / background.bands
    if background.name == "striped":
        for band in range(-2, background.bands + 2):
            start = (band + background.phase) * width
            end = start + width / 2
            canvas.rectangle(
                (start, 0, end, side) if background.upright else (0, start, side, end), fill=background.paints[1]
            )
    elif background.name == "checkered":
        for column in range(background.bands + 1):
            for row in range(column % 2, background.bands + 1, 2):
                box = (column * width, row * width, (column + 1) * width, (row + 1) * width)
                canvas.rectangle(box, fill=background.paints[1])
    return image


def _mix(shares: Image.Image, paints: tuple[RGB, ...]) -> Image.Image:
    """A picture that goes from the first paint, where `shares` is 0, to the second, where it is 255."""
    first, second = paints
    tables = [
        shares.point([round(one + (two - one) * level / 255) for level in range(256)])
        for one, two in zip(first, second, strict=True)
    ]
    return Image.merge("RGB", tables)


def _gradient(background: Background) -> Image.Image:
    """From 0 to 255 along one direction, chosen by the background's phase."""
    ramp = Image.linear_gradient("L").resize((_SOFT * 3 // 2, _SOFT * 3 // 2), Image.Resampling.BILINEAR)
    turned = ramp.rotate(360 * background.phase, Image.Resampling.BILINEAR)
    start = _SOFT // 4
    return turned.crop((start, start, start + _SOFT, start + _SOFT))


def _clouds(rng: random.Random) -> Image.Image:
    """Noise with more of the coarse than of the fine, as in stone, grass or cloth."""
    clouds = Image.new("L", (_SOFT, _SOFT), 128)
    for share, cells in ((1.0, 3), (0.4, 7), (0.4, 16), (0.4, 40)):
        octave = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
        clouds = Image.blend(clouds, octave.resize((_SOFT, _SOFT), Image.Resampling.BICUBIC), share)
    # The mean of several octaves is all too even: stretch it.
    return clouds.point([max(0, min(255, round((level - 128) * 1.8 + 128))) for level in range(256)])


# Things


def _corners(thing: Thing, side: int, points: Iterable[Point]) -> list[Point]:
    """Points around a thing of radius 1 at (0, 0), where they are in the picture."""
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    sine, cosine = math.sin(math.radians(thing.tilt)), math.cos(math.radians(thing.tilt))
    return [
        (x + radius * (across * cosine - down * sine), y + radius * (across * sine + down * cosine))
        for across, down in points
    ]


def _fill(canvas: ImageDraw.ImageDraw, thing: Thing, side: int, paint: RGB | int) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape == "circle":
        reach = _CIRCLE_RADIUS * radius
        canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill=paint)
    elif thing.shape == "ring":
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, outline=paint, width=max(1, int(ring_width(thing.form) * radius)))
    else:
        canvas.polygon(_corners(thing, side, _contours(thing)[0]), fill=paint)


def _draw_filled(image: Image.Image, thing: Thing, side: int) -> None:
    canvas = ImageDraw.Draw(image)
    _fill(canvas, thing, side, thing.paint)


def _contours(thing: Thing) -> tuple[tuple[Point, ...], ...]:
    return outlines(thing.shape, round(thing.form, 1))


def _draw_outlined(image: Image.Image, thing: Thing, side: int) -> None:
    canvas = ImageDraw.Draw(image)
    width = max(1, round(_LINE * thing.radius * side))
    for contour in _contours(thing):
        corners = _corners(thing, side, contour)
        canvas.line([*corners, *corners[:2]], fill=thing.paint, width=width, joint="curve")


def _draw_shaded(image: Image.Image, thing: Thing, side: int) -> None:
    """Lighter at the upper left, darker at the lower right, with a soft shadow."""
    reach = thing.radius * side * 1.3
    left, top = round(thing.x * side - reach), round(thing.y * side - reach)
    span = max(4, round(2 * reach))
    moved = replace(
        thing, x=(thing.x * side - left) / span, y=(thing.y * side - top) / span, radius=thing.radius * side / span
    )
    mask = silhouettes([moved], span)
    small = mask.resize((_SOFT // 2, _SOFT // 2)).filter(ImageFilter.BoxBlur(2))
    shadow = small.point([level * 2 // 5 for level in range(256)]).resize((span, span), Image.Resampling.BILINEAR)
    offset = max(1, span // 20)
    image.paste((0, 0, 0), (left + offset, top + offset), shadow)
    red, green, blue = thing.paint
    bright = (red + (255 - red) * 7 // 20, green + (255 - green) * 7 // 20, blue + (255 - blue) * 7 // 20)
    light = _mix(_slope(), (bright, (red * 17 // 25, green * 17 // 25, blue * 17 // 25)))
    image.paste(light.resize((span, span), Image.Resampling.BILINEAR), (left, top), mask)


@cache
def _slope() -> Image.Image:
    """From 0 at the upper left to 255 at the lower right."""
    return Image.linear_gradient("L").resize((_SOFT // 2, _SOFT // 2), Image.Resampling.BILINEAR).rotate(45)


def _draw_by_hand(image: Image.Image, thing: Thing, side: int, rng: random.Random) -> None:
    """A wobbling line, drawn twice, around a wash of the same colour."""
    canvas = ImageDraw.Draw(image)
    red, green, blue = thing.paint
    wash = (red + (255 - red) // 4, green + (255 - green) // 4, blue + (255 - blue) // 4)
    lines = [_wobble(contour, rng) for contour in _contours(thing)]
    if thing.shape == "ring":
        _hole(image, thing, side, lines, wash)
    else:
        canvas.polygon(_corners(thing, side, lines[0]), fill=wash)
    width = max(1, round(0.09 * thing.radius * side))
    for line in [*lines, *(_wobble(contour, rng) for contour in _contours(thing))]:
        corners = _corners(thing, side, line)
        canvas.line([*corners, *corners[:2]], fill=thing.paint, width=width, joint="curve")


def _hole(image: Image.Image, thing: Thing, side: int, lines: list[list[Point]], paint: RGB) -> None:
    """Fill what lies between two closed lines."""
    masks = []
    for line in lines:
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).polygon(_corners(thing, side, line), fill=255)
        masks.append(mask)
    image.paste(paint, (0, 0), ImageChops.subtract(masks[0], masks[1]))


def _wobble(contour: tuple[Point, ...], rng: random.Random) -> list[Point]:
    """A closed line as an unsteady hand draws it: moved here and there by a few per cent, smoothly."""
    waves = [
        (rng.randint(2, 6), rng.uniform(0, 2 * math.pi), rng.uniform(0.01, 0.03), rng.choice((0, 1))) for _ in range(5)
    ]
    points = []
    pairs = list(zip(contour, (*contour[1:], contour[0]), strict=True))
    pieces = max(1, _ROUND // len(contour))
    for number, ((x, y), (to_x, to_y)) in enumerate(pairs):
        for piece in range(pieces):
            share = piece / pieces
            angle = 2 * math.pi * (number + share) / len(pairs)
            moved = [x + (to_x - x) * share, y + (to_y - y) * share]
            for times, phase, size, axis in waves:
                moved[axis] += size * math.sin(times * angle + phase)
            points.append((moved[0], moved[1]))
    return points


# What signs say


def _letter_paint(scene: Scene, thing: Thing) -> RGB:
    if scene.style == "outlined":
        return thing.paint
    red, green, blue = thing.paint
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue >= _BRIGHT else _WHITE


def _write(image: Image.Image, thing: Thing, side: int, paint: RGB) -> None:
    letter = glyph(thing.character or "")
    height = max(3, round(_LETTER * thing.radius * side))
    width = max(2, round(height * letter.width / letter.height))
    turned = letter.resize((width, height), Image.Resampling.BICUBIC).rotate(
        -thing.tilt, Image.Resampling.BICUBIC, expand=True
    )
    corner = round(thing.x * side - turned.width / 2), round(thing.y * side - turned.height / 2)
    image.paste(paint, corner, turned)
