"""Decoding of encoded bytes to one safe RGB picture.

Settings are not imported here: a process that only decodes starts without them.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from PIL import Image, ImageFile

from blip2tools.errors import CorruptImageError, InvalidInputError, TooLargeError, UnsupportedImageError, VisionError
from blip2tools.pictures import damage, formats, frames, icc, kinds, metadata, rendering, rgb

Region = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions 0-1 of the upright picture."""

Target = tuple[int, int]
"""A square to resize pictures to, without keeping the aspect ratio: its side in pixels, and Pillow's number of the filter."""

BYTES_A_PIXEL = 9
"""Memory that a decode may take at its peak, for each pixel of `max_pixels`: 450 MB for 50 megapixels."""

_SOME_BYTES = 2**20  # that any decode takes in addition to pixels

MIN_SIDE = 2  # a side of one pixel makes image processors mistake rows for channels

_CORRUPT = "The picture is damaged or incomplete and could not be decoded; send the whole file, or save it again."

_ORIENTATION_TAG = 0x0112  # CIPA DC-008
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


class PictureLimits(Protocol):
    """The settings that decide which pictures are read."""

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
        """The most memory that may be taken before damage is noticed, MiB."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture as a person would see it: RGB, upright, transparency on white."""

    image: Image.Image
    animated: bool
    """Whether this is the first frame of several."""
    warnings: tuple[str, ...] = ()
    """Notes for callers: which of several pages it is, a profile that does not fit."""

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.image.width

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.image.height


def decode(data: bytes, settings: PictureLimits) -> Picture:
    """Decode one picture: limits judged from the header first, then EXIF, transparency, depth and colour normalised.

    How many may run at once is the caller's decision.

    Raises:
        UnsupportedImageError: not one of `settings.formats`, or a side below 2 pixels.
        TooLargeError: more bytes, pixels or a longer side than the settings allow.
        CorruptImageError: a known format that cannot be decoded.
    """
    with _guarded():
        opened = _open(data, settings)
        kind = str(formats.kind_of(data))
        first = frames.first(kind, data, settings.max_damage_mb * 2**20 - 2 * len(data))
        if first.data is not data:
            opened = _open(first.data, settings)
        cost = opened.width * opened.height * formats.cost_of(kind, first.data)
        if cost + len(data) > damage.CHEAP_BYTES and damage.is_found(opened, first.data):
            raise CorruptImageError(_CORRUPT)
        said = metadata.read(kind, first.data, opened.info.get("icc_profile"))
        number = frames.count(kind, data, opened)
        opened.info.pop("xmp", None)  # Pillow would rotate a TIFF by it
        opened.load()
        image, notes = rendering.render(opened, first, said)
        del opened  # at most two copies of a large picture are in memory
        check_size(image.size, settings)
    image.info = {}  # comments, profiles and EXIF are untrusted text
    return Picture(image, number > 1, (*_counted(kind, number), *notes))


def parts(
    picture: Picture, regions: Sequence[Sequence[float] | None], targets: Sequence[Target]
) -> Iterator[Image.Image]:
    """The input of a model: for each region (`None` is the whole picture) one RGB image per target, in order.

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
    """Load Pillow's readers, which otherwise load with the first pictures: of all its formats those that are read."""
    Image.preinit()
    for name in ("Avif", "Mpo", "Tiff", "WebP"):
        import_module(f"PIL.{name}ImagePlugin")
    kinds.register()


