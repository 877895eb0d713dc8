"""Errors in the forms that the clients of chat protocols read."""

from __future__ import annotations

from typing import Any

from blip2tools.errors import ErrorCode, InvalidInputError, VisionError
from blip2tools.server.chat.forms import ChatError, ChatProblem
from blip2tools.server.http.failures import STATUS


class UnknownCodingError(InvalidInputError):
    """A body in an unsupported content coding."""


def openai_error(status: int, code: ErrorCode, message: str) -> dict[str, Any]:
    """As OpenAI's API says it; `message` is `code: sentence`, for many programs show nothing else."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ChatProblem(error=ChatError(message=f"{code}: {message}", type=kind, code=code)).model_dump()


def anthropic_error(status: int, code: ErrorCode, message: str) -> dict[str, Any]:
    """As Anthropic's API says it."""
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": f"{code}: {message}"}}


def status_of(error: VisionError) -> int:
    """The HTTP status of an error."""
    return 415 if isinstance(error, UnknownCodingError) else STATUS[error.code]
