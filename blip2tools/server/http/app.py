"""The server over HTTP: MCP at `/mcp`, pictures to `/images`, a page at `/`, and monitoring.

guard (names, token, rate, size, log) ─► /mcp       the MCP server, both eras of the protocol
                                      ├► /images    bytes in, a handle out
                                      ├► /api/...   the page's own calls: the tools as plain JSON
                                      ├► /v1/...    a chat about pictures, in OpenAI's form
                                      ├► /          the page, and the pictures that it shows
                                      └► /readyz · /metrics              (/healthz: past the guard)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from blip2tools.call import CALLER
from blip2tools.errors import CancelledError, ErrorCode, VisionError, to_vision_error
from blip2tools.launcher.wire import MARGIN
from blip2tools.server.chat.endpoint import COMPLETIONS, MODELS, Endpoint
from blip2tools.server.chat.errors import openai_error
from blip2tools.server.http import metrics, openapi
from blip2tools.server.http.answers import Kept, Problem, Ready
from blip2tools.server.http.bodies import _arguments_of, _picture_of
from blip2tools.server.http.failures import STATUS
from blip2tools.server.http.guard import DEPARTURE, HEALTH, LOOPBACK_NAMES, Departure, Guard, Rules
from blip2tools.server.http.metrics import Metric
from blip2tools.server.http.page.document import load_page
from blip2tools.server.http.page.pictures import SAMPLES, THUMBNAIL, Pictures
from blip2tools.server.http.sessions import PlainErrors, Sessions
from blip2tools.server.mcp import build_server, largest_message
from blip2tools.settings import Settings
from blip2tools.toolset import Told, call
from blip2tools.vision import Vision

MAX_SESSIONS = 1000  # until idle ones are ended, of clients that speak a revision with sessions (until 2025-11-25)

# Calls of the page, and of any client that wants plain JSON: the same tools, the same arguments.
VERBS = {
    "caption": "caption_image",
    "ask": "ask_image",
    "match": "match_image_text",
    "survey": "survey_image",
    "compare": "compare_images",
    "list": "list_images",
    "read": "read_text",
    "search": "search_images",
    "status": "vision_status",
}


def build_app(vision: Vision, *, names: Sequence[str] = (), any_address: bool = False, page: bool = True) -> Guard:
    """The whole application, guarded. It does not close `vision`.

    Args:
        vision: its settings give the token, rate, names and sizes.
        names: the name or address it listens on, in addition to loopback and `settings.server_names`.
        any_address: it listens on every address of the machine.
        page: serve the page at `/`.
    """
    settings = vision.settings
    limits = body_limits(settings)
    shown = load_page() if page else None
    routes = _Routes(vision)
    server = build_server(vision, shared=True)
    server.middleware.append(_stop_when_the_client_goes)
    table = routes.table()
    if shown is not None:
        table += [Route("/", _fixed(shown.html, shown.headers), methods=["GET"]), *routes.of_the_page()]
    app = server.streamable_http_app(
        streamable_http_path="/mcp",
        max_request_body_size=limits["/mcp"],
        max_sessions=2 * MAX_SESSIONS,  # the rest is for when all are in use
        # The guard has judged names and origins by then, by a list of its own for every route.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        custom_starlette_routes=table,
    )
    app.add_exception_handler(HTTPException, _http_error)
    guard = Guard(
        PlainErrors(Sessions(app, "/mcp", MAX_SESSIONS), "/mcp"),
        Rules(
            names=frozenset({*LOOPBACK_NAMES, *settings.server_names, *(name.lower() for name in names)}),
            any_address=any_address,
            token=settings.token.get_secret_value() if settings.token else None,
            rate_limit=settings.rate_limit,
            body_limits=limits,
            json_paths=[path for path in limits if path != "/images"],
            origins=frozenset(settings.allowed_origins),
            sign_in=shown,
            forms=dict.fromkeys((COMPLETIONS, MODELS, f"{MODELS}/"), openai_error),
        ),
        routes=["/mcp", *(route.path.partition("{")[0] for route in table)],
    )
    routes.guard = guard
    return guard


def body_limits(settings: Settings) -> dict[str, int]:
    """Largest body by path: a whole picture to `/images`, a smaller one as base64 in the arguments of a tool."""
    encoded = largest_message(settings)
    return {
        "/mcp": encoded,
        "/images": settings.max_image_bytes + MARGIN,
        COMPLETIONS: encoded,
        **{f"/api/{verb}": encoded for verb in VERBS},
        THUMBNAIL: encoded,
    }


async def _stop_when_the_client_goes(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Cancel a call whose client has closed the connection.

    Since 2026-07-28 that is the protocol's own way to cancel. Earlier revisions let a client come back for its
    answer, but only from a server that stores events: here no client could fetch it, and the work would be wasted.
    """
    request = ctx.request
    departure = request.scope.get(DEPARTURE) if isinstance(request, Request) else None
    if not isinstance(departure, Departure) or ctx.request_id is None:
        return await call_next(ctx)
    with departure.cancels():
        return await call_next(ctx)
    raise MCPError(REQUEST_CANCELLED, "The client has disconnected.")


