"""OpenAI's Chat Completions: `messages`, `choices`, and a stream of deltas that `[DONE]` ends."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from blip2tools.errors import ErrorCode
from blip2tools.server.chat.dialect import (
    MAX_ARGUMENTS,
    Call,
    Dialect,
    Item,
    Outcome,
    Reply,
    Turn,
    added,
    canonical,
    joined,
    names_in,
    text_of,
)
from blip2tools.server.chat.errors import openai_error
from blip2tools.server.chat.events import Event, TooLongError, event_of
from blip2tools.toolset import ToolSpec

# Some servers end a message with calls by "stop".
_ENDS: Final = ("tool_calls", "function_call", "stop")
_THOUGHTS: Final = ("reasoning_content", "reasoning")  # some models must get them back with their calls


class Completions(Dialect):
    """See the module."""

    path: ClassVar[str] = "/v1/chat/completions"
    key: ClassVar[str] = "messages"

    def error(self, status: int, code: ErrorCode, message: str) -> dict[str, Any]:
        return openai_error(status, code, message)

    def reply(self, ours: Collection[str], theirs: Collection[str]) -> Reply:
        return CompletionsReply(ours, theirs)

    def block(self, item: Any, block: Mapping[str, Any], words: str) -> dict[str, Any]:
        return {"type": "text", "text": words}

    def plain(self, item: Item) -> None:
        """One string if all parts are text: many servers of text-only models accept no list."""
        content = item.get("content")
        if isinstance(content, list) and all(
            isinstance(part, dict) and set(part) == {"type", "text"} for part in content
        ):
            item["content"] = "\n".join(str(part["text"]) for part in content)

    def tool(self, spec: ToolSpec) -> dict[str, Any]:
        about = {"name": spec.name, "description": spec.description, "parameters": spec.input_schema()}
        return {"type": "function", "function": about}

    def names(self, body: Mapping[str, Any]) -> set[str]:
        return names_in(body.get("tools"), "function")

    def may_offer(self, body: Mapping[str, Any]) -> bool:
        # A forced tool, a grammar for the whole answer, or several answers side by side leave no room for a look.
        taken = any(body.get(name) for name in ("functions", "grammar", "json_schema"))
        return not taken and body.get("n") in (None, 1) and body.get("tool_choice") in (None, "auto", "required")

    def results(self, calls: Sequence[Call], outcomes: Sequence[Outcome]) -> list[Item]:
        return [
            {"role": "tool", "tool_call_id": call.id, "content": outcome.text}
            for call, outcome in zip(calls, outcomes, strict=True)
        ]

    def line(self, item: Any) -> str | None:
        if not isinstance(item, dict):
            return repr(item)
        calls = item.get("tool_calls")
        made = [
            [call.get("id"), call["function"].get("name"), canonical(call["function"].get("arguments"))]
            for call in (calls if isinstance(calls, list) else ())
            if isinstance(call, dict) and isinstance(call.get("function"), dict)
        ]
        return json.dumps([item.get("role"), text_of(item.get("content")), made, item.get("tool_call_id")])


@dataclass(slots=True)
class _Part:
    """A call whose pieces are still coming in; `is_ours` is None until its name is known."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    is_ours: bool | None = None
    shown: int = -1
    """Its place among the calls that the client sees."""

    def call(self, number: int) -> Call:
        """The call; one of ours gets an id if the server gave none, since its answer needs one."""
        return Call(self.id or (f"call_{number}" if self.is_ours else ""), self.name, self.arguments)


