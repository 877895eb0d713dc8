"""What kind of reference a text is: decided once, by how it begins, and without touching anything that it names."""

from __future__ import annotations

import os
import re
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
    """A reference without the `@` that chat clients put before a file, nor what is written around anything but a file.

    Around a file's name it stays: a file may be called so, and what it is called comes first.
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
    """The handle that a reference is, in the form of the store."""
    handle = HANDLE.fullmatch(bare(reference))
    return handle and handle[1]


def place_of(reference: str) -> Place:
    """Where the bytes behind a reference come from, and so what they may make one wait for; memory counts as a file."""
    reference = bare(reference)
    if reference[:8].lower().startswith(("http:", "https:")):
        return "address"
    return "folder" if is_latest(reference) else "file"


def path_of_uri(uri: str) -> str:
    """The path of a `file:` URI (RFC 8089), percent-decoded once; those of Windows in its own form, `C:/...`.

    Raises:
        NotAllowedError: it is of another machine.
        InvalidInputError: it names nothing.
    """
    rest = uri[5:]
    drive = _WINDOWS.match(rest) or _WINDOWS.match(os.fsdecode(unquote_to_bytes(rest[:16])))
    if drive is None and rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost", "127.0.0.1"):
            raise NotAllowedError("A file: address of another machine is not read; its path must follow file:///.")
        rest = slash + path
        drive = _WINDOWS.match(rest) or _WINDOWS.match(os.fsdecode(unquote_to_bytes(rest[:16])))
    # Bytes that are no UTF-8 are a name's own (PEP 383): whether there is such a file, is asked of the folder.
    rest = os.fsdecode(unquote_to_bytes(rest))
    if drive is not None:
        rest = rest.lstrip("\\/")
        rest = f"{rest[0]}:{rest[2:]}"
    if not rest:
        raise InvalidInputError("The file: address names no file; it must look like file:///folder/picture.jpg.")
    return rest
