"""The HTTP status of each way a call can fail."""

from __future__ import annotations

from collections.abc import Mapping

from blip2tools.errors import ErrorCode

STATUS: Mapping[ErrorCode, int] = {
    "invalid_input": 400,
    "not_allowed": 403,
    "not_found": 404,
    "too_large": 413,
    "unsupported_image": 415,
    "corrupt_image": 422,
    "fetch_failed": 502,
    "timeout": 504,
    "busy": 503,
    "cancelled": 503,
    "out_of_memory": 503,
    "model_unavailable": 503,
    "internal": 500,
}
