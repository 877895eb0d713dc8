"""From any kind of image to pixels that the engine can use: read, found among those kept ready, or decoded."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from blip2tools.engine.protocol import Engine
from blip2tools.engine.requests import Sight
from blip2tools.errors import CorruptImageError, UnsupportedImageError, VisionError
from blip2tools.pictures.decoder import Decoder, decode_here
from blip2tools.pictures.names import spelled
from blip2tools.pictures.pools import Pool, Pools
from blip2tools.pictures.records import Newest
from blip2tools.pictures.references import handle_in, place_of
from blip2tools.pictures.sources import Sources, no_picture_there
from blip2tools.pictures.store import Remembered, Store, handle_of
from blip2tools.schemas import ImageInfo
from blip2tools.settings import Settings
from blip2tools.vision.keywords import ImageInput, is_array, label_of

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image

T = TypeVar("T")

WHOLE_PIXELS = 2**22  # that may come back at full resolution while the model's input size is unknown: 16 MB
HELD_BYTES = 2**25  # of files that were read and wait for a decoder; further ones are read again when it is their turn
KEPT = 32  # sights that are ready for the model, about 0.6 MB each at 224 pixels


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture, or a part of one, that was loaded for a request."""

    sight: Sight
    info: ImageInfo
    region: list[float] | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A picture, or a part of one, with all its pixels."""

    pixels: Image
    info: ImageInfo
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """An image that was read but not decoded."""

    data: bytes | memoryview
    digest: str
    """SHA-256 of the data, 64 hex digits."""
    label: str
    """The origin that the result may show."""
    encoded: bool = False
    """Whether it had to be encoded."""
    ours: bool = False
    """Whether it has no untrusted parts: it was encoded here, without a colour profile."""
    fetched: bool = False
    """Whether it came from an address."""
    path: Path | None = None
    """The file that it was read from."""
    newest: Newest | None = None
    """The file found for `latest`."""


class Looking:
    """Reads and decodes pictures, crops regions, and keeps the last few ready for further questions.

    Args:
        settings: limits on pictures.
        engine: prepares pixels for its model.
        store: keeps the encoded bytes behind the handles.
        decoder: decodes pictures that come from elsewhere.
        pools: whose threads wait for files, addresses and decoders.
        remembered: records which files the handles stand for.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        store: Store,
        decoder: Decoder,
        pools: Pools,
        remembered: Remembered,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store
        self._decoder = decoder
        self._pools = pools
        self._remembered = remembered
        self._kept: OrderedDict[tuple[str, str], Seen] = OrderedDict()
        self._lock = threading.Lock()
        self._room = _Room(HELD_BYTES)

    def apart(self, store: Store) -> Looking:
        """The same over another store: what is seen through it is not known to this one."""
        return Looking(self._settings, self._engine, store, self._decoder, self._pools, self._remembered)

    async def read(self, sources: Sources, image: ImageInput) -> Read:
        """Read an image, and nothing else.

        Raises:
            VisionError: it cannot be read.
        """
        given = await self._pinned(sources, image)
        return await self._pool_for(given).run(lambda: _read(sources, given, self._settings))

    def note(self, read: Read) -> None:
        """Remember the file of a picture, whose handle may be used by later processes."""
        if read.path is not None:
            self._remembered.note(handle_of(read.digest), read.path)

    async def see(
        self,
        sources: Sources,
        image: ImageInput,
        regions: Sequence[Sequence[float] | None],
        ready: Callable[[], Awaitable[object]],
    ) -> list[Seen]:
        """See several regions of an image (None is all of it), which is read and decoded once.

        Args:
            sources: what references may lead to.
            image: of any kind.
            regions: the parts.
            ready: waits for the model. While it loads, its input sizes are unknown, so parts come from the decoder at full
                resolution; those of a large picture would be too large, so they wait.

        Raises:
            VisionError: the image cannot be read, or may not be.
        """
        pictures = self._pools.pictures
        handle = handle_in(image) if isinstance(image, str) else None
        digest = handle and self._store.digest(handle)
        if handle and digest and (seen := self._find(digest, regions)):
            return _from(sources.label_of(handle), seen)  # nothing to read, so no thread is needed
        given = await self._pinned(sources, image)
        with self._room.place() as held:
            found = await self._pool_for(given).run(lambda: self._known(sources, given, regions, held))
            if isinstance(found, list):
                return found
            again = self._again(sources, given, found)
            if not self._engine.targets() and not await pictures.run(lambda: self._is_small(again(), regions)):
                await ready()
            return await pictures.run(lambda: self._look(again(), regions))

    async def keep(self, sources: Sources, image: ImageInput) -> ImageInfo:
        """Decode an image before any question about it, and keep its bytes.

        Raises:
            VisionError: as `see`.
        """
        given = await self._pinned(sources, image)
        with self._room.place() as held:
            found = await self._pool_for(given).run(lambda: self._known(sources, given, [None], held))
            if isinstance(found, list):
                return found[0].info
            again = self._again(sources, given, found)

            def look() -> ImageInfo:
                read = again()
                # What the model would look at is kept for the first question, if the sizes are known.
                info, _ = self._decode(read, [None] if self._engine.targets() else [])
                self._store_away(read)
                return info.model_copy(update={"source": read.label})

            return await self._pools.pictures.run(look)

    async def with_pixels(
        self, sources: Sources, image: ImageInput, region: Sequence[float] | None, does: Callable[[Part], T], pool: Pool
    ) -> T:
        """Do something with all pixels of a part of an image, which is decoded when it is the turn of the call in `pool`.

        Raises:
            VisionError: as `see`.
        """
        given = await self._pinned(sources, image)
        with self._room.place() as held:
            again = await self._waiting(sources, given, held)
            return await pool.run(lambda: does(self._pools.pictures.wait(lambda: self._whole(again(), region))))

    async def thumbnail(self, sources: Sources, image: ImageInput, side: int) -> bytes:
        """A small JPEG of a picture, for a person to look at. Nothing of the picture is kept.

        Raises:
            VisionError: as `see`.
        """
        given = await self._pinned(sources, image)
        with self._room.place() as held:
            again = await self._waiting(sources, given, held)

            def make() -> bytes:
                from blip2tools.pictures.small import jpeg, small

                one = again()
                with self.judging(one):
                    return jpeg(small(self._decoder, one.data, side))

            return await self._pools.pictures.run(make)

    def _whole(self, read: Read, region: Sequence[float] | None) -> Part:
        with self.judging(read):
            if read.ours:
                decoded = decode_here(bytes(read.data), self._settings, [region], [])
            else:
                decoded = self._decoder.decode(read.data, [region])
        self._store_away(read)
        info = ImageInfo(handle=handle_of(read.digest), width=decoded.width, height=decoded.height, source=read.label)
        return Part(decoded.parts[0], info, (*decoded.warnings, *(read.newest.warnings if read.newest else ())))

    async def glance(self, read: Callable[[], bytes]) -> tuple[bytes, Callable[[], Awaitable[Sight]]]:
        """The SHA-256 of a file, and what decodes it. Nothing of it is kept: many are looked at, few are asked about.

        Args:
            read: gives the file's bytes.

        Raises:
            VisionError: it cannot be read; or, later, is no picture that may be.
        """
        data = await self._pools.files.run(read)
        digest = hashlib.sha256(data).hexdigest()

        def look() -> Sight:
            key, targets = f"{digest}:{_where(None)}", self._engine.targets()
            decoded = self._decoder.decode(data, [None], targets)
            if not targets:
                return self._engine.prepare(Sight(key, decoded.parts[0]))
            return self._engine.prepare(Sight(key, None, resized=dict(zip(targets, decoded.parts, strict=True))))

        return bytes.fromhex(digest), lambda: self._pools.pictures.run(look)

    def _known(
        self,
        sources: Sources,
        image: ImageInput | Newest,
        regions: Sequence[Sequence[float] | None],
        held: Callable[[int], bool],
    ) -> list[Seen] | Read | None:
        """Read an image; return its regions if they are kept ready, else its bytes, which then wait for a decoder.

        None where too many bytes wait already (`held` tells): then the image is read again later. One from an address is not
        fetched again: its thread waits for the decoder. One that had to be encoded is decoded at once. While the model loads,
        the bytes of both are returned.
        """
        read = _read(sources, image, self._settings)
        if self._find(read.digest, regions) or (read.encoded and self._engine.targets()):
            return self._look(read, regions)
        if read.fetched and self._engine.targets():
            return self._pools.pictures.wait(lambda: self._look(read, regions))
        return read if read.fetched or read.encoded or held(len(read.data)) else None

    async def _waiting(
        self, sources: Sources, image: ImageInput | Newest, held: Callable[[int], bool]
    ) -> Callable[[], Read]:
        """Read an image that waits for a decoder; its bytes are read again later where too many wait already."""

        def read() -> Read | None:
            found = _read(sources, image, self._settings)
            return found if found.fetched or found.encoded or held(len(found.data)) else None

        return self._again(sources, image, await self._pool_for(image).run(read))

    def _again(self, sources: Sources, image: ImageInput | Newest, read: Read | None) -> Callable[[], Read]:
        return lambda: _read(sources, image, self._settings) if read is None else read

    def _look(self, read: Read, regions: Sequence[Sequence[float] | None]) -> list[Seen]:
        seen = self._decode(read, regions)[1]
        self._store_away(read)
        return _from(read.label, seen, read.newest.warnings if read.newest else ())

    def _store_away(self, read: Read) -> None:
        handle = self._store.put(bytes(read.data), read.digest, read.path)
        if read.path is not None:
            self._remembered.note(handle, read.path)

    async def _pinned(self, sources: Sources, image: ImageInput) -> ImageInput | Newest:
        """The image, with `latest` replaced by the file that it stands for, which is searched for only once."""
        if isinstance(image, str) and place_of(image) == "folder":
            return await self._pools.folders.run(lambda: sources.newest(image))
        return image

    def _pool_for(self, image: ImageInput | Newest) -> Pool:
        """The pool in which an image is read."""
        if isinstance(image, Newest):
            return self._pools.files
        if isinstance(image, str):
            # Where no address is fetched, one is refused at once.
            addresses = self._pools.addresses if self._settings.allow_urls else self._pools.files
            return addresses if place_of(image) == "address" else self._pools.files
        # A `PIL.Image` or an array has to be encoded.
        is_encoded = isinstance(image, bytes | bytearray | memoryview | os.PathLike)
        return self._pools.files if is_encoded else self._pools.pictures

    def _is_small(self, read: Read, regions: Sequence[Sequence[float] | None]) -> bool:
        """Whether the regions together have few enough pixels to come from the decoder at full resolution."""
        with self.judging(read):
            width, height = self._decoder.size_of(read.data)
        shares = [1.0 if one is None else (one[2] - one[0]) * (one[3] - one[1]) for one in regions]
        return width * height * sum(shares) <= WHOLE_PIXELS

    def _decode(self, read: Read, regions: Sequence[Sequence[float] | None]) -> tuple[ImageInfo, list[Seen]]:
        if found := self._find(read.digest, regions):
            return found[0].info, found  # another call has decoded the same picture meanwhile
        targets = self._engine.targets()
        with self.judging(read):
            if read.ours:
                decoded = decode_here(bytes(read.data), self._settings, regions, targets)
            else:
                decoded = self._decoder.decode(read.data, regions, targets)
        info = ImageInfo(handle=handle_of(read.digest), width=decoded.width, height=decoded.height, source="")
        seen = []
        for number, region in enumerate(regions):
            key = f"{read.digest}:{_where(region)}"
            if targets:
                own = decoded.parts[number * len(targets) : (number + 1) * len(targets)]
                sight = Sight(key, None, resized=dict(zip(targets, own, strict=True)))
            else:
                sight = Sight(key, decoded.parts[number])
            one = Seen(
                self._engine.prepare(sight),
                info,
                None if region is None else [float(edge) for edge in region],
                decoded.warnings,
            )
            self._keep(read.digest, one)
            seen.append(one)
        return info, seen

    @contextmanager
    def judging(self, read: Read) -> Iterator[None]:
        """Use one sentence for everything behind an address that is not a valid picture (`sources.no_picture_there`), and
        name the file in errors about the newest picture."""
        try:
            yield
        except VisionError as error:
            if read.newest is not None:
                raise read.newest.failed(error) from error
            if not read.fetched or not isinstance(error, UnsupportedImageError | CorruptImageError):
                raise
            raise no_picture_there(self._settings) from error

    def _find(self, digest: str, regions: Sequence[Sequence[float] | None]) -> list[Seen] | None:
        """The regions of a picture, if all of them are kept ready."""
        keys = [(digest, _where(region)) for region in regions]
        with self._lock:
            if not all(key in self._kept for key in keys):
                return None
            for key in keys:
                self._kept.move_to_end(key)
            return [self._kept[key] for key in keys]

    def _keep(self, digest: str, seen: Seen) -> None:
        if seen.sight.image is not None:
            return  # not prepared: it would keep the whole picture alive
        with self._lock:
            self._kept[digest, _where(seen.region)] = seen
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


