"""Middleware for a `create_agent` whose model cannot see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command

from blip2tools.langchain_tools.ingest import PictureReader, holds_pictures, mentions_picture
from blip2tools.langchain_tools.tools import Blip2Toolkit
from blip2tools.vision import Vision


def _merged(old: Mapping[str, str] | None, new: Mapping[str, str] | None) -> dict[str, str]:
    return {**(old or {}), **(new or {})}


class VisionState(AgentState[Any]):
    """The state of the agent: the caption of every picture seen, by its handle."""

    images: NotRequired[Annotated[dict[str, str], _merged]]


class VisionMiddleware(AgentMiddleware[VisionState, Any, Any]):
    """Lets a chat model that cannot see take part in a conversation with pictures.

        agent = create_agent(model, middleware=[VisionMiddleware(vision)])

    Before each call of the model, every picture in the conversation (in human, tool and all other messages, in every
    form that `ingest` understands) is replaced by `[image img_...: a caption]`, and the tools of `Blip2Toolkit` are
    available to ask about the handle. State field `images` maps each handle to its caption. A picture is looked at once,
    however often it appears. One that cannot be read becomes `[image unreadable: code: sentence]` and never an exception; if
    the reason may pass (the engine is busy, the model is still loading), the state keeps the picture and the next call
    tries again.

    A model whose `profile` says that it can see gets its pictures untouched: `image_inputs` decides for messages,
    `image_tool_message` for tool messages, at each call, so that a fallback to a text-only model works. A model that
    can see gets no tools either, unless this conversation already has pictures that were replaced by words.

    What this guarantees: the model is never sent a picture that its profile does not claim to take, and after
    the call the conversation in the state holds none. What it does not: a checkpointer saves the input before any
    middleware runs, and a tool's message before the model is called again, so earlier checkpoints do hold the base64
    (with `durability="exit"` only the end is saved, and a run cannot be resumed half-way). Call `ingest` before `invoke`
    to keep the callers' pictures out of checkpoints. The handles' bytes are in the memory of `vision`, not in the
    checkpoint: after a restart a handle is `not_found` until the picture is shown again.

    Args:
        vision: the model to look with, bound by the allowed folders and the address rules of its settings. The
            middleware does not close it.
    """

    state_schema = VisionState

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self._eyes = vision.for_tools()
        self.tools = Blip2Toolkit(vision).get_tools()

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """See `AgentMiddleware.wrap_model_call`."""
        ready, update = self._eyes.run(self._prepared(request))
        return _response(handler(ready), update)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """See `AgentMiddleware.awrap_model_call`."""
        ready, update = await self._prepared(request)
        return _response(await handler(ready), update)

    async def _prepared(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], dict[str, Any]]:
        """The request as the model can read it, and the update of the state."""
        profile = getattr(request.model, "profile", None) or {}

        def blind_to(message: BaseMessage) -> bool:
            capability = "image_tool_message" if isinstance(message, ToolMessage) else "image_inputs"
            return holds_pictures(message) and not profile.get(capability)

        known: dict[str, str] = dict(request.state.get("images") or {})  # type: ignore[call-overload]
        reader = PictureReader(self._eyes, known)
        # Other middleware may have shortened or edited what the model gets; the state keeps its own messages.
        kept = [message for message in request.state.get("messages", ()) if blind_to(message)]
        await reader.read([message for message in (*request.messages, *kept) if blind_to(message)])
        messages: list[Any] = [
            reader.rewritten(message) if blind_to(message) else message for message in request.messages
        ]
        tools = request.tools
        if profile.get("image_inputs") and not any(map(mentions_picture, messages)):
            tools = [tool for tool in tools if not any(tool is own for own in self.tools)]
        update: dict[str, Any] = {}
        if settled := [reader.rewritten(message) for message in kept if reader.settled(message)]:
            update["messages"] = settled  # they replace those of the same id
        if reader.captions != known:
            update["images"] = {handle: words for handle, words in reader.captions.items() if handle not in known}
        return request.override(messages=messages, tools=tools), update


def _response(response: ModelResponse[Any], update: dict[str, Any]) -> ExtendedModelResponse[Any]:
    return ExtendedModelResponse(response, Command(update=update) if update else None)
