"""Decoding of foreign pictures in separate processes, which can be killed: a decoder may crash, hang or exhaust memory.

The process that holds the model parses only the first bytes of a foreign picture.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from blip2tools.call import STOP
from blip2tools.errors import (
    BusyError,
    CancelledError,
    CorruptImageError,
    DeadlineError,
    InternalError,
    InvalidInputError,
    TooLargeError,
    UnsupportedImageError,
    VisionError,
    to_vision_error,
)
from blip2tools.settings import Settings, environment_without_settings

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip2tools.pictures.images import PictureLimits, Target

T = TypeVar("T")

AT_ONCE = 2  # decodes at a time: each may take half a gigabyte
HEADER_SECONDS = 4.0  # for the size alone
HURRY_SECONDS = 0.5  # for a cancelled picture: most are done by then, and their process is kept
SECONDS = 9.5  # for one picture: with cleaning up, no call waits longer than 10
MAX_REPLY = 2**16  # bytes of a line
START_SECONDS = 60.0  # for a process to start on a busy machine

_ERRORS: dict[str, type[VisionError]] = {
    error.code: error
    for error in (InvalidInputError, TooLargeError, UnsupportedImageError, CorruptImageError, InternalError)
}
# The signals with which the process's own alarm and the system's limits end it.
_TIME_SIGNALS = frozenset({-14, -24})

# The standard library first, then where this package and Pillow come from, then whatever else is installed: never a
# working folder, where someone may have put a module since.
_START = (
    "import importlib, sys\n"
    "here = [n for n, path in enumerate(sys.path) if path.endswith(('site-packages', 'dist-packages'))]\n"
    "place = here[0] if here else len(sys.path)\n"
    "sys.path[place:place] = sys.argv[3:]\n"
    "importlib.import_module(sys.argv[1]).main(sys.argv[2])\n"
)
MODULE = "blip2tools.pictures.decoder_process"
PACKAGES = ("PIL", "pillow_heif")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The parts of a picture that a request needs.

    Attributes:
        width, height: pixels of the whole upright picture.
        animated: whether this is the first frame of several.
        warnings: what callers should know about it.
        parts: for each region one RGB image per target, in order; without targets each region at full resolution.
    """

    width: int
    height: int
    animated: bool
    parts: tuple[Image, ...]
    warnings: tuple[str, ...] = ()


def decode_here(
    data: bytes, limits: PictureLimits, regions: Sequence[Sequence[float] | None], targets: Sequence[Target]
) -> Decoded:
    """Decode a picture of our own making in this process; a foreign one is for a `Decoder`.

    Raises:
        VisionError: as `images.decode`.
    """
    from blip2tools.pictures import images  # loads PIL: only once there is a picture

    picture = images.decode(data, limits)
    parts = tuple(images.parts(picture, regions, targets))
    return Decoded(picture.width, picture.height, picture.animated, parts, picture.warnings)


