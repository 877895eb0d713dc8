"""The pictures that the page shows and that do not come from its user: samples, and thumbnails of what a search found."""

from __future__ import annotations

import asyncio
import io
from functools import cache
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from blip2tools.errors import NotFoundError
from blip2tools.schemas import ThumbnailArguments, parse
from blip2tools.server.http.bodies import _arguments_of
from blip2tools.vision import Vision

SAMPLES: Final = "/page/samples/"
THUMBNAIL: Final = "/page/thumbnail"


class Pictures:
    """Answers the requests of the page for pictures.

    Args:
        vision: one for tools: what it may not read is not shown.
    """

    def __init__(self, vision: Vision) -> None:
        self._vision = vision

    async def thumbnail(self, request: Request) -> Response:
        """A small JPEG of the picture that the arguments name."""
        given = parse(ThumbnailArguments, await _arguments_of(request))
        return Response(await self._vision.athumbnail(given.image, given.side), media_type="image/jpeg")

    async def sample(self, request: Request) -> Response:
        """A drawing to begin with."""
        return Response(await asyncio.to_thread(_drawn, request.path_params["name"]), media_type="image/png")


@cache
def _drawn(name: str) -> bytes:
    from blip2tools.demo.draw import draw  # loads PIL: only once somebody looks at the page
    from blip2tools.demo.samples import SAMPLES as SCENES
    from blip2tools.demo.samples import SIDE

    if name not in SCENES:
        raise NotFoundError(f"There is no sample of that name; there are {', '.join(SCENES)}.")
    buffer = io.BytesIO()
    draw(SCENES[name], SIDE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
