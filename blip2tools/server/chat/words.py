"""Words for pictures in a conversation, the same every time, so that a cache of prompts stays valid."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from blip2tools.errors import VisionError, to_vision_error
from blip2tools.pictures.inline import (
    Picture,
    Reference,
    may_hold_picture,
    of_text,
    picture_of,
    placeholder,
    unreadable,
)
from blip2tools.schemas.results import told
from blip2tools.vision import Vision

AT_ONCE: Final = 16  # pictures of one conversation in the engine at a time, which leaves room for others
KEPT: Final = 65_536  # pictures whose words are remembered

Block: TypeAlias = dict[str, Any]
K = TypeVar("K")
V = TypeVar("V")

# The words may stand inside of a string that is JSON itself.
_HARMLESS: Final = str.maketrans({'"': "'", "\\": "/", "\n": " "})


class PictureWords:
    """Looks at pictures and keeps the words for them.

    Args:
        eyes: what to look with; its rules apply to addresses and paths.
    """

    def __init__(self, eyes: Vision) -> None:
        self._eyes = eyes
        self._handles: OrderedDict[bytes, str] = OrderedDict()  # by the digest of what a message holds
        self._words: OrderedDict[str, str] = OrderedDict()  # by handle

    async def read(self, references: Iterable[Reference]) -> dict[Reference, str]:
        """The words for each picture. Never raises because of one."""
        gate = asyncio.Semaphore(AT_ONCE)
        found: dict[Reference, str] = {}

        async def look(reference: Reference) -> None:
            async with gate:
                found[reference] = await self._look(reference)

        fresh = []
        for reference in dict.fromkeys(references):
            known = self._known(reference)
            if known is None:
                fresh.append(reference)
            else:
                found[reference] = known
        if fresh:
            async with asyncio.TaskGroup() as group:
                for reference in fresh:
                    group.create_task(look(reference))
        return found

    def _known(self, reference: Reference) -> str | None:
        """The words for a picture that was seen and is still kept, so that its handle can be asked about."""
        digest = _digest(reference)
        handle = self._handles.get(digest) if digest else None
        if handle is None or digest is None or handle not in self._words or not self._eyes.keeps(handle):
            return None
        self._handles.move_to_end(digest)
        self._words.move_to_end(handle)
        return self._words[handle]

    async def _look(self, reference: Reference) -> str:
        try:
            image = await self._eyes.akeep(reference)
            words = self._words.get(image.handle)
            if words is None:
                seen = await self._eyes.acaption(image.handle)
                words = placeholder(image.handle, told(seen.text, seen.abstained), seen.confidence)
            words = words.translate(_HARMLESS)
            _remember(self._words, image.handle, words)
            if digest := _digest(reference):
                _remember(self._handles, digest, image.handle)
            return words
        except Exception as error:  # noqa: BLE001 - no picture may end a conversation
            return unreadable(to_vision_error(error)).translate(_HARMLESS)


def _remember(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT:
        kept.popitem(last=False)


def _digest(reference: Reference) -> bytes | None:
    """The name of a picture's bytes; None for a path or an address, where the picture may change."""
    if isinstance(reference, str):
        if reference[:5].lower() != "data:":
            return None
        reference = reference.encode("utf-8", "surrogatepass")
    return hashlib.sha256(reference).digest()


# ---- where they lie in a body ----


@dataclass(frozen=True, slots=True)
class _Spot:
    """Place of a picture in the JSON of a body: a whole value, or some of the pieces of a text."""

    parent: Any
    key: Any
    block: Mapping[str, Any] | None
    pieces: tuple[Any, ...]
    item: Any
    """The entry of the conversation that it is in."""


class Pictures:
    """The pictures in one body.

    Args:
        body: the JSON of a request; `replace` changes it.
        key: where its conversation is.
    """

    # What no model is shown as content, and where a word such as "image" means a type of something else.
    _PASSED: Final = ("tools", "tool_choice", "response_format", "text", "metadata", "functions", "function_call")

    def __init__(self, body: dict[str, Any], key: str) -> None:
        self._spots: list[_Spot] = []
        for name, value in body.items():
            if name == key and isinstance(value, list):
                for index, item in enumerate(value):
                    self._find(value, index, item)
            elif name not in self._PASSED:
                self._find(body, name, None)

    def __bool__(self) -> bool:
        return bool(self._spots)

    @property
    def references(self) -> list[Reference]:
        """References to all pictures that can be looked at."""
        sources = (piece.source for spot in self._spots for piece in spot.pieces if isinstance(piece, Picture))
        return [source for source in sources if not isinstance(source, VisionError)]

    def replace(
        self, words: Mapping[Reference, str], block: Callable[[Any, Mapping[str, Any], str], Block]
    ) -> list[Any]:
        """Put words into every place.

        Args:
            words: by reference.
            block: from the entry, the block that was there and the words to the block in its place.

        Returns:
            The entries that were changed.
        """
        for spot in self._spots:
            text = "".join(piece if isinstance(piece, str) else _word(piece, words) for piece in spot.pieces)
            spot.parent[spot.key] = text if spot.block is None else block(spot.item, spot.block, text)
        return [spot.item for spot in self._spots if isinstance(spot.item, dict)]

    def _find(self, parent: Any, key: Any, item: Any) -> None:
        todo = [(parent, key)]
        while todo:
            holder, name = todo.pop()
            node = holder[name]
            if isinstance(node, str):
                if len(node) > 20 and may_hold_picture(node):
                    pieces = tuple(of_text(node, of_tool=False))
                    if any(isinstance(piece, Picture) for piece in pieces):
                        self._spots.append(_Spot(holder, name, None, pieces, item))
            elif isinstance(node, list):
                todo += [(node, index) for index in range(len(node))]
            elif isinstance(node, dict):
                if (picture := picture_of(node)) is not None:
                    self._spots.append(_Spot(holder, name, node, (Picture(picture),), item))
                else:
                    todo += [(node, one) for one in node]


def _word(piece: Any, words: Mapping[Reference, str]) -> str:
    source = piece.source
    return unreadable(source).translate(_HARMLESS) if isinstance(source, VisionError) else words[source]