def size_of(data: bytes, settings: PictureLimits) -> tuple[int, int]:
    """Width and height of the upright picture, from the header alone; the checks are those of `decode`."""
    with _guarded():
        image = _open(data, settings)
        width, height = image.size
        turned = metadata.read(str(formats.kind_of(data)), data).orientation in (5, 6, 7, 8)
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
    """The PNG of an image that a Python caller holds: lossless up to 16 bit, alpha and profile kept, orientation applied.

    CMYK with a profile, which PNG does not support, becomes a JPEG.

    Raises:
        InvalidInputError: it is not an image.
    """
    if not isinstance(image, Image.Image):
        hint = " Make an array of it with numpy.asarray." if hasattr(image, "__array__") else ""
        raise InvalidInputError(
            f"An image is a path or another reference, bytes, a PIL.Image or a numpy array, and not {type(image).__name__}.{hint}"
        )
    with _guarded():
        image.load()
        turn = rendering.UPRIGHT.get(_orientation(image))
        profile = profile_of(image)
        if turn is not None:
            image = image.transpose(turn)
        image = rgb.with_alpha(image)
        if image.mode in ("I", "F"):
            image = rgb.eight_bit(image, rgb.range_of(image))
        elif image.mode.startswith("I;16"):
            image = image if image.mode == "I;16" else image.convert("I").convert("I;16")
        buffer = io.BytesIO()
        if profile and image.mode == "CMYK":  # which no PNG holds
            image.save(buffer, "JPEG", quality=95, subsampling=0, icc_profile=profile)
            return buffer.getvalue()
        if image.mode not in _PNG_MODES:
            image = image.convert("RGB")
        image.save(buffer, "PNG", compress_level=1, icc_profile=profile)
    return buffer.getvalue()


def encode(image: Image.Image, settings: PictureLimits) -> bytes:
    """An image of a Python caller as bytes to keep: its PNG, or a JPEG where the PNG has more than `max_image_bytes`.

    A photo of 12 megapixels that takes 5 MB as JPEG can take 25 as PNG. Its size is judged first: one that was only opened
    has no pixels yet, and they are made in this process.

    Raises:
        InvalidInputError: it is not an image.
        TooLargeError, UnsupportedImageError: as `check_size`.
    """
    if isinstance(image, Image.Image):
        check_size(image.size, settings)
    data = encode_png(image)
    if len(data) <= settings.max_image_bytes:
        return data
    buffer = io.BytesIO()
    with _guarded(), Image.open(io.BytesIO(data)) as opened:
        rgb.to_rgb(opened).save(buffer, "JPEG", quality=95, subsampling=0, icc_profile=profile_of(image))
    return buffer.getvalue()


def profile_of(image: Image.Image) -> bytes | None:
    """The colour profile of an image of a Python caller, if it is usable."""
    profile = image.info.get("icc_profile")
    try:
        return profile if isinstance(profile, bytes) and icc.parse(profile) else None
    except icc.UnusableError:
        return None


