"""The counterpart of a download: a checkpoint's copy in the local cache, and what was remembered about it, go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.family import FAMILY, find
from blip2tools.checkpoints.plan import downloadable
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.settings import Settings

# In the cache folder: verdicts of self-tests, and which files the handles stand for (`pictures.store`).
REMEMBERED = ("self-test", "handles")


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint in the local cache."""

    name: str
    repository: str
    folder: Path
    size: int  # bytes on the disk


def kept(name: str) -> Kept:
    """The copy of a checkpoint that was downloaded.

    Args:
        name: short name or hub id.

    Raises:
        InvalidInputError: the name of what is never removed: the demo, or a folder of the user's own.
        ModelUnavailableError: there is no such model, or it is not here.
    """
    member = find(name)
    if member is not None and member.hub is None:
        raise InvalidInputError("The demo is a part of the package; `pip uninstall blip2tools` removes both.")
    if member is None and name and Path(name).expanduser().is_dir():
        raise InvalidInputError(f"{name!r} is a folder of your own, which is yours to delete.")
    repository = downloadable(name, "remove")
    folder = hub.cache_folder() / f"models--{repository.replace('/', '--')}"
    if not folder.is_dir() or folder.is_symlink():
        raise ModelUnavailableError(f"The model {name} is not in the cache of this computer.")
    return Kept(member.name if member else name, repository, folder, sum(_sizes(folder)))


def remove(copy: Kept, settings: Settings) -> None:
    """Delete a copy, its locks, and the verdicts of its self-test.

    Raises:
        InvalidInputError: a file cannot be deleted; what was gone before that is gone.
    """
    try:
        shutil.rmtree(copy.folder)
    except OSError as error:
        raise InvalidInputError(f"A file of {copy.name} cannot be deleted ({error.strerror}).") from error
    shutil.rmtree(copy.folder.parent / ".locks" / copy.folder.name, ignore_errors=True)
    for verdict in (settings.cache_folder / "self-test").glob("*.json"):
        if copy.name in _models(verdict) or copy.repository in _models(verdict):
            verdict.unlink(missing_ok=True)


def all_kept() -> list[Kept]:
    """Every member of the family that was downloaded."""
    found = []
    for member in FAMILY:
        if member.hub is not None:
            with suppress(ModelUnavailableError):
                found.append(kept(member.name))
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
