"""Encoded bytes become one safe RGB picture with its content digest.

Settings are not imported here: a process that only decodes starts without them.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from PIL import Image, ImageFile

from blip2tools.errors import CorruptImageError, InvalidInputError, TooLargeError, UnsupportedImageError, VisionError
from blip2tools.pictures import damage, formats, rgb

Region = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions 0-1 of the upright picture."""

Target = tuple[int, int]
"""A square that pictures are resized to, without keeping their aspect: its side in pixels, and Pillow's number of the filter."""

BYTES_A_PIXEL = 9
"""Memory that a decode may take at its peak, for each pixel of `max_pixels`: 450 MB for 50 megapixels."""

_SOME_BYTES = 2**20  # that any decode takes beside pixels

MIN_SIDE = 2  # a side of one pixel makes image processors mistake rows for channels

_CORRUPT = "The picture is damaged or incomplete and does not decode; send the whole file again or save it anew."

# EXIF tag 0x0112 (CIPA DC-008): how a viewer turns the stored pixels before a person sees them.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


class Limits(Protocol):
    """What of the settings decides which pictures are read."""

    @property
    def formats(self) -> tuple[str, ...]:
        """Picture formats by content."""

    @property
    def max_image_bytes(self) -> int:
        """Largest encoded picture."""

    @property
    def max_pixels(self) -> int:
        """Largest area."""

    @property
    def max_side(self) -> int:
        """Longest side, pixels."""

    @property
    def max_damage_mb(self) -> int:
        """The most memory that may be gone when damage shows, MiB."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture as a person would see it: RGB, upright, transparency on white."""

    image: Image.Image
    digest: str
    """SHA-256 of the encoded bytes, 64 hex digits."""
    animated: bool
    """Whether this is the first frame of several."""

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.image.width

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.image.height


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request needs of a picture.

    Attributes:
        width, height: pixels of the whole upright picture.
        animated: whether this is the first frame of several.
        parts: for each region one RGB image for each target in turn; without targets each region at full resolution.
    """

    width: int
    height: int
    animated: bool
    parts: tuple[Image.Image, ...]


def look(
    data: bytes, settings: Limits, regions: Sequence[Sequence[float] | None], targets: Sequence[Target]
) -> Decoded:
    """Decode a picture of our own making here; a foreign one is for `decoder`.

    Raises:
        VisionError: as `decode`.
    """
    picture = decode(data, settings)
    return Decoded(picture.width, picture.height, picture.animated, tuple(parts(picture, regions, targets)))


def decode(data: bytes, settings: Limits) -> Picture:
    """Decode one picture: limits judged from the header first, then EXIF, transparency, depth and colour normalised.

    How many may run at once is the caller's decision.

    Raises:
        UnsupportedImageError: not one of `settings.formats`, or a side below 2 pixels.
        TooLargeError: more bytes, pixels or a longer side than the settings allow.
        CorruptImageError: a known format that does not decode.
    """
    with _guarded():
        opened = _open(data, settings)
        animated = _has_more_frames(opened, data)
        cost = opened.width * opened.height * formats.cost_of(str(formats.kind_of(data)), data)
        if cost + len(data) > damage.CHEAP_BYTES and damage.is_found(opened, data):
            raise CorruptImageError(_CORRUPT)
        opened.load()
        turn = _UPRIGHT.get(_orientation(opened))
        if opened.format == "PNG":
            _scale_transparent_colour(opened, data[24])
        _let_go(opened)
        image = rgb.to_rgb(opened)
        del opened  # two of a large picture are in memory at most
        if turn is not None:
            image = image.transpose(turn)
        _check_size(image.size, settings)
    image.info = {}  # comments, profiles and EXIF are a stranger's text
    return Picture(image, hashlib.sha256(data).hexdigest(), animated)


def parts(
    picture: Picture, regions: Sequence[Sequence[float] | None], targets: Sequence[Target]
) -> Iterator[Image.Image]:
    """What a model looks at: for each region (None is all of the picture) one RGB image for each target in turn.

    Without targets, each region at full resolution.

    Raises:
        InvalidInputError: as `crop`.
    """
    for region in regions:
        part = picture.image if region is None else crop(picture.image, region)
        if not targets:
            yield part
        for side, resample in targets:
            with _guarded():
                yield part.resize((side, side), Image.Resampling(resample))


def warm() -> None:
    """Load Pillow's readers, which otherwise come with the first pictures."""
    Image.preinit()
    Image.init()