class _Routes:
    """The routes of our own."""

    guard: Guard

    def __init__(self, vision: Vision) -> None:
        self._vision = vision.for_tools(reveal_folders=False, reveal_handles=False)
        self._told = Told()
        self._endpoint = Endpoint(self._vision)
        self._description: bytes | memoryview | None = None

    def table(self) -> list[Route]:
        """Every route of ours but the page."""
        return [
            Route(HEALTH, _fixed(b"ok\n", {"content-type": "text/plain"}), methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/images", self.upload, methods=["POST"]),
            *(
                Route(f"/api/{verb}", self.verb(tool), methods=["GET" if verb == "status" else "POST"])
                for verb, tool in VERBS.items()
            ),
            *self._endpoint.routes(),
            Route(openapi.PATH, self.description, methods=["GET"]),
        ]

    def of_the_page(self) -> list[Route]:
        """The pictures that the page shows; where there is no page, nobody gets one."""
        pictures = Pictures(self._vision)

        def answer(make: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
            async def run(request: Request) -> Response:
                return await _answer(request, lambda: make(request))

            return run

        return [
            Route(THUMBNAIL, answer(pictures.thumbnail), methods=["POST"]),
            Route(f"{SAMPLES}{{name}}", answer(pictures.sample), methods=["GET"]),
        ]

    async def ready(self, request: Request) -> Response:
        status = self._vision.status()
        return JSONResponse(
            Ready(ready=status.loaded, state=status.state, model=status.model).model_dump(),
            status_code=200 if status.loaded else 503,
            headers={} if status.loaded else {"retry-after": "5"},
        )

    async def metrics(self, request: Request) -> Response:
        numbers = {**metrics.engine(self._vision.status()), **http_metrics(self.guard)}
        return Response(metrics.render(numbers), media_type=metrics.CONTENT_TYPE)

    async def upload(self, request: Request) -> Response:
        async def keep() -> Response:
            info = await self._vision.akeep(await _picture_of(request))
            kept = Kept(handle=info.handle, width=info.width, height=info.height)
            return JSONResponse(kept.model_dump(), status_code=201)

        return await _answer(request, keep)

    async def description(self, request: Request) -> Response:
        if self._description is None:
            settings = self._vision.settings
            self._description = JSONResponse(openapi.describe(settings, VERBS, body_limits(settings))).body
        return Response(self._description, media_type="application/json")

    def verb(self, tool: str) -> Callable[[Request], Awaitable[Response]]:
        async def run(request: Request) -> Response:
            async def look() -> Response:
                result = await call(
                    self._vision, tool, await _arguments_of(request), told=self._told, client=CALLER.get()
                )
                return JSONResponse(result.structured())

            return await _answer(request, look)

        return run


def http_metrics(guard: Guard) -> dict[str, Metric | Iterable[Metric]]:
    """The guard's counts; status 0 is a client that disconnected before an answer began."""
    return {
        "blip2tools_http_open": Metric("HTTP requests being served.", "gauge", guard.open),
        "blip2tools_http_requests_total": [
            Metric("HTTP requests answered.", "counter", count, {"route": route, "status": str(status)})
            for (route, status), count in sorted(guard.answered.items())
        ],
    }


# ---- requests and answers ----


async def _answer(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """The response of `work`, or its error as JSON; a client that goes cancels it."""
    departure: Departure = request.scope[DEPARTURE]
    with departure.cancels():
        try:
            return await work()
        except VisionError as error:
            return _problem(error)
        except Exception as error:  # noqa: BLE001 - every failure is one of the closed set
            return _problem(to_vision_error(error))
    return _problem(CancelledError("The client has disconnected."))


def _problem(error: VisionError) -> Response:
    status = STATUS[error.code]
    return JSONResponse(
        Problem(code=error.code, message=error.message).model_dump(),
        status_code=status,
        headers={"retry-after": "2"} if status == 503 else {},
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """The answer to what the router refuses: an unknown path, or a method that a path does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    words: dict[int, tuple[ErrorCode, str]] = {
        404: ("not_found", "There is nothing at this path."),
        405: ("invalid_input", "This path does not take that method."),
    }
    code, message = words.get(status, ("invalid_input", "The request cannot be served."))
    said = (
        openai_error(status, code, message)
        if request.url.path.startswith("/v1/")
        else Problem(code=code, message=message).model_dump()
    )
    return JSONResponse(said, status_code=status, headers=headers)


def _fixed(body: bytes, headers: Mapping[str, str]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(body, headers={"content-type": "text/html; charset=utf-8", **headers})

    return answer
