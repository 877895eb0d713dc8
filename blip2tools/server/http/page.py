"""The page at `/`: one static file of ours, and the policy that keeps everything else out of it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the headers that belong to it."""

    html: bytes
    headers: Mapping[str, str]


def load_page() -> Page:
    """The page, with a policy that allows its own script and style by their digests and nothing from anywhere else."""
    html = resources.files("blip2tools.server.http").joinpath("page.html").read_bytes()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digests(html, b'script')}",
            f"style-src {_digests(html, b'style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Page(html, {"content-security-policy": policy})


def _digests(html: bytes, element: bytes) -> str:
    texts = re.findall(rb"<%b>(.*?)</%b>" % (element, element), html, flags=re.S)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in texts)
