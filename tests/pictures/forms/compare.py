"""One form, as drawn by Chromium and as decoded here."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from blip2tools.errors import VisionError
from blip2tools.pictures import images
from blip2tools.settings import Settings
from tests.pictures.forms.grid import patches

TOLERANCE = 4
HDR_TOLERANCE = 12
SETTINGS = Settings(formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"))


class Verdict(NamedTuple):
    """How a form fared: `agrees`, `differs`, `ours only`, `chromium only` or `neither`, and some words."""

    group: str
    text: str

    @property
    def agrees(self) -> bool:
        return self.group in ("agrees", "neither")


def judged(name: str, data: bytes, drawn: Image.Image | None) -> Verdict:
    """Hold the two against each other."""
    try:
        ours, why = images.decode(data, SETTINGS).image, ""
    except VisionError as error:
        ours, why = None, str(error)
    if ours is None or drawn is None:
        group = "neither" if ours is drawn else "chromium only" if ours is None else "ours only"
        return Verdict(group, f"{group}: {why}")
    if ours.size != drawn.size:
        return Verdict("differs", f"sides {ours.size}, Chromium {drawn.size}")
    pairs = list(zip(patches(ours), patches(drawn), strict=True))
    worst = max(pairs, key=lambda pair: _apart(*pair))
    most = _apart(*worst)
    within = HDR_TOLERANCE if "pq" in name or "hlg" in name else TOLERANCE
    return Verdict("agrees" if most <= within else "differs", f"{most} levels: {worst[0]}, Chromium {worst[1]}")


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
