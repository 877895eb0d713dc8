"""Conversion of colours to sRGB: what a file says about its values, applied to its pixels as a browser does.

The reference is what Chromium 156 draws, measured on several hundred small files (`tests/pictures/forms`); the documentation
names the exceptions. LittleCMS does the work, through Pillow; only light brighter than white is handled here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from PIL import Image, ImageCms, ImageFilter

from blip2tools.pictures import icc
from blip2tools.pictures.icc import Chromaticities, Profile, UnusableError

SRGB: Chromaticities = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
_BT2020: Chromaticities = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
_C, _D65, _DCI = (0.310, 0.316), (0.3127, 0.3290), (0.314, 0.351)
# Rec. ITU-T H.273, table 2: what the code points of cICP, nclx and profiles stand for.
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: _BT2020,
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_SRGB_CURVE = icc.parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# H.273, table 3, as far as browsers support it: as `para` elements.
_CURVES = {
    4: icc.parametric(0, 2.2),
    5: icc.parametric(0, 2.8),
    7: icc.parametric(3, 1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 0.25, 0.0913),
    8: icc.parametric(0, 1.0),
    13: _SRGB_CURVE,
    17: icc.parametric(1, 2.6, (52.37 / 48) ** (1 / 2.6), 0.0),
}
_VIDEO = frozenset({1, 6, 11, 14, 15})  # BT.709 and its like, which also name a camera's curve
_VIDEO_CURVE = icc.parametric(0, 2.4)
PQ, HLG = 16, 18

_REFERENCE_WHITE = 203.0  # nits of diffuse white (Rep. ITU-R BT.2408)
_USUAL_PEAK = 1000.0
_LATTICE = 33
_NO_WHITE_FIXUP = 0x0004  # cmsFLAGS_NOWHITEONWHITEFIXUP: paper that is not quite white stays so
_SAME = 1  # a difference in levels that cannot be seen


@dataclass(frozen=True, slots=True)
class CodePoints:
    """Colours by number (H.273), as in the cICP chunk of a PNG and the nclx box of an AVIF.

    Attributes:
        primaries, transfer: the numbers.
        peak: the brightest light in nits, if the file gives it.
        is_video: whether BT.709's transfer means a display gamma of 2.4, as in PNG; otherwise it is taken as sRGB's.
    """

    primaries: int
    transfer: int
    peak: float | None = None
    is_video: bool = False

    @property
    def is_known(self) -> bool:
        """Whether both numbers are supported."""
        return self.primaries in _PRIMARIES and (
            self.transfer in (PQ, HLG) or self.transfer in _CURVES or self.transfer in _VIDEO
        )


@dataclass(frozen=True, slots=True)
class Gamma:
    """Colours by exponent and chromaticities, as in the gAMA and cHRM chunks of a PNG.

    Attributes:
        exponent: of the value, which gives light.
        primaries: sRGB's, if none are given.
    """

    exponent: float
    primaries: tuple[tuple[float, float], ...] | None = None


Description = Profile | CodePoints | Gamma
"""A file's description of its colours."""

Conversion = Callable[[Image.Image], Image.Image]
"""Converts an opaque image to sRGB; may change that image and return it."""


def conversion(description: Description, mode: str) -> Conversion | None:
    """The conversion of pixels of a mode (`L`, `RGB` or `CMYK`) to sRGB; `None` if they are sRGB already.

    Raises:
        UnusableError: the description does not fit the mode, or is broken; its text continues "its colour profile ...".
    """
    if mode not in ("L", "RGB", "CMYK"):
        raise UnusableError(f"is not applied to {mode}")
    return _conversion(description, mode)


@lru_cache(maxsize=4)
def _conversion(description: Description, mode: str) -> Conversion | None:
    if isinstance(description, Profile):
        points = description.code_points
        if points is not None and description.space == "RGB" and mode != "CMYK" and CodePoints(*points).is_known:
            description = CodePoints(*points)
        else:
            return _of_profile(description, mode)
    if mode == "CMYK":
        raise UnusableError("is for RGB and does not fit CMYK")
    if isinstance(description, Gamma):
        made = icc.made(description.primaries or SRGB, icc.parametric(0, min(32_000.0, description.exponent)))
        return _of_profile(made, mode)
    primaries = _PRIMARIES[description.primaries]
    if description.transfer in (PQ, HLG):
        lattice = _beyond_white(primaries, description.transfer, description.peak or _USUAL_PEAK)
        return _for_mode(lambda image: image.filter(lattice), mode)
    curve = _CURVES.get(description.transfer) or (_VIDEO_CURVE if description.is_video else _SRGB_CURVE)
    return _of_profile(icc.made(primaries, curve), mode)


