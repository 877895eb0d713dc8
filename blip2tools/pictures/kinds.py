"""Kinds of file that are not read, though their first bytes are those of a supported format: each is refused by name."""

from __future__ import annotations

import importlib.util
from typing import IO, Any, cast

from PIL import Image, ImageFile

from blip2tools.pictures import boxes, formats, tiff

_LOSSLESS = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})  # and hierarchical (ITU-T T.81, table B.1)
_JPEG_LS = 0xF7
_SAVE = "Save it as an ordinary PNG or JPEG first."


def refused(kind: str, data: bytes) -> str | None:
    """Why a complete file is not read, as one sentence; `None` if it may be.

    Args:
        kind: format, under Pillow's name.
        data: the bytes of a picture that `formats.is_sane`.
    """
    match kind:
        case "PNG" if data[12:16] == b"CgBI":
            return (
                f"This is Apple's own kind of PNG (CgBI), as in iPhone apps, which only Apple's software reads. {_SAVE}"
            )
        case "JPEG":
            return _of_jpeg(data)
        case "TIFF":
            return _of_tiff(data)
        case "HEIC":
            return _of_heic(data)
    return None


def register() -> None:
    """Register a reader of HEIC with Pillow, loaded with the first such photo. May be called again."""
    Image.register_open("HEIC", _open_heic, lambda start: formats.kind_of(start) == "HEIC")


def _open_heic(file: IO[bytes], name: str | bytes) -> ImageFile.ImageFile:
    import pillow_heif

    # Only the picture itself, and no threads, whose stacks count as memory.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    opened: Any = cast("Any", pillow_heif).HeifImageFile(file, name)
    opened.format = "HEIC"
    return cast("ImageFile.ImageFile", opened)


def _of_jpeg(data: bytes) -> str | None:
    for code, position in formats.jpeg_markers(data):
        if code == _JPEG_LS or code in _LOSSLESS:
            return f"This is a lossless or hierarchical JPEG, as in medical pictures, which is not read. {_SAVE}"
        if code in formats.JPEG_FRAMES:
            bits = data[position + 2] if position + 2 < len(data) else 8
            return None if bits == 8 else f"This is a JPEG of {bits} bits a channel; only those of 8 are read. {_SAVE}"
        if code in (0xDA, 0xD9):
            break
    return None


def _of_tiff(data: bytes) -> str | None:
    first = next(tiff.directories(data), {})
    if tiff.DNG_VERSION in first:
        return "This is a camera's raw file (DNG), in which only a small preview could be read. Export the photo as JPEG first."
    if tiff.is_reduced(first):
        return "The first page of this TIFF is only a small preview, as in cameras' raw files. Export the photo as JPEG first."
    return None


def _of_heic(data: bytes) -> str | None:
    if importlib.util.find_spec("pillow_heif") is None:
        return f"This is a HEIC photo, which is read after: pip install 'blip2tools[photos]'. Without it: {_SAVE}"
    return None if boxes.has_items(data) else f"This HEIC file has no still picture in it. {_SAVE}"
