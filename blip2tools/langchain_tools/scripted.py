"""A chat model that cannot see and does not think: a function of the messages, for demos and tests without a network.

It refuses every block that is not text, so that whatever it knows about a picture has reached it as words. The script
decides its steps: they show that tools and messages work, but not how a real model would choose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

_call_numbers = count(1)


def says(text: str) -> AIMessage:
    """A reply in words."""
    return AIMessage(content=text)


def calls(name: str, **arguments: Any) -> AIMessage:
    """A reply that calls one tool."""
    return calls_all([(name, arguments)])


def calls_all(wanted: Sequence[tuple[str, dict[str, Any]]]) -> AIMessage:
    """A reply that calls several tools at once, each given as (name, arguments)."""
    return AIMessage(
        content="",
        tool_calls=[
            ToolCall(name=name, args=arguments, id=f"call_{next(_call_numbers)}", type="tool_call")
            for name, arguments in wanted
        ],
    )


class ScriptedChatModel(BaseChatModel):
    """A text-only chat model whose replies are `script(messages)`.

    Attributes:
        script: from the messages so far to the reply; see `says` and `calls`.
    """

    script: Callable[[list[BaseMessage]], AIMessage]

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """See `BaseChatModel.bind_tools`. The script knows the tools already."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        for message in messages:
            for block in message.content if isinstance(message.content, list) else []:
                if isinstance(block, dict) and block.get("type") != "text":
                    raise ValueError(f"a text-only model was handed a block of type {block.get('type')}")
        return self.script(messages)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._reply(messages)
        for part in re.split(r"(?<=\s)", message.text) if message.text else []:
            yield ChatGenerationChunk(message=AIMessageChunk(content=part, id=message.id))
        chunks = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", id=message.id, tool_call_chunks=chunks, chunk_position="last")
        )

    @property
    def _llm_type(self) -> str:
        return "scripted"
