"""Quantized weights kept on disk, so that the next start reads them instead of converting a checkpoint again.

One safetensors file for each checkpoint and number of bits, next to the verdicts of self-tests. It is written under another name
and renamed when it is whole; it says which files it was made from, and has a digest of every tensor. One that does not fit, or
whose digests are wrong, is made anew. That it cannot be kept is no error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from blip2tools.checkpoints.identity import identity
from blip2tools.checkpoints.plan import Located
from blip2tools.checkpoints.sizes import header
from blip2tools.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

FOLDER: Final = "quantized"  # in the cache folder
BITS: Final = {"8bit": 8, "4bit": 4}
EDITION: Final = 3  # of what is written: another one makes old files invalid
_ALIGNED: Final = 64  # bytes: where the widest instructions like tensors to begin
_PAGE: Final = 4096
_LEFT_S: Final = 600  # a file that nobody has written to for so long was left by a process that has ended
_FILLER: Final = "filling"

logger = logging.getLogger(__name__)


class CannotKeepError(Exception):
    """The file of kept weights cannot be written."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The tensors of a model as they are on the device.

    Attributes:
        tensors: by their names in the model.
        digests: of each tensor.
        trunk: digest of the vision tower before it was quantized.
        file: where they are kept; None in memory alone.
        release: gives back memory of the file's pages, which are read again when they are needed. Each tensor of a file has the
            same for its own.
    """

    tensors: Mapping[str, Tensor]
    digests: Mapping[str, str]
    trunk: str
    file: Path | None = None
    release: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of kept weights."""

    file: Path
    size: int  # bytes
    name: str  # of the checkpoint, for users
    source: str  # its hub id or folder
    kind: str
    bits: int

    def remove(self) -> None:
        """Delete it, what was remembered with it, and what was not finished; raises `OSError`."""
        self.file.unlink(missing_ok=True)
        for other in self.file.parent.glob(f"{self.file.stem}.*"):
            other.unlink(missing_ok=True)


def place(settings: Settings, located: Located, bits: int) -> Path:
    """Where the converted weights of a checkpoint are kept: another revision of it takes the same place."""
    source = hashlib.sha256(_source(located).encode()).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", located.name)[:60].strip("-.")
    return settings.cache_folder / FOLDER / f"{plain}-{located.kind}-{bits}bit-{source}.safetensors"


def origin(located: Located, bits: int) -> dict[str, Any]:
    """The facts that decide whether kept weights are those of a checkpoint."""
    return {
        "edition": EDITION,
        "bits": bits,
        "kind": located.kind,
        "source": _source(located),
        **identity(located),
    }


