"""The page as one document, and the policy that keeps everything else out of it.

One document, because a browser asks for the parts of a page without the token, which only the page's own script adds.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

_STYLES: Final = ("base.css", "layout.css", "results.css")
_MAIN: Final = "main.js"
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "\./([a-z]+\.js)";\n', re.M)
_EXPORT: Final = re.compile(r"^export (?=(?:async function|function|const|let|class) )", re.M)


@dataclass(frozen=True, slots=True)
class Page:
    """A page and the headers that belong to it."""

    html: bytes
    headers: Mapping[str, str]


def load_page() -> Page:
    """The page, with a policy that allows its own script and style by their digests and nothing from anywhere else."""
    style = "".join(map(_source, _STYLES))
    script = "".join(_modules(_MAIN, []))
    html = _source("page.html").replace("/* style */", style).replace("/* script */", script)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(script)}",
            f"style-src {_digest(style)}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Page(html.encode(), {"content-security-policy": policy})


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _modules(name: str, seen: list[str]) -> list[str]:
    """A module after those that it imports, without the words that only separate modules need: they share one scope."""
    seen.append(name)
    text = _source(name)
    found = [part for other in _IMPORT.findall(text) if other not in seen for part in _modules(other, seen)]
    return [*found, _EXPORT.sub("", _IMPORT.sub("", text))]


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
