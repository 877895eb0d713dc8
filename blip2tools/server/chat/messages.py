"""Anthropic's Messages: content blocks, and a stream of named events that `message_stop` ends."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

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
from blip2tools.server.chat.errors import anthropic_error
from blip2tools.server.chat.events import Event, TooLongError, event_of
from blip2tools.toolset import ToolSpec


class Messages(Dialect):
    """See the module."""

    path: ClassVar[str] = "/v1/messages"
    key: ClassVar[str] = "messages"

    def error(self, status: int, code: ErrorCode, message: str) -> dict[str, Any]:
        return anthropic_error(status, code, message)

    def reply(self, ours: Collection[str], theirs: Collection[str]) -> Reply:
        return MessagesReply(ours, theirs)

    def block(self, item: Any, block: Mapping[str, Any], words: str) -> dict[str, Any]:
        kept = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
        return {"type": "text", "text": words, **kept}

    def tool(self, spec: ToolSpec) -> dict[str, Any]:
        return {"name": spec.name, "description": spec.description, "input_schema": spec.input_schema()}

    def names(self, body: Mapping[str, Any]) -> set[str]:
        return names_in(body.get("tools"))

    def may_offer(self, body: Mapping[str, Any]) -> bool:
        choice = body.get("tool_choice")
        return choice is None or (isinstance(choice, dict) and choice.get("type") in ("auto", "any"))

    def results(self, calls: Sequence[Call], outcomes: Sequence[Outcome]) -> list[Item]:
        blocks = [
            {
                "type": "tool_result",
                "tool_use_id": call.id,
                "content": outcome.text,
                **({"is_error": True} if outcome.failed else {}),
            }
            for call, outcome in zip(calls, outcomes, strict=True)
        ]
        return [{"role": "user", "content": blocks}]

    def ahead(self, item: Item, results: Sequence[Item]) -> list[Item]:
        """All results of a turn must be in the one message that follows it, before its text."""
        if not results or item.get("role") != "user":
            return [*results, item]
        content = item.get("content")
        theirs = content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
        return [{**item, "content": [*(block for one in results for block in one["content"]), *theirs]}]

    def line(self, item: Any) -> str | None:
        if not isinstance(item, dict):
            return repr(item)
        content = item.get("content")
        blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
        made = [
            [block.get("id"), block.get("name"), canonical(block.get("input"))]
            for block in blocks
            if block.get("type") == "tool_use"
        ]
        got = [
            [block.get("tool_use_id"), text_of(block.get("content"))]
            for block in blocks
            if block.get("type") == "tool_result"
        ]
        return json.dumps([item.get("role"), text_of(content), made, got])


class MessagesReply(Reply):
    """See `Reply`."""

    def __init__(self, ours: Collection[str], theirs: Collection[str]) -> None:
        super().__init__(ours, theirs)
        self._shown: list[Item] = []  # blocks that the client has got in the rounds before
        self._next = 0  # index of the client's next block

    def _reset(self) -> None:
        self._blocks: dict[int, Item] = {}
        self._partial: dict[int, str] = {}
        self._places: dict[int, int] = {}
        self._reason: Any = None
        self._failed = False
        self._usage = {}
        self._held: list[Event] = []
        self._answer: dict[str, Any] = {}

    def _keep(self) -> None:
        self._shown += self._kept()

    # ---- a stream ----

    def feed(self, event: Event) -> list[bytes]:
        data = event.json() or {}
        match data.get("type"):
            case "message_start":
                message = data.get("message")
                self._usage = dict(message.get("usage") or {}) if isinstance(message, dict) else {}
                return [event.raw] if self.round == 1 else []
            case "content_block_start" | "content_block_delta" | "content_block_stop":
                return self._of_block(event, data)
            case "message_delta":
                delta = data.get("delta")
                self._reason = (delta.get("stop_reason") if isinstance(delta, dict) else None) or self._reason
                # The counts here are of the whole message so far.
                self._usage = {**self._usage, **{k: v for k, v in (data.get("usage") or {}).items() if v is not None}}
            case "error":
                self._failed = True
                return [event.raw]
            case "message_stop":
                pass
            case _:
                return [event.raw]  # `ping`, comments, and what is still to be invented
        if self._calls() or self._held or self.round > 1:
            self._held.append(event)
            return []
        return self._end(event, data, stop=False)

    def _of_block(self, event: Event, data: dict[str, Any]) -> list[bytes]:
        index = data.get("index")
        if not isinstance(index, int):
            return [event.raw]
        if data["type"] == "content_block_start":
            block = data.get("content_block")
            self._blocks[index] = dict(block) if isinstance(block, dict) else {}
            if not self._is_ours(self._blocks[index]):
                self._places[index] = self._next
                self._next += 1
        elif data["type"] == "content_block_delta":
            self._grow(index, data.get("delta"))
        else:
            self._close(index)
        if index not in self._places:
            return []
        place = self._places[index]
        return [event.raw if place == index else event.saying({**data, "index": place})]

    def _grow(self, index: int, delta: Any) -> None:
        block = self._blocks.setdefault(index, {})
        if not isinstance(delta, dict):
            return
        if delta.get("type") == "input_json_delta":
            self._partial[index] = self._partial.get(index, "") + str(delta.get("partial_json") or "")
            if self._is_ours(block) and len(self._partial[index]) > MAX_ARGUMENTS:
                raise TooLongError
            return
        for name in ("text", "thinking", "signature"):
            if isinstance(delta.get(name), str):
                block[name] = str(block.get(name) or "") + delta[name]

    def _close(self, index: int) -> None:
        block = self._blocks.setdefault(index, {})
        if index in self._partial:
            try:
                block["input"] = json.loads(self._partial[index] or "{}")
            except (ValueError, RecursionError):
                block["input"] = {}

    def _end(self, event: Event, data: dict[str, Any], *, stop: bool) -> list[bytes]:
        """`message_delta` or `message_stop` as the client gets it."""
        changed = False
        if data.get("type") == "message_delta":
            delta = data.get("delta")
            if stop and isinstance(delta, dict) and not self._has_theirs():
                data, changed = {**data, "delta": {**delta, "stop_reason": "end_turn"}}, True
            if self.round > 1 and isinstance(data.get("usage"), dict):
                counts = added(self._spent, self._usage)
                data = {**data, "usage": {name: counts.get(name) for name in data["usage"]} | _input_tokens(counts)}
                changed = True
        return [event.saying(data) if changed else event.raw]

    def finish(self, *, stop: bool) -> list[bytes]:
        held, self._held = self._held, []
        return [piece for event in held for piece in self._end(event, event.json() or {}, stop=stop)]

    # ---- in one piece ----

    def take(self, whole: dict[str, Any]) -> None:
        self._answer = whole
        self._usage = whole.get("usage") or {}
        content = whole.get("content")
        if not isinstance(content, list):
            self._failed = True
            return
        self._blocks = {index: block for index, block in enumerate(content) if isinstance(block, dict)}
        self._reason = whole.get("stop_reason")

    def whole(self, *, stop: bool) -> dict[str, Any] | None:
        if self.round == 1 and not self._calls():
            return None
        answer = {**self._answer, "content": [*self._shown, *self._kept()]}
        answer["usage"] = added(self._spent, self._usage)
        if stop and not self._has_theirs():
            answer["stop_reason"] = "end_turn"
        return answer

    # ---- either way ----

    def turn(self) -> Turn:
        said: Item = {"role": "assistant", "content": list(self._blocks.values())}
        ended = self._reason in ("tool_use", "end_turn", "stop_sequence") and not self._failed
        return Turn(self._calls(), self._has_theirs(), [said], ended, bool(self._reason) or self._failed)

    def visible(self) -> list[Item]:
        return [{"role": "assistant", "content": [*self._shown, *self._kept()]}]

    def spoils(self, message: str, *, error: Mapping[str, Any] | None = None) -> bytes:
        own = {"type": "api_error", "message": message}
        return event_of({"type": "error", "error": dict(error or own)}, "error")

    def _is_ours(self, block: Mapping[str, Any]) -> bool:
        return block.get("type") == "tool_use" and block.get("name") in self.ours

    def _calls(self) -> list[Call]:
        return [
            Call(
                str(block.get("id")),
                str(block["name"]),
                self._partial.get(index) or json.dumps(block.get("input") or {}),
            )
            for index, block in self._blocks.items()
            if self._is_ours(block)
        ]

    def _kept(self) -> list[Item]:
        return [block for block in self._blocks.values() if not self._is_ours(block)]

    def _has_theirs(self) -> bool:
        return any(block.get("type") == "tool_use" for block in self._kept())


def _input_tokens(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that were read; `message_start` could only count those of the first round."""
    return {"input_tokens": counts["input_tokens"]} if counts.get("input_tokens") is not None else {}
