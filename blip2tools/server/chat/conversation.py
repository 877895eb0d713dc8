"""One request of a chat with pictures: words for the pictures, the upstream's answers, and its tool calls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from starlette.types import Send

from blip2tools.errors import BusyError, FetchFailedError, InvalidInputError, VisionError, to_vision_error
from blip2tools.server.chat.bodies import written
from blip2tools.server.chat.dialect import Call, Dialect, Item, Outcome, Reply, Turn
from blip2tools.server.chat.events import Event, Splitter, TooLongError
from blip2tools.server.chat.history import Answered, History
from blip2tools.server.chat.responses import ResponsesReply
from blip2tools.server.chat.upstream import Headers, Upstream, failure_of, headers_from, whole_of
from blip2tools.server.chat.words import Pictures, PictureWords
from blip2tools.toolset import TOOLS, Told, ToolSpec, call
from blip2tools.vision import Vision

MAX_CALLS: Final = 32  # looks in one message of the upstream
AT_ONCE: Final = 16  # of them in the engine at a time
NO_TOOLS_KEPT: Final = 256  # models that are known to take no tools
# What servers answer to a request with tools if their model has no way to call one.
REFUSALS: Final = (400, 404, 422, 500, 501)

_SHUT: Final = "cancelled: The server is shutting down."
_HANDLE: Final = re.compile(rb"img_[0-9a-f]{16}")
_ENOUGH: Final = BusyError("This turn has reached its limit of looks. Answer now, with what is known.")


class Answer:
    """The answer to one client, as it goes out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """All of it."""
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.piece(body, more=False)

    async def start(self, status: int, headers: Headers) -> None:
        """Its status and headers."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, body: bytes, *, more: bool = True) -> None:
        """Some of its body."""
        if body or not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})


@dataclass(slots=True)
class Asked:
    """A client's request in the form that the upstream gets."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes | None


@dataclass(slots=True)
class _Plan:
    """Request whose answer is examined.

    Attributes:
        body: as the upstream gets it first.
        items: the conversation in it.
        start: its name in the history.
        ours: names of the tools that are offered.
        extra: what was said since.
    """

    body: dict[str, Any]
    items: list[Any]
    start: bytes
    ours: frozenset[str]
    theirs: set[str]
    extra: list[Item] = field(default_factory=list)
    told: Told = field(default_factory=Told)


