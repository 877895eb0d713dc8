"""The package's description: the README, with its pictures by address.

In a checkout, pictures must be files of that checkout; a package index shows them only by an absolute address. The build
backend calls this (`[tool.hatch.metadata.hooks.custom]`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

README = Path(__file__).parent.parent / "README.md"


class ReadmeHook(MetadataHookInterface):
    """Fills in `readme`, which `pyproject.toml` calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called with the `[project]` table."""
        text = description(README.read_text(encoding="utf-8"), metadata["urls"]["Source"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def description(readme: str, source: str) -> str:
    """The README for a package index.

    Args:
        readme: its text; links are absolute, pictures are files of the repository.
        source: address of the repository on GitHub.
    """
    files = source.replace("https://github.com/", "https://raw.githubusercontent.com/", 1) + "/main/"
    return re.sub(r"(!\[[^\]]*\]\()(?!https:)", rf"\g<1>{files}", readme)
