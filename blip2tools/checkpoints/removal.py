"""The counterpart of a download: a checkpoint's copy in the local cache, and what was remembered about it, go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blip2tools.checkpoints import converted, hub
from blip2tools.checkpoints.family import FAMILY, find
from blip2tools.checkpoints.plan import downloadable
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.settings import Settings

# In the cache folder: verdicts of self-tests, quantized weights, and which files the handles stand for (`pictures.store`).
REMEMBERED = ("self-test", converted.FOLDER, "handles")


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint in the local cache."""

    name: str
    repository: str  # hub id, or the user's own folder
    folder: Path | None  # None where quantized weights alone are left of it, or are all that is not the user's own
    size: int  # bytes on the disk
    quantized: tuple[converted.Kept, ...] = ()  # its quantized weights


def kept(name: str, settings: Settings) -> Kept:
    """What is kept of a checkpoint: the copy that was downloaded, and weights that were quantized.

    Args:
        name: short name or hub id; also a folder of the user's own, of which the quantized weights alone can be removed.
        settings: where those are kept.

    Raises:
        InvalidInputError: the name of what is never removed: the demo, or a folder of the user's own.
        ModelUnavailableError: there is no such model, or it is not here.
    """
    member = find(name)
    if member is not None and member.hub is None:
        raise InvalidInputError("The demo is a part of the package; `pip uninstall blip2tools` removes both.")
    own = Path(name).expanduser()
    if member is None and name and own.is_dir():
        quantized = _quantized(settings, str(own.resolve()))
        if not quantized:
            raise InvalidInputError(f"{name!r} is a folder of your own, which is yours to delete.")
        return Kept(own.name, str(own), None, sum(one.size for one in quantized), quantized)
    repository = downloadable(name, "remove")
    folder: Path | None = hub.cache_folder() / f"models--{repository.replace('/', '--')}"
    quantized = _quantized(settings, repository)
    if folder is None or not folder.is_dir() or folder.is_symlink():
        if not quantized:
            raise ModelUnavailableError(f"The model {name} is not in the cache of this computer.")
        folder = None
    size = sum(_sizes(folder)) if folder is not None else 0
    total = size + sum(one.size for one in quantized)
    return Kept(member.name if member else name, repository, folder, total, quantized)


def remove(copy: Kept, settings: Settings) -> None:
    """Delete a copy, its locks, its quantized weights, and the verdicts of its self-test.

    Raises:
        InvalidInputError: a file cannot be deleted; what was gone before that is gone.
    """
    try:
        for one in copy.quantized:
            one.remove()
        if copy.folder is not None:
            shutil.rmtree(copy.folder)
    except OSError as error:
        raise InvalidInputError(f"A file of {copy.name} cannot be deleted ({error.strerror}).") from error
    if copy.folder is None:
        return
    shutil.rmtree(copy.folder.parent / ".locks" / copy.folder.name, ignore_errors=True)
    for verdict in (settings.cache_folder / "self-test").glob("*.json"):
        if copy.name in _models(verdict) or copy.repository in _models(verdict):
            verdict.unlink(missing_ok=True)


def all_kept(settings: Settings) -> list[Kept]:
    """Every member of the family of which something is kept."""
    found = []
    for member in FAMILY:
        if member.hub is not None:
            with suppress(ModelUnavailableError):
                found.append(kept(member.name, settings))
    return found


def forget(settings: Settings) -> list[Path]:
    """Delete what is remembered about models and pictures, and its folder if nothing else is in it; what was deleted."""
    folder = settings.cache_folder
    gone = [path for path in (folder / name for name in REMEMBERED) if path.exists()]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
    return gone


def _quantized(settings: Settings, source: str) -> tuple[converted.Kept, ...]:
    return tuple(one for one in converted.kept(settings) if one.source == source)


def _sizes(folder: Path) -> Iterator[int]:
    """Of every file; links lead to files that are counted anyway."""
    for place, _, names in os.walk(folder):
        for name in names:
            found = (Path(place) / name).lstat()
            yield found.st_blocks * 512 if hasattr(found, "st_blocks") else found.st_size


def _models(verdict: Path) -> list[str]:
    """Names of the captioner and the matcher that a verdict is about."""
    try:
        model = json.loads(verdict.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return str(model).split(" + ")