class _Silence:
    """Keeps Pillow's warnings quiet while any thread decodes.

    Pillow warns about large areas, odd EXIF and malformed MPO with text from the file; the limits here are our own.
    `warnings.catch_warnings` swaps a list that all threads share, and two overlapping decodes would restore each
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
    """Turn whatever Pillow raises into our errors; damaged files raise a dozen exception types besides OSError."""
    try:
        with _silence:
            yield
    except VisionError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError("The picture has far too many pixels; make it smaller first.") from error
    except Exception as error:
        raise CorruptImageError(_CORRUPT) from error


def _open(data: bytes, settings: PictureLimits) -> ImageFile.ImageFile:
    """Open a picture by its header, within every limit; nothing is decoded yet."""
    if not data:
        raise CorruptImageError("The picture is empty: it has no bytes.")
    if len(data) > settings.max_image_bytes:
        raise TooLargeError(
            f"The picture is above the limit of {settings.max_image_bytes:,} bytes; make it smaller first."
        )
    kind = _kind_of(data, settings)
    if not formats.is_sane(kind, data):
        raise CorruptImageError(_CORRUPT)
    if why := kinds.refused(kind, data):
        raise UnsupportedImageError(why)
    if kind == "WEBP" and (size := formats.size_of_webp(data)):
        check_size(size, settings)
        _check_cost(kind, data, size, settings)
        _check_late_damage(kind, data, size, 4, settings)
    if kind == "HEIC":
        kinds.register()
    image = Image.open(io.BytesIO(data), formats=(kind,))
    # A JPEG with more JPEGs behind it (3D, gain maps) opens as "MPO". Its first one is the photo; the others are never
    # sought: later frames have their own sizes, which no header check has seen (CVE-2026-96636).
    if image.format != kind and (kind, image.format) != ("JPEG", "MPO"):
        raise UnsupportedImageError(_unsupported(image.format, settings))
    check_size(image.size, settings)
    _check_cost(kind, data, image.size, settings)
    channels = 1 if image.mode in ("1", "L", "P") else 4
    _check_late_damage(kind, data, image.size, 0 if _is_plain(image) else channels, settings)
    return image


def _kind_of(data: bytes, settings: PictureLimits) -> str:
    kind = formats.kind_of(data)
    if kind in settings.formats:
        return str(kind)
    if kind is None and formats.is_cut_off(data):
        raise CorruptImageError(_CORRUPT)
    raise UnsupportedImageError(_unsupported(kind, settings))


def _unsupported(kind: str | None, settings: PictureLimits) -> str:
    readable = ", ".join(settings.formats)
    what = f"This is {kind} data" if kind else "These bytes are not a picture in a known format"
    return f"{what}; only {readable} pictures are read. Convert it to PNG or JPEG first."


def check_size(size: tuple[int, int], settings: PictureLimits) -> None:
    """Judge width and height, before there are pixels.

    Raises:
        TooLargeError: more than the settings allow.
        UnsupportedImageError: a side below 2 pixels.
    """
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


def _check_cost(kind: str, data: bytes, size: tuple[int, int], settings: PictureLimits) -> None:
    most = int(settings.max_pixels * BYTES_A_PIXEL / formats.cost_of(kind, data))
    if size[0] * size[1] > most:
        raise TooLargeError(
            f"The picture is {size[0]} × {size[1]} pixels; at most {most:,} are read of this kind of {kind}, which takes "
            "much memory to decode. Save it as PNG or plain JPEG, or make it smaller first."
        )


def _is_plain(image: ImageFile.ImageFile) -> bool:
    return image.format in ("BMP", "TIFF") and bool(image.tile) and image.tile[0].codec_name == "raw"


def _check_late_damage(kind: str, data: bytes, size: tuple[int, int], channels: int, settings: PictureLimits) -> None:
    late = damage.late_cost_of(kind, data, channels)
    if not late:
        return
    # The file is in memory here and in the process that it came from, and in a decoder that keeps a copy.
    copies = 3 if kind in ("WEBP", "AVIF") else 2
    left = settings.max_damage_mb * 2**20 - copies * len(data) - _SOME_BYTES
    most = max(0, int(left / late))
    if size[0] * size[1] > most:
        raise TooLargeError(
            f"The picture is {size[0]} × {size[1]} pixels; at most {most:,} are read of a {kind} file like this, since only "
            "decoding shows whether it is damaged. Save it as PNG or plain JPEG, or make it smaller first."
        )


def _counted(kind: str, number: int) -> tuple[str, ...]:
    if number < 2:
        return ()
    match kind:
        case "TIFF":
            return (f"this is page 1 of {number}",)
        case "HEIC":
            return (f"this is the main one of {number} pictures in the file",)
    return ("this is the first frame of an animation", f"the animation has {number} frames")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image of a Python caller: as `metadata` reads it, where the image came from a file."""
    data = image.info.get("exif")
    if image.format == "WEBP":
        return 1
    if isinstance(data, bytes):
        return metadata.exif_orientation(data.removeprefix(b"Exif\0\0"))
    if image.format is not None or any(name in image.info for name in ("xmp", "XML:com.adobe.xmp")):
        return 1  # where Pillow would look further, a browser does not
    value = image.getexif().get(_ORIENTATION_TAG)
    return value if isinstance(value, int) else 1


def _span(start: float, end: float, size: int) -> tuple[int, int]:
    """First and one-past-last pixel of a fraction of a side; the tolerance keeps 0.1 of 30 pixels at 3, not 4."""
    first, last = math.floor(start * size + 1e-6), math.ceil(end * size - 1e-6)
    if last - first < MIN_SIDE:
        first = min(first, size - MIN_SIDE)
        last = first + MIN_SIDE
    return max(first, 0), min(last, size)
