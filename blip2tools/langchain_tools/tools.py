"""The catalogue as LangChain tools."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.tools import BaseTool, BaseToolkit, InjectedToolArg, StructuredTool, ToolException
from pydantic import ConfigDict, PrivateAttr, ValidationError, create_model

from blip2tools.call import Listener, heard_by
from blip2tools.errors import InvalidInputError, VisionError
from blip2tools.schemas import Arguments, explain
from blip2tools.toolset import TOOLS, ToolSpec, call
from blip2tools.vision import Vision


class Blip2Toolkit(BaseToolkit):
    """Every tool of the catalogue over one `Vision`, for sync and async callers.

    Paths come from a model here, so only the allowed folders of the settings are open, whatever `vision` itself may
    read. Each tool returns text for the model and the full result, as a dict, in the `ToolMessage`'s artifact. A failed
    call is a `ToolMessage` of status "error" that says `code: sentence`; it never ends the run. A cancelled call frees
    its place in the engine.

    In a graph that streams, `stream_mode="custom"` tells how far a call is, as `{"tool", "tool_call_id", "progress",
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
        return [_tool(self._eyes, spec) for spec in TOOLS]


def _schema(spec: ToolSpec) -> type[Arguments]:
    """The tool's arguments with the place where LangChain puts its runtime; no model is shown it.

    Without any field LangChain would throw away whatever a call brings, instead of checking it.
    """
    return create_model(
        spec.arguments.__name__, __base__=spec.arguments, runtime=(Annotated[Any, InjectedToolArg], None)
    )


def _tool(eyes: Vision, spec: ToolSpec) -> BaseTool:
    async def look(**arguments: Any) -> tuple[str, dict[str, Any]]:
        runtime = None
        # LangChain's own runtime object is no argument. Anything that JSON can carry came from the model: let it be refused.
        if not isinstance(arguments.get("runtime"), str | int | float | list | dict):
            runtime = arguments.pop("runtime", None)
        audience = _Audience(runtime, spec.name)
        try:
            with heard_by(audience.listener()):
                result = await call(eyes, spec.name, arguments)
        except VisionError as error:
            # ToolException is the only error that LangChain shows to the model; any other would end the run.
            raise ToolException(str(error)) from error
        text = result.text_block()
        audience.show(text)
        return text, result.model_dump(mode="json")

    # `tool.invoke("photo.png")` hands a bare text on by its place: it is the first argument, if there is one.
    first = next(iter(spec.arguments.model_fields), None)

    def named(given: tuple[Any, ...], arguments: dict[str, Any]) -> dict[str, Any]:
        if not given or (first is None and not str(given[0]).strip()):
            return arguments
        return {first or "text": given[0], **arguments}

    async def look_async(*given: Any, **arguments: Any) -> tuple[str, dict[str, Any]]:
        return await look(**named(given, arguments))

    def look_sync(*given: Any, **arguments: Any) -> tuple[str, dict[str, Any]]:
        return eyes.run(look(**named(given, arguments)))

    def refuse(problem: ValidationError | Any) -> str:
        return str(InvalidInputError(explain(problem, spec.arguments)))

    return StructuredTool.from_function(
        func=look_sync,
        coroutine=look_async,
        name=spec.name,
        description=spec.description,
        args_schema=_schema(spec),
        response_format="content_and_artifact",
        handle_tool_error=True,
        handle_validation_error=refuse,
        metadata={"title": spec.title},
    )


class _Audience:
    """Whoever follows one call through LangChain's `ToolRuntime`; nobody, where none was put in.

    The runtime's two channels are themselves silent unless the graph is run with their stream mode.
    """

    def __init__(self, runtime: Any, tool: str) -> None:
        self._write = getattr(runtime, "stream_writer", None)
        self._emit = getattr(runtime, "emit_output_delta", None)
        self._label = {"tool": tool, "tool_call_id": getattr(runtime, "tool_call_id", None)}

    def listener(self) -> Listener | None:
        """Passes on what the call tells of itself, after word that it has begun."""
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
