"""From whatever a caller calls an image to pixels that the engine can use. Runs in the small pool of threads for it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image"
ImageList: TypeAlias = "list[str] | list[Path] | list[bytes] | list[Image] | list[ImageInput]"

WHOLE_PIXELS = 2**22  # that may come back at full resolution, while nobody knows what the model wants: 16 MB
KEPT = 32  # sights that are ready for the model, about 0.6 MB each at 224 pixels


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture, or a part of one, that was loaded for a request."""

    sight: Sight
    info: ImageInfo
    region: list[float] | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """An image that is read and not decoded."""

    data: bytes | memoryview
    label: str
    """How the result may call where it comes from."""
    ours: bool
    """Whether the encoder was ours."""


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

    def see(self, sources: Sources, image: ImageInput, regions: Sequence[Sequence[float] | None]) -> list[Seen] | Read:
        """Several regions of an image (None is all of it), which is read and decoded once.

        Or what was read: while the model loads nobody knows to which sizes it wants pictures, and so parts come from the
        decoder at full resolution, which those of a large picture are too large for. `look` is for it, when the engine is ready.

        Raises:
            VisionError: it cannot be read, or is no picture that may be.
        """
        read = _read(sources, image)
        if not self._engine.targets() and self._pixels(read, regions) > WHOLE_PIXELS:
            return read
        return self.look(read, regions)

    def look(self, read: Read, regions: Sequence[Sequence[float] | None]) -> list[Seen]:
        """Decode what was read. The rest is as `see`."""
        digest = hashlib.sha256(read.data).hexdigest()
        kept = [self._find(digest, region) for region in regions]
        seen = [one for one in kept if one is not None]
        if len(seen) < len(kept):
            seen = self._decode(read, digest, regions)[1]
        self._store.put(bytes(read.data))
        return [replace(one, info=one.info.model_copy(update={"source": read.label})) for one in seen]

    def keep(self, sources: Sources, image: ImageInput) -> ImageInfo:
        """Decode an image, which nobody has asked about, and keep its bytes.

        Raises:
            VisionError: as `see`.
        """
        read = _read(sources, image)
        digest = hashlib.sha256(read.data).hexdigest()
        found = self._find(digest, None)
        # What the model would look at is kept for the first question, if the sizes are known.
        info = found.info if found else self._decode(read, digest, [None] if self._engine.targets() else [])[0]
        self._store.put(bytes(read.data))
        return info.model_copy(update={"source": read.label})

    def _pixels(self, read: Read, regions: Sequence[Sequence[float] | None]) -> float:
        """How many pixels the regions have together."""
        from blip2tools import images

        images.check_regions(regions)
        width, height = (
            images.size_of(bytes(read.data), self._settings) if read.ours else self._decoder.size_of(read.data)
        )
        shares = [1.0 if one is None else (one[2] - one[0]) * (one[3] - one[1]) for one in regions]
        return width * height * sum(shares)

    def _decode(
        self, read: Read, digest: str, regions: Sequence[Sequence[float] | None]
    ) -> tuple[ImageInfo, list[Seen]]:
        from blip2tools import images  # PIL: not before a picture is there

        targets = self._engine.targets()
        if read.ours:
            decoded = images.look(bytes(read.data), self._settings, regions, targets)
        else:
            decoded = self._decoder.decode(read.data, regions, targets)
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
        return info, seen

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


def _read(sources: Sources, image: ImageInput) -> Read:
    """The encoded bytes of whatever a caller calls an image."""
    if isinstance(image, str):
        source = sources.read(image)
        return Read(source.data, source.label, ours=False)
    if isinstance(image, bytearray):
        image = bytes(image)  # the caller may change it
    if isinstance(image, bytes | memoryview):
        return Read(image, "bytes", ours=False)
    if isinstance(image, os.PathLike):
        # Absolute, so that a file called `latest` or `img_...` is a file here.
        return Read(sources.read(str(Path(image).absolute())).data, str(image), ours=False)
    from blip2tools import images

    return Read(images.encode_png(image), "PIL.Image", ours=True)


def _where(region: Sequence[float] | None) -> str:
    return "" if region is None else ",".join(f"{edge:.6f}" for edge in region)
