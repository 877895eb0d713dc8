"""Server-sent events (WHATWG HTML, 9.2), each with the bytes that it came in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

MAX_EVENT: Final = 16 * 2**20  # bytes of an event: the last one of a long answer repeats all of it

_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        raw: its bytes, the blank line at its end included.
        name: of its `event` field.
        data: its `data` fields.
    """

    raw: bytes
    name: str
    data: str

    @classmethod
    def of(cls, raw: bytes) -> Event:
        """Parse one event; of its fields these two matter here."""
        name, data = "", []
        for line in raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
        return cls(raw, name, "\n".join(data))

    def json(self) -> dict[str, Any] | None:
        """The data as a JSON object, or None where it is something else."""
        if not self.data.startswith("{"):
            return None
        try:
            found = json.loads(self.data)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def saying(self, data: dict[str, Any]) -> bytes:
        """The bytes of an event of this name with other data."""
        return event_of(data, self.name)


def event_of(data: dict[str, Any], name: str = "") -> bytes:
    """The bytes of one event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class TooLongError(ValueError):
    """An event that does not end."""


class Splitter:
    """Cuts a stream into events."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that end in this piece, unchanged.

        Raises:
            TooLongError: more than `MAX_EVENT` bytes without an end.
        """
        self._buffer += piece
        found = []
        start = 0
        for end in _END.finditer(self._buffer, self._searched):
            found.append(bytes(self._buffer[start : end.end()]))
            start = end.end()
        if start:
            del self._buffer[:start]
        self._searched = max(0, len(self._buffer) - 3)
        if len(self._buffer) > MAX_EVENT:
            raise TooLongError
        return found

    def rest(self) -> bytes:
        """The bytes after the last complete event."""
        return bytes(self._buffer)