class Decoder:
    """Decodes pictures in a few processes, started when first needed. Safe to use from several threads.

    A decode ends early when its call is cancelled: see `call.Stop`.

    Args:
        settings: limits on pictures.
        seconds: for one picture; then its process is killed.
    """

    def __init__(self, settings: Settings, *, seconds: float = SECONDS) -> None:
        self._settings = settings
        self._seconds = seconds
        self._decodes = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._all: set[Child] = set()
        self._inherited: set[Child] = set()
        self._owner = os.getpid()
        self._closed = False

    def decode(
        self,
        data: bytes | memoryview,
        regions: Sequence[Sequence[float] | None] = (None,),
        targets: Sequence[Target] = (),
    ) -> Decoded:
        """The regions of a picture in the sizes that a request needs.

        Raises:
            UnsupportedImageError, TooLargeError: as `images.decode`.
            CorruptImageError: likewise, or the decoder crashed.
            DeadlineError: it took longer than the seconds for one picture.
            BusyError: the system cannot start another process.
            CancelledError: closed.
        """
        wanted = len(regions) * max(1, len(targets))

        def receive(process: Child) -> Decoded:
            facts = process.receive()
            parts = tuple(process.receive_image() for _ in range(wanted))
            said = tuple(str(warning) for warning in facts.get("warnings", ()))
            return Decoded(int(facts["width"]), int(facts["height"]), bool(facts["animated"]), parts, said)

        with self._decodes:
            return self._ask({"regions": list(regions), "targets": list(targets)}, data, receive, self._seconds)

    def size_of(self, data: bytes | memoryview) -> tuple[int, int]:
        """Width and height of the upright picture, from its header alone; does not wait for decodes.

        Raises:
            VisionError: as `decode`.
        """

        def receive(process: Child) -> tuple[int, int]:
            facts = process.receive()
            return int(facts["width"]), int(facts["height"])

        return self._ask({"regions": None}, data, receive, min(HEADER_SECONDS, self._seconds))

    def warm(self) -> None:
        """Start a process, so that the first picture need not wait for it."""
        with suppress(VisionError):
            self._give_back(self._take())

    def close(self) -> None:
        """Kill every process. Calls in progress fail with `cancelled`. May be called twice."""
        with self._lock:
            self._closed = True
            if os.getpid() != self._owner:
                return  # after a fork: they belong to the parent process
            processes, idle = list(self._all), self._idle
            self._all, self._idle = set(), []
        for process in processes:
            process.kill()
        for process in idle:
            process.end()
        for process in processes:
            process.wait()

    def _ask(
        self, request: dict[str, Any], data: bytes | memoryview, receive: Callable[[Child], T], seconds: float
    ) -> T:
        limit = self._settings.max_image_bytes
        if len(data) > limit:
            raise TooLargeError(f"The picture is above the limit of {limit:,} bytes; make it smaller first.")
        STOP.get().check()
        process = self._take()
        try:
            if not process.start():
                raise self._unready(process)
            with process.watched(seconds) as hurry, STOP.get().ending(hurry):
                process.send(request, data)
                answer = receive(process)
        except VisionError:
            self._give_back(process)  # it refused; or it is dead, which `_take` notices
            raise
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._failure(process, seconds) from error
        except BaseException:
            self._drop(process)
            raise
        self._give_back(process)
        return answer

    def _take(self) -> Child:
        """A process that is alive: an idle one, or a new one."""
        with self._lock:
            if os.getpid() != self._owner:  # after a fork: two processes must not share one, nor this one end it
                self._inherited = self._all
                self._idle, self._all, self._owner = [], set(), os.getpid()
            while self._idle and not self._closed:
                process = self._idle.pop()
                if process.is_alive():
                    return process
                self._all.discard(process)
                process.end()
            if self._closed:
                raise CancelledError("The decoder is closed.")
            process = Child(_limits(self._settings, self._seconds), self._settings.max_side)
            self._all.add(process)
            return process

    def _give_back(self, process: Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.end()

    def _drop(self, process: Child) -> None:
        with self._lock:
            self._all.discard(process)
        process.end()

    def _unready(self, process: Child) -> VisionError:
        """Why a process ended before it was ready."""
        if self._closed:
            return CancelledError("The decoder was closed.")
        return to_vision_error(
            RuntimeError(f"a decoder process ended with status {process.status} before it was ready")
        )

    def _failure(self, process: Child, seconds: float) -> VisionError:
        """Why a process ended in the middle of a picture."""
        self._drop(process)
        if self._closed:
            return CancelledError("The decoder was closed.")
        if process.is_overdue:
            return DeadlineError(
                f"Decoding the picture took longer than {seconds:g} s and was stopped; make it smaller, or save it "
                "again as PNG or JPEG."
            )
        logger.warning("a decoder process ended with status %s on a picture", process.status)
        return CorruptImageError("The picture could not be decoded; save it again as PNG or JPEG.")


class Child:
    """A process that may be killed, and how to speak to it; used by one thread at a time, but for `kill` and `wait`.

    Args:
        limits: what it is told to keep to.
        max_side: of an image that it may send.
        module: whose `main` it runs.
        packages: that it needs besides this one.
    """

    def __init__(
        self, limits: dict[str, Any], max_side: int, module: str = MODULE, packages: Sequence[str] = PACKAGES
    ) -> None:
        self._max_side = max_side
        try:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, and nothing from outside
                [sys.executable, "-I", "-c", _START, module, json.dumps(limits), *_places(packages)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment_without_settings(),
                **_group(),
            )
        except OSError as error:
            logger.warning("no process can be started", exc_info=error)
            raise BusyError("The system cannot start another process to decode pictures; try again later.") from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._first: dict[str, Any] | None = None
        self._overdue = False
        self._watch = _Watch(self._expire)

    @property
    def status(self) -> int | None:
        """Its exit status, once waited for; negative for the signal that ended it."""
        return self._process.returncode

    @property
    def is_overdue(self) -> bool:
        """Whether a picture took longer than it may."""
        return self._overdue or self.status in _TIME_SIGNALS

    def is_alive(self) -> bool:
        return not self._overdue and self._process.poll() is None

    def start(self) -> bool:
        """Wait until it is ready; false if it ended before that."""
        return self.first_reply() is not None

    def first_reply(self, seconds: float = START_SECONDS) -> dict[str, Any] | None:
        """What it says once it can be spoken to, which is waited for; None if it ended before that."""
        if self._first is None:
            with self.watched(seconds):
                line = self._replies.readline(MAX_REPLY)
            if not line.endswith(b"\n"):
                self.end()
                return None
            self._first = json.loads(line)
        return self._first

    @contextmanager
    def watched(self, seconds: float) -> Iterator[Callable[[], None]]:
        """Kill it if the block takes longer; a blocked read or write then ends. Not every system has timeouts for pipes.

        Yields a function that leaves the block only a moment more.
        """
        turn = self._watch.begin(seconds)
        try:
            yield lambda: self._watch.hurry(turn, HURRY_SECONDS)
        finally:
            self._watch.end()

    def send(self, request: dict[str, Any], data: bytes | memoryview) -> None:
        """Send a request: a line of JSON, then the picture's bytes."""
        self._requests.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n")
        self._requests.write(data)
        self._requests.flush()

    def receive(self, longest: int = MAX_REPLY) -> dict[str, Any]:
        """The next reply, of so many bytes at most.

        Raises:
            VisionError: the reply is a refusal.
            ValueError, LookupError, TypeError: it has ended, or its reply makes no sense.
        """
        reply: dict[str, Any] = json.loads(self._replies.readline(longest))
        if "error" in reply:
            raise _ERRORS[reply["error"]](reply["message"])
        return reply

    def receive_image(self) -> Image:
        """The next reply as an RGB image, which comes in bands of `rows` rows."""
        from PIL import Image

        reply = self.receive()
        (width, height), rows = reply["size"], reply["rows"]
        if width > self._max_side or height > self._max_side:
            raise ValueError("an image above the limits")
        image = Image.new("RGB", (width, height))
        for top in range(0, height, rows):
            size = (width, min(rows, height - top))
            image.paste(Image.frombytes("RGB", size, self._replies.read(3 * size[0] * size[1])), (0, top))
        return image

    def _expire(self) -> None:
        self._overdue = True
        self.kill()

    def kill(self) -> None:
        """End it at once; a reader sees the end of its stream."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it has ended, and reap it."""
        self._process.wait()

    def end(self) -> None:
        """Kill it, wait, and close its pipes."""
        self.kill()
        self.wait()
        self._watch.close()
        for stream in (self._requests, self._replies):
            with suppress(OSError):  # bytes written to it that it never read
                stream.close()


class _Watch:
    """Calls a function when a turn takes too long. Its thread serves many turns: starting one costs as much as a small picture.

    Args:
        expire: called by that thread; no turn ends meanwhile.
    """

    def __init__(self, expire: Callable[[], None]) -> None:
        self._expire = expire
        self._changed = threading.Condition()
        self._turn = 0
        self._due: float | None = None  # on the clock of `time.monotonic`; None between turns
        self._wakes: float | None = None  # until when the thread sleeps; None while there is no thread
        self._closed = False

    def begin(self, seconds: float) -> int:
        """Begin a turn of at most so many seconds; returns its number.

        Raises:
            RuntimeError: the system cannot start another thread.
        """
        with self._changed:
            self._due = time.monotonic() + seconds
            if self._wakes is None:
                threading.Thread(target=self._run, name="blip2tools-watch", daemon=True).start()
                self._wakes = self._due
            self._hasten(self._due)
            self._turn += 1
            return self._turn

    def hurry(self, turn: int, seconds: float) -> None:
        """Leave a turn at most so many seconds more, if it has not ended."""
        with self._changed:
            if turn == self._turn and self._due is not None:
                self._due = min(self._due, time.monotonic() + seconds)
                self._hasten(self._due)

    def end(self) -> None:
        """End the turn: its function is not called any more."""
        with self._changed:
            self._due = None

    def _hasten(self, due: float) -> None:
        """See that the thread wakes by then. One that wakes too early sleeps again: cheaper than to wake it for each turn."""
        if self._wakes is not None and due < self._wakes:
            self._wakes = due
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed, self._due = True, None
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                left = math.inf if self._due is None else self._due - time.monotonic()
                if left <= 0:
                    self._due, left = None, math.inf
                    self._expire()
                self._wakes = time.monotonic() + left
                self._changed.wait(None if left == math.inf else left)


def _group() -> dict[str, Any]:
    """Options for a process group of its own: Ctrl-C in a terminal goes to a whole group, and is meant for the owner."""
    if sys.platform == "win32":  # pragma: no cover
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"process_group": 0}


def _limits(settings: Settings, seconds: float) -> dict[str, Any]:
    return {
        "formats": settings.formats,
        "max_image_bytes": settings.max_image_bytes,
        "max_pixels": settings.max_pixels,
        "max_side": settings.max_side,
        "max_damage_mb": settings.max_damage_mb,
        "seconds": seconds,
    }


def _places(packages: Sequence[str]) -> list[str]:
    """Folders in which this package and others are found."""
    places = [Path(__file__).parents[2]]
    for name in packages:
        found = importlib.util.find_spec(name)
        places += [Path(place).parent for place in (found and found.submodule_search_locations) or ()]
    return list(dict.fromkeys(str(place.resolve()) for place in places))
