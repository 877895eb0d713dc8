"""OpenAI's Responses: `input`, a list of output items, and a stream of numbered events that `response.completed` ends."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
    names_in,
    text_of,
)
from blip2tools.server.chat.errors import openai_error
from blip2tools.server.chat.events import Event, TooLongError, event_of
from blip2tools.toolset import ToolSpec

_BEGINNINGS: Final = ("response.created", "response.in_progress", "response.queued")
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")


class Responses(Dialect):
    """See the module."""

    path: ClassVar[str] = "/v1/responses"
    key: ClassVar[str] = "input"

    def error(self, status: int, code: ErrorCode, message: str) -> dict[str, Any]:
        return openai_error(status, code, message)

    def reply(self, ours: Collection[str], theirs: Collection[str]) -> Reply:
        return ResponsesReply(ours, theirs)

    def block(self, item: Any, block: Mapping[str, Any], words: str) -> dict[str, Any]:
        if block is item:  # an entry that is a picture itself
            is_made = block.get("type") == "image_generation_call"
            kind, role = ("output_text", "assistant") if is_made else ("input_text", "user")
            return {"type": "message", "role": role, "content": [{"type": kind, "text": words}]}
        is_said = isinstance(item, dict) and item.get("role") == "assistant"
        return {"type": "output_text" if is_said else "input_text", "text": words}

    def tool(self, spec: ToolSpec) -> dict[str, Any]:
        about = {"name": spec.name, "description": spec.description, "parameters": spec.input_schema()}
        return {"type": "function", **about, "strict": False}

    def names(self, body: Mapping[str, Any]) -> set[str]:
        return names_in(body.get("tools"))

    def may_offer(self, body: Mapping[str, Any]) -> bool:
        # Of a conversation that the server keeps, nothing could be said twice; one in the background has no end here.
        taken = body.get("conversation") or body.get("background")
        return not taken and body.get("tool_choice") in (None, "auto", "required")

    def items(self, body: Mapping[str, Any]) -> list[Any]:
        given = body.get(self.key)
        return [{"role": "user", "content": given}] if isinstance(given, str) else super().items(body)

    def results(self, calls: Sequence[Call], outcomes: Sequence[Outcome]) -> list[Item]:
        return [
            {"type": "function_call_output", "call_id": call.id, "output": outcome.text}
            for call, outcome in zip(calls, outcomes, strict=True)
        ]

    def line(self, item: Any) -> str | None:
        if not isinstance(item, dict):
            return repr(item)
        match item.get("type", "message"):
            case "message":
                return json.dumps([item.get("role"), text_of(item.get("content"))])
            case "function_call":
                return json.dumps([item.get("call_id"), item.get("name"), canonical(item.get("arguments"))])
            case "function_call_output":
                return json.dumps([item.get("call_id"), text_of(item.get("output"))])
            case "reasoning" | "item_reference":
                return None
            case other:
                return json.dumps([other, item.get("id")])


class ResponsesReply(Reply):
    """See `Reply`."""

    def __init__(self, ours: Collection[str], theirs: Collection[str]) -> None:
        super().__init__(ours, theirs)
        self.id: str | None = None  # as the client knows the answer
        self.last_id: str | None = None  # as the upstream does
        self._shown: list[Item] = []
        self._next = 0
        self._number: int | None = None
        self._hidden = False

    def _reset(self) -> None:
        self._items: dict[int, Item] = {}
        self._places: dict[int, int] = {}
        self._hides: set[int] = set()
        self._lengths: dict[int, int] = {}
        self._status: Any = None
        self._failed = False
        self._usage = None
        self._held: list[Event] = []
        self._answer: dict[str, Any] = {}

    def _keep(self) -> None:
        self._shown += self._kept()

    # ---- a stream ----

    def feed(self, event: Event) -> list[bytes]:
        data = event.json()
        kind = data.get("type") if data is not None else None
        if data is None or kind == "error" or data.get("error"):
            self._failed = self._failed or data is not None
            return [event.raw]
        if kind in (*_BEGINNINGS, *_ENDS):
            self._note(data.get("response"))
        if kind in _BEGINNINGS:
            return self._show(event, data) if self.round == 1 else []
        if kind in _ENDS:
            if self._calls() or self.round > 1:
                self._held.append(event)
                return []
            return self._end(event, data)
        index = data.get("output_index")
        if isinstance(index, int):
            return self._of_item(event, data, index)
        return self._show(event, data)

    def _note(self, response: Any) -> None:
        if isinstance(response, dict):
            self.last_id = response["id"] if isinstance(response.get("id"), str) else self.last_id
            self.id = self.id or self.last_id
            self._status = response.get("status")
            self._usage = response.get("usage") or self._usage
            output = response.get("output")
            if self._status == "completed" and isinstance(output, list) and output:
                self._items = {index: item for index, item in enumerate(output) if isinstance(item, dict)}

    def _of_item(self, event: Event, data: dict[str, Any], index: int) -> list[bytes]:
        item = data.get("item")
        if isinstance(item, dict) and data["type"] in ("response.output_item.added", "response.output_item.done"):
            self._items[index] = item
            if self._is_ours(item):
                self._hides.add(index)
                self._hidden = True
            elif index not in self._places:
                self._places[index] = self._next
                self._next += 1
        if index in self._hides:
            self._lengths[index] = self._lengths.get(index, 0) + len(event.raw)
            if self._lengths[index] > 4 * MAX_ARGUMENTS:
                raise TooLongError
            return []
        place = self._places.get(index, index)
        return self._show(event, data if place == index else {**data, "output_index": place}, changed=place != index)

    def _show(self, event: Event, data: dict[str, Any], *, changed: bool = False) -> list[bytes]:
        """An event with its number in the client's stream."""
        number = data.get("sequence_number")
        if isinstance(number, int):
            mine = number if self._number is None else self._number + 1
            self._number = mine
            if mine != number:
                data, changed = {**data, "sequence_number": mine}, True
        return [event.saying(data) if changed else event.raw]

    def _end(self, event: Event, data: dict[str, Any]) -> list[bytes]:
        response = data.get("response")
        if (self._hidden or self.round > 1) and isinstance(response, dict):
            data = {**data, "response": self._put_together(response)}
            return self._show(event, data, changed=True)
        return self._show(event, data)

    def _put_together(self, response: dict[str, Any]) -> dict[str, Any]:
        found = {**response, "output": [*self._shown, *self._kept()]}
        if self.id is not None:
            found["id"] = self.id
        if self._usage is not None:
            found["usage"] = added(self._spent, self._usage)
        return found

    def finish(self, *, stop: bool) -> list[bytes]:
        held, self._held = self._held, []
        return [piece for event in held for piece in self._end(event, event.json() or {})]

    # ---- in one piece ----

    def take(self, whole: dict[str, Any]) -> None:
        self._answer = whole
        if not isinstance(whole.get("output"), list) or whole.get("error"):
            self._failed = True
            return
        self._items = {index: item for index, item in enumerate(whole["output"]) if isinstance(item, dict)}
        self.id = None  # all of it is told at once, so the last one's name can be told too
        self._note(whole)

    def whole(self, *, stop: bool) -> dict[str, Any] | None:
        if self.round == 1 and not self._calls():
            return None
        return self._put_together(self._answer)

    # ---- either way ----

    def turn(self) -> Turn:
        said = [self._items[index] for index in sorted(self._items)]
        theirs = any(item.get("type") in ("function_call", "custom_tool_call") for item in self._kept())
        ended = self._status == "completed" and not self._failed
        has_end = self._status in ("completed", "incomplete", "failed", "cancelled") or self._failed
        return Turn(self._calls(), theirs, said, ended, has_end)

    def visible(self) -> list[Item]:
        return [*self._shown, *self._kept()]

    def spoils(self, message: str, *, error: Mapping[str, Any] | None = None) -> bytes:
        own = error or {"code": message.partition(":")[0], "message": message}
        number = 0 if self._number is None else self._number + 1
        data = {"type": "error", "code": own.get("code"), "message": own.get("message"), "param": own.get("param")}
        return event_of({**data, "sequence_number": number}, "error")

    def _is_ours(self, item: Mapping[str, Any]) -> bool:
        return item.get("type") == "function_call" and item.get("name") in self.ours

    def _calls(self) -> list[Call]:
        return [
            Call(str(item.get("call_id")), str(item["name"]), str(item.get("arguments") or ""))
            for _, item in sorted(self._items.items())
            if self._is_ours(item)
        ]

    def _kept(self) -> list[Item]:
        return [item for _, item in sorted(self._items.items()) if not self._is_ours(item)]
