"""The allowed folders: which files may be read, and how to open one so that nothing can be swapped on the way.

A path is judged where it really leads: both sides resolved and compared part by part (CVE-2025-53110, CVE-2025-53109),
then the opened file once more. A hard link inside an allowed folder counts as inside: whoever could make it may read
the file anyway.
"""

from __future__ import annotations

import difflib
import itertools
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from blip2tools.call import STOP
from blip2tools.errors import InvalidInputError, NotAllowedError, NotFoundError, TooLargeError
from blip2tools.schemas.plain import quoted
from blip2tools.settings import Settings, variable

logger = logging.getLogger(__name__)

MAX_PATH = 4096
MAX_NAME_BYTES = 255
MAX_ENTRIES = 20_000  # directory entries looked at for one listing
MAX_SUGGESTIONS = 3

# O_NONBLOCK: a FIFO with no writer must not hang the call. Flags that a system does not know count as 0.
_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
    _FLAGS |= getattr(os, _name, 0)

_SYSTEM = (Path("/proc"), Path("/sys"))
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIC": (".heic", ".heif", ".hif"),
}
# Where chat clients keep uploads on their own machines, which a tool's server cannot see.
_ELSEWHERE = ("/mnt/user-data", "/mnt/data", "/home/claude", "/home/oai", "/tmp/outputs")  # noqa: S108  compared only

_ADVICE = "start the server with --allow-dir FOLDER ({variable}), or pass the picture as a data: URI"


@dataclass(frozen=True, slots=True)
class Found:
    """A file with a picture's suffix in an allowed folder; its content has not been looked at."""

    path: Path
    size: int
    modified: float
    """Seconds since 1970."""