def recall(file: Path, expected: Mapping[str, Any], shapes: Mapping[str, Any]) -> Converted | None:
    """The weights in a file, mapped into memory; None where there are none, or not these, or they are damaged.

    Args:
        file: see `place`.
        expected: see `origin`.
        shapes: the tensors that a model needs, of which shape and dtype alone matter.
    """
    try:
        entries, begin = header(file)
        facts = entries.pop("__metadata__")
        if json.loads(facts["origin"]) != dict(expected):
            return None
        found = _mapped(file, entries, begin)
        digests = json.loads(facts["digests"])
        whole = found.tensors.keys() == digests.keys() <= shapes.keys() and all(
            _is_whole(name, tensor, digests[name], shapes[name]) for name, tensor in found.tensors.items()
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever a damaged file raises
        logger.warning("the kept quantized weights cannot be read (%s); they are made anew", type(error).__name__)
        return None
    if not whole:
        logger.warning("the kept quantized weights are damaged; they are made anew")
        return None
    return Converted(found.tensors, digests, facts["trunk"], file, found.release)


def _is_whole(name: str, tensor: Tensor, expected: str, like: Tensor) -> bool:
    right = (tensor.shape, tensor.dtype) == (like.shape, like.dtype) and digest(name, tensor) == expected
    tensor.release()  # type: ignore[attr-defined]
    return right


class Source(Protocol):
    """The tensors of a checkpoint as they are to be kept."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Names in the model, and tensors."""

    @property
    def trunk(self) -> str:
        """As of `Converted`, once all were read."""


def convert(
    tensors: Source,
    file: Path | None,
    facts: Mapping[str, Any],
    names: Iterable[str],
    expected_bytes: int,
) -> Converted:
    """Take converted tensors one by one, and keep them.

    Args:
        tensors: by their names in the model.
        file: where to keep them; None in memory alone.
        facts: see `origin`.
        names: those that may come.
        expected_bytes: about what all of them take, reserved on the disk beforehand.

    Raises:
        CannotKeepError: they cannot be kept, and some may have been taken already. Whatever `tensors` raises.
    """
    if file is None:
        held = dict(tensors)
        return Converted(held, {name: digest(name, tensor) for name, tensor in held.items()}, tensors.trunk)
    with _cannot_keep():
        writing = Writing(file, names, expected_bytes)
    try:
        for name, tensor in tensors:
            with _cannot_keep():
                writing.add(name, tensor)
        with _cannot_keep():
            return writing.finish(facts, tensors.trunk)
    finally:
        writing.close()


@contextmanager
def _cannot_keep() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotKeepError(error.strerror or type(error).__name__) from error


def kept(settings: Settings) -> list[Kept]:
    """Every file of kept weights that says what it is."""
    found = []
    for file in sorted((settings.cache_folder / FOLDER).glob("*.safetensors")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            facts = json.loads(header(file)[0]["__metadata__"]["origin"])
            found.append(
                Kept(
                    file, _size(file), str(facts["name"]), str(facts["source"]), str(facts["kind"]), int(facts["bits"])
                )
            )
    return found


def digest(name: str, tensor: Tensor) -> str:
    """16 hex digits that change with any value of a tensor."""
    from blip2tools.model.weights import fingerprint

    return fingerprint([(name, tensor)])


class Writing:
    """A file that is being written; nothing has its name before it is whole.

    Args:
        file: its name in the end.
        names: of the tensors that may come, which sets how long the header may be.
        expected_bytes: reserved beforehand, where the system can.

    Raises:
        OSError: there is no room for it, or it cannot be written.
    """

    def __init__(self, file: Path, names: Iterable[str], expected_bytes: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file)
        self._file = file
        self._begin = _rounded(4096 + sum(3 * len(name) + 320 for name in names), _PAGE)
        self._entries: dict[str, Any] = {}
        self._digests: dict[str, str] = {}
        self._stream = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by `close`
            "wb", dir=file.parent, prefix=f"{file.stem}.", suffix=".part", delete=False
        )
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._stream.fileno(), 0, self._begin + expected_bytes)
            self._stream.seek(self._begin)
        except BaseException:
            self.close()
            raise
        self._at = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        import torch

        if filling := -self._at % _ALIGNED:
            self._put(f"{_FILLER}.{len(self._entries)}", torch.zeros(filling, dtype=torch.uint8))
        self._put(name, tensor)
        self._digests[name] = digest(name, tensor)

    def finish(self, facts: Mapping[str, Any], trunk: str) -> Converted:
        """Write the header, give the file its name, and map it."""
        told = {"format": "pt", "origin": json.dumps(dict(facts)), "digests": json.dumps(self._digests), "trunk": trunk}
        written = json.dumps({"__metadata__": told, **self._entries}).encode()
        room = self._begin - 8
        if len(written) > room:
            raise OSError("the header is longer than its place")
        stream = self._stream
        stream.truncate()
        stream.seek(0)
        stream.write(room.to_bytes(8, "little") + written.ljust(room))
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        entries, begin = header(Path(stream.name))
        entries.pop("__metadata__")
        found = _mapped(Path(stream.name), entries, begin)
        Path(stream.name).replace(self._file)
        return Converted(found.tensors, self._digests, trunk, self._file, found.release)

    def close(self) -> None:
        """Delete what is not whole."""
        self._stream.close()
        with suppress(OSError):
            Path(self._stream.name).unlink(missing_ok=True)

    def _put(self, name: str, tensor: Tensor) -> None:
        import torch

        octets = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        self._stream.write(octets.data)
        self._entries[name] = {
            "dtype": _KINDS[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [self._at, self._at + octets.nbytes],
        }
        self._at += octets.nbytes


_KINDS: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "uint8": "U8", "int32": "I32"}


def _mapped(file: Path, entries: Mapping[str, Any], begin: int) -> Converted:
    """The tensors of a file as views of its pages: private ones, which nobody else would see changed."""
    import torch

    from blip2tools.checkpoints.shards import DTYPES

    with file.open("rb") as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if not name.startswith(f"{_FILLER}."):
            start, end = entry["data_offsets"]
            dtype = DTYPES[entry["dtype"]]
            flat = torch.frombuffer(pages, dtype=dtype, count=(end - start) // dtype.itemsize, offset=begin + start)
            tensors[name] = flat.view(entry["shape"])
            tensors[name].release = partial(_release, pages, begin + start, begin + end)  # type: ignore[attr-defined]
    return Converted(tensors, {}, "", file, partial(_release, pages, 0, len(pages)))


def _release(pages: mmap.mmap, start: int, end: int) -> None:
    """Give back memory of these bytes, whole pages of them: nothing writes there, so they are read again when needed."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size > 0 and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED, first, size)


def _sweep(file: Path) -> None:
    """Delete what ended processes left of it."""
    for part in file.parent.glob(f"{file.stem}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _LEFT_S:
                part.unlink()


def _source(located: Located) -> str:
    return located.repository or str(located.folder and located.folder.resolve())


def _rounded(number: int, to: int) -> int:
    return -(-number // to) * to


def _size(file: Path) -> int:
    found = file.stat()
    return found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size
