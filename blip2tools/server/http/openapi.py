"""The JSON routes in OpenAPI 3.1, made from the models that judge requests and form answers, and from the catalogue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, TypeAdapter, WithJsonSchema

from blip2tools.__version__ import __version__
from blip2tools.errors import ErrorCode, VisionError
from blip2tools.schemas import Arguments, Failure
from blip2tools.schemas.arguments import EMPTY
from blip2tools.server.chat.forms import ChatProblem, ChatRequest, Completion, ModelCard, ModelList
from blip2tools.server.http.answers import Kept, Problem, Ready
from blip2tools.server.http.failures import STATUS
from blip2tools.server.http.metrics import CONTENT_TYPE
from blip2tools.settings import Settings
from blip2tools.toolset import BY_NAME, ToolSpec

PATH: Final = "/openapi.json"

Node: TypeAlias = dict[str, Any]
Mode: TypeAlias = Literal["validation", "serialization"]

_SCHEMAS: Final = "#/components/schemas/"
_JSON: Final = "application/json"
_NOT_GIVEN: Final = "NotGiven"
_ABOUT: Final = """\
One local BLIP-2 model over HTTP: upload a picture, then ask about it. The tools are those of the MCP server at /mcp, which \
speaks JSON-RPC and is not described here.

Bodies are judged strictly. The tools forgive what many clients do to them: empty values stand for an argument that was not \
given, 2.0 for 2, and an array or object may be a string of JSON.

Every error is {"code", "message"} with one of a closed set of codes; below /v1 it has OpenAI's form with the same codes."""

# Codes by status where the guard speaks, and no route.
_OF_GUARD: Final[Mapping[int, tuple[ErrorCode, str]]] = {
    401: ("not_allowed", "The token is missing or wrong."),
    403: ("not_allowed", "The request comes from a page of another site."),
    408: ("timeout", "The request's body did not arrive."),
    413: ("too_large", "The request's body is too large."),
    421: ("not_allowed", "The server is not called by that name."),
    429: ("busy", "There were more than `rate_limit` requests in a minute."),
    503: ("busy", "Too many pictures are arriving at once."),
}
_EXAMPLES: Final[Mapping[str, Mapping[str, Node]]] = {
    "caption_image": {
        "whole": {"image": "shapes.png"},
        "part": {"image": "shapes.png", "region": [0.5, 0.0, 1.0, 0.4], "num_captions": 2},
    },
    "ask_image": {
        "free": {"image": "shapes.png", "question": "what color is the ring?"},
        "choices": {"image": "shapes.png", "question": "is there a star?", "choices": ["yes", "no"]},
        "several": {"images": ["shapes.png", "latest"], "question": "how many crosses are there?"},
    },
    "match_image_text": {"two": {"image": "shapes.png", "texts": ["an orange ring", "a purple ring"]}},
    "survey_image": {"grid": {"image": "shapes.png", "rows": 2, "columns": 2}},
    "compare_images": {"two": {"images": ["shapes.png", "latest"]}},
    "list_images": {"newest": {"limit": 5}},
    "read_text": {"whole": {"image": "shapes.png"}},
    "search_images": {"words": {"query": "a red cross", "limit": 3}},
}
_CHAT: Final[Mapping[str, Node]] = {
    "question": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what color is the ring?"},
                    {"type": "image_url", "image_url": {"url": "shapes.png"}},
                ],
            }
        ]
    }
}


def describe(settings: Settings, verbs: Mapping[str, str], limits: Mapping[str, int]) -> Node:
    """The document.

    Args:
        settings: whether there is a token and a rate limit.
        verbs: tools by the last part of their path below `/api`.
        limits: largest body by path.
    """
    writer = _Writer(settings, limits)
    tools = {verb: BY_NAME[tool] for verb, tool in verbs.items()}
    results = [kind for spec in tools.values() for kind in (spec.result, spec.several) if kind is not None]
    arguments = [spec.arguments for spec in tools.values() if spec.arguments.model_fields]
    document = {
        "openapi": "3.1.1",
        "info": {"title": "blip2tools", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": {
            "/images": writer.images(),
            **{f"/api/{verb}": writer.tool(f"/api/{verb}", spec) for verb, spec in tools.items()},
            **writer.chat(),
            **writer.monitoring(),
            **writer.itself(),
        },
        "components": {
            "schemas": _schemas([ChatRequest, *arguments], [*_ANSWERS, *results]),
            "responses": writer.failures,
            **({"securitySchemes": _SECURITY} if settings.token else {}),
        },
    }
    return document | ({"security": [{"token": []}]} if settings.token else {})


