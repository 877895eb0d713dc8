"""Every way a call can fail, as a closed set of codes.

A caller (a person, a program or a language model) only ever sees `code: sentence`, and the sentence is ours:
the text of foreign exceptions can hold addresses and paths (CVE-2026-22778), so it stays in the log.

    VisionError
    ├── InvalidInputError       invalid_input       the arguments themselves are wrong
    ├── NotAllowedError         not_allowed         the settings forbid this file, folder or address
    ├── NotFoundError           not_found           no such file, handle or folder
    ├── TooLargeError           too_large           bytes, pixels, sides or counts above a limit
    ├── UnsupportedImageError   unsupported_image   not in a supported picture format
    ├── CorruptImageError       corrupt_image       a known format that cannot be decoded
    ├── FetchFailedError        fetch_failed        an http(s) picture could not be fetched
    ├── DeadlineError           timeout             the call ran out of time
    ├── BusyError               busy                the queue is full
    ├── CancelledError          cancelled           the caller stopped the call, or the engine shut down
    ├── OutOfMemoryError        out_of_memory       the device does not have enough memory for this
    ├── ModelUnavailableError   model_unavailable   no checkpoint, or it cannot be loaded
    └── InternalError           internal            a fault of ours; the id is in the log
"""

from __future__ import annotations

import logging
import os
import traceback
from typing import ClassVar, Final, Literal, get_args

ErrorCode = Literal[
    "invalid_input",
    "not_allowed",
    "not_found",
    "too_large",
    "unsupported_image",
    "corrupt_image",
    "fetch_failed",
    "timeout",
    "busy",
    "cancelled",
    "out_of_memory",
    "model_unavailable",
    "internal",
]
ERROR_CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)
# Failures that may pass. All others are due to the picture.
PASSING: Final[frozenset[ErrorCode]] = frozenset(
    ("busy", "timeout", "cancelled", "out_of_memory", "model_unavailable", "fetch_failed")
)

logger = logging.getLogger(__name__)


class VisionError(Exception):
    """Base of every error that a caller may see; `str(error)` is `code: sentence`."""

    code: ClassVar[ErrorCode] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidInputError(VisionError):
    """An argument is missing, unknown, of the wrong type or out of bounds."""

    code = "invalid_input"


class NotAllowedError(VisionError):
    """The settings do not allow this file, folder or address."""

    code = "not_allowed"


class NotFoundError(VisionError):
    """There is no such file, folder or image handle."""

    code = "not_found"


class TooLargeError(VisionError):
    """The picture, or what was sent, is above a limit."""

    code = "too_large"


class UnsupportedImageError(VisionError):
    """The bytes are not in a supported picture format."""

    code = "unsupported_image"


class CorruptImageError(VisionError):
    """The bytes claim to be a picture but cannot be decoded."""

    code = "corrupt_image"


class FetchFailedError(VisionError):
    """A picture could not be fetched over http(s)."""

    code = "fetch_failed"


class DeadlineError(VisionError):
    """The call ran out of time."""

    code = "timeout"


class BusyError(VisionError):
    """The queue is full; nothing was started."""

    code = "busy"


class CancelledError(VisionError):
    """The call was stopped before it had a result."""

    code = "cancelled"


class OutOfMemoryError(VisionError):
    """The device does not have enough free memory for this call."""

    code = "out_of_memory"


class ModelUnavailableError(VisionError):
    """The checkpoint is missing, incomplete, unsafe, or still being loaded."""

    code = "model_unavailable"


class InternalError(VisionError):
    """A fault of blip2tools; the message carries the id under which the log has the traceback."""

    code = "internal"


def error_of(code: str, message: str) -> VisionError:
    """The error that another process has told of by its code; an unknown code is an internal one."""
    kinds = {kind.code: kind for kind in VisionError.__subclasses__()}
    return kinds.get(code, InternalError)(message)  # type: ignore[call-overload,no-any-return]


def forget_pictures(error: BaseException) -> None:
    """Clear the frames of an error's traceback, whose variables keep pictures alive.

    An error raised through a future forms a reference cycle with it, and would keep a picture of 20 MB until the next full
    garbage collection. Frames that still run are left alone, and so is any error that a caller was already handling.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # `raise error from error` is its own cause
        seen.add(id(cause))
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__


def to_vision_error(error: BaseException) -> VisionError:
    """Turn whatever was raised into an error that may be shown to a caller.

    A `VisionError` passes unchanged. Anything else is logged with its traceback under a random id, and only that id goes out.
    """
    if isinstance(error, VisionError):
        return error
    incident = os.urandom(4).hex()
    logger.error("internal error %s", incident, exc_info=error)
    return InternalError(f"Something went wrong inside blip2tools (id {incident}). The server's log has the details.")
