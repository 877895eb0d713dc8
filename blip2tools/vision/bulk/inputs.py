"""From what somebody names to pictures: folders, patterns, lists of paths; and the share of them that is this process's."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

from blip2tools.errors import InvalidInputError
from blip2tools.pictures import signs
from blip2tools.schemas.shown import printable

LIST_ENDINGS: Final = (".txt", ".lst", ".list")
STANDARD_INPUT: Final = "-"
_ADDRESS = re.compile(r"(?:https?|file|data):", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")
_SHARD = re.compile(r"(\d{1,9})/(\d{1,9})")
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares, which together hold every picture once. Where a picture belongs depends on its name alone."""

    number: int  # from 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share that `2/8` names.

        Raises:
            InvalidInputError: it names none.
        """
        match = _SHARD.fullmatch(text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InvalidInputError("A shard is written i/n with i from 1 to n, such as 1/4 and, as the last one, 4/4.")
        return cls(int(match[1]), int(match[2]))

    def holds(self, source: str) -> bool:
        """Whether a picture belongs to this share."""
        digest = hashlib.blake2b(os.fsencode(source), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(slots=True)
class Listing:
    """Pictures in a fixed order, each once.

    Attributes:
        sources: paths as they were spelled, and addresses.
        unlisted: folders that could not be read.
    """

    sources: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


def list_pictures(inputs: Sequence[str], *, lines: IO[bytes], shard: Shard | None = None) -> Listing:
    """The pictures that the inputs name, in the order of the inputs.

    A folder stands for every picture in it and below it, those of a folder by name and before those of its subfolders; a file
    counts as a picture by its name or its first bytes, and hidden files do not count. A pattern (`photos/**/*.jpg`) stands
    for the pictures that fit it, by name. A list (`.txt`, `.lst`, `.list`, or `-` for standard input) holds a path or an
    address in each line, or paths that end in a zero byte. Anything else is one picture, which need not be there.

    Args:
        inputs: what was named.
        lines: standard input.
        shard: the share to keep.

    Raises:
        InvalidInputError: a list cannot be read, or nothing fits a pattern.
    """
    listing = Listing()
    seen: set[str] = set()
    may_repeat = len(inputs) > 1 or not Path(inputs[0]).is_dir()
    for source in _named(inputs, lines, listing.unlisted):
        if may_repeat:
            known = key_of(source)
            if known in seen:
                continue
            seen.add(known)
        if shard is None or shard.holds(source):
            listing.sources.append(source)
    return listing


def is_address(source: str) -> bool:
    """Whether a source is an address, and no path."""
    return _ADDRESS.match(source) is not None


def key_of(source: str, folder: str | None = None) -> str:
    """What two spellings of one source have in common.

    Args:
        source: a path or an address.
        folder: that a path is relative to; the working directory by default.
    """
    if is_address(source):
        return source
    return str(Path(folder or Path.cwd(), source))


def _named(inputs: Iterable[str], lines: IO[bytes], unlisted: list[str]) -> Iterator[str]:
    for one in inputs:
        path = Path(one)
        if one == STANDARD_INPUT:
            yield from _listed(lines.read(), unlisted)
        elif is_address(one):
            yield one
        elif path.suffix.lower() in LIST_ENDINGS and path.is_file():
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InvalidInputError(f"The list {printable(one, _SHOWN)} cannot be read.") from error
            yield from _listed(data, unlisted)
        elif _WILD.search(one) and not os.path.lexists(one):
            yield from _fitting(one, unlisted)
        else:
            yield from _pictures_at(one, unlisted)


def _listed(data: bytes, unlisted: list[str]) -> Iterator[str]:
    ends = b"\0" if b"\0" in data else b"\n"
    for line in data.removeprefix(b"\xef\xbb\xbf").split(ends):
        entry = os.fsdecode(line if ends == b"\0" else line.removesuffix(b"\r"))
        if not entry.strip():
            continue
        if is_address(entry):
            yield entry
        else:
            yield from _pictures_at(str(Path(entry).expanduser()), unlisted)


def _fitting(pattern: str, unlisted: list[str]) -> Iterator[str]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  `Path.glob` takes no absolute pattern
    if not found:
        raise InvalidInputError(f"No file or folder fits {printable(pattern, _SHOWN)}.")
    for one in found:
        if Path(one).is_dir():
            # `**` fits the folders on the way, whose files it fits too.
            if not pattern.rstrip("/\\").endswith("**"):
                yield from _walk(one, unlisted)
        elif _is_picture(one):
            yield str(Path(one))


def _pictures_at(one: str, unlisted: list[str]) -> Iterator[str]:
    path = Path(one)
    if path.is_dir():
        yield from _walk(str(path), unlisted)
    else:
        yield str(path)


def _walk(folder: str, unlisted: list[str]) -> Iterator[str]:
    def missed(error: OSError) -> None:
        unlisted.append(os.fsdecode(error.filename))

    for root, folders, files in os.walk(folder, onerror=missed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(root, name)  # noqa: PTH118  a Path for each of a million files takes seconds
            if not name.startswith(".") and _is_picture(path):
                yield path.removeprefix(f".{os.sep}")


def _is_picture(path: str) -> bool:
    """Whether a file is called like a picture or begins like one; a link counts by its name, wherever it leads."""
    named = signs.in_name(os.path.basename(path))  # noqa: PTH119  as above
    if named and os.path.islink(path):  # noqa: PTH114
        return True
    if not os.path.isfile(path):  # noqa: PTH113  pipes would wait for ever
        return False
    if named:
        return True
    try:
        with Path(path).open("rb") as file:
            return signs.in_bytes(file.read(signs.HEAD_BYTES))
    except OSError:
        return False