def size_of(data: bytes, settings: Limits) -> tuple[int, int]:
    """Width and height of the upright picture, from the header alone; the checks are those of `decode`."""
    with _guarded():
        image = _open(data, settings)
        width, height = image.size
        # Without EXIF before its pixels a PNG would be decoded in search of some behind them; TIFF has swapped its sides.
        asks = image.format != "TIFF" and ("exif" in image.info or image.format != "PNG")
        turned = asks and _orientation(image) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def crop(image: Image.Image, region: Sequence[float]) -> Image.Image:
    """Cut `region` out of the picture at full resolution.

    Edges round outward, so that nothing asked for is lost, and a region thinner than two pixels grows to two. Its bounds were
    judged with the other arguments (`schemas.arguments.Region`).
    """
    left, top, right, bottom = region
    x0, x1 = _span(left, right, image.width)
    y0, y1 = _span(top, bottom, image.height)
    with _guarded():
        return image.crop((x0, y0, x1, y1))


def encode_png(image: Image.Image) -> bytes:
    """The PNG of an image that a Python caller holds: lossless up to 16 bit, alpha kept, EXIF orientation applied.

    Raises:
        InvalidInputError: it is none.
    """
    if not isinstance(image, Image.Image):
        raise InvalidInputError(
            f"An image is a path or another reference, bytes, or a PIL.Image, and not {type(image).__name__}."
        )
    with _guarded():
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        image = rgb.with_alpha(image)
        if image.mode in ("I", "F"):
            image = rgb.eight_bit(image, rgb.range_of(image))
        elif image.mode.startswith("I;16"):
            image = image if image.mode == "I;16" else image.convert("I").convert("I;16")
        elif image.mode not in _PNG_MODES:
            image = image.convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1, icc_profile=None)
    return buffer.getvalue()


def encode(image: Image.Image, limit: int) -> bytes:
    """An image that a Python caller holds as bytes that may be kept: its PNG, or a JPEG where that has more than `limit` bytes.

    A photo of 12 megapixels that takes 5 MB as JPEG can take 25 as PNG.

    Raises:
        InvalidInputError: it is none.
    """
    data = encode_png(image)
    if len(data) <= limit:
        return data
    buffer = io.BytesIO()
    with _guarded(), Image.open(io.BytesIO(data)) as opened:
        rgb.to_rgb(opened).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


