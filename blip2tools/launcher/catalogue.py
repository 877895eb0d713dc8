"""What can be answered before the server is there: the same as the server itself will say, from a file that a test holds to it.

Two eras of the protocol are known: the one that begins with `initialize` (until 2025-11-25), and the one in which each request
tells its version (2026-07-28). What is not understood in full is not answered here.
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
    """The answers.

    Args:
        places: the sentence of the instructions that says where pictures may come from.
        urls: whether tools may fetch pictures from addresses, which their annotations tell.
        reads: whether there is the tool for text in pictures, which needs an extra.
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
        """The answer to `initialize`, if its parameters are sound."""
        if not isinstance(params, dict) or not isinstance(params.get("protocolVersion"), str):
            return None
        if not _is_capabilities(params.get("capabilities")) or not _is_client(params.get("clientInfo")):
            return None
        legacy = self._eras[LEGACY]
        wanted = params["protocolVersion"]
        version = wanted if wanted in legacy["versions"] else legacy["versions"][-1]
        return {**legacy["results"]["initialize"], "protocolVersion": version}

    def result(self, era: str, method: str) -> dict[str, Any] | None:
        """The answer to any other request that needs no model."""
        found: dict[str, Any] | None = self._eras[era]["results"].get(method)
        return found

    def is_modern(self, params: Any) -> bool:
        """Whether a request tells that it is of the newer era, in full."""
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
