"""Pictures already seen: a handle leads back to the encoded bytes, within a byte budget."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict


def handle_of(digest: str) -> str:
    """The short name of a picture in later calls: `img_` and the first 16 hex digits of the SHA-256 of its encoded bytes."""
    return "img_" + digest[:16]


class Store:
    """Encoded pictures by handle, least recently used out first. Safe to use from several threads.

    A picture larger than the whole budget is not kept, and nothing is evicted for it: its handle is as good as expired,
    which its owner learns from the usual `not_found`, while everybody else's pictures stay.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._pictures: OrderedDict[str, tuple[bytes, str]] = OrderedDict()
        self._used = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, digest: str | None = None) -> str:
        """Keep `data` as the newest picture and return its handle; the same bytes are kept once.

        Args:
            data: the encoded bytes.
            digest: their SHA-256 in hex, for who knows it already.
        """
        digest = digest or hashlib.sha256(data).hexdigest()
        handle = handle_of(digest)
        if len(data) > self._budget:
            return handle
        with self._lock:
            before, _ = self._pictures.pop(handle, (b"", ""))
            self._used += len(data) - len(before)
            self._pictures[handle] = data, digest
            while self._used > self._budget:
                _, (oldest, _) = self._pictures.popitem(last=False)
                self._used -= len(oldest)
        return handle

    def get(self, handle: str) -> bytes | None:
        """The bytes behind a handle, which thereby becomes the newest, or `None` when they are not kept."""
        return self._use(handle)[0]

    def digest(self, handle: str) -> str | None:
        """The SHA-256 of the bytes behind a handle, which thereby becomes the newest, or `None` when they are not kept."""
        return self._use(handle)[1]

    def _use(self, handle: str) -> tuple[bytes, str] | tuple[None, None]:
        with self._lock:
            found = self._pictures.get(handle)
            if found is None:
                return None, None
            self._pictures.move_to_end(handle)
            return found

    def known(self, limit: int) -> list[str]:
        """At most `limit` handles, newest first."""
        with self._lock:
            return list(reversed(self._pictures))[: max(limit, 0)]

    def __len__(self) -> int:
        with self._lock:
            return len(self._pictures)

    @property
    def bytes_used(self) -> int:
        """The size of everything kept."""
        with self._lock:
            return self._used
