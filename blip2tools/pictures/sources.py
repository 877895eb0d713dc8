"""A reference becomes bytes: a path, `file:`, `data:`, http(s), a handle of an earlier result, or `latest`.

What a reference is, is decided once, by how it begins; nothing falls through from one kind to another.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from blip2tools.call import STOP
from blip2tools.errors import (
    CorruptImageError,
    FetchFailedError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedImageError,
    VisionError,
)
from blip2tools.pictures.folders import MAX_PATH, Folders, Found
from blip2tools.pictures.handles import Remembered
from blip2tools.pictures.store import Store, handle_of
from blip2tools.schemas.plain import is_sayable, printable, quoted
from blip2tools.settings import Settings, variable

MAX_REFERENCE = 8192  # for everything but a data: URI
MAX_LABEL = 200
MAX_SCHEME = 40  # characters of one that a message repeats
MAX_DATA_HEADER = 256
LISTING_S = 10.0  # for the headers of one listing: files made to be slow must not take longer from others
HEAD_BYTES = 256 * 2**10  # enough for the header of nearly every picture

Place: TypeAlias = Literal["file", "folder", "address"]

_HANDLE = re.compile(r"(?:blip2://images/)?(img_[0-9a-f]{16})")  # also as the address of its resource
# Names that chat clients and browsers give to files of their own: sandbox:/mnt/data/x.png, file-service://file-1, ...
_OF_CLIENTS = frozenset({"sandbox", "attachment", "file-service", "blob", "content", "cid"})
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two characters at least: `C:` is a drive
_DATA = re.compile(
    r'(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=(?:"[^"]*"|[\w.+:-]*))*(?P<coding>;base64)?', re.ASCII | re.I
)
_LINE_END = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_URL_SAFE = str.maketrans("-_", "+/")
_BARE_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{16,}={0,2}|[A-Za-z0-9+/\s]{256,}={0,2}")


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes behind a reference."""

    data: bytes
    label: str
    """What a result may show as their origin: the reference, printable and bounded; a data: URI shortened."""
    fetched: bool = False
    """Whether they came from an address."""
    path: Path | None = None
    """The file that they came from."""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A picture in an allowed folder."""

    path: str
    """A reference that leads back to it."""
    width: int
    height: int
    bytes: int
    modified: datetime
    """In UTC, whole seconds."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a picture that is kept, without decoding it."""

    format: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Pictures, newest first, and whether there are more than are listed."""

    images: tuple[ListedImage, ...]
    truncated: bool


def handle_in(reference: str) -> str | None:
    """The handle that a reference is, in the form of the store."""
    handle = _HANDLE.fullmatch(reference.removeprefix("@"))
    return handle and handle[1]


def place_of(reference: str) -> Place:
    """Where the bytes behind a reference come from, and so what they may make one wait for; memory counts as a file."""
    start = 1 if reference.startswith("@") else 0
    if reference[start : start + 8].lower().startswith(("http:", "https:")):
        return "address"
    return "folder" if reference[start : start + 7] == "latest" else "file"


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
        size_of: judges a picture by its header, as `images.size_of`, but where a decoder may crash.
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
        self._folders = Folders(
            settings, trusted=trusted and settings.allowed_dirs is None, reveal=reveal_folders or trusted
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The allowed folders, resolved."""
        return self._folders.roots

    def described_folders(self) -> list[str]:
        """The allowed folders as a result may name them."""
        return self._folders.described()

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
        start = 1 if reference.startswith("@") else 0  # how chat clients mark a file
        if reference[start : start + 5].lower() == "data:":
            source = self._data(reference, start + 5)
        else:
            source = self._named(reference[start : MAX_REFERENCE + 2])
        if not source.data:
            raise CorruptImageError("The picture is empty: it has no bytes.")
        return source

    def list_images(self, folder: str | None, limit: int) -> Listing:
        """Pictures in `folder`, or in every allowed one, and in their direct subfolders, newest first.

        Only files that have a picture's suffix, and a header that passes the limits, are listed.

        Raises:
            InvalidInputError: `folder` is a file.
            NotAllowedError, NotFoundError: as `read`.
        """
        found, cut = self._folders.pictures(self._folder(folder))
        images: list[ListedImage] = []
        until = time.monotonic() + LISTING_S
        for one in found:
            STOP.get().check()
            if time.monotonic() > until:
                return Listing(tuple(images), truncated=True)
            listed = self._look(one)
            if listed and len(images) == limit:
                return Listing(tuple(images), truncated=True)
            if listed:
                images.append(listed)
        return Listing(tuple(images), truncated=cut)

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
        """References of pictures in the allowed folders that go on from `begun`, by path or by name, newest first.

        Only names are looked at. Without regard to case, since a person types them.
        """
        begun = begun.removeprefix("@").casefold()
        if not self._folders.roots:
            return []
        found: list[str] = []
        for one in self._folders.pictures()[0]:
            forms = (self._folders.short(one.path), self._folders.shown(one.path))
            form = next((form for form in forms if form.casefold().startswith(begun)), None)
            if form is None and one.path.name.casefold().startswith(begun):
                form = forms[0]
            if form is not None and is_sayable(form):
                found.append(form)
                if len(found) == limit:
                    break
        return found

    def _named(self, reference: str) -> Source:
        """Everything but data: URIs."""
        if not reference.strip():
            raise InvalidInputError("The image is empty; name a file, a data: URI or the handle of an earlier result.")
        if reference == "latest":
            return self._latest()
        if handle := _HANDLE.fullmatch(reference):
            return self._handle(handle[1])
        if _BARE_BASE64.fullmatch(reference):
            raise InvalidInputError(
                "That looks like base64 without its type; put data:image/png;base64, (or image/jpeg) in front of it."
            )
        if len(reference) > MAX_REFERENCE:
            raise InvalidInputError(f"The image reference is longer than {MAX_REFERENCE:,} characters.")
        label = printable(reference, MAX_LABEL)
        scheme = _SCHEME.match(reference)
        match scheme[1].lower() if scheme else None:
            case "http" | "https":
                return Source(self._fetched(reference), label, fetched=True)
            case "file":
                return self._file(_path_of_uri(reference), label, expand_home=False)
            case None:
                return self._file(reference, label)
            case other:
                return self._file_or_scheme(reference, label, other)

    def _file(self, text: str, label: str, *, expand_home: bool = True) -> Source:
        path = self._folders.locate(text, expand_home=expand_home)
        return Source(self._folders.read(path, self._settings.max_image_bytes), label, path=path)

    def _file_or_scheme(self, reference: str, label: str, scheme: str) -> Source:
        """A name such as `shot:1.png` is a file's if there is one, else an address of a kind that is not read."""
        if "://" not in reference and len(reference) <= MAX_PATH:
            try:
                return self._file(reference, label)
            except (NotFoundError, NotAllowedError):
                pass
        if scheme in _OF_CLIENTS:
            raise NotAllowedError(
                "That file is on another machine: the chat client keeps it to itself. Ask for the picture to be saved "
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

        What programs do to base64 on its way is undone (see `_tidied`); beyond that it is strict: what one decoder skips,
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
                "The data: URI is not sound base64 (A-Z, a-z, 0-9, + and /, padded with =); send it whole, unchanged."
            ) from error
        return Source(data, f"data:{printable(kind, 60)} ({len(data):,} bytes)")

    def _handle(self, handle: str) -> Source:
        data = self._store.get(handle)
        if data is not None:
            return Source(data, handle)
        for path in self._remembered.find(handle) if self._remembered else []:
            with suppress(VisionError):
                source = self._file(str(path), handle, expand_home=False)
                if handle_of(hashlib.sha256(source.data).hexdigest()) == handle:
                    return source
        raise NotFoundError(
            f"The picture {handle} is no longer kept; name its path, address or data again for a fresh handle."
        )

    def _latest(self) -> Source:
        self._folder(None)
        for one in self._folders.pictures()[0]:
            STOP.get().check()
            # One still being written, or a text with a picture's suffix, is not the newest picture.
            if self._look(one):
                path = self._folders.locate(str(one.path))
                data = self._folders.read(path, self._settings.max_image_bytes)
                return Source(data, printable(f"latest ({one.path.name})", MAX_LABEL), path=path)
        raise NotFoundError("There is no picture in the allowed folders or their direct subfolders.")

    def _folder(self, text: str | None) -> Path | None:
        if text is None:
            if not self._folders.roots:
                self._folders.locate(".")  # says why there is none
            return None
        path = self._folders.locate(text)
        if not path.is_dir():
            raise InvalidInputError("That is not a folder; name a folder, or leave it out for all allowed ones.")
        return path

    def _look(self, found: Found) -> ListedImage | None:
        """A found file as a listed picture, or nothing if it would not be read."""
        limit = self._settings.max_image_bytes
        shown = self._folders.shown(found.path)
        # A name that an agent cannot say again, since such characters are removed from every text.
        if found.size > limit or not is_sayable(shown):
            return None
        try:
            path = self._folders.locate(str(found.path))
            try:
                width, height = self._size_of(self._folders.head(path, min(HEAD_BYTES, limit)))
            except CorruptImageError:
                # WebP opens only whole, and a camera's EXIF can push a JPEG's size far back.
                width, height = self._size_of(self._folders.read(path, limit))
        except VisionError:
            return None
        modified = datetime.fromtimestamp(int(found.modified), UTC)
        return ListedImage(shown, width, height, found.size, modified)


def _tidied(text: str) -> str:
    """Base64 as RFC 4648 has it, from what programs make of it on its way.

    White space around it and line ends in it (RFC 2045), the URL-safe alphabet, percent-encoding (RFC 2397) and padding that
    is missing. A space inside of a line is none of these: most likely it was a `+`.
    """
    if "%" in text:
        text = unquote(text)
    text = _LINE_END.sub("", text.strip())
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE)
    return text + "=" * (-len(text) % 4)


def _path_of_uri(uri: str) -> str:
    """The path of a `file:` URI (RFC 8089), percent-decoded once."""
    rest = uri[5:]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise NotAllowedError("A file: address of another machine is not read; its path must follow file:///.")
        rest = slash + path
    try:
        rest = unquote(rest, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInputError("The file: address is not percent-encoded UTF-8.") from error
    if os.name == "nt" and re.match(r"/[A-Za-z]:", rest):  # pragma: no cover  file:///C:/x is C:/x
        rest = rest[1:]
    if not rest:
        raise InvalidInputError("The file: address names no file; it must look like file:///folder/picture.jpg.")
    return rest
