"""MCP over standard input and output: one message a line, bounded while it is read, and each answered.

The SDK's own transport reads lines of any length and drops the ones that it cannot read. A client then waits for its answer
until it gives up, and an endless line takes all memory. So this module reads instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, BinaryIO, NoReturn

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.shared.message import SessionMessage
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

from blip2tools.errors import VisionError
from blip2tools.launcher.front import Front, Unanswered
from blip2tools.launcher.wire import TAIL, claim_stdin, claim_stdout, id_of, too_large, written
from blip2tools.schemas import has_too_many_parts
from blip2tools.server.mcp import build_server, largest_message
from blip2tools.vision import Vision

FLUSH_S = 0.2  # for the last answers, after the end of the input
LEAVE_S = 0.5  # for the decoders to end, which without it they do a little later
PAUSE_S = 0.05  # between the list of tools and the loading, which slows every thread

logger = logging.getLogger(__name__)

Reading = MemoryObjectReceiveStream[SessionMessage | Exception]
Writing = MemoryObjectSendStream[SessionMessage]


@asynccontextmanager
async def lines(
    front: Front | Unanswered, sink: BinaryIO, limit: int, at_end: Callable[[], object]
) -> AsyncIterator[tuple[Reading, Writing]]:
    """The streams of an MCP server over two pipes, until the input ends; `at_end` is called then.

    What `front` has answered already is said once more, and the answers to that are dropped. A line that is longer than `limit`
    bytes, or no message, is answered with an error under its own id, as far as that can be told; whatever it was, the next line
    is read.
    """
    heard: dict[str | int, anyio.Event] = {}  # answers to what is said once more
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    answers = write.clone()

    async def receive() -> None:
        async with incoming, answers:
            while replays := await anyio.to_thread.run_sync(front.replays):
                for replay in replays:
                    told = jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0"} | replay)
                    if "id" in replay:
                        heard[replay["id"]] = anyio.Event()
                    await incoming.send(SessionMessage(told))
                    if "id" in replay:
                        await heard[replay["id"]].wait()
            while line := await anyio.to_thread.run_sync(front.next_line):
                message = _message(line, limit)
                del line  # it may be megabytes, and the next one may be hours away
                if isinstance(message, JSONRPCError):
                    await answers.send(SessionMessage(message))
                elif message is not None:
                    await incoming.send(message)
                del message
            at_end()

    async def send() -> None:
        async with outgoing:
            gone = False
            async for message in outgoing:
                if event := heard.get(getattr(message.message, "id", None) or ""):
                    event.set()
                    continue
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                # A client that no longer reads will soon close the other pipe too, and that ends the server.
                gone = gone or not await anyio.to_thread.run_sync(written, sink, text.encode() + b"\n")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(send)
        yield read, write


def _message(line: bytes | tuple[bytes, bytes], limit: int) -> SessionMessage | JSONRPCError | None:
    """The message in a line, or the error to answer instead; None for an empty line."""
    if isinstance(line, tuple):
        head, tail = line
        return _error(INVALID_REQUEST, too_large(limit), id_of(head, tail))
    if not line or line.isspace():
        return None
    if has_too_many_parts(line):
        return _error(INVALID_REQUEST, "invalid_input: The message holds too many values.", id_of(line, line[-TAIL:]))
    try:
        # Not by the one who judges it: that reader keeps a second copy of a picture's megabytes.
        values = from_json(line)
    except ValueError:
        said = "invalid_input: The message is not JSON that can be read: broken, too deep, or not valid Unicode."
        return _error(PARSE_ERROR, said, id_of(line, line[-TAIL:]))
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_python(values, by_name=False))
    except ValidationError:
        said = "invalid_input: The message is not valid JSON-RPC 2.0."
        return _error(INVALID_REQUEST, said, id_of(line, line[-TAIL:]))


def _error(code: int, said: str, number: str | int | None) -> JSONRPCError:
    logger.info("a message was refused: %s", said)
    return JSONRPCError(jsonrpc="2.0", id=number, error=ErrorData(code=code, message=said))


def serve_stdio(
    vision: Vision,
    *,
    front: Front | Unanswered | None = None,
    wire: BinaryIO | None = None,
    at_end: Callable[[], object] = lambda: None,
) -> NoReturn:
    """Serve one client over standard input and output until the input ends, and the process with it.

    The end of the input, SIGINT and SIGTERM end it at once, also in the middle of a call or while the model loads, with
    status 0, or 128 + the signal's number.

    Args:
        front: has answered the first lines, and goes on with it until the server is there; by default there is none.
        wire: the output of the protocol, from `claim_stdout()`; with it, nothing else can write there.
        at_end: called before the process ends; it must not block.
    """
    wire = wire if wire is not None else claim_stdout()
    front = front or Unanswered(claim_stdin(), largest_message(vision.settings))
    asyncio.run(_serve(vision, front, wire, at_end))
    raise AssertionError  # `_serve` ends the process


async def _serve(vision: Vision, front: Front | Unanswered, wire: BinaryIO, before_end: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()

    def end(status: int) -> None:
        before_end()
        # A thread is blocked in reading standard input, or loads the model: neither cancellation nor a normal exit of
        # the interpreter would interrupt it. And freeing memory takes longer than some clients wait before they kill.
        leaving = threading.Thread(target=vision.abandon, daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)
        logging.shutdown()
        os._exit(status)

    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows' event loop has no signal handlers; there the default action ends the process.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, end, 128 + number)
    server = build_server(vision, listed=_once(partial(_load_early, vision)) if vision.settings.early_load else None)
    # A client that has closed one pipe may no longer read the other: the last answers get a moment.
    at_end = partial(loop.call_later, FLUSH_S, end, 0)
    try:
        async with (
            lines(front, wire, largest_message(vision.settings), at_end) as (read, write),
            undecided(server, read, write) as decided,
        ):
            await server.run(decided, write, server.create_initialization_options())
    except Exception:
        logger.exception("the server failed")
        end(1)
    end(0)


@asynccontextmanager
async def undecided(server: Server[Any], read: Reading, write: Writing) -> AsyncIterator[Reading]:
    """The messages of `read`, except `server/discover` requests before any other request, which are answered here.

    In the SDK a client's first request decides the protocol's era for good. Some clients only discover, wait a
    second, and begin with `initialize` if the process was still starting: discovery must not decide.
    """
    passing, decided = anyio.create_memory_object_stream[SessionMessage | Exception](0)

    async def sort() -> None:
        open_yet = True
        async with passing, read:
            async for item in read:
                request = item.message if isinstance(item, SessionMessage) else None
                if open_yet and isinstance(request, JSONRPCRequest):
                    if request.method == "server/discover":
                        await _answer_alone(server, item, write)
                        continue
                    open_yet = False
                await passing.send(item)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sort)
        yield decided
        tasks.cancel_scope.cancel()


async def _answer_alone(server: Server[Any], item: SessionMessage | Exception, write: Writing) -> None:
    """Serve one request as a connection of its own."""
    asking, asked = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    answering, answered = anyio.create_memory_object_stream[SessionMessage](1)
    async with anyio.create_task_group() as tasks, asking, answered:
        await asking.send(item)
        tasks.start_soon(server.run, asked, answering, server.create_initialization_options())
        await write.send(await answered.receive())
        tasks.cancel_scope.cancel()


def _once(begin: Callable[[], object]) -> Callable[[], None]:
    """The function to call when the client asks for the tools: it acts once, after the answer has been sent."""
    begun = False

    def listed() -> None:
        nonlocal begun
        if not begun:
            begun = True
            asyncio.get_running_loop().call_later(PAUSE_S, begin)

    return listed


def _load_early(vision: Vision) -> None:
    """Load the model while the client's own model thinks. If it cannot be loaded, the first call reports why."""

    def load() -> None:
        with contextlib.suppress(VisionError):
            vision.preload()

    threading.Thread(target=load, daemon=True).start()
