"""Resolution of references to bytes: a path, `file:`, `data:`, http(s), a handle of an earlier result, or `latest`.

The kind of a reference is decided once, by how it begins; nothing falls through from one kind to another.
"""

from __future__ import annotations

import binascii
import fnmatch
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from blip2tools.call import STOP
from blip2tools.errors import (
    CancelledError,
    CorruptImageError,
    DeadlineError,
    FetchFailedError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedImageError,
    VisionError,
)
from blip2tools.pictures.folders import Folders
from blip2tools.pictures.names import fold, printably
from blip2tools.pictures.newest import SCAN_S, Found
from blip2tools.pictures.records import Facts, ListedImage, Listing, Newest, Source, UnreadFile
from blip2tools.pictures.references import HANDLE, MAX_PATH, OF_CLIENTS, SCHEME, bare, is_latest, path_of_uri
from blip2tools.pictures.store import Remembered, Store, handle_of
from blip2tools.schemas.shown import printable, quoted
from blip2tools.settings import Settings, variable

MAX_REFERENCE = 8192  # for everything but a data: URI
MAX_LABEL = 200
MAX_SCHEME = 40  # characters of one that a message repeats
MAX_DATA_HEADER = 256
LISTING_S = 10.0  # for the headers of one listing: files made to be slow must not hold up others longer
HEAD_BYTES = 256 * 2**10  # enough for the header of nearly every picture
FUTURE_S = 86_400  # a modification time further ahead means a wrong clock

_DATA = re.compile(
    r'(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=(?:"[^"]*"|[\w.+:-]*))*(?P<coding>;base64)?', re.ASCII | re.I
)
_LINE_END = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_URL_SAFE = str.maketrans("-_", "+/")
_BARE_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{16,}={0,2}|[A-Za-z0-9+/\s]{256,}={0,2}")


def no_picture_there(settings: Settings) -> FetchFailedError:
    """One sentence for every page, text or damaged file: an address must not serve to learn what is behind it."""
    return FetchFailedError(
        f"The address did not answer with a picture that can be read ({', '.join(settings.formats)}); "
        "use the address of the image file itself."
    )