class _Room:
    """A limit on the bytes held by calls that wait for a decoder."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[Callable[[int], bool]]:
        """Yield a function that reserves a number of bytes until the block ends, and tells whether it could."""
        taken, over = 0, False

        def take(size: int) -> bool:
            nonlocal taken
            with self._lock:
                # A thread may still be reading for a call that was cancelled.
                if over or size > self._free:
                    return False
                self._free -= size
                taken += size
                return True

        try:
            yield take
        finally:
            with self._lock:
                over = True
                self._free += taken


def _read(sources: Sources, image: ImageInput | Newest, limits: Settings) -> Read:
    """The encoded bytes of any kind of image; if it has to be encoded, at most `max_image_bytes` where possible."""
    encoded = ours = fetched = False
    path: Path | None = None
    data: bytes | memoryview
    newest = None
    if isinstance(image, str | Newest):
        source = sources.read_newest(image) if isinstance(image, Newest) else sources.read(image)
        data, label, fetched = source.data, source.label, source.fetched
        path, newest = source.path, source.newest
    elif isinstance(image, bytes | bytearray | memoryview):
        data, label = image if _is_fixed(image) else bytes(image), "bytes"
    elif isinstance(image, os.PathLike):
        # Absolute, so that a file called `latest` or `img_...` is a file here.
        source = sources.read(str(Path(os.fsdecode(image)).absolute()))
        data, label, path = source.data, spelled(os.fsdecode(image)), source.path
    else:
        from blip2tools.pictures import images

        label = label_of(image)
        picture = _of_array(image, limits) if is_array(image) else cast("Image", image)
        data, encoded = images.encode(picture, limits), True
        ours = images.profile_of(picture) is None
    return Read(data, hashlib.sha256(data).hexdigest(), label, encoded, ours, fetched, path, newest)


def _of_array(array: ndarray[Any, Any], limits: Settings) -> Image:
    from blip2tools.pictures.arrays import to_image

    return to_image(array, limits)


def _is_fixed(data: bytes | bytearray | memoryview) -> TypeGuard[bytes | memoryview]:
    """Whether these bytes cannot change; the length of a view may not count bytes."""
    if isinstance(data, memoryview):
        return data.readonly and data.c_contiguous and data.ndim == 1 and data.itemsize == 1
    return isinstance(data, bytes)


def _from(label: str, seen: Sequence[Seen], warnings: tuple[str, ...] = ()) -> list[Seen]:
    return [
        replace(one, info=one.info.model_copy(update={"source": label}), warnings=(*one.warnings, *warnings))
        for one in seen
    ]


def _where(region: Sequence[float] | None) -> str:
    return "" if region is None else ",".join(f"{edge:.6f}" for edge in region)