class Eyes:
    """Adds vision to the model of an upstream, for many conversations at once.

    Args:
        vision: what to look with, for arguments that come from a model.
        upstream: where the model is.
        rounds: how often one turn may look.
        always: offer the tools also where no picture was shown.
    """

    def __init__(self, vision: Vision, upstream: Upstream, *, rounds: int, always: bool) -> None:
        self._vision = vision
        self._upstream = upstream
        self._rounds = rounds
        self._always = always
        self._words = PictureWords(vision)
        self._history = History()
        self._without_tools: dict[str, None] = {}
        folders = bool(vision.allowed_folders)
        # Without a folder there is nothing to list, and a handle is all that can be named.
        self._specs = [spec for spec in TOOLS if folders or _is_about_pictures(spec)]

    def concerns(self, body: bytes, *, holds_pictures: bool) -> bool:
        """Whether a body must be examined; decided without parsing it."""
        return holds_pictures or self._always or _HANDLE.search(body) is not None

    async def blind(self, body: dict[str, Any], dialect: Dialect) -> bool:
        """Replace the pictures in a body by words; returns whether there were any."""
        pictures = Pictures(body, dialect.key)
        if not pictures:
            return False
        for item in pictures.replace(await self._words.read(pictures.references), dialect.block):
            dialect.plain(item)
        return True

    async def converse(self, dialect: Dialect, asked: Asked, body: dict[str, Any], plain: bool, answer: Answer) -> None:
        """Answer a request.

        Args:
            dialect: its protocol.
            asked: the request; its body is the client's.
            body: the same, parsed.
            plain: whether the bytes say just that.
            answer: to the client.

        Raises:
            VisionError: nothing was answered yet.
        """
        raw = asked.body or b""
        seen = await self.blind(body, dialect)
        plan = self._plan(dialect, body, raw if not seen else None)
        if seen or plan.ours or not plain:
            asked.body = written(plan.body)
        if not plan.ours:
            async with self._upstream.open(*_parts(asked)) as response:
                await relay(response, answer, dialect)
            return
        await self._rounds_of(dialect, asked, plan, answer)

    def _plan(self, dialect: Dialect, body: dict[str, Any], raw: bytes | None) -> _Plan:
        theirs = dialect.names(body)
        wanted = raw is None or self._always or _HANDLE.search(raw) is not None
        specs: Sequence[ToolSpec] = ()
        if wanted and dialect.may_offer(body) and (theirs or _model_of(body) not in self._without_tools):
            # If two tools have the same name, the client's is kept: it would never see calls of the other.
            specs = [spec for spec in self._specs if spec.name not in theirs]
        if not specs:
            return _Plan(body, [], b"", frozenset(), theirs)
        previous = body.get("previous_response_id")
        answered = self._history.named(previous)
        items, start = self._history.expanded(dialect, dialect.items(body), str(previous or ""))
        if answered is not None:
            items = [*answered.results, *items]
        tools = body.get("tools")
        full = {
            **body,
            dialect.key: items,
            "tools": [*(tools if isinstance(tools, list) else ()), *map(dialect.tool, specs)],
            **({"previous_response_id": answered.id} if answered is not None else {}),
        }
        return _Plan(full, items, start, frozenset(spec.name for spec in specs), theirs)

    # ---- rounds ----

    async def _rounds_of(self, dialect: Dialect, asked: Asked, plan: _Plan, answer: Answer) -> None:
        reply = dialect.reply(plan.ours, plan.theirs)
        try:
            await self._until_said(dialect, asked, plan, reply, answer)
        except VisionError as error:
            if not answer.started:
                raise
            await _spoil(answer, reply, str(error))
        except asyncio.CancelledError:
            # When the server shuts down, connected clients are told why.
            await _spoil(answer, reply, _SHUT)
            raise

    async def _until_said(self, dialect: Dialect, asked: Asked, plan: _Plan, reply: Reply, answer: Answer) -> None:
        for number in range(self._rounds + 2):
            reply.begin()
            async with self._upstream.open(*_parts(asked)) as response:
                if response.status_code // 100 != 2:
                    return await self._refused(dialect, asked, plan, reply, response, answer)
                whole = await self._heard(response, reply, answer)
                headers = headers_from(response)
                if whole is not None and not _is_answer(whole):
                    return await _passed(whole, response, reply, answer)
            turn = reply.turn()
            results: list[Item] = []
            if turn.ours and turn.is_complete:
                is_enough = number >= self._rounds
                outcomes = (
                    [Outcome(str(_ENOUGH), True) for _ in turn.ours]
                    if is_enough
                    else await self._looks(turn.ours, plan.told)
                )
                results = dialect.results(turn.ours, outcomes)
                if not turn.theirs and number <= self._rounds:
                    plan.extra += [*turn.said, *results]
                    asked.body = written({**plan.body, dialect.key: [*plan.items, *plan.extra]})
                    continue
            return await self._end(dialect, plan, reply, turn, results, whole, headers, answer)
        return None

    async def _end(
        self,
        dialect: Dialect,
        plan: _Plan,
        reply: Reply,
        turn: Turn,
        results: list[Item],
        whole: bytes | None,
        headers: Headers,
        answer: Answer,
    ) -> None:
        """Remember the finished answer, and send the client the rest."""
        stop = bool(turn.ours) and turn.is_complete and not turn.theirs
        if turn.is_complete and (plan.extra or turn.theirs) and not stop:
            mixed = results if turn.theirs else []
            self._history.remember(dialect, plan.start, reply.visible(), [*plan.extra, *turn.said], mixed)
            if (
                isinstance(reply, ResponsesReply)
                and reply.id
                and reply.last_id
                and (mixed or reply.id != reply.last_id)
            ):
                self._history.name(reply.id, Answered(reply.last_id, mixed))
        if whole is None:
            for piece in reply.finish(stop=stop):
                await answer.piece(piece)
            if not turn.has_end:
                await answer.piece(reply.spoils("fetch_failed: The upstream's answer ended before it was complete."))
            await answer.piece(b"", more=False)
            return
        said = reply.whole(stop=stop)
        kept = [pair for pair in headers if pair[0] != b"content-length"]
        await answer.whole(200, kept, whole if said is None else written(said))

    async def _heard(self, response: httpx2.Response, reply: Reply, answer: Answer) -> bytes | None:
        """Read an answer of the upstream: all of it, or None if it was a stream, which has then been passed on."""
        if not _is_stream(response):
            whole = await whole_of(response)
            if _is_answer(whole):
                reply.take(json.loads(whole))
            return whole
        if not answer.started:
            await answer.start(response.status_code, headers_from(response))
        splitter = Splitter()
        try:
            async for piece in response.aiter_bytes():
                out = [said for raw in splitter.feed(piece) for said in reply.feed(Event.of(raw))]
                await answer.piece(b"".join(out))
        except httpx2.HTTPError as error:
            raise failure_of(error) from error
        except TooLongError as error:
            raise FetchFailedError("The upstream's answer has an event or a call that does not end.") from error
        if splitter.rest().strip() == b"data: [DONE]":
            await answer.piece(b"".join(reply.feed(Event.of(splitter.rest()))))
        return None

    async def _refused(
        self, dialect: Dialect, asked: Asked, plan: _Plan, reply: Reply, response: httpx2.Response, answer: Answer
    ) -> None:
        """Handle an error of the upstream (or a redirection, which the client may follow)."""
        status, headers, whole = response.status_code, headers_from(response), await whole_of(response)
        if reply.round == 1 and not plan.theirs and status in REFUSALS and b"tool" in whole.lower():
            # It may refuse only our tools: a model that cannot call them can still read the captions.
            items = {name: value for name, value in plan.body.items() if name not in ("tools", "tool_choice")}
            asked.body = written(items)
            async with self._upstream.open(*_parts(asked)) as again:
                if again.status_code // 100 == 2:
                    self._without_tools[_model_of(plan.body)] = None
                    if len(self._without_tools) > NO_TOOLS_KEPT:
                        self._without_tools.pop(next(iter(self._without_tools)))
                    await relay(again, answer, dialect)
                    return
        if not answer.started:
            await answer.whole(status, headers, whole)
            return
        said = _object(whole).get("error")
        why = f"fetch_failed: The upstream server refused to continue (status {status})."
        await answer.piece(reply.spoils(why, error=said if isinstance(said, dict) else None))
        await answer.piece(b"", more=False)

    # ---- looks ----

    async def _looks(self, calls: Sequence[Call], told: Told) -> list[Outcome]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def look(number: int, one: Call) -> Outcome:
            if number >= MAX_CALLS:
                return Outcome(f"busy: One message may take {MAX_CALLS} looks; ask again for the others.", failed=True)
            async with gate:
                return await self._look(one, told)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(look(number, one)) for number, one in enumerate(calls)]
        return [task.result() for task in tasks]

    async def _look(self, one: Call, told: Told) -> Outcome:
        try:
            try:
                arguments = json.loads(one.arguments or "{}")
            except (ValueError, RecursionError) as error:
                raise InvalidInputError("The arguments are not JSON; write one JSON object.") from error
            if not isinstance(arguments, dict):
                raise InvalidInputError("The arguments must be one JSON object.")
            return Outcome((await call(self._vision, one.name, arguments, told=told)).text_block())
        except Exception as error:  # noqa: BLE001 - whatever a look fails with, the model reads one sentence of ours
            return Outcome(str(to_vision_error(error)), failed=True)


