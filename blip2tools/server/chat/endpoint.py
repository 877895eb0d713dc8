"""The vision endpoint of `serve --http`: a picture and a text to `POST /v1/chat/completions`, as to any model that can see.

Each request is one call of a tool; the answer is the text that the tool gives to every model.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from blip2tools.errors import CancelledError, InvalidInputError, NotFoundError, VisionError, to_vision_error
from blip2tools.pictures.inline import Picture, of_text, picture_of
from blip2tools.schemas import parse
from blip2tools.server.chat.errors import openai_error, status_of
from blip2tools.server.chat.events import event_of
from blip2tools.server.chat.forms import ChatRequest, Completion, ModelList, Reply, ReplyChoice, Usage
from blip2tools.server.chat.intent import Intent, intent_of
from blip2tools.server.chat.models import NAME, model
from blip2tools.server.http.bodies import _arguments_of
from blip2tools.server.http.guard import DEPARTURE, Departure
from blip2tools.toolset import TOOLS, call
from blip2tools.vision import Vision

COMPLETIONS: Final = "/v1/chat/completions"
MODELS: Final = "/v1/models"
MOST_PICTURES: Final = 16
MOST_TURNS: Final = 8
SIGHT_TOKENS: Final = 32  # of a picture: as many query tokens does the language model get

_TOKEN: Final = re.compile(r"\w+|[^\w\s]")


class Endpoint:
    """Answers chats about pictures.

    Args:
        vision: what to look with, for arguments that come from elsewhere.
    """

    def __init__(self, vision: Vision) -> None:
        self._vision = vision
        self._since = int(time.time())

    def routes(self) -> list[Route]:
        """The routes of this endpoint."""
        return [
            Route(COMPLETIONS, self.complete, methods=["POST"]),
            Route(MODELS, self.models, methods=["GET"]),
            Route(f"{MODELS}/{{name:path}}", self.one, methods=["GET"]),
        ]

    async def models(self, request: Request) -> Response:
        """The list of one model."""
        return JSONResponse(ModelList(data=[model(self._since)]).model_dump())

    async def one(self, request: Request) -> Response:
        """The one model by its name."""
        if request.path_params["name"] != NAME:
            return _problem(NotFoundError(f"There is one model here: {NAME}."))
        return JSONResponse(model(self._since).model_dump())

    async def complete(self, request: Request) -> Response:
        """Answer one chat."""
        departure: Departure = request.scope[DEPARTURE]
        with departure.cancels():
            try:
                asked = parse(ChatRequest, await _arguments_of(request))
                chat = Chat(asked)
                text = await self._say(chat)
            except VisionError as error:
                return _problem(error)
            except Exception as error:  # noqa: BLE001 - every failure is one of the closed set
                return _problem(to_vision_error(error))
            said = _Said(asked, text, chat)
            if asked.stream:
                return StreamingResponse(said.events(), media_type="text/event-stream")
            return JSONResponse(said.whole().model_dump())
        return _problem(CancelledError("The client has disconnected."))

    async def _say(self, chat: Chat) -> str:
        intent = intent_of(chat.text, {spec.name for spec in TOOLS})
        if intent.tool == "ask_image":
            history = {"history": chat.history} if chat.history else {}
            if len(chat.pictures) > 1:
                result = await call(self._vision, "ask_image", {"images": chat.pictures, **intent.arguments})
                return result.text_block()
            intent = Intent(intent.tool, {**intent.arguments, **history})
        found = []
        for number, picture in enumerate(chat.pictures, start=1):
            result = await call(self._vision, intent.tool, {"image": picture, **intent.arguments})
            head = f"picture {number}:\n" if len(chat.pictures) > 1 else ""
            found.append(head + result.text_block())
        return "\n\n".join(found)


class Chat:
    """The subject of a chat: the text of the newest turn, its pictures, and earlier questions about them.

    Args:
        asked: the request.

    Raises:
        InvalidInputError: a chat without a picture.
    """

    def __init__(self, asked: ChatRequest) -> None:
        turns = [(one.role, *_parts(one.content)) for one in asked.messages]
        self.prompt = " ".join(text for _, text, _ in turns)
        # Found by what it holds: a program may put notes, or a tool's words, behind it.
        users = [index for index, (role, text, pictures) in enumerate(turns) if role == "user" and (text or pictures)]
        shown = [index for index, (_, _, pictures) in enumerate(turns) if pictures]
        if not shown:
            raise InvalidInputError(
                "There is no picture in the messages; send one as an image_url block, with a data: URI. This model only looks at "
                "pictures."
            )
        newest = users[-1] if users else shown[-1]
        at = max((index for index in shown if index <= newest), default=shown[-1])
        self.pictures: list[str] = turns[at][2]
        if len(self.pictures) > MOST_PICTURES:
            raise InvalidInputError(f"One message may hold {MOST_PICTURES} pictures.")
        self.text = turns[newest][1]
        self.history = _history(turns[at:newest])


def _parts(content: Any) -> tuple[str, list[str]]:
    """The text of a message and its pictures, as references."""
    texts: list[str] = []
    pictures: list[str] = []
    for part in [content] if isinstance(content, str | dict) else content if isinstance(content, list) else []:
        source = picture_of(part)
        if isinstance(source, VisionError):
            raise source
        if isinstance(source, str):
            pictures.append(source)
            continue
        text = part.get("text") if isinstance(part, dict) else part
        for piece in of_text(text, of_tool=False) if isinstance(text, str) else ():
            if isinstance(piece, str):
                texts.append(piece)
            elif isinstance(piece, Picture) and isinstance(piece.source, str):
                pictures.append(piece.source)
    return " ".join(texts).strip() if len(texts) > 1 and pictures else "\n".join(texts).strip(), pictures


def _history(turns: list[tuple[str | None, str, list[str]]]) -> list[dict[str, str]]:
    """What was asked of the same pictures before, with the answers' first lines."""
    found = []
    for (role, text, _), (after, answer, _) in itertools.pairwise(turns):
        said = re.match(r"answer: (.+)", answer)
        if role == "user" and after == "assistant" and said and 0 < len(text) <= 512:
            found.append({"question": text, "answer": said[1][:512]})
    return found[-MOST_TURNS:]


class _Said:
    """One answer in the forms of the API."""

    def __init__(self, asked: ChatRequest, text: str, chat: Chat) -> None:
        self._tells_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        read = len(_TOKEN.findall(chat.prompt)) + SIGHT_TOKENS * len(chat.pictures)
        told = len(_TOKEN.findall(text))
        self._text = text
        self._whole = Completion(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=asked.model or NAME,
            choices=[ReplyChoice(message=Reply(content=text))],
            usage=Usage(prompt_tokens=read, completion_tokens=told, total_tokens=read + told),
        )

    def whole(self) -> Completion:
        return self._whole

    async def events(self) -> AsyncIterator[bytes]:
        head = self._whole.model_dump(include={"id", "created", "model"}) | {"object": "chat.completion.chunk"}
        more = {"usage": None} if self._tells_usage else {}

        def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
            return event_of({**head, "choices": [choice], **more})

        yield event({"role": "assistant", "content": ""})
        for line in self._text.splitlines(keepends=True):
            yield event({"content": line})
        yield event({}, "stop")
        if self._tells_usage:
            yield event_of({**head, "choices": [], "usage": self._whole.usage.model_dump()})
        yield b"data: [DONE]\n\n"


def _problem(error: VisionError) -> Response:
    status = status_of(error)
    return JSONResponse(
        openai_error(status, error.code, error.message),
        status_code=status,
        headers={"retry-after": "2"} if status == 503 else {},
    )
