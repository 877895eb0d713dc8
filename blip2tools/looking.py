"""From whatever a caller calls an image to pixels that the engine can use. Runs in the small pool of threads for it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from blip2tools.decoder import Decoder
from blip2tools.requests import Engine, Sight
from blip2tools.schemas import ImageInfo
from blip2tools.settings import Settings
from blip2tools.sources import Sources
from blip2tools.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image"
ImageList: TypeAlias = "list[str] | list[Path] | list[bytes] | list[Image] | list[ImageInput]"

KEPT = 32  # sights that are ready for the model, about 0.6 MB each at 224 pixels


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture, or a part of one, that was loaded for a request."""

    sight: Sight
    info: ImageInfo
    region: list[float] | None
    warnings: tuple[str, ...]


class Looking:
    """Decodes pictures, crops regions, and keeps the last few that are ready, for questions that follow each other.

    Args:
        settings: limits on pictures.
        engine: prepares pixels for its model.
        store: keeps the encoded bytes behind the handles.
        decoder: decodes pictures that come from elsewhere.
    """

    def __init__(self, settings: Settings, engine: Engine, store: Store, decoder: Decoder) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store
        self._decoder = decoder
        self._kept: OrderedDict[tuple[str, str], Seen] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, sources: Sources, image: ImageInput, regions: Sequence[Sequence[float] | None]) -> list[Seen]:
        """Several regions of an image (None is all of it), which is read and decoded once.

        Raises:
            VisionError: it cannot be read, or is no picture that may be.
        """
        data, label, ours = _read(sources, image)
        digest = hashlib.sha256(data).hexdigest()
        kept = [self._find(digest, region) for region in regions]
        seen = [one for one in kept if one is not None]
        if len(seen) < len(kept):
            seen = self._decode(data, digest, regions, ours=ours)
        self._store.put(data)
        return [replace(one, info=one.info.model_copy(update={"source": label})) for one in seen]

    def _decode(self, data: bytes, digest: str, regions: Sequence[Sequence[float] | None], *, ours: bool) -> list[Seen]:
        from blip2tools import images  # PIL: not before a picture is there

        targets = self._engine.targets()
        look = partial(images.look, settings=self._settings) if ours else self._decoder.decode
        decoded = look(data, regions=regions, targets=targets)
        info = ImageInfo(handle=images.handle(digest), width=decoded.width, height=decoded.height, source="")
        warnings = ("this is the first frame of an animation",) if decoded.animated else ()
        seen = []
        for number, region in enumerate(regions):
            key = f"{digest}:{_where(region)}"
            if targets:
                own = decoded.parts[number * len(targets) : (number + 1) * len(targets)]
                sight = Sight(key, None, resized=dict(zip(targets, own, strict=True)))
            else:
                sight = Sight(key, decoded.parts[number])
            one = Seen(
                self._engine.prepare(sight),
                info,
                None if region is None else [float(edge) for edge in region],
                warnings,
            )
            self._keep(digest, one)
            seen.append(one)
        return seen

    def _find(self, digest: str, region: Sequence[float] | None) -> Seen | None:
        with self._lock:
            key = (digest, _where(region))
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, digest: str, seen: Seen) -> None:
        if seen.sight.image is not None:
            return  # not prepared: the whole picture hangs on it
        with self._lock:
            self._kept[digest, _where(seen.region)] = seen
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _read(sources: Sources, image: ImageInput) -> tuple[bytes, str, bool]:
    """The encoded bytes, how the result may call where they come from, and whether the encoder was ours."""
    if isinstance(image, str):
        source = sources.read(image)
        return source.data, source.label, False
    if isinstance(image, bytes):
        return image, "bytes", False
    if isinstance(image, os.PathLike):
        # Absolute, so that a file called `latest` or `img_...` is a file here.
        return sources.read(str(Path(image).absolute())).data, str(image), False
    from blip2tools import images

    return images.encode_png(image), "PIL.Image", True


def _where(region: Sequence[float] | None) -> str:
    return "" if region is None else ",".join(f"{edge:.6f}" for edge in region)
