"""The catalogue as LangChain tools."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, InjectedToolArg, StructuredTool, ToolException
from pydantic import ConfigDict, PrivateAttr

from blip2tools.call import Listener, heard_by
from blip2tools.errors import InvalidInputError, VisionError
from blip2tools.schemas import Arguments
from blip2tools.toolset import TOOLS, Told, ToolSpec, call
from blip2tools.vision import Vision


class Blip2Toolkit(BaseToolkit):
    """Every tool of the catalogue over one `Vision`, for sync and async callers.

    Paths come from a model here, so only the allowed folders of the settings are open, whatever `vision` itself may
    read. Each tool returns text for the model and the full result, as a dict, in the `ToolMessage`'s artifact. A failed
    call is a `ToolMessage` of status "error" that says `code: sentence`; it never ends the run. A cancelled call frees
    its place in the engine.

    In a graph that streams, `stream_mode="custom"` reports a call's progress, as `{"tool", "tool_call_id", "progress",
    "done", "total"}`, and `stream_mode="tools"` has the result's lines as output deltas.

    Args:
        vision: the model to look with. The toolkit does not close it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    _eyes: Vision = PrivateAttr()

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self._eyes = vision.for_tools()

    def get_tools(self) -> list[BaseTool]:
        """The tools, in the catalogue's order."""
        told = Told()
        return [_tool(self._eyes, told, spec) for spec in TOOLS]


class _Tool(StructuredTool):
    """A tool whose schema is the catalogue's own, as a dict: LangChain's models of it lose parts of it.

    LangChain then checks nothing, and the catalogue does: every interface refuses the same calls with the same words.
    """

    _arguments: type[Arguments] = PrivateAttr(default=Arguments)

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[Arguments]:
        """The strict model of the arguments, for programs; models are shown `args_schema`."""
        return self._arguments

    def _parse_input(self, tool_input: str | dict[str, Any], tool_call_id: str | None) -> dict[str, Any]:
        if isinstance(tool_input, str):
            # `tool.invoke("photo.jpg")`, by hand or from an older agent: a bare text is the first argument, if there is one.
            first = next(iter(self._arguments.model_fields), None)
            return {first or "text": tool_input} if first or tool_input.strip() else {}
        # LangChain's own names would be taken for its own objects, or silently replaced by them.
        for name in ("config", "run_manager"):
            if name in tool_input:
                raise ToolException(str(InvalidInputError(f"There is no argument '{name}'.")))
        return tool_input


def _tool(eyes: Vision, told: Told, spec: ToolSpec) -> BaseTool:
    async def look(runtime: Annotated[Any, InjectedToolArg] = None, **arguments: Any) -> tuple[str, dict[str, Any]]:
        # LangChain's own runtime object is not an argument. Anything that JSON can carry came from the model, and is refused.
        if isinstance(runtime, str | int | float | list | dict):
            arguments["runtime"], runtime = runtime, None
        audience = _Audience(runtime, spec.name)
        try:
            with heard_by(audience.listener()):
                result = await call(eyes, spec.name, arguments, told=audience.told(told), client=audience.thread)
        except VisionError as error:
            # ToolException is the only error that LangChain shows to the model; any other would end the run.
            raise ToolException(str(error)) from error
        text = result.text_block()
        audience.show(text)
        return text, result.structured()

    def look_sync(runtime: Annotated[Any, InjectedToolArg] = None, **arguments: Any) -> tuple[str, dict[str, Any]]:
        return eyes.run(look(runtime, **arguments))

    tool = _Tool.from_function(
        func=look_sync,
        coroutine=look,
        name=spec.name,
        description=spec.description,
        args_schema=spec.input_schema(),
        response_format="content_and_artifact",
        handle_tool_error=True,
        metadata={"title": spec.title},
    )
    tool._arguments = spec.arguments
    return tool


class _Audience:
    """The listeners of one call, through LangChain's `ToolRuntime`; none, if it was not injected.

    The runtime's two channels are silent unless the graph is run with their stream mode.

    Attributes:
        thread: the conversation's name, where it has one.
    """

    def __init__(self, runtime: Any, tool: str) -> None:
        self._write = getattr(runtime, "stream_writer", None)
        self._emit = getattr(runtime, "emit_output_delta", None)
        configured = (getattr(runtime, "config", None) or {}).get("configurable") or {}
        self.thread = str(configured.get("thread_id", ""))
        self._label = {"tool": tool, "tool_call_id": getattr(runtime, "tool_call_id", None)}

    def told(self, told: Told) -> Told | None:
        """The record of warned clients; none outside of a graph, where each call may come from another client."""
        return told if self._label["tool_call_id"] is not None else None

    def listener(self) -> Listener | None:
        """A function that passes on the call's progress, once it has reported the beginning."""
        write = self._write
        if not callable(write):
            return None

        async def hear(what: str, done: float, total: float | None) -> None:
            write({**self._label, "progress": what, "done": done, "total": total})

        write({**self._label, "progress": "looking", "done": 0, "total": None})
        return hear

    def show(self, text: str) -> None:
        """The result, line by line."""
        if callable(self._emit):
            for line in text.splitlines(keepends=True):
                self._emit(line)
