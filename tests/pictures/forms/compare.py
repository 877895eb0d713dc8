"""One form, as drawn by Chromium and as decoded here; which of them differ, and why."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from blip2tools.errors import VisionError
from blip2tools.pictures import images
from blip2tools.settings import Settings
from tests.pictures.forms.grid import patches

TOLERANCE = 4  # levels of an opaque patch
HDR_TOLERANCE = 12  # of light beyond white
SETTINGS = Settings(formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"))
DRAWN = Path(__file__).with_name("drawn.json")

NOT_SHOWN = "Chromium shows nothing"
EXCEPTIONS = {
    "jpeg_icc_para2": "a curve of this kind with a positive offset is lawful, and Chromium ignores the profile",
    "png_icc_para2": "a curve of this kind with a positive offset is lawful, and Chromium ignores the profile",
    "jpeg_split_short": "Pillow refuses the file for a segment that is too short",
    "png_gama_short": "Pillow refuses the file for a chunk that is too short",
    "png_iccp_method_1": "Pillow refuses the file for a method of compression that does not exist",
    "png_deep_key_near": "of three times 16 bits Pillow gives the upper 8, so near the transparent colour is on it",
    "png_icc_of_lab": "a profile whose pixels are Lab does not fit RGB; Chromium applies it all the same",
    "webp_alpha_flag_off": "where alpha is 0 but not shown, Chromium draws black",
    "webp_animated_alpha_no_flag": "Chromium adds such colours to the ground instead of blending them",
    "avif_alpha": "Chromium takes the alpha plane that Pillow writes for one of limited range",
    "avif_alpha_icc": "Chromium takes the alpha plane that Pillow writes for one of limited range",
    "avif_animated": "Chromium takes the track that Pillow writes for one of limited range",
    **dict.fromkeys(("png_cicp_matrix_1", "png_cicp_matrix_iccp", "png_cicp_full_2"), NOT_SHOWN),
    **dict.fromkeys(("avif_icc_of_grey", "avif_icc_of_inks", "avif_icc_cut_off", "avif_icc_rubbish"), NOT_SHOWN),
    **dict.fromkeys(("avif_nclx_log", "avif_nclx_iec61966_2_4", "bmp_icc_cut"), NOT_SHOWN),
}
"""Forms in which the two differ, by name."""


class Drawn(NamedTuple):
    """What Chromium drew: width, height and the colour in the middle of each patch."""

    size: tuple[int, int]
    colours: list[tuple[int, ...]]


class Verdict(NamedTuple):
    """How a form fared: `agrees`, `differs`, `ours only`, `chromium only` or `neither`, and some words."""

    group: str
    text: str

    @property
    def agrees(self) -> bool:
        return self.group in ("agrees", "neither")


def summed(image: Image.Image | None) -> Drawn | None:
    """What of a drawing is compared and kept."""
    return image and Drawn(image.size, patches(image))


@cache
def decoded(data: bytes) -> tuple[Drawn | None, str]:
    """What is decoded here, or why it is not."""
    try:
        return summed(images.decode(data, SETTINGS).image), ""
    except VisionError as error:
        return None, str(error)


def judged(name: str, data: bytes, drawn: Drawn | None) -> Verdict:
    """Hold the two against each other."""
    ours, why = decoded(data)
    if ours is None or drawn is None:
        group = "neither" if ours is drawn else "chromium only" if ours is None else "ours only"
        return Verdict(group, f"{group}: {why}")
    if ours.size != drawn.size:
        return Verdict("differs", f"sides {ours.size}, Chromium {drawn.size}")
    worst = max(zip(ours.colours, drawn.colours, strict=True), key=lambda pair: apart(*pair))
    most = apart(*worst)
    within = HDR_TOLERANCE if "pq" in name or "hlg" in name else TOLERANCE
    return Verdict("agrees" if most <= within else "differs", f"{most} levels: {worst[0]}, Chromium {worst[1]}")


def apart(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Levels by which two colours differ at the most."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def record(drawn: dict[str, Drawn | None], version: str) -> None:
    """Keep what Chromium drew."""
    forms = {
        name: None if one is None else [*one.size, bytes(value for colour in one.colours for value in colour).hex()]
        for name, one in sorted(drawn.items())
    }
    DRAWN.write_text(json.dumps({"chromium": version, "forms": forms}, indent=0) + "\n", encoding="utf-8")


def recorded() -> tuple[str, dict[str, Drawn | None]]:
    """The version that drew, and what it drew."""
    kept = json.loads(DRAWN.read_text(encoding="utf-8"))
    forms: dict[str, Drawn | None] = {}
    for name, one in kept["forms"].items():
        values = one and bytes.fromhex(one[2])
        forms[name] = one and Drawn((one[0], one[1]), [tuple(values[i : i + 3]) for i in range(0, len(values), 3)])
    return kept["chromium"], forms
