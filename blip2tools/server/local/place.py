"""Where a server's socket is, what it is called, who may be at its other end, and how messages are framed.

The name is a digest of all that an answer depends on, so a command finds only servers that would answer as it would itself. A
message is four bytes of length (big-endian) and so many of JSON; a picture's bytes follow the message that tells their number.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from blip2tools.__version__ import __version__
from blip2tools.checkpoints.identity import identity
from blip2tools.checkpoints.plan import Plan
from blip2tools.settings import HTTP_SETTINGS, PROXY_SETTINGS, Settings, foreign_variable
from blip2tools.settings.file import content_of

PROTOCOL: Final = 1
MAX_PATH_BYTES: Final = 103  # of `sun_path` on macOS, the end not counted; Linux has four more
MAX_HEAD: Final = 2**18  # bytes of a question: 64 statements of 512 characters, escaped
MAX_ANSWER: Final = 2**24  # bytes of a result; a page of text is the longest
# Settings on which no answer depends, or only by way of what the digest has anyway: which files, and their warnings.
_NOT_OF_ANSWERS: Final = frozenset(
    (
        *HTTP_SETTINGS,
        *PROXY_SETTINGS,
        *("model", "matcher", "revision", "matcher_revision", "allow_pickle", "offline", "cache_dir", "calibration"),
        *("allowed_dirs", "allow_urls", "url_hosts", "max_data_bytes", "store_mb"),
        *("max_queue", "max_batch", "keep_answers", "idle_unload_s", "cache_mb", "spill_mb", "threads"),
        *("cuda_graphs", "max_memory", "offload_dir", "early_load", "use_server"),
    )
)


def supported() -> bool:
    """Whether this system has such sockets, and says who is at the other end."""
    return os.name == "posix" and hasattr(socket, "AF_UNIX") and (sys.platform in ("linux", "darwin"))


def name_of(settings: Settings, plan: Plan) -> str | None:
    """What servers that answer alike are called, 20 hex digits; `None` where the model is not on this computer."""
    if not plan.here:
        return None
    told = {
        "protocol": PROTOCOL,
        "version": __version__,
        "settings": settings.model_dump(mode="json", exclude=set(_NOT_OF_ANSWERS)),
        "calibration": _calibration(settings.calibration),
        "captioner": identity(plan.captioner),
        "matcher": None if plan.matcher is None else identity(plan.matcher),
        "warnings": plan.warnings,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]


def _calibration(named: str) -> str:
    """The setting, or the content of the file that it names."""
    if named in ("auto", "none"):
        return named
    try:
        return hashlib.sha256(content_of(Path(named).expanduser(), 2**20)).hexdigest()
    except OSError:
        return os.path.abspath(named)  # noqa: PTH100  a text, which need not be a file


def folders(settings: Settings) -> Iterator[Path]:
    """Where sockets may be, best first. None of them need exist."""
    # Who names a folder of their own for what is kept wants it there.
    if settings.cache_dir is None:
        # A client that starts a server may have left the variable out, where it has this value on most systems.
        for runtime in dict.fromkeys((foreign_variable("XDG_RUNTIME_DIR"), f"/run/user/{os.geteuid()}")):
            if runtime is not None and _is_private(Path(runtime)):
                yield Path(runtime) / "blip2tools"
    yield settings.cache_folder / "run"


def folder_to_listen_in(settings: Settings) -> Path | None:
    """The first of them that is there, or can be made, and is the user's alone."""
    for folder in folders(settings):
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(folder):
                return folder
    return None


def sockets(settings: Settings, name: str) -> list[Path]:
    """The sockets of servers of this name, newest first."""
    found: list[tuple[int, Path]] = []
    for folder in folders(settings):
        if not _is_private(folder):
            continue
        with suppress(OSError):
            for path in folder.iterdir():
                if path.name.partition(".")[0] == name and _is_own_socket(path):
                    found.append((path.lstat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def remove_stale(folder: Path) -> None:
    """Delete sockets that processes have left behind which were killed."""
    with suppress(OSError):
        for path in folder.iterdir():
            pid = path.name.partition(".")[2]
            if pid.isdecimal() and _is_own_socket(path) and not _runs(int(pid)) and not _answers(path):
                path.unlink(missing_ok=True)


def fits(path: Path) -> bool:
    """Whether a socket can have this address."""
    return len(os.fsencode(path)) <= MAX_PATH_BYTES


def is_own_peer(connection: socket.socket) -> bool:
    """Whether a process of the same user is at the other end."""
    try:
        if sys.platform == "darwin":
            # `struct xucred` of <sys/ucred.h>, at level SOL_LOCAL: a version, and the effective user.
            user = struct.unpack_from("=II", connection.getsockopt(0, 1, 76))[1]
        else:
            user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    except (OSError, struct.error):
        return False
    return bool(user == os.geteuid())


async def read_message(reader: asyncio.StreamReader, limit: int) -> dict[str, Any]:
    """The next message.

    Raises:
        ValueError: it is longer than `limit` bytes, or no JSON object.
        EOFError: the other side has gone.
    """
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > limit:
        raise ValueError("too long")
    message = json.loads(await reader.readexactly(size))
    if not isinstance(message, dict):
        raise ValueError("no object")
    return message


def framed(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    text = json.dumps(message).encode()
    return len(text).to_bytes(4, "big") + text


def _is_private(folder: Path) -> bool:
    """Whether this is a folder, itself and no link to one, that only its owner, who is this user, can open."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _is_own_socket(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _answers(path: Path) -> bool:
    """Whether somebody listens, also in a container that numbers processes otherwise."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
