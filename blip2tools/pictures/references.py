"""Kinds of references, and what can be said about a path without knowing which folders are allowed.

The kind is decided once, by how the text begins, and without accessing anything that it names.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias
from urllib.parse import unquote_to_bytes

from blip2tools.errors import InvalidInputError, NotAllowedError
from blip2tools.pictures.names import unwrapped

Place: TypeAlias = Literal["file", "folder", "address"]

HANDLE = re.compile(r"(?:blip2://images/)?(img_[0-9a-f]{16})")  # also as the address of its resource
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two characters at least: `C:` is a drive
# Names that chat clients and browsers give to files of their own: sandbox:/mnt/data/x.png, file-service://file-1, ...
OF_CLIENTS = frozenset({"sandbox", "attachment", "file-service", "blob", "content", "cid"})

_MAY_BE_WRAPPED = 2**12  # characters; what is longer can only be a picture's data with something around it
_BEFORE_DATA, _AFTER_DATA = "![<\"'` \t\r\n", ")>\"'` \t\r\n"
_OTHER_THAN_A_FILE = re.compile(r"(?:https?|data|file|blip2):", re.I)
_WINDOWS = re.compile(r"[\\/]*([A-Za-z])[:|](?=[\\/]|$)")


def bare(reference: str) -> str:
    """A reference without the `@` that chat clients put before a file, and without quotes or markup around it.

    Quotes and markup around a file's name stay: they may belong to it, and an exact name comes first.
    """
    reference = reference[1:] if reference.startswith("@") else reference
    if reference[:5].lower() == "data:":
        return reference
    if len(reference) > _MAY_BE_WRAPPED:
        begun = reference[:_MAY_BE_WRAPPED].find("data:")
        is_wrapped = begun > 0 and reference[0] in _BEFORE_DATA
        return reference[begun:].rstrip(_AFTER_DATA) if is_wrapped else reference
    inner = unwrapped(reference)
    means_else = is_latest(inner) or HANDLE.fullmatch(inner) or _OTHER_THAN_A_FILE.match(inner)
    return inner if means_else else reference


def is_latest(reference: str) -> bool:
    """Whether this asks for the newest picture."""
    return len(reference) == 6 and reference.casefold() == "latest"


def handle_in(reference: str) -> str | None:
    """The handle that a reference stands for, in the form of the store."""
    handle = HANDLE.fullmatch(bare(reference))
    return handle and handle[1]


def place_of(reference: str) -> Place:
    """The place that the bytes of a reference come from, which tells how slow they may be; memory counts as a file."""
    reference = bare(reference)
    if reference[:8].lower().startswith(("http:", "https:")):
        return "address"
    return "folder" if is_latest(reference) else "file"


def path_of_uri(uri: str) -> str:
    """The path of a `file:` URI (RFC 8089), percent-decoded once; those of Windows in its own form, `C:/...`.

    Raises:
        NotAllowedError: it is on another machine.
        InvalidInputError: it names nothing.
    """
    rest = uri[5:]
    drive = _WINDOWS.match(rest) or _WINDOWS.match(_decoded(rest[:16]))
    if drive is None and rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost", "127.0.0.1"):
            raise NotAllowedError("A file: address of another machine is not read; its path must follow file:///.")
        rest = slash + path
        drive = _WINDOWS.match(rest) or _WINDOWS.match(_decoded(rest[:16]))
    # Bytes that are not UTF-8 may belong to a name (PEP 383): the folder tells whether there is such a file.
    rest = _decoded(rest)
    if drive is not None:
        rest = rest.lstrip("\\/")
        rest = f"{rest[0]}:{rest[2:]}"
    if not rest:
        raise InvalidInputError("The file: address names no file; it must look like file:///folder/picture.jpg.")
    return rest


def _decoded(text: str) -> str:
    """Percent-decoded once. A reference may hold halves of surrogate pairs: they are refused later, as part of a path."""
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(text)))
    except UnicodeEncodeError:
        return text


MAX_PATH = 4096
MAX_NAME_BYTES = 255

# Where chat clients keep uploads on their own machines, which a tool's server cannot see.
_ELSEWHERE = ("/mnt/user-data", "/mnt/data", "/home/claude", "/home/oai", "/tmp/outputs")  # noqa: S108  compared only


def problem_of(text: str) -> InvalidInputError | None:
    """Why a text that names nothing cannot be a path."""
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
    """A path with `~` expanded to the user's own home."""
    path = Path(text)
    if text.startswith("~") and path.parts[0] == "~":
        # Only the user's own home: `~user` and `$HOME` are names like any other, and so is `./~`.
        with suppress(RuntimeError):
            return path.expanduser()
    return path


def as_path(path: Path, *, of_folder: bool = False) -> str:
    """A relative path, with `./` where it would mean something else: `@2x.png`, `~/x.png`, `http:x.png`, `latest`, `"x.png"`."""
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
    """Whether a path can only be on the client's own machine."""
    return is_drive(text) or any(PurePosixPath(text).is_relative_to(folder) for folder in _ELSEWHERE)


def real_path(path: Path) -> Path | None:
    """The target of a path, or `None` if it changes meanwhile.

    Unlike `Path.resolve`, `os.path.realpath` does not raise for a loop of links, which would reveal what is outside.
    """
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return None


def is_there(path: Path) -> bool:
    """Whether something is at a resolved path."""
    try:
        # A path that is still a link after it was resolved is a loop.
        return not stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def path_of(descriptor: int, opened: Path) -> Path:
    """The real path of an open file."""
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
