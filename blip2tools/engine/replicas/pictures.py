"""Encoded pictures that every gateway reaches by their handles: one process of the cluster keeps them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Final

from blip2tools.engine.replicas.cluster import listen_on_own_address
from blip2tools.pictures.store import Store, handle_of

PATIENCE_S: Final = 10.0  # for the process that keeps them: without it a gateway still has what itself has seen

logger = logging.getLogger(__name__)


class Pictures:
    """The class of the deployment.

    Args:
        budget_bytes: of memory; the pictures used longest ago go first.
    """

    def __init__(self, budget_bytes: int) -> None:
        listen_on_own_address()
        self._store = Store(budget_bytes)

    async def put(self, data: bytes, digest: str) -> None:
        """Keep a picture."""
        self._store.put(data, digest)

    async def get(self, handle: str) -> bytes | None:
        """The bytes behind a handle, if they are kept."""
        return self._store.get(handle)


class SharedStore(Store):
    """A gateway's own pictures, and behind them those that all gateways share.

    Args:
        budget_bytes: of this process.
        pictures: handle of the deployment.
    """

    def __init__(self, budget_bytes: int, pictures: Any) -> None:
        super().__init__(budget_bytes)
        self._shared = pictures

    def put(self, data: bytes, digest: str | None = None, path: Path | None = None) -> str:
        """See `Store.put`. A picture that is new here is shared before its handle is told."""
        digest = digest or hashlib.sha256(data).hexdigest()
        is_new = self.digest(handle_of(digest)) is None
        handle = super().put(data, digest, path)
        if is_new:
            self._ask("put", data, digest)
        return handle

    def get(self, handle: str) -> bytes | None:
        """See `Store.get`."""
        own = super().get(handle)
        if own is not None:
            return own
        shared: bytes | None = self._ask("get", handle)
        if shared is not None:
            super().put(shared)
        return shared

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._shared, method).remote(*arguments).result(timeout_s=PATIENCE_S)
        except Exception as error:  # noqa: BLE001  a handle may then be not found, which its owner learns
            logger.warning("the shared pictures cannot be reached (%s)", type(error).__name__)
            return None
