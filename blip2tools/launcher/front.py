"""A client's first lines: answered from the catalogue, or kept in their order until the server takes over.

Requests that were answered here are sent to the server once more, because it must know of them; its answers to those are
dropped. From then on only the server writes: no message is lost, none comes twice, and each keeps its id.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from blip2tools.launcher.catalogue import CAPABILITIES_KEY, LEGACY, LISTS, MODERN, VERSION_KEY, Catalogue
from blip2tools.launcher.wire import TAIL, Line, encoded, id_of, next_line, too_large, written

UNDECIDED = "undecided"  # a message came that only the server can judge: from there on it alone answers
DISCOVERY_VERSION = "2026-07-28"
REPLAY = "blip2tools-replay-"  # ids of requests that are asked once more

INVALID_REQUEST, INTERNAL_ERROR = -32600, -32603
_MAX_READ = 2**16  # bytes of the longest line that is parsed; only calls with a picture inside are longer
_MAX_KEPT = 2**26  # bytes of lines that may wait; above that, reading pauses


@dataclass
class _Kept:
    """Line that waits for the server, with what an answer needs if the server takes too long."""

    line: Line
    number: Any = None
    method: str = ""
    token: Any = None
    since: float = field(default_factory=time.monotonic)
    told: int = 0


class Unanswered:
    """Lines of a client, none of which has been answered."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source, self._limit = source, limit

    def replays(self) -> list[dict[str, Any]]:
        """Messages that the server must get first: none."""
        return []

    def next_line(self) -> Line:
        """The next line, as `wire.next_line` gives it."""
        return next_line(self._source, self._limit)