class _Silence:
    """Keeps Pillow's warnings quiet while any thread decodes.

    Pillow warns about large areas, odd EXIF and malformed MPO with text from the file; the limits here are our own.
    `warnings.catch_warnings` swaps a list that all threads share, and two overlapping decodes would put back each
    other's. One swap for all of them, counted, cannot; and its filter names Pillow's modules only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._swap: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._running += 1
            if self._swap is None:
                self._swap = warnings.catch_warnings()
                self._swap.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0 and self._swap is not None:
                self._swap.__exit__(None, None, None)
                self._swap = None


_silence = _Silence()


@contextmanager
def _guarded() -> Iterator[None]:
    """Turns whatever Pillow raises into our errors; damaged files bring a dozen exception types besides OSError."""
    try:
        with _silence:
            yield
    except VisionError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError("The picture has far more pixels than are read; make it smaller first.") from error
    except Exception as error:
        raise CorruptImageError(_CORRUPT) from error


def _open(data: bytes, settings: Limits) -> ImageFile.ImageFile:
    """The picture behind its header, nothing decoded yet, within every limit."""
    if not data:
        raise CorruptImageError("The picture is empty: it has no bytes.")
    if len(data) > settings.max_image_bytes:
        raise TooLargeError(
            f"The picture is above the limit of {settings.max_image_bytes:,} bytes; make it smaller first."
        )
    kind = _kind_of(data, settings)
    if not formats.is_sane(kind, data):
        raise CorruptImageError(_CORRUPT)
    if kind == "WEBP" and (size := formats.size_of_webp(data)):
        _check_size(size, settings)
        _check_cost(kind, data, size, settings)
        _check_late_damage(kind, data, size, 4, settings)
    image = Image.open(io.BytesIO(data), formats=(kind,))
    # A JPEG with more JPEGs behind it (3D, gain maps) opens as "MPO". Its first one is the photo; the others are never
    # sought: later frames have their own sizes, which no header check has seen (CVE-2026-96636).
    if image.format != kind and (kind, image.format) != ("JPEG", "MPO"):
        raise UnsupportedImageError(_unsupported(image.format, settings))
    _check_size(image.size, settings)
    _check_cost(kind, data, image.size, settings)
    channels = 1 if image.mode in ("1", "L", "P") else 4
    _check_late_damage(kind, data, image.size, 0 if _is_plain(image) else channels, settings)
    return image


def _kind_of(data: bytes, settings: Limits) -> str:
    kind = formats.kind_of(data)
    if kind in settings.formats:
        return str(kind)
    if kind is None and formats.is_cut_off(data):
        raise CorruptImageError(_CORRUPT)
    raise UnsupportedImageError(_unsupported(kind, settings))


def _unsupported(kind: str | None, settings: Limits) -> str:
    readable = ", ".join(settings.formats)
    what = f"This is {kind} data" if kind else "These bytes are not a picture in a known format"
    return f"{what}; only {readable} pictures are read. Convert it to PNG or JPEG first."


def _check_size(size: tuple[int, int], settings: Limits) -> None:
    width, height = size
    # A side has its own limit: 1 x 40,000,000 pixels is a small area, but decoding it takes 800 MB and 20 seconds.
    if width > settings.max_side or height > settings.max_side or width * height > settings.max_pixels:
        raise TooLargeError(
            f"The picture is {width} × {height} pixels; at most {settings.max_pixels:,} pixels in all and "
            f"{settings.max_side:,} a side are read. Make it smaller first."
        )
    if width < MIN_SIDE or height < MIN_SIDE:
        raise UnsupportedImageError(
            f"The picture is {width} × {height} pixels; each side must have at least {MIN_SIDE}."
        )


def _check_cost(kind: str, data: bytes, size: tuple[int, int], settings: Limits) -> None:
    most = int(settings.max_pixels * BYTES_A_PIXEL / formats.cost_of(kind, data))
    if size[0] * size[1] > most:
        raise TooLargeError(
            f"The picture is {size[0]} × {size[1]} pixels; of this kind of {kind} at most {most:,} are read, since it takes "
            "much memory to decode. Save it as PNG or plain JPEG, or make it smaller first."
        )


def _is_plain(image: ImageFile.ImageFile) -> bool:
    return image.format in ("BMP", "TIFF") and bool(image.tile) and image.tile[0].codec_name == "raw"


def _check_late_damage(kind: str, data: bytes, size: tuple[int, int], channels: int, settings: Limits) -> None:
    late = damage.late_cost_of(kind, data, channels)
    if not late:
        return
    # The file is in memory here and in the process that it came from, and in a decoder that keeps a copy.
    copies = 3 if kind in ("WEBP", "AVIF") else 2
    left = settings.max_damage_mb * 2**20 - copies * len(data) - _SOME_BYTES
    most = max(0, int(left / late))
    if size[0] * size[1] > most:
        raise TooLargeError(
            f"The picture is {size[0]} × {size[1]} pixels; of a {kind} file like this at most {most:,} are read, since only "
            "decoding it tells whether it is damaged. Save it as PNG or plain JPEG, or make it smaller first."
        )


def _has_more_frames(image: Image.Image, data: bytes) -> bool:
    """Whether the file holds further frames, without seeking to one: a frame's own size is checked by nobody."""
    if image.format == "GIF":
        return formats.has_second_frame(data)
    # The second image of an MPO is a phone's gain map or preview: to a person the file is one photo.
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """The transparent colour of a PNG in the scale of the pixels: Pillow scales 2, 4 and 3 x 16 bits to 8, but not their key.

    Of 3 x 16 bits the lower halves are gone by now: a colour that differs from the key in these alone is hidden too.
    """
    key = image.info.get("transparency")
    most = 2**depth - 1
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = (key & most) * 255 // most
    elif isinstance(key, tuple):
        image.info["transparency"] = tuple((value & most) >> max(0, depth - 8) for value in key)


def _let_go(image: ImageFile.ImageFile) -> None:
    """Part a loaded image from its decoder, which for some formats holds the canvas two or three times."""
    vars(image).pop("_decoder", None)
    image.fp = None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  broken EXIF raises anything, and the picture is good without it
        return 1
    return value if isinstance(value, int) else 1


def _span(start: float, end: float, size: int) -> tuple[int, int]:
    """First and one-past-last pixel of a fraction of a side; the tolerance keeps 0.1 of 30 pixels at 3, not 4."""
    first, last = math.floor(start * size + 1e-6), math.ceil(end * size - 1e-6)
    if last - first < MIN_SIDE:
        first = min(first, size - MIN_SIDE)
        last = first + MIN_SIDE
    return max(first, 0), min(last, size)
