"""Answers that need no server: the same that the server itself gives, from a file that a test compares with it.

Two eras of the protocol are known: one that begins with `initialize` (until 2025-11-25), and one in which each request states
its version (2026-07-28). A request that is not understood in full is left to the server.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
CLIENT_KEY = "io.modelcontextprotocol/clientInfo"
PLACES = "{places}"  # in the instructions: where pictures may come from
UNKNOWN_PLACES = "The tool vision_status tells from which folders pictures may come."

READER = "read_text"

LEGACY, MODERN = "legacy", "modern"
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")


def places_of(folders: Sequence[str]) -> str:
    """The sentence of the instructions that says where pictures may come from."""
    return (
        f"Pictures may come from these folders: {', '.join(folders)}." if folders else "No folder is open for pictures."
    )


class Catalogue:
    """Answers to the requests of a client that need no model.

    Args:
        places: the sentence of the instructions that says where pictures may come from.
        urls: whether tools may fetch pictures from addresses; their annotations say so.
        reads: whether the tool for text in pictures is there; it needs an extra.
    """

    def __init__(self, *, places: str = UNKNOWN_PLACES, urls: bool = False, reads: bool = False) -> None:
        data = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
        self.version: str = data["version"]
        self.limit: int = data["limit"]
        self.torch: str = data["torch"]
        self._eras: dict[str, dict[str, Any]] = data["eras"]
        for era, first in ((LEGACY, "initialize"), (MODERN, "server/discover")):
            answers = self._eras[era]["results"]
            answers[first]["instructions"] = answers[first]["instructions"].replace(PLACES, places)
            tools = answers["tools/list"]["tools"]
            tools[:] = [tool for tool in tools if reads or tool["name"] != READER]
            for tool in tools:
                tool["annotations"]["openWorldHint"] = urls and tool["name"] in data["takes_pictures"]

    def initialize(self, params: Any) -> dict[str, Any] | None:
        """The answer to `initialize`; `None` if its parameters are not valid."""
        if not isinstance(params, dict) or not isinstance(params.get("protocolVersion"), str):
            return None
        if not _is_capabilities(params.get("capabilities")) or not _is_client(params.get("clientInfo")):
            return None
        legacy = self._eras[LEGACY]
        wanted = params["protocolVersion"]
        version = wanted if wanted in legacy["versions"] else legacy["versions"][-1]
        return {**legacy["results"]["initialize"], "protocolVersion": version}

    def result(self, era: str, method: str) -> dict[str, Any] | None:
        """The answer to any other request; `None` if only the server can answer it."""
        found: dict[str, Any] | None = self._eras[era]["results"].get(method)
        return found

    def is_modern(self, params: Any) -> bool:
        """Whether a request states all that the newer era asks for."""
        about = params.get("_meta") if isinstance(params, dict) else None
        return (
            isinstance(about, dict)
            and about.get(VERSION_KEY) in self._eras[MODERN]["versions"]
            and _is_capabilities(about.get(CAPABILITIES_KEY))
            and (CLIENT_KEY not in about or _is_client(about[CLIENT_KEY]))
        )

    def refusal(self, era: str, code: str, sentence: str) -> dict[str, Any]:
        """The result of a call that fails with this sentence."""
        result = copy.deepcopy(self._eras[era]["refusal"])
        result["_meta"]["blip2tools/code"] = code
        result["content"][0]["text"] = f"{code}: {sentence}"
        return dict(result)


def _is_capabilities(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def _is_client(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("name", "version")):
        return False
    return all(isinstance(value.get(key, ""), str) for key in ("title", "description", "websiteUrl"))
