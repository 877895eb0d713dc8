"""Files whose names look like a given one, found by walking down from a folder, one part of the path at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blip2tools.call import STOP
from blip2tools.pictures.names import Likeness
from blip2tools.pictures.references import real_path

WALK_S = 5.0  # for comparing all names
MAX_BRANCHES = 64  # look-alike folders that are followed at one level
_CHECK_EVERY = 256


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to start from, and the parts of the path below it."""

    start: Path
    parts: Sequence[str]


def look_alikes(places: Sequence[Place], allows: Callable[[Path], bool], *, folder: bool) -> list[Path]:
    """The real paths of files or folders that look like the name, each once.

    Exact matches, in any of the spellings of `names`, exclude those that only look alike.

    Args:
        places: where it may be.
        allows: whether a real path may be read; asked about every folder before it is listed.
        folder: whether a folder is meant; files and folders exclude each other where both are found.
    """
    until = time.monotonic() + WALK_S
    same: dict[Path, None] = {}
    like: dict[Path, None] = {}
    for place in places:
        for real, is_same in _walk(place, allows, until):
            (same if is_same else like)[real] = None
    found = list(same or like)
    wanted = [path for path in found if path.is_dir() == folder]
    return wanted or found


def _walk(place: Place, allows: Callable[[Path], bool], until: float) -> list[tuple[Path, bool]]:
    reached = [(place.start, True)]
    for part in place.parts:
        likeness = Likeness(part)
        reached = [
            (real, is_same and likeness.is_same(name))
            for folder, is_same in reached[:MAX_BRANCHES]
            if allows(folder)
            for name in _names(folder, likeness, until)
            if (real := real_path(folder / name)) is not None and allows(real)
        ]
    return [
        (path, is_same) for path, is_same in reached if allows(path) and os.path.lexists(path) and not path.is_symlink()
    ]


def _names(folder: Path, likeness: Likeness, until: float) -> list[str]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number % _CHECK_EVERY == 0:
                    STOP.get().check()
                    if time.monotonic() > until:
                        break
                if likeness.is_like(entry.name) or likeness.is_same(entry.name):
                    found.append(entry.name)
    except OSError:
        return []
    return sorted(found)
