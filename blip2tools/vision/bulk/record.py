"""What a file of rows was made by, written beside it: a run with another model or other options does not go on with it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from blip2tools.errors import BusyError, InvalidInputError
from blip2tools.schemas.shown import printable

SUFFIX: Final = ".run.json"
_SHOWN = 120


class Record:
    """The record beside an output, held by one process at a time.

    Args:
        output: the file of rows, which need not be there yet.
        run: what must be the same for two runs to share a file.
        folder: that the relative paths of this run belong to.

    Raises:
        InvalidInputError: the output was made by another run, or not by one at all.
        BusyError: another process is writing it.
    """

    def __init__(self, output: Path, run: Mapping[str, Any], folder: str) -> None:
        self.path = output.with_name(output.name + SUFFIX)
        self._output = output
        self._run: dict[str, Any] = json.loads(json.dumps(run))
        self.folder = folder
        self._lock: _Lock | None = None
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _Lock.take(self.path)
        except OSError as error:
            raise InvalidInputError("The folder of --output cannot be written; name another one.") from error
        if self._lock is None:
            raise BusyError(f"Another process is writing {self._named}; wait for it, or name another --output.")
        try:
            self.is_new = not self._reads()
        except BaseException:
            self.close()
            raise

    @property
    def _named(self) -> str:
        return printable(str(self._output), _SHOWN)

    def begin(self) -> None:
        """Write the record, before the first row is."""
        if not self.is_new:
            return
        facts = {"run": self._run, "folder": os.fsencode(self.folder).decode("utf-8", "backslashreplace")}
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(facts, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(self.path)

    def forget_if_new(self) -> None:
        """Remove what this run has begun and written nothing into: it must not stand in the way of another one."""
        if self.is_new:
            self._output.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        self.close()

    def _reads(self) -> bool:
        """Whether there is a record, which then is that of this run."""
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            run, folder = dict(known["run"]), str(known["folder"])
        except FileNotFoundError:
            if self._output.exists():
                raise InvalidInputError(
                    f"{self._named} is there, and nothing tells what made it; name another --output, or --restart to replace it."
                ) from None
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f"{printable(str(self.path), _SHOWN)}, which tells what made the output, cannot be read; --restart begins anew."
            ) from error
        differing = sorted(name for name in {*run, *self._run} if run.get(name) != self._run.get(name))
        if differing:
            raise InvalidInputError(
                f"{self._named} holds rows of another run (other {', '.join(differing)}). Rows of two runs are not mixed: "
                "name another --output, or --restart to replace it."
            )
        self.folder = folder
        return True


def discard(output: Path, *others: Path) -> None:
    """Remove an output and its record, if they are there and nobody is writing them.

    Raises:
        BusyError: another process is writing them.
        InvalidInputError: they cannot be removed.
    """
    record = output.with_name(output.name + SUFFIX)
    try:
        if not output.parent.is_dir():
            return
        lock = _Lock.take(record)
        if lock is None:
            raise BusyError("Another process is writing this output; wait for it, or name another --output.")
        try:
            for path in (output, *others, record):  # the record last: without it, what is left would be nobody's
                path.unlink(missing_ok=True)
        finally:
            lock.close()
    except OSError as error:
        raise InvalidInputError("What is there cannot be removed; name another --output.") from error


class _Lock:
    """A file beside a record that one process at a time holds open. The system lets go of it when its owner dies."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    @classmethod
    def take(cls, record: Path) -> Self | None:
        """The lock of a record, or None where another process has it.

        Raises:
            OSError: the file cannot be made.
        """
        path = record.with_name(record.name + ".lock")
        while True:
            file = path.open("ab")
            if not _is_locked(file):
                file.close()
                return None
            try:
                # Its last owner removes it: then another process may have one of the same name.
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return cls(path, file)
            except FileNotFoundError:
                pass
            file.close()

    def close(self) -> None:
        """Give it back."""
        if sys.platform == "win32":  # where nobody can remove an open file
            self._file.close()
            with suppress(OSError):
                self._path.unlink()
        else:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _is_locked(file: IO[bytes]) -> bool:
    """Whether this process has got the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
