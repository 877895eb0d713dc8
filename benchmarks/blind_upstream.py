"""A scripted model server that cannot see: Chat Completions, Responses and Messages, in one piece and as a stream, on loopback.

It keeps every request and says of each whether a picture was in it. A script decides what it says; it may also write bytes of
its own onto the line and close it, as servers do that fail.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

PICTURE = re.compile(rb"iVBORw0KGgo|/9j/|data:image|image_url|input_image|\"type\": ?\"image\"|[A-Za-z0-9+/]{400,}")


@dataclass
class Heard:
    """A request, in words that hold for all three protocols."""

    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    talk: list[tuple[str, Any]] = field(default_factory=list)
    """("user", text), ("said", text), ("call", (id, name, arguments)), ("result", (id, text))."""

    @property
    def tools(self) -> list[str]:
        return [one.get("name") or one["function"]["name"] for one in self.body.get("tools", [])]


@dataclass
class Said:
    """What the model says: a text and calls; `cut` where the token limit ended it."""

    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    cut: bool = False
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
    """Writes the whole answer, headers and all; then the connection is closed."""
    json: Any = None
    """A body to be sent as it is."""
    pause: float = 0.0
    before_end: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None


Script = Callable[[Heard], Said]


class BlindUpstream:
    """Runs in a thread of its own until `end`."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heard: list[Heard] = []
        self.pictures: list[bytes] = []
        self.open = 0
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**27)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self.open += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks -= {task}
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines if line}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if PICTURE.search(raw):
            self.pictures.append(raw)
        path = first.split()[1]
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {}
        heard = Heard(path, headers, raw, body)
        if path.startswith("/v1/responses"):
            heard.talk = list(_talk_of_responses(body))
        elif path.startswith("/v1/messages"):
            heard.talk = list(_talk_of_messages(body))
        else:
            heard.talk = list(_talk_of_completions(body))
        self.heard.append(heard)
        said = await asyncio.to_thread(self.script, heard) if said_slowly(self.script) else self.script(heard)
        if said.raw is not None:
            await said.raw(writer)
            await writer.drain()
            return False
        if said.json is not None or not body.get("stream"):
            found = said.json if said.json is not None else self._whole(heard, said)
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            more = {"content-type": "application/json", "x-upstream": "blind", **said.headers}
            extra = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(f"HTTP/1.1 {said.status} X\r\n{extra}content-length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-upstream: blind\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in self._events(heard, said):
            writer.write(chunk(event))
            await writer.drain()
            if said.pause:
                await asyncio.sleep(said.pause)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _ids(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers)}"

    def _whole(self, heard: Heard, said: Said) -> dict[str, Any]:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        if heard.path.startswith("/v1/responses"):
            return self._response(said)
        if heard.path.startswith("/v1/messages"):
            content = ([{"type": "text", "text": said.text}] if said.text else []) + [
                {"type": "tool_use", "id": self._ids("toolu"), "name": name, "input": arguments}
                for name, arguments in said.calls
            ]
            reason = "max_tokens" if said.cut else "tool_use" if said.calls else "end_turn"
            return {
                "id": self._ids("msg"),
                "type": "message",
                "role": "assistant",
                "model": "blind",
                "content": content,
                "stop_reason": reason,
                "stop_sequence": None,
                "usage": {"input_tokens": 10, "output_tokens": 5},
            }
        message: dict[str, Any] = {"role": "assistant", "content": said.text or None}
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": self._ids("call"),
                    "type": "function",
                    "function": {"name": name, "arguments": _written(arguments)},
                }
                for name, arguments in said.calls
            ]
        reason = "length" if said.cut else "tool_calls" if said.calls else "stop"
        return {
            "id": self._ids("chatcmpl"),
            "object": "chat.completion",
            "created": 1,
            "model": "blind",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": usage,
        }

    def _response(self, said: Said, status: str | None = None) -> dict[str, Any]:
        output: list[dict[str, Any]] = []
        if said.text:
            part = {"type": "output_text", "text": said.text, "annotations": []}
            output.append(
                {
                    "type": "message",
                    "id": self._ids("msg"),
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            )
        output += [
            {
                "type": "function_call",
                "id": self._ids("fc"),
                "call_id": self._ids("call"),
                "name": name,
                "arguments": _written(arguments),
                "status": "completed",
            }
            for name, arguments in said.calls
        ]
        return {
            "id": self._ids("resp"),
            "object": "response",
            "created_at": 1,
            "model": "blind",
            "status": status or ("incomplete" if said.cut else "completed"),
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if said.cut else None,
            "usage": {
                "input_tokens": 10,
                "output_tokens": 5,
                "total_tokens": 15,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }

    def _events(self, heard: Heard, said: Said) -> list[bytes]:
        if heard.path.startswith("/v1/responses"):
            return list(self._of_responses(said))
        if heard.path.startswith("/v1/messages"):
            return list(self._of_messages(said))
        return list(self._of_completions(heard, said))

    def _of_completions(self, heard: Heard, said: Said) -> Any:
        whole = self._whole(heard, said)
        head = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

        def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
            return sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        yield event({"role": "assistant", "content": ""})
        for word in re.findall(r"\S+\s*|\s+", said.text):
            yield event({"content": word})
        choice = whole["choices"][0]
        for index, call in enumerate(choice["message"].get("tool_calls", ())):
            yield event(
                {
                    "tool_calls": [
                        {"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
                    ]
                }
            )
            for piece in pieces(call["function"]["arguments"]):
                yield event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield event({}, choice["finish_reason"])
        if (heard.body.get("stream_options") or {}).get("include_usage"):
            yield sse({**head, "choices": [], "usage": whole["usage"]})
        yield b"data: [DONE]\n\n"

    def _of_messages(self, said: Said) -> Any:
        whole = self._whole(Heard("/v1/messages", {}, b"", {}), said)
        start = {**whole, "content": [], "stop_reason": None, "usage": {"input_tokens": 10, "output_tokens": 1}}
        yield named("message_start", {"message": start})
        yield named("ping", {})
        for index, block in enumerate(whole["content"]):
            if block["type"] == "text":
                yield named("content_block_start", {"index": index, "content_block": {"type": "text", "text": ""}})
                for word in re.findall(r"\S+\s*|\s+", block["text"]):
                    yield named("content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": word}})
            else:
                yield named("content_block_start", {"index": index, "content_block": {**block, "input": {}}})
                for piece in pieces(json.dumps(block["input"])):
                    delta = {"type": "input_json_delta", "partial_json": piece}
                    yield named("content_block_delta", {"index": index, "delta": delta})
            yield named("content_block_stop", {"index": index})
        end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield named("message_delta", {"delta": end, "usage": {"output_tokens": 5}})
        yield named("message_stop", {})

    def _of_responses(self, said: Said) -> Any:
        whole = self._response(said)
        number = itertools.count()

        def event(kind: str, **data: Any) -> bytes:
            return named(kind, {"sequence_number": next(number), **data})

        yield event("response.created", response={**whole, "output": [], "status": "in_progress", "usage": None})
        for index, item in enumerate(whole["output"]):
            if item["type"] == "message":
                begun = {**item, "content": [], "status": "in_progress"}
                yield event("response.output_item.added", output_index=index, item=begun)
                where = {"item_id": item["id"], "output_index": index, "content_index": 0}
                part = item["content"][0]
                yield event("response.content_part.added", **where, part={**part, "text": ""})
                for word in re.findall(r"\S+\s*|\s+", part["text"]):
                    yield event("response.output_text.delta", **where, delta=word, logprobs=[])
                yield event("response.output_text.done", **where, text=part["text"], logprobs=[])
                yield event("response.content_part.done", **where, part=part)
            else:
                begun = {**item, "arguments": "", "status": "in_progress"}
                yield event("response.output_item.added", output_index=index, item=begun)
                where = {"item_id": item["id"], "output_index": index}
                for piece in pieces(item["arguments"]):
                    yield event("response.function_call_arguments.delta", **where, delta=piece)
                yield event(
                    "response.function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"]
                )
            yield event("response.output_item.done", output_index=index, item=item)
        yield event(f"response.{whole['status']}", response=whole)