async def relay(response: httpx2.Response, answer: Answer, dialect: Dialect) -> None:
    """Pass on an answer of the upstream unchanged.

    Raises:
        FetchFailedError, DeadlineError: it is cut short before anything was passed on.
    """
    headers = headers_from(response)
    if not _is_stream(response):
        whole = await whole_of(response)
        await answer.whole(response.status_code, headers, whole)
        return
    await answer.start(response.status_code, headers)
    splitter = Splitter()
    try:
        async for piece in response.aiter_bytes():
            await answer.piece(b"".join(splitter.feed(piece)))
        await answer.piece(splitter.rest(), more=False)
    except asyncio.CancelledError:
        await answer.piece(dialect.reply((), ()).spoils(_SHUT), more=False)
        raise
    except (httpx2.HTTPError, TooLongError) as error:
        why = failure_of(error) if isinstance(error, httpx2.HTTPError) else FetchFailedError("An event does not end.")
        await answer.piece(dialect.reply((), ()).spoils(str(why)), more=False)


async def _passed(whole: bytes, response: httpx2.Response, reply: Reply, answer: Answer) -> None:
    """Pass on an answer outside the protocol unchanged: an error with status 200, a page, the words of a gateway."""
    if answer.started:
        await _spoil(answer, reply, "fetch_failed: The upstream server left its protocol.")
    else:
        await answer.whole(response.status_code, headers_from(response), whole)


async def _spoil(answer: Answer, reply: Reply, why: str) -> None:
    if answer.started:
        await answer.piece(reply.spoils(why))
        await answer.piece(b"", more=False)


def _parts(asked: Asked) -> tuple[str, str, bytes, Headers, bytes | None]:
    return asked.method, asked.path, asked.query, asked.headers, asked.body


def _is_stream(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "")
    return bool(kind.partition(";")[0].strip().lower() == "text/event-stream")


def _object(whole: bytes) -> dict[str, Any]:
    try:
        found = json.loads(whole)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_answer(whole: bytes) -> bool:
    found = _object(whole)
    return bool(found) and not found.get("error")


def _is_about_pictures(spec: ToolSpec) -> bool:
    """Whether a tool looks at pictures that are named, and not for them in folders."""
    fields = spec.arguments.model_fields
    return bool({"image", "images"} & set(fields)) and "folder" not in fields


def _model_of(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    return model[:512] if isinstance(model, str) else ""
