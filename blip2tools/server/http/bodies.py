"""Bodies of requests: arguments, forms and pictures, and the rest of those that are refused."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.types import Receive

from blip2tools.errors import InvalidInputError

PATIENCE_S = 5.0  # for the rest of a body that is refused
SILENCE_S = 0.5
MAX_PARTS = 9  # of a form
MAX_PART_HEAD = 8192  # bytes of a part's headers


async def let_finish(receive: Receive, size: int) -> None:
    """Discard up to `size` bytes of a body: closing the connection on a client that is sending would lose the answer too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while size > 0:
                message = await asyncio.wait_for(receive(), SILENCE_S)
                size -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def files_of_form(body: bytes, content_type: str) -> list[memoryview]:
    """The files of a form (RFC 7578), as views of its bytes: to parse it as a stream would hold a picture three times.

    Raises:
        ValueError: it is malformed, or has more parts than a picture's form needs.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    # RFC 2046, 5.1.1: a boundary begins a line and ends it, or is followed by two hyphens where the form ends.
    line = re.compile(rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(\r\n|--)")
    view = memoryview(body)
    files: list[memoryview] = []
    begun = line.search(body) if boundary else None
    for _ in range(MAX_PARTS):
        if begun is None:
            break
        if begun[1] == b"--":
            return files
        head = body.find(b"\r\n\r\n", begun.start(1), begun.end() + MAX_PART_HEAD)
        ended = line.search(body, head + 4)
        if head < 0 or ended is None:
            break
        for field in body[begun.end() : head].split(b"\r\n"):
            name, _, value = field.partition(b":")
            if name.strip().lower() == b"content-disposition" and b"filename" in parse_options_header(value)[1]:
                files.append(view[head + 4 : ended.start()])
        begun = ended
    raise ValueError("not a form, or a long one")


async def _arguments_of(request: Request) -> dict[str, Any] | None:
    if request.method == "GET":
        return None
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidInputError("Send the arguments as JSON, with the content type application/json.")
    try:
        arguments = json.loads(await _body_of(request))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("The body is not JSON.") from error
    if not isinstance(arguments, dict):
        raise InvalidInputError("The body must be one JSON object: the tool's arguments.")
    return arguments


async def _body_of(request: Request) -> bytes:
    """The one piece that the guard passes on, as it is; `Request.body` would copy it, to join an empty last piece to it."""
    return b"".join([piece async for piece in request.stream() if piece])


async def _picture_of(request: Request) -> bytes | memoryview:
    """The picture in a body: the whole of it, or the one file of a form."""
    body, content_type = await _body_of(request), request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return body
    try:
        files = files_of_form(body, content_type)
    except ValueError as error:
        raise InvalidInputError("The form is malformed; it must hold one picture as a file.") from error
    if len(files) != 1:
        raise InvalidInputError("The form does not hold one file; send one picture, e.g. curl -F image=@photo.jpg.")
    return files[0]
