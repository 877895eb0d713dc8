"""Records of pictures before they are decoded: their bytes and origin, the newest, a listing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from blip2tools.errors import (
    CorruptImageError,
    DeadlineError,
    NotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedImageError,
    VisionError,
)

# Errors about the picture itself, not about load.
_ABOUT_THE_PICTURE = (
    CorruptImageError,
    DeadlineError,
    NotAllowedError,
    NotFoundError,
    TooLargeError,
    UnsupportedImageError,
)


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes behind a reference."""

    data: bytes
    label: str
    """Their origin as a result may show it: the reference, printable and bounded; a data: URI shortened."""
    fetched: bool = False
    """Whether they came from an http(s) address."""
    path: Path | None = None
    """The file that they were read from."""
    newest: Newest | None = None
    """The file found for `latest`."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The file that `latest` stands for."""

    path: Path
    name: str
    """A reference that leads to it."""
    warnings: tuple[str, ...] = ()
    """Reasons to doubt that it is the newest."""
    hint: str = ""
    """Advice if it cannot be read."""

    def failed(self, error: VisionError) -> VisionError:
        """An error that says which file could not be read; another picture in its place would be a wrong answer."""
        if not isinstance(error, _ABOUT_THE_PICTURE):
            return error
        why = f"{error.message[:1].lower()}{error.message[1:]}"
        return type(error)(f'The newest picture, "{self.name}", cannot be read: {why}{self.hint}')


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A picture in an allowed folder."""

    path: str
    """A reference that leads back to it."""
    width: int
    height: int
    bytes: int
    modified: datetime
    """Time of the last change in UTC, whole seconds."""


@dataclass(frozen=True, slots=True)
class UnreadFile:
    """A file that looks like a picture and cannot be read."""

    path: str
    """A reference that leads back to it."""
    bytes: int
    modified: datetime
    """Time of the last change in UTC, whole seconds."""
    error: VisionError


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a kept picture, without decoding it."""

    format: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Pictures, newest first, those among them that cannot be read, and whether there are more than are listed."""

    images: tuple[ListedImage, ...]
    unreadable: tuple[UnreadFile, ...]
    truncated: bool
    warnings: tuple[str, ...] = ()