_ANSWERS: Final = (Problem, ChatProblem, Failure, Ready, Kept, Completion, ModelCard, ModelList)
_SECURITY: Final = {
    "token": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class _Writer:
    """Writes the operations of the paths."""

    def __init__(self, settings: Settings, limits: Mapping[str, int]) -> None:
        self._settings = settings
        self._limits = limits
        self.failures: Node = {}
        """Answers that are errors, by their names among the components."""

    def images(self) -> Node:
        form = {
            "type": "object",
            "properties": {"image": {"type": "string", "format": "binary"}},
            "required": ["image"],
        }
        body = {"image/*": {}, "application/octet-stream": {}, "multipart/form-data": {"schema": form}}
        codes = ("invalid_input", "unsupported_image", "corrupt_image", "too_large", "timeout", *_ANY_TIME)
        return {
            "post": self.operation(
                "/images",
                "upload",
                "Upload a picture",
                {
                    "201": _answer("The picture is kept, and has a handle.", _ref(Kept)),
                    **self._errors("/images", codes),
                },
                about="A picture as the body, or as the one file of a form, becomes a handle that every tool takes as its image.",
                body={"required": True, "content": body},
            )
        }

    def tool(self, path: str, spec: ToolSpec) -> Node:
        kinds = [_ref(kind) for kind in (spec.result, spec.several) if kind is not None]
        given = bool(spec.arguments.model_fields)
        codes: Iterable[ErrorCode] = STATUS if given else ("internal",)
        content = {
            "schema": _ref(spec.arguments),
            "examples": {name: {"value": value} for name, value in _EXAMPLES.get(spec.name, {}).items()},
        }
        operation = self.operation(
            path,
            spec.name,
            spec.title,
            {
                "200": _answer("What was seen.", kinds[0] if len(kinds) == 1 else {"anyOf": kinds}),
                **self._errors(path, codes),
            },
            about=spec.description,
            body={"required": True, "content": {_JSON: content}} if given else None,
        )
        return {"post" if given else "get": operation}

    def chat(self) -> Node:
        path, models = "/v1/chat/completions", "/v1/models"
        examples = {name: {"value": value} for name, value in _CHAT.items()}
        whole = _answer("The answer, or its events where a stream was asked for.", _ref(Completion))
        whole["content"]["text/event-stream"] = {}
        complete = self.operation(
            path,
            "create_chat_completion",
            "A chat about a picture",
            {"200": whole, **self._errors(path, STATUS, ChatProblem)},
            about="The text of the newest turn decides which tool looks; the answer is what that tool says.",
            body={"required": True, "content": {_JSON: {"schema": _ref(ChatRequest), "examples": examples}}},
        )
        errors = self._errors(models, (), ChatProblem)
        listed = self.operation(
            models, "list_models", "The models", {"200": _answer("One model.", _ref(ModelList)), **errors}
        )
        one = self.operation(
            models,
            "retrieve_model",
            "One model",
            {"200": _answer("The model.", _ref(ModelCard)), **self._errors(models, ("not_found",), ChatProblem)},
        )
        name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": "blip2tools"}
        return {
            path: {"post": complete},
            models: {"get": listed},
            f"{models}/{{model}}": {"parameters": [name], "get": one},
        }

    def monitoring(self) -> Node:
        ready = {
            "200": _answer("The model is loaded.", _ref(Ready)),
            **self._errors("/readyz", ()),
            "503": _answer(
                "The model is not loaded, or the server shuts down.", {"anyOf": [_ref(Ready), _ref(Problem)]}
            ),
        }
        text = {"description": "Prometheus' text format.", "content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}
        health = {"description": "ok", "content": {"text/plain": {"schema": {"const": "ok\n"}}}}
        alive = {
            "operationId": "health",
            "summary": "Whether the server runs",
            "responses": {"200": health},
            "security": [],
        }
        return {
            "/readyz": {"get": self.operation("/readyz", "ready", "Whether the model is loaded", ready)},
            "/metrics": {
                "get": self.operation(
                    "/metrics", "metrics", "Numbers for Prometheus", {"200": text, **self._errors("/metrics", ())}
                )
            },
            "/healthz": {"get": alive},
        }

    def itself(self) -> Node:
        answers = {"200": _answer("The document.", {"type": "object"}), **self._errors(PATH, ())}
        return {PATH: {"get": self.operation(PATH, "openapi", "This document", answers)}}

    def operation(
        self, path: str, name: str, summary: str, answers: Node, *, about: str = "", body: Node | None = None
    ) -> Node:
        """One operation."""
        about += f" The body has at most {self._limits[path]:,} bytes." if body else ""
        return {
            "operationId": name,
            "summary": summary,
            **({"description": about} if about else {}),
            **({"requestBody": body} if body else {}),
            "responses": answers,
            **({"security": [{"token": []}, {"key": []}]} if self._settings.token and path.startswith("/v1/") else {}),
        }

    def _errors(self, path: str, codes: Iterable[ErrorCode], form: type[BaseModel] = Problem) -> Node:
        """The answers that are errors: a route's own by their codes, and the guard's."""
        found: defaultdict[int, dict[ErrorCode, str]] = defaultdict(dict)
        for status, (code, why) in _OF_GUARD.items():
            if (status == 401 and not self._settings.token) or (status == 429 and not self._settings.rate_limit):
                continue
            if status == 408 and path not in self._limits:
                continue
            found[status][code] = why
        meaning = {kind.code: (kind.__doc__ or "").partition("\n")[0] for kind in VisionError.__subclasses__()}
        for code in dict.fromkeys((*codes, *_ANY_TIME)):
            known = found[STATUS[code]].get(code)
            found[STATUS[code]][code] = f"{known} {meaning[code]}" if known else meaning[code]
        return {str(status): self._failure(status, why, form) for status, why in sorted(found.items())}

    def _failure(self, status: int, why: Mapping[ErrorCode, str], form: type[BaseModel]) -> Node:
        name = "_".join([form.__name__, str(status), *why])
        made = _failure(status, why, form)
        if self.failures.setdefault(name, made) != made:  # the same codes for other reasons
            name += "_of_guard"
            self.failures[name] = made
        return {"$ref": f"#/components/responses/{name}"}


_ANY_TIME: Final[tuple[ErrorCode, ...]] = ("cancelled", "internal")


def _ref(model: type[BaseModel]) -> Node:
    return {"$ref": f"{_SCHEMAS}{model.__name__}"}


def _answer(words: str, schema: Node) -> Node:
    return {"description": words, "content": {_JSON: {"schema": schema}}}


def _failure(status: int, why: Mapping[ErrorCode, str], form: type[BaseModel]) -> Node:
    narrow: Node = {"properties": {"code": {"enum": list(why)}}}
    if form is ChatProblem:
        narrow = {"properties": {"error": narrow}}
    found = _answer("; ".join(f"{code}: {words}" for code, words in why.items()), {"allOf": [_ref(form), narrow]})
    if status in (429, 503):
        seconds = {"description": "Seconds after which it may go better.", "schema": {"type": "integer"}}
        found["headers"] = {"Retry-After": seconds}
    return found


def _schemas(taken: Sequence[type[Arguments]], given: Sequence[type[BaseModel]]) -> Node:
    """Every model by its name.

    What tools tell agents leaves out some types, to save their context (`WithJsonSchema`); programs get them.
    """
    inputs: list[tuple[str, Mode, TypeAdapter[Any]]] = [
        *((model.__name__, "validation", TypeAdapter(model)) for model in dict.fromkeys(taken)),
        *((model.__name__, "serialization", TypeAdapter(model)) for model in dict.fromkeys(given)),
    ]
    shortened = [
        (model, name)
        for model in dict.fromkeys(given)
        for name, field in model.model_fields.items()
        if any(isinstance(one, WithJsonSchema) for one in field.metadata)
    ]
    for model, name in shortened:
        kind: Any = model.model_fields[name].annotation
        inputs.append((f"{model.__name__}.{name}", "serialization", TypeAdapter(kind)))
    found, whole = TypeAdapter.json_schemas(inputs, ref_template=f"{_SCHEMAS}{{model}}")
    schemas: Node = whole["$defs"]
    for arguments in taken:
        if arguments is not ChatRequest:
            _forgive(schemas[arguments.__name__], arguments)
    schemas[_NOT_GIVEN] = {
        "enum": [None, *EMPTY],
        "description": "What clients send for an argument that they leave out.",
    }
    for model, name in shortened:
        said = schemas[model.__name__]["properties"][name]
        real = found[f"{model.__name__}.{name}", "serialization"]
        schemas[model.__name__]["properties"][name] = {
            **real,
            **{key: said[key] for key in ("description",) if key in said},
        }
    return dict(sorted(schemas.items()))


def _forgive(schema: Node, model: type[Arguments]) -> None:
    """Let optional arguments be empty, as the tools do (`schemas.arguments.as_written`), and say which exclude each other."""
    empty = {"$ref": f"{_SCHEMAS}{_NOT_GIVEN}"}
    told = ("title", "description", "default")
    for name, one in schema["properties"].items():
        if name not in schema.get("required", ()):
            plain = {key: value for key, value in one.items() if key not in told}
            kinds = [kind for kind in plain.get("anyOf", [plain]) if kind != {"type": "null"}]
            schema["properties"][name] = {**{key: one[key] for key in told if key in one}, "anyOf": [*kinds, empty]}
    if model.alternatives:
        given = [{"required": [name], "properties": {name: {"not": empty}}} for name in model.alternatives]
        schema["oneOf"] = given