def said_slowly(script: Any) -> bool:
    return bool(getattr(script, "slow", False))


def sse(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def named(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: ".encode() + json.dumps({"type": kind, **data}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _written(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _talk_of_completions(body: dict[str, Any]) -> Any:
    for message in body.get("messages", ()):
        match message.get("role"):
            case "tool":
                yield "result", (message["tool_call_id"], _text(message["content"]))
            case "assistant":
                if text := _text(message.get("content")):
                    yield "said", text
                for call in message.get("tool_calls") or ():
                    yield "call", (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            case role:
                yield role, _text(message["content"])


def _talk_of_messages(body: dict[str, Any]) -> Any:
    for message in body.get("messages", ()):
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if message["role"] == "user":
            for block in blocks:
                if block["type"] == "tool_result":
                    yield "result", (block["tool_use_id"], _text(block.get("content")))
            if text := _text([block for block in blocks if block["type"] == "text"]):
                yield "user", text
            continue
        for block in blocks:
            if block["type"] == "text":
                yield "said", block["text"]
            elif block["type"] == "tool_use":
                yield "call", (block["id"], block["name"], block["input"])


def _talk_of_responses(body: dict[str, Any]) -> Any:
    given = body.get("input", ())
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type", "message"):
            case "function_call":
                yield "call", (item["call_id"], item["name"], json.loads(item["arguments"]))
            case "function_call_output":
                yield "result", (item["call_id"], _text(item["output"]))
            case "message":
                yield "said" if item["role"] == "assistant" else item["role"], _text(item["content"])
