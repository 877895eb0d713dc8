"""What runs in a replica: an engine of its own with the whole model, which batches what several gateways send."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any, Final

from blip2tools.engine.line import Job
from blip2tools.engine.local import LocalEngine
from blip2tools.engine.protocol import EngineStatus
from blip2tools.engine.replicas.cluster import listen_on_own_address
from blip2tools.engine.requests import MatcherRequest, Request, TextFeatureRequest, WarmRequest
from blip2tools.errors import DeadlineError, VisionError, to_vision_error
from blip2tools.pictures.images import Target
from blip2tools.settings import Settings

Outcome = tuple[str, Any]
"""An error's code, or nothing, and its message or the answer: exceptions would come out of Ray as its own kinds."""


DECISIVE: Final = ("model", "matcher", "revision", "matcher_revision", "dtype", "quantize", "calibration")


class Replica:
    """The class of the deployment.

    Args:
        settings: of the gateway that has started it; paths must lead to the same checkpoints on every node.
        download: whether a named model that is not on a node may be downloaded there.
    """

    def __init__(self, settings: dict[str, Any], download: bool) -> None:
        listen_on_own_address()
        self._settings = Settings.check(settings)
        self._engine = LocalEngine.of(self._settings, download=download)
        self._warm = self._engine.submit(WarmRequest(), deadline=None)

    async def answer(self, request: Request, seconds: float | None, caller: str) -> Outcome:
        """Answer a request that has so many seconds left; what is cancelled outside is cancelled here."""
        deadline = None if seconds is None else time.monotonic() + seconds
        job: Job | None = None
        try:
            request = await asyncio.to_thread(self._prepared, request)
            job = self._engine.submit(request, deadline=deadline, caller=caller)
            async with asyncio.timeout(seconds):
                return "", await asyncio.wrap_future(job.future)
        except TimeoutError:
            error: VisionError = DeadlineError("The call ran out of time before it had an answer.")
        except Exception as failure:  # noqa: BLE001  the caller is told, whatever it is
            error = to_vision_error(failure)
        finally:
            if job is not None:
                job.cancel()
        return error.code, error.message

    async def facts(self) -> tuple[EngineStatus, tuple[Target, ...]]:
        """How this replica is, and what pictures may be resized to before they come here."""
        return self._engine.status(), self._engine.targets()

    async def serves(self) -> dict[str, Any]:
        """The settings that decide what is answered."""
        return {name: getattr(self._settings, name) for name in DECISIVE}

    def _prepared(self, request: Request) -> Request:
        if isinstance(request, TextFeatureRequest | MatcherRequest | WarmRequest) or request.sight is None:
            return request
        return replace(request, sight=self._engine.prepare(request.sight))

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()
