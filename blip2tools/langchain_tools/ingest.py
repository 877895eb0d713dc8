"""Replacing pictures in messages by words: `[image img_...: a caption]`, with a handle that every tool accepts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import BaseMessage, convert_to_messages

from blip2tools.errors import PASSING, VisionError, to_vision_error
from blip2tools.langchain_tools.blocks import lines_of
from blip2tools.pictures.inline import Found, LeftOut, Picture, Reference, placeholder, unreadable
from blip2tools.vision import Vision

AT_ONCE: Final = 16  # pictures of one caller in the engine at a time: which leaves room for others

_MENTION: Final = re.compile(r"\[image img_[0-9a-f]{16}\b")


async def aingest(messages: Iterable[Any], vision: Vision) -> list[BaseMessage]:
    """See `ingest`."""
    converted = convert_to_messages(list(messages))
    reader = PictureReader(vision.for_tools())
    await reader.read(converted)
    return [reader.rewritten(message) for message in converted]


def ingest(messages: Iterable[Any], vision: Vision) -> list[BaseMessage]:
    """The messages with each picture replaced by `[image img_...: a caption]`, for use before `agent.invoke`.

    This keeps pictures out of a checkpointer altogether: the returned messages hold no base64 that could be stored.
    (`VisionMiddleware` comes too late for that: LangGraph saves the input
    before any middleware runs.) It protects only these messages: pictures that tools return during a
    run are handled by `VisionMiddleware`. The caption leaves the process with the message, and the encoded picture
    is kept in the memory of `vision`, so that its handle works in every tool.

    All forms of LangChain and of its providers are understood, in messages of every role, also nested in other blocks
    (`tool_result`, `non_standard`, lists in lists): standard `image` blocks (base64, url, file_id) and their older
    `source_type` form, `image_url`, `input_image`, Anthropic's `source`, MCP's image blocks and `resource` blobs, Bedrock's
    `image`, Google's `inline_data`, `image_generation_call`, and `file` or `media` blocks that declare a picture; data URIs
    and pictures as bare base64 within text, too. Addresses follow the rules of the settings, as in a tool call. A picture that
    cannot be read becomes `[image unreadable: code: sentence]`. A tool message becomes text altogether,
    with a note in place of long base64 that is not a picture. Other blocks and texts and the messages' ids stay as they are; a
    message with only plain text left becomes a plain string, because many text-only models accept no list.

    Args:
        messages: messages in any form that LangChain takes; they are not changed.
        vision: the model to look with.
    """
    return vision.run(aingest(messages, vision))


def holds_pictures(message: BaseMessage) -> bool:
    """Whether there is a picture in the message, readable or not, or anything else to be replaced by words."""
    return any(lines_of(message, block) is not None for block in _blocks(message))


def mentions_picture(message: BaseMessage) -> bool:
    """Whether the message has words in place of a picture."""
    return _MENTION.search(message.text) is not None


class PictureReader:
    """Reads the pictures in messages, each only once.

    Args:
        eyes: what to look with; its rules apply to addresses.
        known: captions of pictures seen before, by handle.

    Attributes:
        captions: those and the new ones.
    """

    def __init__(self, eyes: Vision, known: Mapping[str, str] | None = None) -> None:
        self._eyes = eyes
        self._words: dict[Reference, str] = {}
        self._passing: set[Reference] = set()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.captions: dict[str, str] = dict(known or {})

    async def read(self, messages: Sequence[BaseMessage]) -> None:
        """Look at every picture in the messages. Never raises because of a picture."""
        found = (reference for message in messages for reference in _references(message))
        fresh = dict.fromkeys(one for one in found if one not in self._words)
        async with asyncio.TaskGroup() as group:
            for reference in fresh:
                group.create_task(self._look(reference))

    def rewritten(self, message: BaseMessage) -> BaseMessage:
        """The message with words for its pictures, which must have been read; itself if it has none."""
        found = [(block, lines_of(message, block)) for block in _blocks(message)]
        if all(lines is None for _, lines in found):
            return message
        blocks = [block if lines is None else {"type": "text", "text": self._told(lines)} for block, lines in found]
        return message.model_copy(update={"content": _as_text(blocks)})

    def settled(self, message: BaseMessage) -> bool:
        """Whether its words are final: no picture in it failed for a reason that may pass."""
        return self._passing.isdisjoint(_references(message))

    async def _look(self, reference: Reference) -> None:
        try:
            async with self._gate:
                image = await self._eyes.akeep(reference)
                if image.handle not in self.captions:
                    self.captions[image.handle] = (await self._eyes.acaption(image.handle)).text
            self._words[reference] = placeholder(image.handle, self.captions[image.handle])
        except Exception as error:  # noqa: BLE001 - no picture may end a conversation
            failure = to_vision_error(error)
            self._words[reference] = unreadable(failure)
            if failure.code in PASSING:
                self._passing.add(reference)

    def _told(self, lines: Sequence[Sequence[Found]]) -> str:
        return "\n".join("".join(map(self._word, line)) for line in lines)

    def _word(self, piece: Found) -> str:
        match piece:
            case Picture(source=VisionError() as failure):
                return unreadable(failure)
            case Picture(source=str() | bytes() as reference):
                return self._words[reference]
            case LeftOut(words=note):
                return note
            case str() as text:
                return text
        raise AssertionError  # there is no other kind


def _references(message: BaseMessage) -> list[Reference]:
    found = (piece for block in _blocks(message) for line in lines_of(message, block) or () for piece in line)
    return [piece.source for piece in found if isinstance(piece, Picture) and isinstance(piece.source, str | bytes)]


def _blocks(message: BaseMessage) -> list[Any]:
    return message.content if isinstance(message.content, list) else [message.content]


def _as_text(blocks: list[Any]) -> str | list[Any]:
    """One string if that loses nothing, else the blocks."""
    texts = [block if isinstance(block, str) else block.get("text") for block in blocks if _is_plain(block)]
    return "\n".join(texts) if len(texts) == len(blocks) else blocks


def _is_plain(block: Any) -> bool:
    if isinstance(block, str):
        return True
    return isinstance(block, Mapping) and block.get("type") == "text" and not set(block) - {"type", "text", "id"}
