"""The child of `decoder`: a process that turns foreign bytes into plain pixels, and may be killed at any moment.

It imports Pillow and the modules for pictures, nothing of the model. It reads requests from standard input and ends with it,
so it never outlives its owner. It sends only JSON and pixels: an attacker who takes it over through a flaw in a decoder gains
a process without the owner's files, model or sockets.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO, NamedTuple

from blip2tools.errors import VisionError
from blip2tools.pictures import images, rgb

OVERHEAD_BYTES = 96 * 2**20  # the interpreter with its libraries, and what a decoder needs besides pixels


class SentLimits(NamedTuple):
    """The `images.PictureLimits` of one owner."""

    formats: tuple[str, ...]
    max_image_bytes: int
    max_pixels: int
    max_side: int
    max_damage_mb: int


def main(arguments: str) -> None:  # pragma: no cover  runs in the process that the tests kill
    """Serve the owner: `arguments` is JSON with its limits and the seconds for one picture."""
    given = json.loads(arguments)
    seconds = given.pop("seconds")
    limits = SentLimits(**{**given, "formats": tuple(given["formats"])})
    images.warm()
    _confine(limits)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # native libraries must not print into the replies or the log
        os.dup2(nothing, descriptor)
    _send(replies, {})  # ready
    serve(requests, replies, limits, seconds)


def serve(requests: BinaryIO, replies: BinaryIO, limits: images.PictureLimits, seconds: float) -> None:
    """Answer requests until their stream ends. The process ends itself if one takes longer than `seconds`.

    A request is a line of JSON with `bytes`, `regions` and `targets`, and that many bytes of a picture; without regions it
    asks only for the size. Each reply is a line of JSON, and pixels in bands of rows where it names a size.
    """
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        # Works even if the owner is gone. A moment later than the owner would kill it: the owner's message is better.
        _alarm(seconds + 1)
        try:
            _answer(replies, data, request, limits)
        except VisionError as error:
            _send(replies, {"error": error.code, "message": error.message})
        _alarm(0)
        del data


def _answer(replies: BinaryIO, data: bytes, request: dict[str, Any], limits: images.PictureLimits) -> None:
    if request["regions"] is None:
        width, height = images.size_of(data, limits)
        _send(replies, {"width": width, "height": height})
        return
    picture = images.decode(data, limits)
    facts = {"width": picture.width, "height": picture.height, "animated": picture.animated}
    _write(replies, {**facts, "warnings": picture.warnings} if picture.warnings else facts)
    for part in images.parts(picture, request["regions"], request["targets"]):
        bands = list(rgb.bands(part.size))
        _write(replies, {"size": part.size, "rows": bands[0][1]})
        for top, bottom in bands:
            replies.write(part.crop((0, top, part.width, bottom)).tobytes())
    replies.flush()


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    _write(replies, reply)
    replies.flush()


def _write(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")


def _alarm(seconds: float) -> None:
    if sys.platform != "win32":  # pragma: no branch
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _confine(limits: images.PictureLimits) -> None:  # pragma: no cover  see main
    """Limit what a decoder can take, and drop what none needs, as far as the system supports it."""
    if sys.platform == "win32":
        return
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the owner
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    memory = limits.max_pixels * images.BYTES_A_PIXEL + limits.max_image_bytes + OVERHEAD_BYTES
    for bound, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(bound)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(bound, (most, most))
        except (OSError, ValueError):
            continue
