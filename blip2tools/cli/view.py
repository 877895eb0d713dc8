"""`view`: pictures as the model gets them, written as PNG, so that a person can see them too. No model is needed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blip2tools.cli.console import OK, SOME_FAILED, USAGE, say, tell
from blip2tools.cli.inputs import IMAGES_HELP, Given, given_pictures
from blip2tools.cli.options import AddCommand, given_settings, setting_options
from blip2tools.errors import InvalidInputError, VisionError, to_vision_error
from blip2tools.pictures.decoder import Decoder
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Store
from blip2tools.schemas.shown import printable
from blip2tools.settings import Settings

MODEL_SIDE, BICUBIC = 224, 3
"""The input of every published BLIP-2: a square of so many pixels, resized by Pillow's filter of this number."""

_SETTINGS = (
    *("allowed_dirs", "formats", "max_image_bytes", "max_pixels", "max_side", "max_damage_mb"),
    *("allow_urls", "url_hosts"),
)
_SHOWN = 200  # characters of a reference
_TEXT = """\
Write each picture as a model gets it: upright, in sRGB, its transparency on a background; FOLDER/NAME.png for a file NAME.jpg.

Colour profiles, first frames and orientation are treated as by a browser. No model is loaded."""


def add_view_command(command: AddCommand) -> None:
    """Add `view`."""
    view = command("view", _view, "write pictures as the model sees them", _TEXT)
    view.add_argument("image", nargs="+", metavar="IMAGE", help=IMAGES_HELP)
    view.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FOLDER", help="where to write; created if needed"
    )
    view.add_argument(
        "--model-size",
        action="store_true",
        help=f"as the model's own {MODEL_SIDE} × {MODEL_SIDE} pixels: nothing is cut off, and the longer side is squeezed",
    )
    view.add_argument(
        "--region",
        type=float,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="only this part, as fractions from 0 to 1",
    )
    view.add_argument("--json", action="store_true", help="JSON Lines in the order of the pictures")
    setting_options(view, only=_SETTINGS)


def _view(arguments: argparse.Namespace) -> int:
    settings = Settings.load(**given_settings(arguments))
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError("The folder of --output cannot be made; name another one.") from error
    given = given_pictures(arguments.image, settings.max_image_bytes)
    decoder = Decoder(settings)
    failed: list[VisionError] = []
    try:
        sources = Sources(settings, Store(1), size_of=decoder.size_of, trusted=True)
        viewer = _Viewer(arguments, [one.name for one in given], sources, decoder)
        for one in given:
            image = one.name
            try:
                viewer.write(one)
            except Exception as error:  # noqa: BLE001  one bad picture must not stop the list
                known = to_vision_error(error)
                failed.append(known)
                if arguments.json:
                    tell(json.dumps({"source": image, "error": {"code": known.code, "message": known.message}}))
                else:
                    say(f"{printable(image, _SHOWN)}: {known}")
    finally:
        decoder.close()
    if not failed:
        return OK
    is_usage = len(failed) == len(given) and all(isinstance(error, InvalidInputError) for error in failed)
    return USAGE if is_usage else SOME_FAILED


class _Viewer:
    """Writes one picture after another, each under a name of its own."""

    def __init__(self, arguments: argparse.Namespace, names: Sequence[str], sources: Sources, decoder: Decoder) -> None:
        self._arguments = arguments
        self._names = names
        self._sources = sources
        self._decoder = decoder
        self._taken: set[str] = set()

    def write(self, one: Given) -> None:
        """Write one picture and report it.

        Raises:
            VisionError: it cannot be read, or its PNG cannot be written.
        """
        if isinstance(one.image, VisionError):
            raise one.image
        image = one.name
        data, label = (one.image, "data:") if isinstance(one.image, bytes) else self._read(one.image)
        targets = [(MODEL_SIDE, BICUBIC)] if self._arguments.model_size else []
        seen = self._decoder.decode(data, [self._arguments.region], targets)
        picture = seen.parts[0]
        path = self._path_of(label)
        try:
            picture.save(path, "PNG")
        except OSError as error:
            raise InvalidInputError(
                f"{printable(path.name, _SHOWN)} cannot be written to the folder of --output."
            ) from error
        facts: dict[str, Any] = {
            "source": image,
            "output": str(path),
            "width": seen.width,
            "height": seen.height,
            "written": [picture.width, picture.height],
            "region": self._arguments.region,
            "warnings": list(seen.warnings),
        }
        if self._arguments.json:
            tell(json.dumps(facts, ensure_ascii=False))
            return
        tell(f"{printable(image, _SHOWN)} -> {printable(str(path), _SHOWN)}  {self._told(facts)}")
        for warning in seen.warnings:
            say(f"{printable(image, _SHOWN)}: warning: {warning}")

    def _read(self, image: str) -> tuple[bytes | memoryview, str]:
        read = self._sources.read(image)
        return read.data, read.label

    def _told(self, facts: dict[str, Any]) -> str:
        width, height = facts["width"], facts["height"]
        if not self._arguments.model_size:
            return (
                f"{width} × {height}"
                if self._arguments.region is None
                else f"{facts['written'][0]} × {facts['written'][1]} of {width} × {height}"
            )
        left, top, right, bottom = self._arguments.region or (0, 0, 1, 1)
        across, down = (right - left) * width / MODEL_SIDE, (bottom - top) * height / MODEL_SIDE
        return f"{width} × {height} seen as {MODEL_SIDE} × {MODEL_SIDE}: {across:.2f} pixels across and {down:.2f} down in one"

    def _path_of(self, label: str) -> Path:
        """A name in the folder that no other picture of this call has, and that is not the picture itself."""
        name = "picture" if label[:5].lower() == "data:" else Path(label.rstrip("/\\")).stem
        name = (
            "".join(letter if letter.isprintable() and letter not in '/\\:*?"<>|' else "_" for letter in name)[:120]
            or "picture"
        )
        number = 1
        while True:
            path: Path = self._arguments.output / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
            if path.name.casefold() not in self._taken and not self._is_read(path):
                self._taken.add(path.name.casefold())
                return path
            number += 1

    def _is_read(self, path: Path) -> bool:
        """Whether a path is one of the pictures of this call."""
        for image in self._names:
            try:
                if path.samefile(image):
                    return True
            except (OSError, ValueError):
                continue
        return False