class Sources:
    """Reads references under the rules of the settings. Safe to use from several threads.

    Args:
        settings: allowed folders, limits, and whether URLs may be fetched.
        store: the pictures behind handles.
        size_of: judges a picture by its header, as `images.size_of`, but in a process that may crash.
        trusted: the references come from a Python program's own author: any regular file may be read, unless the
            settings name allowed folders. `folders` then only serves `latest`, bare names and listings.
        reveal_folders: whether messages name the allowed folders in full, or by their last part.
        remembered: files behind the handles of earlier processes.

    Raises:
        InvalidInputError: a configured folder does not exist or may never be opened.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        size_of: Callable[[bytes], tuple[int, int]],
        trusted: bool = False,
        reveal_folders: bool = True,
        remembered: Remembered | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._remembered = remembered
        self._size_of = size_of
        self._trusted = trusted
        self._folders = Folders(
            settings, trusted=trusted and settings.allowed_dirs is None, reveal=reveal_folders or trusted
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The allowed folders, resolved."""
        return self._folders.roots

    def searched(self, folder: str | None) -> tuple[Path, ...]:
        """The real path of a folder, or of every allowed one.

        Raises:
            VisionError: as `list_images`.
        """
        path = self._folder(folder)
        return self._folders.roots if path is None else (path,)

    def allows(self, real: Path) -> bool:
        """Whether a real path may be read."""
        return self._folders.allows(real)

    def is_inside(self, real: Path) -> bool:
        """Whether a real path lies in one of the allowed folders."""
        return self._folders.is_inside(real)

    def file_of(self, reference: str) -> Path | None:
        """The file that a reference leads to, if it is one that may be read."""
        if handle := HANDLE.fullmatch(bare(reference)):
            return self._store.path(handle[1])
        with suppress(VisionError):
            if is_latest(bare(reference)):
                return self._folders.judge(self.newest(reference).path)
            if reference[:5].lower() == "file:":
                return self._folders.find(path_of_uri(reference), is_uri=True)
            return self._folders.find(bare(reference)[: MAX_REFERENCE + 1])
        return None

    def shown(self, path: Path) -> str:
        """A found file as a reference that leads back to it."""
        return self._folders.shown(path)

    def found(self, path: Path) -> Path:
        """The real path of a file that was found in a folder, judged anew; raises as `read_found`."""
        return self._folders.judge(path)

    def read_found(self, path: Path) -> bytes:
        """The bytes of a file that was found in a folder, judged anew.

        Raises:
            VisionError: it has gone, leads outside by now, is too large or empty.
        """
        data = self._folders.read(self._folders.judge(path), self._settings.max_image_bytes)
        if not data:
            raise CorruptImageError("The picture is empty: it has no bytes.")
        return data

    def described_folders(self) -> list[str]:
        """The allowed folders as a result may name them."""
        return self._folders.described()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about allowed folders that do not exist."""
        return self._folders.warnings

    def read(self, reference: str) -> Source:
        """The bytes behind a reference.

        Raises:
            InvalidInputError: not a reference.
            NotAllowedError: outside the allowed folders or addresses, or not a regular file.
            NotFoundError: no such file, or a handle that is no longer kept.
            TooLargeError: more bytes than `settings.max_image_bytes`.
            UnsupportedImageError: a data: URI that declares something other than a picture.
            CorruptImageError: no bytes at all.
            FetchFailedError, DeadlineError: an address that does not answer with a picture in time.
        """
        reference = bare(reference)
        if is_latest(reference):
            return self.read_newest(self.newest(reference))
        is_data = reference[:5].lower() == "data:"
        source = self._data(reference, 5) if is_data else self._named(reference[: MAX_REFERENCE + 1])
        if not source.data:
            raise CorruptImageError("The picture is empty: it has no bytes.")
        return source

    def newest(self, reference: str = "latest") -> Newest:
        """The newest picture in the allowed folders and their direct subfolders, whether or not it can be read.

        Args:
            reference: `latest`, as written: a file with that name comes first, except for the plain word itself.

        Raises:
            NotFoundError: there is none.
            NotAllowedError: no folder is allowed.
            DeadlineError: there are too many files to scan in time.
        """
        self._folder(None)
        if bare(reference) != "latest":
            with suppress(VisionError):
                path = self._folders.locate(bare(reference))
                return Newest(path, self._folders.short(path))
        scan = self._folders.newest(1)
        unseen = tuple(self._folders.unseen(scan))
        if scan.is_cut:
            raise DeadlineError(
                f"There are more files in the allowed folders than can be looked at in {SCAN_S:g} s, so the newest is not known; "
                "name the picture, or a smaller folder to list_images."
            )
        found = scan.newest()
        if not found:
            missing = "".join(f"; {one}" for one in (*self.warnings, *unseen)[:2])
            raise NotFoundError(f"There is no picture in the allowed folders or their direct subfolders{missing}.")
        name = printably(self._folders.short(found[0].path))
        ahead = found[0].modified_ns / 1e9 - time.time()
        wrong = f"the modification time of {name} is in the future, so others may be newer"
        warnings = (*self.warnings, *unseen, *((wrong,) if ahead > FUTURE_S else ()))
        return Newest(found[0].path, name, warnings, "" if self._trusted else " list_images names the others.")

    def read_newest(self, newest: Newest) -> Source:
        """The bytes of the file that `newest` found.

        Raises:
            VisionError: as `read`; the sentence names the file.
        """
        try:
            data = self._folders.read(self._folders.judge(newest.path), self._settings.max_image_bytes)
            if not data:
                raise CorruptImageError(
                    "It is empty, it has no bytes. If it is still being written, call again in a moment."
                )
        except VisionError as error:
            raise newest.failed(error) from error
        return Source(data, _shortened(f"latest ({newest.name})"), path=newest.path, newest=newest)

    def list_images(self, folder: str | None, limit: int, offset: int = 0, name: str | None = None) -> Listing:
        """Pictures in `folder`, or in every allowed one, and in their direct subfolders, newest first.

        A file counts as a picture by its name or its first bytes. One whose header cannot be read is listed as unreadable.

        Args:
            folder: where; a reference of a folder.
            limit: how many.
            offset: how many of the newest to skip.
            name: only files whose name or path holds this, or fits it as a pattern where it has `*` or `?`; ignoring case,
                forms of accents and the like.

        Raises:
            InvalidInputError: `folder` is a file.
            NotAllowedError, NotFoundError: as `read`.
        """
        scan = self._folders.newest(offset + limit + 1, self._folder(folder), self._called(name))
        found = scan.newest()[offset:]
        images: list[ListedImage] = []
        unreadable: list[UnreadFile] = []
        is_cut = scan.is_cut or len(found) > limit
        until = time.monotonic() + LISTING_S
        for one in found[:limit]:
            STOP.get().check()
            if time.monotonic() > until:
                is_cut = True
                break
            listed = self._look(one)
            if isinstance(listed, ListedImage):
                images.append(listed)
            elif listed is not None:
                unreadable.append(listed)
        warnings = [*self.warnings, *self._folders.unseen(scan)]
        if scan.is_cut:
            warnings.append("there are more files than could be looked at in time: name a smaller folder")
        return Listing(tuple(images), tuple(unreadable), is_cut, tuple(warnings))

    def about(self, handle: str) -> Facts:
        """Format and size of a picture that is kept.

        Raises:
            NotFoundError: it is no longer kept.
        """
        from blip2tools.pictures import formats

        data = self._handle(handle).data
        width, height = self._size_of(data)
        return Facts(formats.kind_of(data) or "picture", width, height, len(data))

    def suggest(self, begun: str, limit: int) -> list[str]:
        """References to pictures in the allowed folders whose path or name starts with `begun`, newest first.

        Only names are read. Case is ignored, since a person types them.
        """
        begun = begun.removeprefix("@").casefold()
        if not self._folders.roots:
            return []

        @lru_cache
        def forms_of(folder: Path) -> tuple[str, ...]:
            below, shown = self._folders.below(folder), self._folders.shown(folder)
            return tuple("" if form == "." else f"{form}{os.sep}" for form in (".", below, shown))

        def accepts(folder: Path, name: str) -> bool:
            return any(f"{form}{name}".casefold().startswith(begun) for form in forms_of(folder))

        found: list[str] = []
        for one in self._folders.newest(limit, accepts=accepts, by_bytes=False).newest():
            short, shown = self._folders.short(one.path), self._folders.shown(one.path)
            only_shown = shown.casefold().startswith(begun) and not short.casefold().startswith(begun)
            found.append(shown if only_shown else short)
        return found

    def _named(self, reference: str) -> Source:
        """The bytes behind any reference but a data: URI."""
        if not reference.strip():
            raise InvalidInputError("The image is empty; name a file, a data: URI or the handle of an earlier result.")
        if handle := HANDLE.fullmatch(reference):
            return self._handle(handle[1])
        if _BARE_BASE64.fullmatch(reference):
            raise InvalidInputError(
                "That looks like base64 without its type; put data:image/png;base64, (or image/jpeg) in front of it."
            )
        if len(reference) > MAX_REFERENCE:
            raise InvalidInputError(f"The image reference is longer than {MAX_REFERENCE:,} characters.")
        label = _shortened(printably(reference))
        scheme = SCHEME.match(reference)
        match scheme[1].lower() if scheme else None:
            case "http" | "https":
                return Source(self._fetched(reference), label, fetched=True)
            case "file":
                return self._file(path_of_uri(reference), label, is_uri=True)
            case None:
                return self._file(reference, label)
            case other:
                return self._file_or_scheme(reference, other, label)

    def _file(self, text: str, label: str, *, is_uri: bool = False) -> Source:
        path = self._folders.find(text, is_uri=is_uri)
        data = self._folders.read(path, self._settings.max_image_bytes)
        if not self._folders.is_called(path, text, is_uri=is_uri):
            label = _shortened(f"{label} ({printably(self._folders.short(path))})")
        return Source(data, label, path=path)

    def _file_or_scheme(self, reference: str, scheme: str, label: str) -> Source:
        """A name such as `shot:1.png`: a file if there is one, else an address of an unsupported scheme."""
        if "://" not in reference and len(reference) <= MAX_PATH:
            try:
                return self._file(reference, label)
            except (NotFoundError, NotAllowedError):
                pass
        if scheme in OF_CLIENTS:
            raise NotAllowedError(
                "That file is on another machine, inside the chat client. Ask for the picture to be saved "
                "into an allowed folder and pass its path, or pass it as a data: URI."
            )
        raise NotAllowedError(
            f"References with '{printable(scheme, MAX_SCHEME)}:' are not read; pass a path in an allowed folder or a data: URI."
        )

    def _fetched(self, url: str) -> bytes:
        if not self._settings.allow_urls:
            raise NotAllowedError(
                "Fetching http(s) pictures is switched off; save the picture into an allowed folder, pass it as a "
                f"data: URI, or start the server with --allow-urls ({variable('allow_urls')}=1)."
            )
        from blip2tools.pictures import formats
        from blip2tools.pictures.fetch import fetch  # httpx2 is loaded when there is something to fetch

        data = fetch(url, self._settings)
        if formats.kind_of(data) not in self._settings.formats:
            raise no_picture_there(self._settings)
        return data

    def _data(self, reference: str, start: int) -> Source:
        """A `data:` URI (RFC 2397), base64 only.

        Common changes to base64 in transit are undone (see `_tidied`); beyond that it is strict: what one decoder skips,
        another would read.
        """
        comma = reference.find(",", start, start + MAX_DATA_HEADER)
        header = _DATA.fullmatch(reference[start:comma]) if comma >= 0 else None
        if header is None:
            raise InvalidInputError("The data: URI is malformed; it must look like data:image/png;base64,iVBORw0...")
        kind = (header["type"] or "").lower()
        if kind == "image/svg+xml" or not (kind.startswith("image/") or kind in ("", "application/octet-stream")):
            raise UnsupportedImageError(
                f"The data: URI declares {quoted(kind)}; only {', '.join(self._settings.formats)} pictures are read."
            )
        if not header["coding"]:
            raise InvalidInputError("The data: URI is not base64; it must look like data:image/png;base64,iVBORw0...")
        limit = min(self._settings.max_data_bytes, self._settings.max_image_bytes)
        too_large = TooLargeError(
            f"The data: URI is above the limit of {limit:,} bytes; save the picture as a file and pass its path, or make "
            "it smaller first."
        )
        most = (limit + 2) // 3 * 4
        # Judged by its length, before a copy of it exists; line ends may take a sixteenth.
        if len(reference) - comma - 1 > most + most // 16 + 2:
            raise too_large
        text = _tidied(reference[comma + 1 :])
        if len(text) > most:
            raise too_large
        try:
            # Even the strict decoder forgives too much padding.
            if text.endswith("==="):
                raise ValueError
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            raise InvalidInputError(
                "The data: URI is not valid base64 (A-Z, a-z, 0-9, + and /, padded with =); send it whole, unchanged."
            ) from error
        return Source(data, f"data:{printable(kind, 60)} ({len(data):,} bytes)")

    def _handle(self, handle: str) -> Source:
        data = self._store.get(handle)
        if data is not None:
            return Source(data, self.label_of(handle))
        for path in self._remembered.find(handle) if self._remembered else []:
            with suppress(VisionError):
                source = self._file(str(path), handle)
                if handle_of(hashlib.sha256(source.data).hexdigest()) == handle:
                    return source
        raise NotFoundError(
            f"The picture {handle} is no longer kept; name its path, address or data again for a fresh handle."
        )

    def label_of(self, handle: str) -> str:
        """A handle as the origin of a result, with the file behind it if that may be read."""
        path = self._store.path(handle)
        known = path is not None and self._folders.is_inside(path)
        return _shortened(f"{handle} ({printably(self._folders.short(path))})") if path and known else handle

    def _folder(self, text: str | None) -> Path | None:
        if text is None:
            if not self._folders.roots:
                self._folders.locate(".")  # raises: why there is none
            return None
        text = bare(text)
        is_uri = text[:5].lower() == "file:"
        path = self._folders.find(path_of_uri(text) if is_uri else text, is_uri=is_uri, folder=True)
        if not path.is_dir():
            raise InvalidInputError("That is not a folder; name a folder, or leave it out for all allowed ones.")
        return path

    def _called(self, name: str | None) -> Callable[[Path, str], bool] | None:
        """The test of a name filter; `None` without one."""
        wanted = fold(name or "")
        if not wanted:
            return None
        fits = re.compile(fnmatch.translate(wanted)).match if "*" in wanted or "?" in wanted else None
        parts = wanted.replace("\\", "/")
        below = lru_cache(self._folders.below)

        def accepts(folder: Path, called: str) -> bool:
            # A folder's name counts only where the filter has more than one part.
            text = fold(called if "/" not in parts else f"{below(folder)}/{called}")
            return bool(fits(text)) if fits else parts in text

        return accepts

    def _look(self, found: Found) -> ListedImage | UnreadFile | None:
        """A found file as a listed picture, or why it cannot be read; `None` if it is gone."""
        limit = self._settings.max_image_bytes
        shown = self._folders.shown(found.path)
        modified = _time_of(found.modified_ns)
        try:
            path = self._folders.judge(found.path)
            if found.size == 0:
                raise CorruptImageError("The picture is empty: it has no bytes.")
            if found.size > limit:
                raise TooLargeError(f"The file is above the limit of {limit:,} bytes; make it smaller first.")
            try:
                width, height = self._size_of(self._folders.head(path, min(HEAD_BYTES, limit)))
            except CorruptImageError:
                # WebP opens only whole, and a camera's EXIF can push a JPEG's size far back.
                width, height = self._size_of(self._folders.read(path, limit))
        except CancelledError:
            raise
        except VisionError as error:
            return UnreadFile(shown, found.size, modified, error) if os.path.lexists(found.path) else None
        return ListedImage(shown, width, height, found.size, modified)


def _shortened(label: str) -> str:
    """A printable text within the bounds of a label; its end, with the file's name, is kept."""
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL // 2 - 1]}…{label[-MAX_LABEL // 2 :]}"


def _time_of(nanoseconds: int) -> datetime:
    """A file's time as a date; some file systems have times outside of any calendar."""
    seconds = min(max(nanoseconds // 10**9, _FIRST_SECOND), _LAST_SECOND)
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999


def _tidied(text: str) -> str:
    """Base64 in the form of RFC 4648, with what programs change in transit undone.

    White space around it and line ends in it (RFC 2045), the URL-safe alphabet, percent-encoding (RFC 2397) and missing
    padding. A space inside a line stays an error: most likely it was a `+`.
    """
    if "%" in text:
        text = unquote(text)
    text = _LINE_END.sub("", text.strip())
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    return text + "=" * (-len(text) % 4)
