"""The interface of the three chat protocols to the proxy."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from blip2tools.errors import ErrorCode
from blip2tools.server.chat.events import Event
from blip2tools.toolset import ToolSpec

Item = dict[str, Any]

MAX_ARGUMENTS: Final = 2**20  # characters of a call's arguments: more is not a sensible call


@dataclass(slots=True)
class Call:
    """One call of a tool by the model.

    Attributes:
        arguments: JSON, as far as the model has written it.
    """

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Outcome:
    """The outcome of a call of our tools."""

    text: str
    failed: bool = False


@dataclass(slots=True)
class Turn:
    """One answer of the upstream.

    Attributes:
        ours: calls of the package's tools.
        theirs: whether the client's own tools are called too.
        said: the answer as the upstream must get it back.
        is_complete: it ended by itself: neither the token limit nor a lost connection has cut a call short.
        has_end: it says how it ended, be it that it failed.
    """

    ours: list[Call] = field(default_factory=list)
    theirs: bool = False
    said: list[Item] = field(default_factory=list)
    is_complete: bool = False
    has_end: bool = False


class Reply(ABC):
    """The one answer that a client gets, put together from all of the upstream's.

    Args:
        ours: the package's tools that were offered.
        theirs: the client's own.
    """

    def __init__(self, ours: Collection[str], theirs: Collection[str]) -> None:
        self.ours = frozenset(ours)
        self.theirs = frozenset(theirs)
        self.round = 0
        self._usage: Any = None  # of this round
        self._spent: Any = None  # in the rounds before
        self._reset()

    def begin(self) -> None:
        """Begin another answer of the upstream."""
        if self.round:
            self._keep()
            self._spent = added(self._spent, self._usage)
        self.round += 1
        self._reset()

    @abstractmethod
    def _reset(self) -> None:
        """Forget the last round, its usage included."""

    @abstractmethod
    def _keep(self) -> None:
        """Remember what the client has got of the last round."""

    @abstractmethod
    def feed(self, event: Event) -> list[bytes]:
        """Take one event of the upstream; returns what the client gets now."""

    @abstractmethod
    def take(self, whole: dict[str, Any]) -> None:
        """Take an answer in one piece."""

    @abstractmethod
    def turn(self) -> Turn:
        """The upstream's answer in this round."""

    @abstractmethod
    def finish(self, *, stop: bool) -> list[bytes]:
        """The end of the client's stream that was held back; `stop` if our calls are not answered any more."""

    @abstractmethod
    def whole(self, *, stop: bool) -> dict[str, Any] | None:
        """The client's answer in one piece, or None if it gets the upstream's own."""

    @abstractmethod
    def visible(self) -> list[Item]:
        """The answer as the client will send it back in its next request."""

    @abstractmethod
    def spoils(self, message: str, *, error: Mapping[str, Any] | None = None) -> bytes:
        """An event that says why the stream ends early.

        Args:
            message: `code: sentence`.
            error: the upstream's own error object, which then stands in its place.
        """


class Dialect(ABC):
    """One protocol.

    Attributes:
        path: of its requests.
        key: where a body has the conversation.
    """

    path: ClassVar[str]
    key: ClassVar[str]

    @abstractmethod
    def error(self, status: int, code: ErrorCode, message: str) -> dict[str, Any]:
        """The JSON of an answer that is an error."""

    @abstractmethod
    def reply(self, ours: Collection[str], theirs: Collection[str]) -> Reply:
        """For one request."""

    @abstractmethod
    def block(self, item: Any, block: Mapping[str, Any], words: str) -> dict[str, Any]:
        """The block that says `words` in the place of `block`, in the entry `item` of a conversation."""

    @abstractmethod
    def tool(self, spec: ToolSpec) -> dict[str, Any]:
        """A tool as a request offers it."""

    @abstractmethod
    def names(self, body: Mapping[str, Any]) -> set[str]:
        """Names of the tools that the client offers."""

    @abstractmethod
    def may_offer(self, body: Mapping[str, Any]) -> bool:
        """Whether more tools can be offered without getting in the way of what the client has asked for."""

    @abstractmethod
    def results(self, calls: Sequence[Call], outcomes: Sequence[Outcome]) -> list[Item]:
        """The outcomes of calls of our tools, as entries of a conversation."""

    @abstractmethod
    def line(self, item: Any) -> str | None:
        """The content of an entry in one form, however a client writes it; None for an entry that clients may leave out."""

    def plain(self, item: Item) -> None:
        """Simplify an entry whose pictures were replaced by words."""
        return

    def ahead(self, item: Item, results: Sequence[Item]) -> list[Item]:
        """The entry that follows a turn with calls of both sides, with our results added to the client's."""
        return [*results, item]

    def items(self, body: Mapping[str, Any]) -> list[Any]:
        """The conversation."""
        found = body.get(self.key)
        return list(found) if isinstance(found, list) else []


def canonical(arguments: Any) -> str:
    """A call's arguments in one form, however a client writes them."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        return json.dumps(value, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return str(arguments)


def text_of(content: Any) -> str:
    """The text of a message, with single spaces: clients trim, join and split it."""
    if isinstance(content, str):
        return " ".join(content.split())
    if not isinstance(content, list):
        return ""
    parts = (part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict))
    return " ".join(" ".join(part for part in parts if isinstance(part, str)).split())


def added(one: Any, other: Any) -> Any:
    """Two objects of numbers, added; anything else is the second's."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{name: added(one.get(name), value) for name, value in other.items()}}
    if _is_count(one) and _is_count(other):
        return one + other
    return one if other is None else other


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def names_in(tools: Any, *path: str) -> set[str]:
    """Names of tools in a list of them; `path` leads to where the name is."""
    found: set[str] = set()
    for tool in tools if isinstance(tools, list) else ():
        for step in path:
            tool = tool.get(step) if isinstance(tool, Mapping) else None
        if isinstance(tool, Mapping) and isinstance(tool.get("name"), str):
            found.add(tool["name"])
    return found


def joined(texts: Iterable[str]) -> str:
    """The texts of several rounds as one."""
    return "\n\n".join(text for text in texts if text)


def sentence(code: ErrorCode, message: str) -> str:
    """An error as one text."""
    return f"{code}: {message}"
