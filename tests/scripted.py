"""A chat model that cannot see: it raises on any block that is not text, and computes each step from what it was told."""

import json
import re
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool


def says(text: str) -> AIMessage:
    return AIMessage(content=text)


def calls(name: str, **arguments: Any) -> AIMessage:
    return AIMessage(
        content="", tool_calls=[{"name": name, "args": arguments, "id": f"call_{name}", "type": "tool_call"}]
    )


class ScriptedChatModel(BaseChatModel):
    """`script(messages) -> AIMessage`."""

    script: Any

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _reply(self, messages):
        for message in messages:
            for block in message.content if isinstance(message.content, list) else []:
                if isinstance(block, dict) and block.get("type") != "text":
                    raise ValueError(f"a text-only model was handed a block of type {block.get('type')}")
        return self.script(messages)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        message = self._reply(messages)
        for part in re.split(r"(?<=\s)", message.text) if message.text else []:
            yield ChatGenerationChunk(message=AIMessageChunk(content=part, id=message.id))
        chunks = [
            {
                "name": call["name"],
                "args": json.dumps(call["args"]),
                "id": call["id"],
                "index": index,
                "type": "tool_call_chunk",
            }
            for index, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", id=message.id, tool_call_chunks=chunks, chunk_position="last")
        )

    @property
    def _llm_type(self):
        return "scripted"
