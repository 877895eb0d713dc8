"""`blip2tools proxy`: a server of chat protocols in front of another one with a text-only model.

guard ─► proxy ─► no picture in it: the upstream, byte for byte
             └──► words for the pictures, tools added to the client's ─► the upstream, once for each look
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from blip2tools.errors import NotFoundError, VisionError, to_vision_error
from blip2tools.pictures.inline import may_hold_pictures
from blip2tools.server.chat.bodies import MAX_BODY, parsed, unpacked, written
from blip2tools.server.chat.conversation import Answer, Asked, Eyes, relay
from blip2tools.server.chat.errors import status_of
from blip2tools.server.chat.models import seeing
from blip2tools.server.chat.protocols import DIALECTS, dialect_of
from blip2tools.server.chat.upstream import Upstream, headers_from, whole_of
from blip2tools.server.http.guard import DEPARTURE, HEALTH, Departure
from blip2tools.server.http.metrics import CONTENT_TYPE, Metric, engine, render
from blip2tools.vision import Vision

MODELS: Final = "/v1/models"
CHATS: Final = {one.path: one for one in DIALECTS}
OTHERS: Final = ("/v1/messages/count_tokens", "/v1/completions", "/v1/embeddings")
PREFIXES: Final = (f"{MODELS}/", "/v1/responses/")
ROUTES: Final = (*CHATS, *OTHERS, MODELS, HEALTH, "/readyz", "/metrics")


class Proxy:
    """The application behind the guard. It does not close `vision`.

    Args:
        vision: what to look with.
        upstream: where the model is.
        rounds: how often one turn of the model may look.
        always: offer the tools also where no picture was shown.
    """

    def __init__(self, vision: Vision, upstream: Upstream, *, rounds: int = 8, always: bool = False) -> None:
        self._vision = vision.for_tools(reveal_folders=False, reveal_handles=False)
        self._upstream = upstream
        self._eyes = Eyes(self._vision, upstream, rounds=rounds, always=always)
        self.http_metrics: Callable[[], dict[str, Any]] = dict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        answer = Answer(send)
        departure: Departure = scope[DEPARTURE]
        with departure.cancels():
            try:
                await self._serve(scope, receive, answer)
            except VisionError as error:
                await self._fail(scope["path"], answer, error)
            except Exception as error:  # noqa: BLE001 - every failure is one of the closed set
                await self._fail(scope["path"], answer, to_vision_error(error))

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._upstream.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def _fail(self, path: str, answer: Answer, error: VisionError) -> None:
        if not answer.started:
            status = status_of(error)
            said = dialect_of(path).error(status, error.code, error.message)
            headers = [(b"content-type", b"application/json")]
            if status == 503:
                headers.append((b"retry-after", b"2"))
            await answer.whole(status, headers, json.dumps(said).encode())

    async def _serve(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        if {".", ".."} & set(scope["path"].replace("\\", "/").split("/")):
            # The upstream would read such a path as another one, which is not served here.
            raise NotFoundError("There is nothing at this path.")
        own: dict[str, Callable[[Answer], Awaitable[None]]] = {
            HEALTH: _health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }
        if (route := own.get(scope["path"])) is not None:
            await route(answer)
            return
        asked = await self._asked(scope, receive)
        if asked.body is None:
            if scope["path"] == MODELS or scope["path"].startswith(f"{MODELS}/"):
                await self._models(asked, answer)
            else:
                await self._relay(asked, answer)
            return
        holds_pictures = may_hold_pictures(asked.body)
        dialect = dialect_of(scope["path"])
        if scope["path"] in CHATS and scope["method"] == "POST":
            if self._eyes.concerns(asked.body, holds_pictures=holds_pictures):
                body, plain = parsed(asked.body)
                await self._eyes.converse(dialect, asked, body, plain, answer)
                return
        elif holds_pictures:
            body, plain = parsed(asked.body)
            if await self._eyes.blind(body, dialect) or not plain:
                asked.body = written(body)
        await self._relay(asked, answer)

    async def _asked(self, scope: Scope, receive: Receive) -> Asked:
        """The request to pass on, its body unpacked; the body is None if there is none."""
        pieces, more = [], True
        while more:
            message: Message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        codings = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
        raw = b"".join(filter(None, pieces))
        body = unpacked(raw, ",".join(codings), MAX_BODY) if raw else None
        headers = self._upstream.headers_to(scope["headers"], unpacked=True)
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        return Asked(scope["method"], path, scope["query_string"], headers, body)

    async def _relay(self, asked: Asked, answer: Answer) -> None:
        async with self._upstream.open(asked.method, asked.path, asked.query, asked.headers, asked.body) as response:
            await relay(response, answer, dialect_of(asked.path))

    async def _models(self, asked: Asked, answer: Answer) -> None:
        """The upstream's models, marked as models that can see."""
        async with self._upstream.open(asked.method, asked.path, asked.query, asked.headers, None) as response:
            if response.status_code != 200:
                await relay(response, answer, dialect_of(asked.path))
                return
            whole, headers = await whole_of(response), headers_from(response)
        with suppress(ValueError, RecursionError):  # anything but a list of models stays as it is
            whole = json.dumps(seeing(json.loads(whole))).encode()
        await answer.whole(200, headers, whole)

    async def _ready(self, answer: Answer) -> None:
        status = self._vision.status()
        said = {"ready": status.loaded, "state": status.state, "model": status.model}
        await answer.whole(
            200 if status.loaded else 503, [(b"content-type", b"application/json")], json.dumps(said).encode()
        )

    async def _metrics(self, answer: Answer) -> None:
        numbers: dict[str, Metric | Any] = {**engine(self._vision.status()), **self.http_metrics()}
        await answer.whole(200, [(b"content-type", CONTENT_TYPE.encode())], render(numbers).encode())


async def _health(answer: Answer) -> None:
    await answer.whole(200, [(b"content-type", b"text/plain")], b"ok\n")
