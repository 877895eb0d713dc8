"""The asking side: a command lets a server of the same user look at its pictures, if one runs that would answer alike.

Whatever goes wrong with that is no failure of the command: it then loads the model itself, as it does without a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from blip2tools.cli.console import say
from blip2tools.errors import VisionError, error_of
from blip2tools.pictures.references import place_of
from blip2tools.schemas import AnswerResult, CaptionResult, ImageResult, MatchResult, ReadResult, SurveyResult
from blip2tools.server.local import place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blip2tools.checkpoints.plan import Plan
    from blip2tools.vision import Vision

R = TypeVar("R", bound=ImageResult)

GREETING_S: Final = 5.0  # for a server to say that it will answer
MARGIN_S: Final = 10.0  # beyond the deadline of a call, which the server keeps
TRIED: Final = 4  # servers
# What a server may say that has nothing to do with the picture: this process may fare better.
_OF_THE_SERVER: Final = ("busy", "cancelled", "model_unavailable", "internal")


class _Gone(Exception):  # noqa: N818  no failure: the reason to do it here
    """The server does not answer this call."""


class Eyes:
    """The verbs of the looking commands: asked of a server that runs, and of this process's own eyes where none answers.

    Args:
        vision: this process's; the model is loaded by the first call that they answer.
        plan: the checkpoints that it would load.
    """

    def __init__(self, vision: Vision, plan: Plan) -> None:
        self.own = vision
        self.of_all: set[str] = set()  # warnings that are about the model
        self._servers: list[Path] = []
        self._told = False
        settings = vision.settings
        if settings.use_server and place.supported():
            with suppress(OSError):
                name = place.name_of(settings, plan)
                self._servers = place.sockets(settings, name)[:TRIED] if name else []

    async def acaption(self, image: str | bytes, **options: Any) -> CaptionResult:
        """See `Vision.caption`."""
        found = await self._asked("caption", CaptionResult, image, options)
        return await self.own.acaption(image, **options) if found is None else found

    async def aask(self, image: str | bytes, question: str, **options: Any) -> AnswerResult:
        """See `Vision.ask`."""
        found = await self._asked("ask", AnswerResult, image, {"question": question, **options})
        return await self.own.aask(image, question, **options) if found is None else found

    async def amatch(self, image: str | bytes, texts: Sequence[str], **options: Any) -> MatchResult:
        """See `Vision.match`."""
        found = await self._asked("match", MatchResult, image, {"texts": list(texts), **options})
        return await self.own.amatch(image, texts, **options) if found is None else found

    async def asurvey(self, image: str | bytes, **options: Any) -> SurveyResult:
        """See `Vision.survey`."""
        found = await self._asked("survey", SurveyResult, image, options)
        return await self.own.asurvey(image, **options) if found is None else found

    async def aread(self, image: str | bytes, **options: Any) -> ReadResult:
        """See `Vision.read`."""
        found = await self._asked("read", ReadResult, image, options)
        return await self.own.aread(image, **options) if found is None else found

    async def _asked(self, verb: str, kind: type[R], image: str | bytes, options: Mapping[str, Any]) -> R | None:
        """A server's result, or nothing where these eyes have to look themselves.

        Raises:
            VisionError: the server's, about the picture or the options.
        """
        # What is newest may come with warnings, whose place among the others only the verb itself knows.
        where = place_of(image) if isinstance(image, str) else "file"
        if not self._servers or where == "folder":
            return None
        was_read = False

        async def ask(data: bytes | memoryview) -> R:
            nonlocal was_read
            was_read = True
            return await self._first_answer(verb, kind, data, options)

        try:
            return await self.own.alooked_at_elsewhere(image, ask)
        except _Gone:
            return None
        except VisionError:
            # What cannot be read is refused by the verb itself, which judges the options first. No address is fetched twice.
            if was_read or where == "address":
                raise
            return None

    async def _first_answer(self, verb: str, kind: type[R], data: bytes | memoryview, options: Mapping[str, Any]) -> R:
        for path in list(self._servers):
            try:
                return await self._answer_of(path, verb, kind, data, options)
            except (OSError, EOFError, ValueError, KeyError, TypeError, TimeoutError):
                if path in self._servers:
                    self._servers.remove(path)  # for good: a list of pictures does not wait for it again and again
        raise _Gone

    async def _answer_of(
        self, path: Path, verb: str, kind: type[R], data: bytes | memoryview, options: Mapping[str, Any]
    ) -> R:
        head = place.framed({"verb": verb, "options": dict(options), "bytes": len(data)})
        if len(head) - 4 > place.MAX_HEAD:
            raise _Gone
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except ConnectionRefusedError:
            place.remove_stale(path.parent)
            raise
        try:
            if not place.is_own_peer(writer.get_extra_info("socket")):
                raise PermissionError
            writer.write(head)
            async with asyncio.timeout(GREETING_S):
                greeting = await place.read_message(reader, place.MAX_HEAD)
            if greeting["go"] is not True:
                raise ConnectionRefusedError
            async with asyncio.timeout(self.own.settings.deadline_s + MARGIN_S):
                writer.write(data)
                await writer.drain()
                answer = await place.read_message(reader, place.MAX_ANSWER)
        finally:
            writer.transport.abort()  # which also ends the work on what nobody waits for
        return self._result(kind, int(greeting["pid"]), answer)

    def _result(self, kind: type[R], pid: int, answer: Mapping[str, Any]) -> R:
        failed = answer.get("error")
        if failed is not None:
            code, message = str(failed["code"]), str(failed["message"])
            if code in _OF_THE_SERVER:
                raise ConnectionRefusedError
        else:
            result = kind.model_validate(answer["result"])
            self.of_all.update(map(str, answer["of_all"]))
        if not self._told:
            self._told = True
            say(f"answered by the server that runs already (pid {pid})")
        if failed is not None:
            raise error_of(code, message)
        return result
