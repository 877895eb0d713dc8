"""How a checkpoint wants its pictures: what its folder says of resizing, rescaling and normalizing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from PIL import Image

# Of CLIP, whose pictures the vision tower was trained on (arXiv 2103.00020); the library's defaults too.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_NOT_OURS = ("do_center_crop", "do_pad")


class Processor(Protocol):
    """The values of an image processor: the library's, or a `Recipe`."""

    @property
    def size(self) -> Any: ...
    @property
    def resample(self) -> Any: ...
    @property
    def rescale_factor(self) -> Any: ...
    @property
    def image_mean(self) -> Any: ...
    @property
    def image_std(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checkpoint's preparation of pictures, with the defaults of the library's `BlipImageProcessor`."""

    size: Mapping[str, int]
    resample: int = int(Image.Resampling.BICUBIC)
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Read it from `processor_config.json` where that holds one, as the library writes it today, else
        `preprocessor_config.json`.

        Raises:
            OSError, ValueError: there is none, or it asks for something else than to resize, rescale and normalize.
        """
        written: Any = None
        if (nested := folder / "processor_config.json").is_file():
            written = _object(nested).get("image_processor")
        return cls.read(_object(folder / "preprocessor_config.json") if written is None else written)

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> Self:
        """Read it from the content of such a file."""
        steps = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")
        if not all(written.get(step, True) for step in steps) or any(written.get(step) for step in _NOT_OURS):
            raise ValueError("the image processor does more than resize, rescale and normalize")
        size = written.get("size", 384)
        given = {name: written[name] for name in ("resample", "rescale_factor") if written.get(name) is not None}
        for name in ("image_mean", "image_std"):
            if written.get(name) is not None:
                value = written[name]
                given[name] = tuple(value) if isinstance(value, list) else (value,) * 3
        return cls({"height": size, "width": size} if isinstance(size, int) else size, **given)


def _object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content