class Folders:
    """The folders that may be read from.

    Args:
        settings: `allowed_dirs` and `formats`.
        trusted: any regular file may be read; relative paths start at the working directory.
        reveal: whether messages name the allowed folders in full or by their last part.

    Raises:
        InvalidInputError: a configured folder does not exist or may never be opened.
    """

    def __init__(self, settings: Settings, *, trusted: bool, reveal: bool) -> None:
        configured = settings.allowed_dirs
        self.roots = _default_roots() if configured is None else tuple(_checked(path) for path in configured)
        self._labels = _labels(self.roots)
        self._trusted = trusted
        self._reveal = reveal
        self._suffixes = tuple(suffix for name in settings.formats for suffix in _SUFFIXES[name])
        for root in self.roots:
            if os.name != "nt" and root.stat().st_mode & stat.S_IWOTH:
                logger.warning("anybody on this machine can put files into the allowed folder %s", root)

    def described(self) -> list[str]:
        """The allowed folders as messages name them."""
        if self._reveal:
            return [str(root) for root in self.roots]
        if len(self.roots) == 1 and os.path.lexists(self.roots[0] / self.roots[0].name):
            return ["."]  # its own name would lead to what is in it
        return [_as_path(Path(name)) for name in self._labels]

    def locate(self, text: str, *, expand_home: bool = True) -> Path:
        """The real path of an existing file or folder that `text` names and that may be read.

        Raises:
            InvalidInputError: no path at all: control characters, or too long.
            NotAllowedError: outside the allowed folders, whether or not something is there.
            NotFoundError: inside, but nothing is there.
        """
        _check_text(text)
        if not self.roots and not self._trusted:
            raise NotAllowedError(
                "No folder is open to this server, so it cannot read local files; "
                + _ADVICE.format(variable=variable("allowed_dirs"))
                + "."
            )
        # A Windows share is contacted, with the user's credentials, as soon as its path is resolved.
        share = text[:2].replace("\\", "/") == "//" and not self._trusted
        if share and not any(root.drive and text.lower().startswith(root.drive.lower()) for root in self.roots):
            raise self._outside(text)
        inside: Path | None = None
        outside = False
        for candidate in self._candidates(text, expand_home):
            real = _real(candidate)
            if real and self._allows(real):
                if _exists(real):
                    return real
                inside = inside or real
            else:
                outside = True
        if self._trusted or (inside and not outside):
            raise self._missing(text, inside or Path(text))
        raise self._outside(text)

    def read(self, path: Path, limit: int) -> bytes:
        """All bytes of a located file, at most `limit`.

        Raises:
            NotAllowedError: not a regular file, or no longer the one that was judged.
            NotFoundError: gone or unreadable.
            TooLargeError: longer than `limit`.
        """
        with self._opened(path) as (file, size):
            # A file may grow meanwhile: never more than was judged, plus one.
            data = b"" if size > limit else file.read(size + 1)
        if max(size, len(data)) > limit:
            raise TooLargeError(f"The file is above the limit of {limit:,} bytes; make it smaller first.")
        return data

    def head(self, path: Path, count: int) -> bytes:
        """The first `count` bytes of a located file; raises as `read` does."""
        with self._opened(path) as (file, _):
            return file.read(count)

    def pictures(self, folder: Path | None = None) -> tuple[list[Found], bool]:
        """Files with a picture's suffix in `folder`, or in every allowed one, and in its direct subfolders.

        Newest first, and whether the search ended early at its limit of entries. Hidden names are left out.
        """
        budget = _Budget(MAX_ENTRIES)
        found: dict[Path, Found] = {}
        for root in (folder,) if folder else self.roots:
            subfolders: list[Path] = []
            self._scan(root, budget, found, subfolders.append)
            for subfolder in sorted(subfolders):
                self._scan(subfolder, budget, found, None)
        newest = sorted(found.values(), key=lambda one: (-one.modified, str(one.path)))
        return newest, budget.spent

    def shown(self, path: Path) -> str:
        """A found file as a reference that leads back to it: in full, or from its allowed folder on."""
        if self._reveal:
            return str(path)
        for label, root in self._labels.items():
            if path.is_relative_to(root):
                relative = path.relative_to(root)
                return _as_path(relative if len(self.roots) == 1 else label / relative)
        return path.name

    def short(self, path: Path) -> str:
        """A found file as the shortest reference that leads back to it: from its allowed folder on, if that leads to no other."""
        for root in self.roots:
            if path.is_relative_to(root):
                relative = path.relative_to(root)
                others = [one for one in self._candidates(str(relative), expand_home=False) if one != path]
                return self.shown(path) if any(map(os.path.lexists, others)) else _as_path(relative)
        return self.shown(path)

    def _allows(self, real: Path) -> bool:
        return self._trusted or any(real.is_relative_to(root) for root in self.roots)

    def _candidates(self, text: str, expand_home: bool) -> Iterator[Path]:
        path = Path(text)
        if expand_home and text.startswith("~") and path.parts[0] == "~":
            # Only one's own home: `~user` and `$HOME` are names like any other, and so is `./~`.
            with suppress(RuntimeError):
                path = path.expanduser()
        if path.is_absolute():
            yield path
            return
        if self._trusted:
            yield Path.cwd() / path
        root_named = self._labels.get(path.parts[0]) if path.parts else None
        labelled = [root_named.joinpath(*path.parts[1:])] if root_named else []
        # Among several folders the name of one comes first, as `shown` writes it; of only one, what is in it.
        yield from labelled if len(self.roots) > 1 else ()
        for root in self.roots:
            yield root / path
        yield from labelled if len(self.roots) == 1 else ()

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[BinaryIO, int]]:
        """A regular file, judged again through its descriptor, and its size."""
        try:
            # Looked at before it is opened: opening some devices does something.
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                hint = "" if self._trusted else " list_images shows what is there."
                raise NotAllowedError("That is a folder; name a picture in it." + hint)
            if not stat.S_ISREG(mode):
                raise NotAllowedError("That is not a regular file, so it is not read.")
            with os.fdopen(os.open(path, _FLAGS), "rb") as file:
                status = os.fstat(file.fileno())
                # Between the judgement and the opening a part of the path may have been swapped for a link.
                if not stat.S_ISREG(status.st_mode) or not self._allows(_path_of(file.fileno(), path)):
                    raise self._outside(path.name)
                yield file, status.st_size
        except OSError as error:
            raise NotFoundError("That file is gone or cannot be read.") from error

    def _scan(
        self, folder: Path, budget: _Budget, found: dict[Path, Found], descend: Callable[[Path], None] | None
    ) -> None:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    STOP.get().check()
                    if budget.take():
                        return
                    if entry.name.startswith("."):
                        continue
                    path = folder / entry.name
                    if descend and entry.is_dir(follow_symlinks=False):
                        descend(path)
                    elif entry.name.lower().endswith(self._suffixes) and (one := self._found(path)):
                        found[path] = one
        except OSError as error:
            logger.debug("a folder could not be listed: %s", error)

    def _found(self, path: Path) -> Found | None:
        real = _real(path)
        if not real or not self._allows(real):
            return None
        try:
            status = real.lstat()
        except OSError:
            return None
        return Found(path, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def _outside(self, text: str) -> NotAllowedError:
        """One sentence for everything outside, there or not, so that it tells nothing about what exists."""
        if _is_elsewhere(text):
            return NotAllowedError(
                "That path is on another machine (the chat client's own), which this server cannot see; pass the "
                "picture as a data: URI, or copy it into an allowed folder of this machine" + self._named() + "."
            )
        return NotAllowedError(
            "That path is outside the folders that may be read"
            + self._named()
            + "; copy the picture there, or "
            + _ADVICE.format(variable=variable("allowed_dirs"))
            + "."
        )

    def _named(self) -> str:
        names = self.described()
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f" ({', '.join(names[:5])}{more})"

    def _missing(self, text: str, real: Path) -> NotFoundError:
        if self._trusted and _is_elsewhere(text):
            return NotFoundError(f"There is no file {quoted(text)}; such paths belong to a chat client's own machine.")
        if _is_elsewhere(text):
            return NotFoundError(
                f"There is no file {quoted(text)} here: that path belongs to another machine. Copy the picture into an "
                f"allowed folder of this one{self._named()}, or pass it as a data: URI."
            )
        near = self._near(real)
        hint = f"did you mean {' or '.join(map(quoted, near))}?" if near else "list_images shows what is there."
        if self._trusted:  # a person's own words, who has better ways to list a folder
            return NotFoundError(f"There is no file {quoted(text)}" + (f"; {hint}" if near else "."))
        where = " in the allowed folders" + ("" if near else self._named())
        return NotFoundError(f"There is no file {quoted(text)}{where}; {hint}")

    def _near(self, missing: Path) -> Sequence[str]:
        """References of pictures beside it, or in the allowed folders, whose names resemble the one not found."""
        by_name: dict[str, Path] = {}
        for found in (*self.pictures(missing.parent)[0], *self.pictures()[0]):
            if found.path.name.isprintable():  # in a message it would not lead back: `printable` changes it
                by_name.setdefault(found.path.name.lower(), found.path)
        near = difflib.get_close_matches(missing.name.lower(), list(by_name)[:2000], MAX_SUGGESTIONS)
        return [self.shown(by_name[name]) for name in near]


class _Budget:
    def __init__(self, entries: int) -> None:
        self._left = entries
        self.spent = False

    def take(self) -> bool:
        """Count one entry; true when there is none left to count."""
        self.spent = self._left <= 0
        self._left -= 1
        return self.spent


def _check_text(text: str) -> None:
    """Refuses what no file system takes, before one is asked: its errors differ and some are no OSError."""
    if len(text) > MAX_PATH:
        raise InvalidInputError(f"The path is longer than {MAX_PATH} characters.")
    # "Cs" are lone surrogates, which have no bytes; control characters would end up in logs and terminals.
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise InvalidInputError("The path holds control characters or undecodable ones; pass it as it is on the disk.")
    if any(len(part.encode()) > MAX_NAME_BYTES for part in text.replace("\\", "/").split("/")):
        raise InvalidInputError(f"A part of the path is longer than {MAX_NAME_BYTES} bytes.")


def _checked(path: Path) -> Path:
    """A configured folder, resolved."""
    try:
        real = Path(os.path.realpath(path.expanduser()))
        exists = real.is_dir()
    except (OSError, ValueError, RuntimeError):
        exists = False
    if not exists:
        raise InvalidInputError(f"The allowed folder {quoted(str(path), 200)} does not exist.")
    # Below these lie devices, other processes' memory and everything else; one link in a reference would reach it all.
    if real in (Path(real.anchor), Path("/dev")) or any(real.is_relative_to(system) for system in _SYSTEM):
        raise InvalidInputError(
            f"The folder {quoted(str(path), 200)} cannot be opened to tools; name one with pictures."
        )
    return real


def _default_roots() -> tuple[Path, ...]:
    """The working directory, unless a client started the server in `/` or somebody's home."""
    try:
        here = Path(os.path.realpath(Path.cwd()))
        home = Path(os.path.realpath(Path.home()))
    except (OSError, RuntimeError):
        return ()
    of_people = here.parent.name.lower() in ("home", "users") and len(here.parts) == 3
    if home.is_relative_to(here) or of_people or here == Path("/root"):
        return ()
    try:
        return (_checked(here),)
    except InvalidInputError:
        return ()


def _labels(roots: Sequence[Path]) -> dict[str, Path]:
    """Folders by the last part of their paths; where several have the same, those after the first are numbered."""
    labels: dict[str, Path] = {}
    names = {root.name for root in roots}
    for root in roots:
        numbered = (f"{root.name}-{number}" for number in itertools.count(2))
        free = (label for label in numbered if label not in labels and label not in names)
        labels[next(free) if root.name in labels else root.name] = root
    return labels


def _as_path(path: Path) -> str:
    """A relative path that is read as one: `@2x.png`, `~/x.png` and `http:x.png` would be something else."""
    text = str(path)
    means_else = text.startswith("@") or path.parts[0] == "~" or ":" in path.parts[0]
    return f".{os.sep}{text}" if means_else else text


def _is_elsewhere(text: str) -> bool:
    # A drive letter where there are none: the client runs on Windows, and this server beside it or in a container.
    if os.name != "nt" and text[:1].isalpha() and text[1:3] in (":\\", ":/"):
        return True
    return any(PurePosixPath(text).is_relative_to(folder) for folder in _ELSEWHERE)


def _real(path: Path) -> Path | None:
    """Where a path leads, or nothing if it changes while that is found out.

    Unlike `Path.resolve`, `os.path.realpath` does not raise for a loop of links, which would tell what is outside.
    """
    try:
        return Path(os.path.realpath(path))
    except OSError:
        return None


def _exists(path: Path) -> bool:
    try:
        # What is still a link after it was resolved leads in a circle.
        return not stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        return False


def _path_of(descriptor: int, opened: Path) -> Path:
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
