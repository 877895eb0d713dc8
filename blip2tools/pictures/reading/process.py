"""The other end of `reader`: a process that turns plain pixels into lines of text, and may be killed at any moment.

It gets pixels and no files, reads no settings, and reaches no network: the two networks are named files of the library's wheel.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO, Final

import cv2
import numpy as np

from blip2tools.pictures.reading import page
from blip2tools.pictures.reading.networks import Networks, Pixels

MEMORY_BYTES: Final = 2_560 * 2**20  # beside the picture: two million pixels at a time take about 1 GB


def main(arguments: str) -> None:  # pragma: no cover  runs in the process that the tests kill
    """Serve the owner: `arguments` is JSON with its `max_pixels`, the `seconds` for one picture, and its `threads`."""
    given = json.loads(arguments)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # native libraries must not print into the replies or the log
        os.dup2(nothing, descriptor)
    threads = given["threads"] or page.threads(os.cpu_count())
    cv2.setNumThreads(threads)
    networks = Networks(threads)
    _confine(3 * given["max_pixels"])
    _send(replies, {"name": networks.name})  # ready
    serve(requests, replies, networks, given["seconds"])


def serve(requests: BinaryIO, replies: BinaryIO, networks: page.Reading, seconds: float) -> None:
    """Answer requests until their stream ends. The process ends itself if one takes longer than `seconds`.

    A request is a line of JSON with `bytes` and `size`, and so many bytes of RGB pixels. Each reply is a line of JSON.
    """
    while line := requests.readline():
        request = json.loads(line)
        width, height = request["size"]
        flat = np.frombuffer(requests.read(request["bytes"]), np.uint8)
        pixels: Pixels = np.ascontiguousarray(flat.reshape(height, width, 3)[:, :, ::-1])
        del flat
        # Works even if the owner is gone. A moment later than the owner would kill it, since the owner's message is the better
        # one.
        _alarm(seconds + 1)
        try:
            found = page.read(networks, pixels)
            reply = page.as_reply(found)
        except MemoryError:
            reply = {"error": "too_large", "message": "The picture takes too much memory to read; pass a region of it."}
        _alarm(0)
        _send(replies, reply)


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _alarm(seconds: float) -> None:
    if sys.platform != "win32":  # pragma: no branch
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _confine(picture_bytes: int) -> None:  # pragma: no cover  see main
    """Bound what reading can take. Where the system has no such bounds, less is bounded."""
    if sys.platform == "win32":
        return
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the owner
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The picture as it came, in another order of colours, and turned.
    memory = MEMORY_BYTES + 4 * picture_bytes
    for bound, most in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(bound)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(bound, (most, most))
        except (OSError, ValueError):
            continue
