"""The allowed folders: which files may be read, and how to open one so that nothing can be swapped on the way.

A path is judged where it really leads: both sides resolved and compared part by part (CVE-2025-53110, CVE-2025-53109),
then the opened file once more. A hard link inside an allowed folder counts as inside: a user who could make it may read
the file anyway. A name without an exact match is compared with the names that are there, as `names` folds them.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from blip2tools.errors import NotAllowedError, NotFoundError, TooLargeError, VisionError
from blip2tools.pictures.alike import Place, look_alikes
from blip2tools.pictures.names import Likeness, distinctly, lookalikes, printably, readings, spelled, unwrapped
from blip2tools.pictures.newest import READ_FLAGS, Scan
from blip2tools.pictures.references import (
    MAX_PATH,
    as_path,
    at_home,
    has_bytes,
    is_drive,
    is_elsewhere,
    is_there,
    path_of,
    problem_of,
    real_path,
)
from blip2tools.pictures.roots import configured_roots, default_roots, labels_of
from blip2tools.schemas.shown import quoted
from blip2tools.settings import Settings, variable

MAX_SUGGESTIONS = 3
MAX_COMPARED = 2000  # newest names that a misspelt one is compared with
MAX_SHOWN = 160  # characters of one name in a question

_ADVICE = "start the server with --allow-dir FOLDER ({variable}), or pass the picture as a data: URI"


class Folders:
    """The folders that may be read from.

    Args:
        settings: `allowed_dirs`.
        trusted: any regular file may be read; relative paths start at the working directory.
        reveal: whether messages name the allowed folders in full or by their last part.

    Raises:
        InvalidInputError: none of the configured folders exists, or one may never be opened.
    """

    def __init__(self, settings: Settings, *, trusted: bool, reveal: bool) -> None:
        configured = settings.allowed_dirs
        found = default_roots() if configured is None else configured_roots(configured)
        self.roots = found.real
        self.warnings = found.warnings
        """Warnings about configured folders that do not exist."""
        self._written = found.written
        self._labels = labels_of(self.roots)
        self._trusted = trusted
        self._reveal = reveal

    def described(self) -> list[str]:
        """The allowed folders as messages name them."""
        if self._reveal:
            return [_by_part(spelled, root) for root in self.roots]
        if len(self.roots) == 1 and os.path.lexists(self.roots[0] / self.roots[0].name):
            return ["."]  # its own name would lead to what is in it
        return [_by_part(spelled, as_path(Path(name), of_folder=True)) for name in self._labels]

    def find(self, text: str, *, is_uri: bool = False, folder: bool = False) -> Path:
        """The real path of the file or folder that a caller names.

        First exactly as written, also without quotes, a link's markdown or shell escapes around it; then the one file whose
        name looks the same.

        Args:
            text: the name.
            is_uri: it comes from a `file:` address, in which nothing is expanded or unwrapped.
            folder: whether a folder is meant.

        Raises:
            InvalidInputError: not a path: control characters, or too long.
            NotAllowedError: outside the allowed folders, whether or not something is there.
            NotFoundError: inside, but nothing is there, or several things look like it.
        """
        if not self.roots and not self._trusted:
            self.locate(text)  # raises: there is none
        expand_home = not is_uri
        meant = [text] if is_uri else readings(text)
        for one in meant:
            if real := self._exactly(one, expand_home):
                return real
        for one in meant:
            fits = self._alike(one, expand_home, folder)
            if len(fits) == 1:
                return fits[0]
            if fits:
                raise self._which(text, fits)
        return self.locate(text if is_uri else unwrapped(text), expand_home=expand_home)

    def locate(self, text: str, *, expand_home: bool = True) -> Path:
        """The real path of an existing file or folder with exactly this name that may be read.

        Raises:
            VisionError: as `find`.
        """
        if real := self._exactly(text, expand_home):
            return real
        raise self._why_not(text, expand_home)

    def is_called(self, path: Path, text: str, *, is_uri: bool = False) -> bool:
        """Whether the result of `find` for a text has exactly that name."""
        return self._exactly(text, expand_home=not is_uri) == path

    def is_inside(self, path: Path) -> bool:
        """Whether a path, as written, lies in an allowed folder."""
        return any(path.is_relative_to(root) for root in self.roots)

    def below(self, path: Path) -> str:
        """A path relative to its allowed folder; its last part where it lies in none."""
        root = next((root for root in self.roots if path.is_relative_to(root)), path.parent)
        return str(path.relative_to(root))

    def judge(self, path: Path) -> Path:
        """The real path of a file that was found in a folder.

        Raises:
            NotFoundError, NotAllowedError: it is gone, or now leads outside.
        """
        real = real_path(path)
        if real is None or not self.allows(real):
            raise self._outside(str(path))
        if not is_there(real):
            is_link = os.path.islink(path)  # noqa: PTH114  it never raises
            raise NotFoundError("That is a link to something that is not there." if is_link else "That file is gone.")
        return real

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

    def newest(
        self,
        count: int,
        folder: Path | None = None,
        accepts: Callable[[Path, str], bool] | None = None,
        *,
        by_bytes: bool = True,
    ) -> Scan:
        """A scan for the newest pictures in `folder`, or in every allowed one, and in its direct subfolders."""
        scan = Scan(count, self.allows, accepts, by_bytes=by_bytes)
        scan.look((folder,) if folder else self.roots)
        return scan

    def unseen(self, scan: Scan) -> list[str]:
        """A sentence for each folder that a scan could not look into."""
        return [
            f'the folder "{printably(self.shown(folder))[:MAX_SHOWN]}" cannot be listed, so its pictures are left out'
            for folder in scan.unlisted
        ]

    def shown(self, path: Path) -> str:
        """A found file as a reference that leads back to it: in full, or relative to its allowed folder."""
        return self._leading_back(self._shown(path), path)

    def short(self, path: Path) -> str:
        """A found file as the shortest reference that leads back to it: relative to its allowed folder, if unambiguous."""
        return self._leading_back(self._short(path), path)

    def _short(self, path: Path) -> str:
        for root in self.roots:
            if path.is_relative_to(root):
                relative = path.relative_to(root)
                others = [one for one in self._candidates(str(relative), expand_home=False) if one != path]
                return self._shown(path) if any(map(os.path.lexists, others)) else as_path(relative)
        return self._shown(path)

    def _shown(self, path: Path) -> str:
        if self._reveal:
            return str(path)
        for label, root in self._labels.items():
            if path.is_relative_to(root):
                relative = path.relative_to(root)
                return as_path(relative if len(self.roots) == 1 else label / relative)
        return path.name

    def _leading_back(self, text: str, path: Path) -> str:
        told = _by_part(spelled, text)
        if told != text and self._exactly(told, expand_home=False) not in (None, path):
            return "file:" + quote(os.fsencode(text))  # another file really has this spelling as its name
        return told

    def allows(self, real: Path) -> bool:
        """Whether a real path may be read."""
        return self._trusted or any(real.is_relative_to(root) for root in self.roots)

    def _exactly(self, text: str, expand_home: bool) -> Path | None:
        """The real path of an exact match, if it exists and may be read."""
        if not text or len(text) > MAX_PATH or "\0" in text or not has_bytes(text) or self._is_foreign_share(text):
            return None
        for candidate in self._candidates(text, expand_home):
            real = real_path(candidate)
            if real and self.allows(real) and is_there(real):
                return real
        return None

    def _is_foreign_share(self, text: str) -> bool:
        """Whether this is a Windows share that is not allowed: resolving its path would already contact it, with the user's
        credentials."""
        share = text[:2].replace("\\", "/") == "//" and not self._trusted
        return share and not any(root.drive and text.lower().startswith(root.drive.lower()) for root in self.roots)

    def _candidates(self, text: str, expand_home: bool) -> Iterator[Path]:
        path = at_home(text) if expand_home else Path(text)
        if path.is_absolute():
            yield path
            return
        if self._trusted:
            yield Path.cwd() / path
        root_named = self._labels.get(path.parts[0]) if path.parts else None
        labelled = [root_named.joinpath(*path.parts[1:])] if root_named else []
        # With several folders, the name of one comes first, as `shown` writes it; with a single one, what is in it.
        yield from labelled if len(self.roots) > 1 else ()
        for root in self.roots:
            yield root / path
        yield from labelled if len(self.roots) == 1 else ()

    def _alike(self, text: str, expand_home: bool, folder: bool) -> list[Path]:
        """Files or folders that look like the text and may be read."""
        if not text.strip() or len(text) > MAX_PATH or "\0" in text or self._is_foreign_share(text):
            return []
        path = at_home(text) if expand_home else Path(text)
        return look_alikes(list(self._places(Path(os.path.normpath(path)))), self.allows, folder=folder)

    def _places(self, path: Path) -> Iterator[Place]:
        """The places to look up the parts of a path: below the allowed folder that it begins with, or below each of them."""
        if self._trusted:
            whole = Path.cwd() / path
            there = next(folder for folder in (whole, *whole.parents) if folder.is_dir() or folder == folder.parent)
            yield Place(there, whole.parts[len(there.parts) :])
        parts = path.parts
        if ".." in parts:
            return  # above its starting folder
        if path.is_absolute():
            for root in dict.fromkeys((*self.roots, *self._written)):
                if len(parts) >= len(root.parts) and all(map(_is_like, parts, root.parts)):
                    yield Place(Path(os.path.realpath(root)), parts[len(root.parts) :])
            return
        for root in self.roots:
            yield Place(root, parts)
        for label, root in self._labels.items():
            if parts and _is_like(parts[0], label):
                yield Place(root, parts[1:])

    @contextmanager
    def _opened(self, path: Path) -> Iterator[tuple[BinaryIO, int]]:
        """A regular file, judged again through its descriptor, and its size."""
        try:
            # Checked before it is opened: opening some devices has effects.
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                hint = "" if self._trusted else " list_images shows what is there."
                raise NotAllowedError("That is a folder; name a picture in it." + hint)
            if not stat.S_ISREG(mode):
                raise NotAllowedError("That is not a regular file, so it is not read.")
            with os.fdopen(os.open(path, READ_FLAGS), "rb") as file:
                status = os.fstat(file.fileno())
                # Between the judgement and the opening a part of the path may have been swapped for a link.
                if not stat.S_ISREG(status.st_mode) or not self.allows(path_of(file.fileno(), path)):
                    raise self._outside(path.name)
                yield file, status.st_size
        except PermissionError as error:
            raise NotFoundError(
                "That file exists, but this program has no permission to read it; give read access to the user that runs it."
            ) from error
        except OSError as error:
            raise NotFoundError("That file is gone or cannot be read.") from error

    # ---- why not ----

    def _why_not(self, text: str, expand_home: bool) -> VisionError:
        if problem := problem_of(text):
            return problem
        if not self.roots and not self._trusted:
            return NotAllowedError(
                "No folder is open to this server, so it cannot read local files; "
                + _ADVICE.format(variable=variable("allowed_dirs"))
                + "."
            )
        if self._is_foreign_share(text):
            return self._outside(text)
        inside: Path | None = None
        outside = False
        for candidate in self._candidates(text, expand_home):
            real = real_path(candidate)
            if real and self.allows(real):
                inside = inside or real
            else:
                outside = True
        if self._trusted or (inside and not outside):
            return self._missing(text, inside or Path(text))
        return self._outside(text)

    def _outside(self, text: str) -> NotAllowedError:
        """One sentence for everything outside, there or not, so that it tells nothing about what exists."""
        if is_elsewhere(text):
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
        names = [printably(name) for name in self.described()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f" ({', '.join(names[:5])}{more})"

    def _which(self, text: str, fits: Sequence[Path]) -> NotFoundError:
        """The question which of several files is meant, with names that show the difference and lead back to them."""
        names = [self._short(path) for path in fits[:MAX_SUGGESTIONS]]
        told = ", ".join(f'"{_within(_by_part(distinctly, name))}"' for name in names)
        more = f" and {len(fits) - len(names)} more" if len(fits) > len(names) else ""
        legend = "; ".join(lookalikes(names)[:4])
        return NotFoundError(
            f"No file is called exactly {quoted(text)}, and several look like it: {told}{more}. Name one of them as it is "
            f"written here{f' ({legend})' if legend else ''}."
        )

    def _missing(self, text: str, real: Path) -> NotFoundError:
        if self._trusted and is_elsewhere(text):
            return NotFoundError(f"There is no file {quoted(text)}; such paths belong to a chat client's own machine.")
        if is_drive(text):
            return NotFoundError(
                f"There is no file {quoted(text)}; a drive letter belongs to another machine than this server's, or to the host "
                f"outside its container. Pass the picture as a data: URI, or copy it into an allowed folder{self._named()}."
            )
        near = self._near(real)
        hint = f"did you mean {' or '.join(near)}?" if near else "list_images shows what is there."
        if self._trusted:  # a person, who has better ways to list a folder
            return NotFoundError(f"There is no file {quoted(text)}" + (f"; {hint}" if near else "."))
        where = " in the allowed folders" + ("" if near else self._named())
        return NotFoundError(f"There is no file {quoted(text)}{where}; {hint}")

    def _near(self, missing: Path) -> Sequence[str]:
        """References to pictures next to it, or in the allowed folders, whose names resemble the one not found."""
        by_name: dict[str, Path] = {}
        for folder in (missing.parent, None):
            for found in self.newest(MAX_COMPARED, folder, by_bytes=False).newest():
                by_name.setdefault(printably(found.name).lower(), found.path)
        near = difflib.get_close_matches(printably(missing.name).lower(), list(by_name)[:MAX_COMPARED], MAX_SUGGESTIONS)
        return [f'"{_within(printably(self.shown(by_name[name])))}"' for name in near]


def _is_like(written: str, name: str) -> bool:
    likeness = Likeness(written)
    return likeness.is_same(name) or likeness.is_like(name)


def _within(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN // 2 - 1]}…{text[-MAX_SHOWN // 2 :]}"


def _by_part(spell: Callable[[str], str], path: Path | str) -> str:
    """A path with each part spelled by itself: parts are compared one by one."""
    separator = os.sep
    return separator.join(map(spell, str(path).split(separator)))
