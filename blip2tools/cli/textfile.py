"""One change of somebody else's text file: planned, shown, then made, all of it or nothing."""

from __future__ import annotations

import codecs
import contextlib
import difflib
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blip2tools.errors import InvalidInputError

BOM = "\ufeff"


@dataclass(frozen=True)
class Edit:
    """A planned change of a file.

    Attributes:
        path: the file.
        before: its text, or None where there is none.
        after: its text to be, or None where the file is to go.
    """

    path: Path
    before: str | None
    after: str | None

    @property
    def drops_mark(self) -> bool:
        """Whether a byte order mark is removed, which no line of the diff shows."""
        return self.after is not None and (self.before or "").startswith(BOM)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self.before != self.after

    def diff(self) -> str:
        """The change as a unified diff."""
        old = (self.before or "").removeprefix(BOM).splitlines()
        new = (self.after or "").removeprefix(BOM).splitlines()
        origin = str(self.path) if self.before is not None else os.devnull
        target = str(self.path) if self.after is not None else os.devnull
        return "\n".join(difflib.unified_diff(old, new, origin, target, lineterm=""))


def write(edit: Edit, now: datetime | None = None) -> Path | None:
    """Make the change, all of it or nothing, and keep a copy of the file that was there, unless it goes.

    Returns:
        The backup, or `None` for a file that is new or has gone.

    Raises:
        InvalidInputError: the file changed since the plan was made, or cannot be written.
    """
    path = edit.path
    if read(path) != edit.before:
        raise InvalidInputError(f"{path} has changed in the meantime and was left alone; run the command again.")
    if edit.after is None:
        _delete(edit)
        return None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    backup = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if edit.before is not None:
            backup = _backup(path, now or datetime.now(UTC))
        try:
            # Other servers' entries can hold keys: no other user may read the new file before it has the old one's mode.
            _create(temporary, edit.after.encode(), 0o666 if backup is None else 0o600)
            if backup is not None:
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be written: {error.strerror or 'unknown reason'}.") from error
    return backup


def _delete(edit: Edit) -> None:
    try:
        edit.path.unlink()
        with contextlib.suppress(OSError):  # there is more in it
            edit.path.parent.rmdir()
    except OSError as error:
        raise InvalidInputError(f"{edit.path} cannot be removed: {error.strerror or 'unknown reason'}.") from error


def _create(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _backup(path: Path, now: datetime) -> Path:
    stem = f"{path.name}.{now:%Y%m%dT%H%M%SZ}"
    for number in range(100):
        backup = path.with_name(f"{stem}{f'-{number}' if number else ''}.bak")
        with contextlib.suppress(FileExistsError):
            _create(backup, path.read_bytes(), 0o600)
            shutil.copymode(path, backup)
            return backup
    raise FileExistsError(17, "too many backups of one second")


def read(path: Path) -> str | None:
    """The file's text, with a byte order mark where it has one; nothing where there is no file.

    Raises:
        InvalidInputError: it cannot be read, or is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
        # As an older PowerShell writes with `>`; its mark stays, so that the change is seen as one.
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
            if text.lstrip()[:1] in ("{", ""):
                return BOM + text
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text, and was left alone.") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or 'unknown reason'}.") from error