def _of_profile(profile: Profile, mode: str) -> Conversion | None:
    fitting = {"L": ("grey", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}[mode]
    if profile.space not in fitting:
        raise UnusableError(f"is for {profile.space} and does not fit {'grey' if mode == 'L' else mode}")
    own = {"grey": "L", "RGB": "RGB", "CMYK": "CMYK"}[profile.space]
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile.data))
        transform = ImageCms.buildTransform(
            source, _srgb(), own, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags(_NO_WHITE_FIXUP)
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise UnusableError("is broken") from error

    def apply(image: Image.Image) -> Image.Image:
        if own == "RGB":
            ImageCms.applyTransform(image, transform, inPlace=True)
            return image
        return cast("Image.Image", ImageCms.applyTransform(image, transform))

    return _for_mode(apply, mode, own)


def _for_mode(apply: Conversion, mode: str, own: str = "RGB") -> Conversion | None:
    """A table of the 256 values for grey; `None` for RGB if the difference could not be seen."""
    if mode == "L":
        ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
        bands = apply(ramp.convert(own)).split()
        tables = [list(band.tobytes()) for band in bands]
        if all(abs(value - table[value]) <= _SAME for table in tables for value in range(256)):
            return None
        if tables[0] == tables[1] == tables[2]:
            return lambda image: image.point(tables[0]).convert("RGB")
        return lambda image: Image.merge("RGB", [image.point(table) for table in tables])
    if mode == "RGB":
        probe = _probe()
        before, after = probe.tobytes(), apply(probe.copy()).tobytes()
        if all(abs(a - b) <= _SAME for a, b in zip(before, after, strict=True)):
            return None
    return apply


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc.made(SRGB, _SRGB_CURVE).data))


@lru_cache(maxsize=1)
def _probe() -> Image.Image:
    """Greys, and colours from all over the cube."""
    steps = (0, 24, 64, 110, 160, 210, 255)
    colours = [(value, value, value) for value in range(256)]
    colours += [(red, green, blue) for red in steps for green in steps for blue in steps]
    return Image.frombytes("RGB", (len(colours), 1), bytes(value for colour in colours for value in colour))


@lru_cache(maxsize=2)  # it takes 0.4 s, and is one for grey, colours and all profiles of these
def _beyond_white(primaries: Chromaticities, transfer: int, peak: float) -> ImageFilter.Color3DLUT:
    """Tone mapping of light brighter than white, as a 3D lookup table.

    Up to white everything is darkened by one factor; above it a curve leads to the brightest light (the default of SMPTE
    ST 2094-50, which Chromium follows). The largest of red, green and blue in BT.2020 decides how much a colour is darkened.
    """
    to_xyz = icc.to_d50(primaries)
    to_judge = _between(to_xyz, icc.to_d50(_BT2020))
    to_show = _between(to_xyz, icc.to_d50(SRGB))
    steps = [index / (_LATTICE - 1) for index in range(_LATTICE)]
    light = [_pq(value) if transfer == PQ else _hlg(value) for value in steps]
    luminance = to_xyz[1]

    def show(red: float, green: float, blue: float) -> tuple[float, float, float]:
        linear = [light[round(value * (_LATTICE - 1))] for value in (red, green, blue)]
        if transfer == HLG:  # the scene's light to that of a display of 1,000 nits (Rec. ITU-R BT.2100)
            bright = sum(weight * value for weight, value in zip(luminance, linear, strict=True))
            gain = bright**0.2 * _USUAL_PEAK / _REFERENCE_WHITE if bright > 0 else 0.0
            linear = [value * gain for value in linear]
        largest = max(icc.product(to_judge, linear))
        factor = _toned(largest, peak) / largest if largest > 0 else 1.0
        r, g, b = (_encoded(value * factor) for value in icc.product(to_show, linear))
        return r, g, b

    return ImageFilter.Color3DLUT.generate(_LATTICE, show)


def _between(one: icc.Matrix, other: icc.Matrix) -> icc.Matrix:
    back = icc.inverse(other)
    columns = [icc.product(back, column) for column in zip(*one, strict=True)]
    rows = [[column[i] for column in columns] for i in range(3)]
    return _triple(rows[0]), _triple(rows[1]), _triple(rows[2])


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def _toned(value: float, peak: float) -> float:
    """The displayed value, 0-1, of light in units of white: linear up to white, then a quadratic Bézier curve."""
    most = peak / _REFERENCE_WHITE
    if most <= 1:
        return value
    white = 1 - 0.5 * min(1.0, math.log(most) / math.log(_USUAL_PEAK / _REFERENCE_WHITE))
    if value <= 1:
        return value * white
    if value >= most:
        return 1.0
    middle, height = 0.35 + 0.65 / white, 0.35 * white + 0.65
    a, b, c = 1 - 2 * middle + most, 2 * (middle - 1), 1 - value
    t = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a) if abs(a) > 1e-9 else -c / b
    return (1 - t) ** 2 * white + 2 * t * (1 - t) * height + t * t


def _pq(value: float) -> float:
    """SMPTE ST 2084, in units of white."""
    root = value ** (1 / 78.84375)
    ratio = max(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root)
    return 10_000 / _REFERENCE_WHITE * math.pow(ratio, 1 / 0.1593017578125)


def _hlg(value: float) -> float:
    """Rec. ITU-R BT.2100, table 5: the scene's light, 0-1."""
    if value <= 0.5:
        return value * value / 3
    return (math.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12


def _encoded(value: float) -> float:
    """The sRGB curve, extended beyond 0 and 1 so that clipping after interpolation happens at the right place."""
    size = abs(value)
    return math.copysign(size * 12.92 if size <= 0.0031308 else 1.055 * size ** (1 / 2.4) - 0.055, value)
