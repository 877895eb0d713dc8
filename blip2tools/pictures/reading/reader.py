"""Reader of words in pictures, in a process of its own that is started when first needed and can be killed."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from blip2tools.call import STOP
from blip2tools.errors import (
    CancelledError,
    DeadlineError,
    ModelUnavailableError,
    TooLargeError,
    VisionError,
)
from blip2tools.pictures.decoder import Child
from blip2tools.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALL: Final = "pip install 'blip2tools[read]'"
NEEDED: Final = ("rapidocr", "onnxruntime")
# With what the two need in turn: the folders in which the process looks for packages.
PACKAGES: Final = (*NEEDED, "cv2", "numpy", "omegaconf", "pyclipper", "shapely", "yaml")
MODULE: Final = "blip2tools.pictures.reading.process"

SHARE: Final = 0.9  # of the time that a call has, for one picture
START_SECONDS: Final = 180.0  # for the process to load its networks: a second, on a machine with nothing else to do
MAX_REPLY: Final = 2**24  # bytes of a page: of 50 megapixels in the smallest letters, with room
LATE: Final = 0.5  # seconds that a wait for the process may notice a call's end later

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text as it was read, its edges in pixels of the picture, and the number of its row."""

    text: str
    confidence: float
    box: tuple[float, ...]
    row: int


@dataclass(frozen=True, slots=True)
class Page:
    """Text of a picture, see `page.Page`; `model` names what read it."""

    lines: tuple[Line, ...]
    turn: int
    reduced: bool
    doubtful: int
    lone: tuple[str, ...]
    model: str


@cache
def is_installed() -> bool:
    """Whether the extra is there. Nothing of it is imported."""
    return all(importlib.util.find_spec(name) for name in NEEDED)


def check_installed() -> None:
    """Refuse where the extra is not there.

    Raises:
        ModelUnavailableError: with the line that installs it.
    """
    if not is_installed():
        raise ModelUnavailableError(f"Reading text needs an extra: {INSTALL}.")


class Reader:
    """Reader of pictures, one at a time, in one process. Safe to use from several threads.

    Args:
        settings: limits on pictures.
        seconds: for one picture; then the process is killed. By default a little less than the time that a call has.
    """

    def __init__(self, settings: Settings, *, seconds: float | None = None) -> None:
        self._settings = settings
        self._seconds = SHARE * settings.deadline_s if seconds is None else seconds
        self._turn = threading.Lock()  # whose picture is read
        self._lock = threading.Lock()  # of the fields below
        self._process: Child | None = None
        self._model = ""
        self._owner = os.getpid()
        self._closed = False

    def read(self, image: Image) -> Page:
        """Read the text in an RGB image.

        Raises:
            ModelUnavailableError: the extra is missing, or does not start.
            DeadlineError: it took longer than the seconds for one picture.
            BusyError: the system cannot start another process.
            TooLargeError: it takes more memory than there is for it.
            CancelledError: closed, or nobody waits any more.
        """
        check_installed()
        while not self._turn.acquire(timeout=LATE):
            STOP.get().check()
        try:
            STOP.get().check()
            return self._read(image)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Kill the process. A call under way fails with `cancelled`. May be called twice."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            if process is None or os.getpid() != self._owner:
                return  # a fork: it belongs to the process that it came from
        if self._turn.acquire(blocking=False):
            process.end()
            self._turn.release()
        else:  # whoever waits for it sees the end of its stream, and closes what leads to it
            process.kill()
            process.wait()

    def _read(self, image: Image) -> Page:
        process = self._started()
        try:
            with process.watched(self._seconds) as hurry, STOP.get().ending(hurry):
                pixels = image.tobytes()
                process.send({"size": image.size}, pixels)
                del pixels
                reply = process.receive(MAX_REPLY)
                lines = tuple(
                    Line(str(text), float(sure), tuple(map(float, box)), int(row))
                    for text, sure, box, row in reply["lines"]
                )
                return Page(
                    lines=lines,
                    turn=int(reply["turn"]),
                    reduced=bool(reply["reduced"]),
                    doubtful=int(reply["doubtful"]),
                    lone=tuple(map(str, reply["lone"])),
                    model=self._model,
                )
        except VisionError:
            raise  # its answer was a refusal, and it goes on
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._failure(process) from error
        except BaseException:
            self._drop(process)
            raise

    def _started(self) -> Child:
        """The process, ready for a request: the one that runs, or a new one."""
        with self._lock:
            if self._closed:
                raise CancelledError("The reader is closed.")
            if os.getpid() != self._owner:  # a fork: two must not speak to one process
                self._process, self._owner = None, os.getpid()
            process = self._process
            if process is not None and not process.is_alive():
                process.end()
                process = None
            if process is None:
                limits = {
                    "max_pixels": self._settings.max_pixels,
                    "seconds": self._seconds,
                    "threads": self._settings.threads,
                }
                process = Child(limits, self._settings.max_side, MODULE, PACKAGES)
            self._process = process
        first = process.first_reply(START_SECONDS)
        if first is None:
            self._drop(process)
            if self._closed:
                raise CancelledError("The reader was closed.")
            logger.warning("the process that reads text ended with status %s before it was ready", process.status)
            raise ModelUnavailableError(f"What reads text does not start; install it again: {INSTALL}.")
        self._model = str(first.get("name", ""))
        return process

    def _drop(self, process: Child) -> None:
        with self._lock:
            if self._process is process:
                self._process = None
        process.end()

    def _failure(self, process: Child) -> VisionError:
        """The error for a process that ended in the middle of a picture."""
        self._drop(process)
        if self._closed:
            return CancelledError("The reader was closed.")
        if STOP.get().is_set():
            return CancelledError("The call was cancelled.")
        if process.is_overdue:
            return DeadlineError(
                f"Reading the picture took longer than {self._seconds:g} s and was stopped; pass a region of it."
            )
        logger.warning("the process that reads text ended with status %s on a picture", process.status)
        return TooLargeError("The picture could not be read, most likely for want of memory; pass a region of it.")