class Front:
    """First exchange with one client, until the server takes over.

    Args:
        source: where its lines come from.
        sink: where answers go, unbuffered.
        catalogue: what can be answered.
        limit: bytes of the longest line.
        at_end: called if the client is gone before the server took over: its input has ended, or a line could not be written.
            Gets true if requests still wait for an answer that can arrive.
    """

    def __init__(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        catalogue: Catalogue,
        *,
        limit: int | None = None,
        at_end: Callable[[bool], object] | None = None,
    ) -> None:
        self._source, self._sink, self._catalogue = source, sink, catalogue
        self._limit = catalogue.limit if limit is None else limit
        self._at_end = at_end
        self._changed = threading.Condition()
        self._kept: deque[_Kept] = deque()
        self._bytes = 0
        self._silent = self._done = False
        self._era: str | None = None
        self._replays: list[dict[str, Any]] = []
        self._replayed = 0

    def start(self) -> None:
        """Begin to read, in a thread of its own."""
        threading.Thread(target=self._read, daemon=True, name="front").start()

    # ---- for the server ----

    def replays(self) -> list[dict[str, Any]]:
        """Requests answered here since the last time, for the server. Once there are none, it alone answers."""
        with self._changed:
            fresh = self._replays[self._replayed :]
            self._replayed = len(self._replays)
            if not fresh:
                self._silent = True
                self._changed.notify_all()
            return fresh

    def wait_for_client(self) -> None:
        """Wait until there is something to send to a server."""
        with self._changed:
            while not (self._kept or self._replays or self._done):
                self._changed.wait()

    def next_line(self) -> Line:
        """The next line for the server, as `wire.next_line` gives it."""
        with self._changed:
            if (kept := self._next()) is not None:
                return kept
        return next_line(self._source, self._limit)

    def next_piece(self) -> bytes:
        """The next bytes for the server, whole lines or not; empty at the end of the input."""
        with self._changed:
            if (kept := self._next()) is not None:
                return kept if isinstance(kept, bytes) else b"".join(kept)
        return self._source.read1(2**16)  # type: ignore[attr-defined, no-any-return]

    def _next(self) -> Line | None:
        while not self._kept and not self._done:
            self._changed.wait()
        return self._taken().line if self._kept else None

    def pass_on(self, line: bytes) -> bool:
        """Write output of the server; false if the client no longer reads."""
        with self._changed:
            return written(self._sink, line)

    # ---- while there is no server ----

    def tell(self, sentence: str) -> None:
        """Send progress to the waiting requests that asked for it."""
        with self._changed:
            for kept in () if self._silent else self._kept:
                if kept.token is None:
                    continue
                kept.told += 1
                # Below whatever the server will count: progress may only grow.
                params = {"progressToken": kept.token, "progress": kept.told / 1e12, "message": sentence}
                self._write({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def give_up(self, patience: float, code: str, sentence: str) -> int:
        """Answer all requests that have waited `patience` seconds with this sentence; returns how many there were."""
        now, answered = time.monotonic(), 0
        with self._changed:
            for kept in [] if self._silent else list(self._kept):
                if kept.number is None or now - kept.since < patience:
                    continue
                self._kept.remove(kept)
                self._bytes -= len(kept.line)
                self._refuse(kept, code, sentence)
                answered += 1
            self._changed.notify_all()
        return answered

    def _refuse(self, kept: _Kept, code: str, sentence: str) -> None:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": kept.number}
        if kept.method == "tools/call":
            answer["result"] = self._catalogue.refusal(MODERN if self._era == MODERN else LEGACY, code, sentence)
        else:
            answer["error"] = {"code": INTERNAL_ERROR, "message": f"{code}: {sentence}"}
        self._write(answer)

    # ---- reading ----

    def _read(self) -> None:
        last = False
        while not last:
            line = next_line(self._source, self._limit)
            with self._changed:
                last = self._silent or not line
                if last:
                    self._keep(_Kept(line))
                elif (kept := self._answered(line)) is not None:
                    self._keep(kept)
                ended = not line and not self._silent
                self._done = last
                self._changed.notify_all()
                while self._bytes > _MAX_KEPT and not self._silent:
                    self._changed.wait()
        if ended and self._at_end is not None:
            self._at_end(any(kept.line for kept in self._kept))

    def _keep(self, kept: _Kept) -> None:
        self._bytes += len(kept.line)
        self._kept.append(kept)

    def _taken(self) -> _Kept:
        kept = self._kept.popleft()
        self._bytes -= len(kept.line)
        self._changed.notify_all()
        return kept

    def _answered(self, line: Line) -> _Kept | None:
        """What to keep of the line for the server; `None` if it needs nothing more."""
        if isinstance(line, tuple):
            self._error(id_of(*line), INVALID_REQUEST, too_large(self._limit))
            return None
        if line.isspace():
            return None
        if len(line) > _MAX_READ:
            called = b'"tools/call"' in line[:_MAX_READ] or b'"tools/call"' in line[-TAIL:]
            return self._undecided(_Kept(line, id_of(line, line[-TAIL:]), "tools/call" if called else ""))
        try:
            message = json.loads(line)
            line.decode()
        except (ValueError, RecursionError):
            return self._undecided(_Kept(line))
        if not _is_message(message):
            return self._undecided(_Kept(line))
        if "id" not in message:
            return None if self._noted(message) else _Kept(line)
        method, params = message["method"], message.get("params")
        answer = self._answer(method, params)
        if answer is not None:
            self._write({"jsonrpc": "2.0", "id": message["id"], "result": answer})
            return None
        about = params.get("_meta") if isinstance(params, dict) else None
        token = about.get("progressToken") if isinstance(about, dict) else None
        return _Kept(line, message["id"], method, token if _is_id(token) else None)

    def _undecided(self, kept: _Kept) -> _Kept:
        self._era = self._era or UNDECIDED
        return kept

    def _noted(self, message: dict[str, Any]) -> bool:
        """Whether a notification need not reach the server."""
        params = message.get("params") or {}
        if message["method"] == "notifications/initialized" and self._era == LEGACY:
            self._replays.append({"method": message["method"]})
            return True
        if message["method"] == "notifications/cancelled":
            # A request that was answered cannot be cancelled, and one that waits has not begun.
            for kept in [one for one in self._kept if one.number is not None and one.number == params.get("requestId")]:
                self._kept.remove(kept)
                self._bytes -= len(kept.line)
            return True
        return False

    def _answer(self, method: str, params: Any) -> dict[str, Any] | None:
        modern = self._catalogue.is_modern(params)
        if method == "server/discover":  # it does not decide the era
            fits = modern and self._era in (None, MODERN) and params.keys() == {"_meta"}
            return self._catalogue.result(MODERN, method) if fits else None
        if self._era is None:
            if method == "initialize":
                return self._begin(params)
            self._era = MODERN if modern else UNDECIDED
        if self._era == UNDECIDED or modern != (self._era == MODERN) or method in ("initialize", "server/discover"):
            return None
        if not _is_plain(params) or not (method in LISTS or method == "ping"):
            return None
        result = self._catalogue.result(self._era, method)
        if result is not None and (method == "tools/list" or (modern and not self._replays)):
            self._replay(
                method, {"_meta": {VERSION_KEY: params["_meta"][VERSION_KEY], CAPABILITIES_KEY: {}}} if modern else {}
            )
        return result

    def _begin(self, params: Any) -> dict[str, Any] | None:
        result = self._catalogue.initialize(params)
        if result is None:
            self._era = UNDECIDED
            return None
        self._era = LEGACY
        client = {key: params["clientInfo"][key] for key in ("name", "version")}
        # The server uses no capability of the client, so it need not know of any.
        self._replay(
            "initialize", {"protocolVersion": result["protocolVersion"], "capabilities": {}, "clientInfo": client}
        )
        return result

    def _replay(self, method: str, params: dict[str, Any]) -> None:
        if all(one["method"] != method for one in self._replays):
            self._replays.append({"id": f"{REPLAY}{len(self._replays)}", "method": method, "params": params})

    # ---- writing ----

    def _write(self, message: dict[str, Any]) -> None:
        if not written(self._sink, encoded(message)) and self._at_end is not None:
            self._at_end(False)  # a client that reads no more has gone, whether its other end is closed or not

    def _error(self, number: Any, code: int, sentence: str) -> None:
        self._write({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": sentence}})


def discovery(number: str) -> dict[str, Any]:
    """Request for a server's capabilities, under this id."""
    about = {VERSION_KEY: DISCOVERY_VERSION, CAPABILITIES_KEY: {}}
    return {"id": number, "method": "server/discover", "params": {"_meta": about}}


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _is_message(message: Any) -> bool:
    """Whether it is a valid request or notification."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return False
    if not message.keys() <= {"jsonrpc", "id", "method", "params"}:
        return False
    try:
        str(message.get("id")).encode()
    except UnicodeEncodeError:  # half a character, which is no JSON to the server
        return False
    return isinstance(message.get("params", {}), dict) and ("id" not in message or _is_id(message["id"]))


def _is_plain(params: Any) -> bool:
    """Whether a list is asked for from its beginning, without any other parameter."""
    if params is None:
        return True
    about = params.get("_meta", {})
    return params.keys() <= {"_meta", "cursor"} and params.get("cursor") is None and isinstance(about, dict)
