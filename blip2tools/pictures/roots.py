"""The allowed folders: those in the settings that exist, or the working directory."""

from __future__ import annotations

import itertools
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blip2tools.errors import InvalidInputError
from blip2tools.pictures.names import printably
from blip2tools.settings import expanded, unexpanded

logger = logging.getLogger(__name__)

_SYSTEM = (Path("/proc"), Path("/sys"))


@dataclass(frozen=True, slots=True)
class Roots:
    """The allowed folders.

    Attributes:
        real: resolved.
        written: each as it was configured, absolute but not resolved.
        warnings: what to know about configured folders that are not among them.
    """

    real: tuple[Path, ...]
    written: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def configured_roots(configured: Sequence[Path]) -> Roots:
    """The configured folders that exist; a missing one is only a warning while there is another.

    Raises:
        InvalidInputError: none exists, or one may never be opened.
    """
    real: list[Path] = []
    written: list[Path] = []
    missing: list[str] = []
    for path in configured:
        folder = expanded(path)
        found = _real_folder(folder)
        if found is None:
            missing.append(_missing(path, folder))
            continue
        # Below these lie devices, other processes' memory and everything else; one link in a reference would reach it all.
        if found in (Path(found.anchor), Path("/dev")) or any(found.is_relative_to(system) for system in _SYSTEM):
            raise InvalidInputError(f"The folder {_quoted(path)} cannot be opened to tools; name one with pictures.")
        if os.name != "nt" and found.stat().st_mode & stat.S_IWOTH:
            logger.warning("anybody on this machine can put files into the allowed folder %s", printably(str(found)))
        real.append(found)
        written.append(Path.cwd() / folder)
    if missing and not real:
        raise InvalidInputError(f"{missing[0]}.")
    for one in missing:
        logger.warning("%s; nothing in it is seen", one)
    return Roots(tuple(real), tuple(written), tuple(f"{one}; nothing in it is seen" for one in missing))


def default_roots() -> Roots:
    """The working directory, unless a client started the server in `/` or a home folder."""
    try:
        here = Path(os.path.realpath(Path.cwd()))
        home = Path(os.path.realpath(Path.home()))
    except (OSError, RuntimeError):
        return Roots((), ())
    of_people = here.parent.name.lower() in ("home", "users") and len(here.parts) == 3
    if home.is_relative_to(here) or of_people or here == Path("/root"):
        return Roots((), ())
    try:
        return configured_roots([here])
    except InvalidInputError:
        return Roots((), ())


def labels_of(roots: Sequence[Path]) -> dict[str, Path]:
    """Folders by the last part of their paths; where several have the same, those after the first are numbered."""
    labels: dict[str, Path] = {}
    names = {root.name for root in roots}
    for root in roots:
        numbered = (f"{root.name}-{number}" for number in itertools.count(2))
        free = (label for label in numbered if label not in labels and label not in names)
        labels[next(free) if root.name in labels else root.name] = root
    return labels


def _real_folder(path: Path) -> Path | None:
    try:
        real = Path(os.path.realpath(path))
        return real if real.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _missing(configured: Path, folder: Path) -> str:
    """Why a configured folder is missing."""
    if names := unexpanded(folder):
        return f"The allowed folder {_quoted(configured)} names {names[0]}, which is not set here; write the folder out"
    try:
        is_file = folder.is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file:
        return f"The allowed folder {_quoted(configured)} is a file; name the folder that it lies in"
    return (
        f"The allowed folder {_quoted(configured)} does not exist; create or mount it and start again, or name another"
    )


def _quoted(path: Path) -> str:
    shown = printably(str(path))
    return f'"{shown if len(shown) <= 200 else f"{shown[:99]}…{shown[-100:]}"}"'
