"""What can be said of a path without knowing which folders are allowed."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path, PurePosixPath

from blip2tools.errors import InvalidInputError
from blip2tools.pictures.names import unwrapped

MAX_PATH = 4096
MAX_NAME_BYTES = 255

# Where chat clients keep uploads on their own machines, which a tool's server cannot see.
_ELSEWHERE = ("/mnt/user-data", "/mnt/data", "/home/claude", "/home/oai", "/tmp/outputs")  # noqa: S108  compared only


def problem_of(text: str) -> InvalidInputError | None:
    """Why a text that nothing is called by is no path at all."""
    if len(text) > MAX_PATH:
        return InvalidInputError(f"The path is longer than {MAX_PATH} characters.")
    # "Cs" are lone surrogates, which have no bytes; control characters would end up in logs and terminals.
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        return InvalidInputError("The path holds control characters or undecodable ones; pass it as it is on the disk.")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in text.replace("\\", "/").split("/")):
        return InvalidInputError(f"A part of the path is longer than {MAX_NAME_BYTES} bytes.")
    return None


def has_bytes(text: str) -> bool:
    """Whether a file system could have a name for it."""
    try:
        return all(len(os.fsencode(part)) <= MAX_NAME_BYTES for part in text.replace("\\", "/").split("/"))
    except UnicodeEncodeError:
        return False


def at_home(text: str) -> Path:
    """A path with one's own home for `~`."""
    path = Path(text)
    if text.startswith("~") and path.parts[0] == "~":
        # Only one's own home: `~user` and `$HOME` are names like any other, and so is `./~`.
        with suppress(RuntimeError):
            return path.expanduser()
    return path


def as_path(path: Path, *, of_folder: bool = False) -> str:
    """A relative path that is read as one: `@2x.png`, `~/x.png`, `http:x.png`, `latest` and `"x.png"` would be something else."""
    text = str(path)
    if not path.parts:
        return text
    means_else = text.startswith("@") or path.parts[0] == "~" or ":" in path.parts[0]
    means_else = means_else or text != unwrapped(text) or ("." not in text and not of_folder)
    return f".{os.sep}{text}" if means_else else text


def is_drive(text: str) -> bool:
    """Whether a path begins with a drive letter where there are none: the client runs on Windows, this server in a container."""
    return os.name != "nt" and text[:1].isalpha() and text[1:3] in (":\\", ":/")


def is_elsewhere(text: str) -> bool:
    """Whether a path can only be one of the client's own machine."""
    return is_drive(text) or any(PurePosixPath(text).is_relative_to(folder) for folder in _ELSEWHERE)


def real_path(path: Path) -> Path | None:
    """Where a path leads, or nothing if it changes while that is found out.

    Unlike `Path.resolve`, `os.path.realpath` does not raise for a loop of links, which would tell what is outside.
    """
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return None


def is_there(path: Path) -> bool:
    """Whether something is at a resolved path."""
    try:
        # What is still a link after it was resolved leads in a circle.
        return not stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def path_of(descriptor: int, opened: Path) -> Path:
    """Where an open file really is."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        pass
    if sys.platform == "darwin":  # pragma: no cover  its kernel answers directly
        import fcntl

        name = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(name.rstrip(b"\0")))
    # Elsewhere (Windows, a system without /proc) the name is resolved once more and must still lead to the same file.
    # This narrows the gap between judging and opening but cannot close it.
    real = Path(os.path.realpath(opened))
    if not os.path.samestat(real.stat(), os.fstat(descriptor)):
        raise OSError
    return real