class CompletionsReply(Reply):
    """See `Reply`."""

    def __init__(self, ours: Collection[str], theirs: Collection[str]) -> None:
        super().__init__(ours, theirs)
        self._all = self.ours | self.theirs
        self._first: dict[str, Any] = {}  # id and time of creation of the first answer hold for all
        self._told: list[str] = []  # the text of each round
        self._shown: list[Call] = []

    def _reset(self) -> None:
        self._parts: dict[Any, _Part] = {}
        self._text = ""
        self._thoughts: dict[str, str] = {}
        self._reason: Any = None
        self._failed = False
        self._usage = None
        self._waiting: list[tuple[Event, dict[str, Any] | None]] = []
        self._held: list[tuple[Event, dict[str, Any] | None]] = []
        self._message: dict[str, Any] = {}
        self._answer: dict[str, Any] = {}

    def _keep(self) -> None:
        self._told.append(self._text)

    # ---- a stream ----

    def feed(self, event: Event) -> list[bytes]:
        chunk = event.json()
        if chunk is not None and chunk.get("error"):
            self._failed = True
            return [event.raw]
        if chunk is not None:
            self._note(chunk)
        self._waiting.append((event, chunk))
        return self._release()

    def _note(self, chunk: dict[str, Any]) -> None:
        self._first = self._first or {name: chunk[name] for name in ("id", "created") if name in chunk}
        self._usage = chunk.get("usage") or self._usage
        choice = _choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._text += delta["content"] if isinstance(delta.get("content"), str) else ""
            for name in _THOUGHTS:
                if isinstance(delta.get(name), str):
                    self._thoughts[name] = self._thoughts.get(name, "") + delta[name]
            for piece in _calls(delta):
                self._gather(piece)
        if choice.get("finish_reason"):
            self._reason = choice["finish_reason"]
            for part in self._parts.values():
                self._settle(part, part.name in self.ours)

    def _gather(self, piece: dict[str, Any]) -> None:
        part = self._parts.setdefault(self._place(piece), _Part())
        part.id = part.id or str(piece.get("id") or "")
        function = piece.get("function")
        if isinstance(function, dict):
            part.name += function["name"] if isinstance(function.get("name"), str) else ""
            given = function.get("arguments")
            if isinstance(given, dict):
                given = json.dumps(given)  # some servers forget that it is a text
            part.arguments += given if isinstance(given, str) else ""
        if len(part.arguments) > MAX_ARGUMENTS and part.is_ours is not False:
            raise TooLongError
        if part.is_ours is None and part.name:
            # A name may come in pieces, too: as long as it could become a name of either side, the owner of the call is
            # unknown.
            sides = {name in self.ours for name in self._all if name.startswith(part.name)}
            if len(sides) < 2:
                self._settle(part, sides == {True})
            elif part.arguments:
                self._settle(part, part.name in self.ours)

    def _place(self, piece: dict[str, Any]) -> Any:
        """The call that a piece belongs to; for servers that leave the index out, a new id begins a new call."""
        if isinstance(piece.get("index"), int):
            index = piece["index"]
        elif piece.get("id") and all(part.id != piece["id"] for part in self._parts.values()):
            index = len(self._parts)
        else:
            index = max(self._parts, default=0)
        piece["_place"] = index
        return index

    def _settle(self, part: _Part, is_ours: bool) -> None:
        if part.is_ours is None:
            part.is_ours = is_ours
            if not is_ours:
                part.shown = sum(other.shown >= 0 for other in self._parts.values())

    def _release(self) -> list[bytes]:
        """Everything that waited, up to a call whose owner is not known yet."""
        found: list[bytes] = []
        while self._waiting:
            event, chunk = self._waiting[0]
            pieces = _calls(_choice(chunk or {}).get("delta"))
            if any(self._parts[piece["_place"]].is_ours is None for piece in pieces):
                break
            self._waiting.pop(0)
            if chunk is not None:
                found += self._passed(event, chunk)
            elif self._held:
                self._held.append((event, None))
            else:
                found.append(event.raw)
        return found

    def _passed(self, event: Event, chunk: dict[str, Any]) -> list[bytes]:
        # The end of a longer answer waits for the upstream's own: then the turn is remembered before the client's next.
        ours = self.round > 1 or any(part.is_ours for part in self._parts.values())
        is_last = bool(_choice(chunk).get("finish_reason")) and ours
        if not is_last and not self._held:
            return self._show(event, chunk)
        choice = _choice(chunk)
        delta = choice.get("delta")
        if not isinstance(delta, dict) or not (delta.get("content") or _calls(delta)):
            self._held.append((event, chunk))
            return []
        # What such a last chunk says besides comes at once, and only the end waits.
        said = {**chunk, "choices": [{**choice, "finish_reason": None}]}
        said.pop("usage", None)
        self._held.append((event, {**chunk, "choices": [{**choice, "delta": {}}]}))
        return self._show(event, said, changed=True)

    def _show(self, event: Event, chunk: dict[str, Any], *, changed: bool = False) -> list[bytes]:
        """A chunk for the client: unchanged, byte for byte, if nothing of ours is in it or came before it."""
        choice = _choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            pieces = _calls(delta)
            kept = []
            for piece in pieces:
                part = self._parts[piece.pop("_place")]
                if part.is_ours:
                    changed = True
                elif isinstance(piece.get("index"), int) and piece["index"] != part.shown + len(self._shown):
                    piece["index"], changed = part.shown + len(self._shown), True
                    kept.append(piece)
                else:
                    kept.append(piece)
            if self.round > 1:
                changed = True
                delta = {name: value for name, value in delta.items() if name != "role"}
                if delta.get("content") and self._is_first(delta["content"]):
                    delta["content"] = f"\n\n{delta['content']}"
            if changed:
                delta = {name: value for name, value in delta.items() if name != "tool_calls"}
                delta |= {"tool_calls": kept} if kept else {}
                chunk = {**chunk, "choices": [{**choice, "delta": delta}]}
        if not changed and self.round == 1:
            return [event.raw]
        chunk = {**chunk, **self._first}
        if chunk.get("usage"):
            chunk["usage"] = added(self._spent, chunk["usage"])
        says_nothing = not any(delta.values()) if isinstance(delta, dict) else False
        if says_nothing and not choice.get("finish_reason") and not chunk.get("usage"):
            return []
        return [event.saying(chunk)]

    def _is_first(self, content: str) -> bool:
        """Whether the text of a later round begins here, after other text."""
        return self._text == content and any(self._told)

    def finish(self, *, stop: bool) -> list[bytes]:
        held, self._held = [*self._held, *self._waiting], []
        self._waiting = []
        found: list[bytes] = []
        for event, chunk in held:
            if chunk is None:
                found.append(event.raw)
                continue
            choice = _choice(chunk)
            if stop and choice.get("finish_reason") and not self._has_theirs():
                chunk = {**chunk, "choices": [{**choice, "finish_reason": "stop"}]}
            found += self._show(event, chunk, changed=True)
        return found

    # ---- in one piece ----

    def take(self, whole: dict[str, Any]) -> None:
        self._answer = whole
        self._usage = whole.get("usage")
        choice = _choice(whole)
        message = choice.get("message")
        if not isinstance(message, dict):
            self._failed = True
            return
        self._message = message
        self._reason = choice.get("finish_reason")
        self._text = message["content"] if isinstance(message.get("content"), str) else ""
        self._thoughts = {name: message[name] for name in _THOUGHTS if isinstance(message.get(name), str)}
        for number, piece in enumerate(_calls(message)):
            self._gather({**piece, "index": number})
        for part in self._parts.values():
            self._settle(part, part.name in self.ours)

    def whole(self, *, stop: bool) -> dict[str, Any] | None:
        if self.round == 1 and not any(part.is_ours for part in self._parts.values()):
            return None
        parts = list(self._parts.values())
        calls = [piece for number, piece in enumerate(_calls(self._message)) if not parts[number].is_ours]
        text = joined([*self._told, self._text])
        message = {**self._message, "content": text or self._message.get("content")}
        message.pop("tool_calls", None)
        message |= {"tool_calls": calls} if calls else {}
        choice = {**_choice(self._answer), "message": message}
        if stop and not calls:
            choice["finish_reason"] = "stop"
        answer = {**self._answer, "choices": [choice]}
        if self._usage is not None:
            answer["usage"] = added(self._spent, self._usage)
        return answer

    # ---- either way ----

    def turn(self) -> Turn:
        parts = list(enumerate(self._parts.values()))
        made = [part.call(number) for number, part in parts]
        message: Item = {"role": "assistant", "content": self._text, **self._thoughts}
        if made:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in made
            ]
        ours = [part.call(number) for number, part in parts if part.is_ours]
        return Turn(
            ours,
            self._has_theirs(),
            [message],
            self._reason in _ENDS and not self._failed,
            bool(self._reason) or self._failed,
        )

    def _has_theirs(self) -> bool:
        return any(part.is_ours is False for part in self._parts.values())

    def visible(self) -> list[Item]:
        theirs = [part.call(number) for number, part in enumerate(self._parts.values()) if not part.is_ours]
        calls = [{"id": call.id, "function": {"name": call.name, "arguments": call.arguments}} for call in theirs]
        return [{"role": "assistant", "content": joined([*self._told, self._text]), "tool_calls": calls}]

    def spoils(self, message: str, *, error: Mapping[str, Any] | None = None) -> bytes:
        code = message.partition(":")[0]
        own = {"message": message, "type": "server_error", "param": None, "code": code}
        return event_of({"error": dict(error or own)})


def _choice(chunk: Mapping[str, Any]) -> dict[str, Any]:
    choices = chunk.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _calls(holder: Any) -> list[dict[str, Any]]:
    calls = holder.get("tool_calls") if isinstance(holder, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
