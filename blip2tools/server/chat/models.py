"""Lists of models that take pictures, in every form that bridges and chat programs look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blip2tools.server.chat.forms import ModelCard

NAME: Final = "blip2tools"

# `architecture` is OpenRouter's way, the plain lists Groq's and Codex's, `modalities` that of models.dev and opencode.
SIGHT: Final[Mapping[str, Any]] = {
    "architecture": {
        "modality": "text+image->text",
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
    },
    "input_modalities": ["text", "image"],
    "output_modalities": ["text"],
    "modalities": {"input": ["text", "image"], "output": ["text"]},
    "supports_vision": True,
}


def model(created: int) -> ModelCard:
    """This package as a model of OpenAI's API."""
    able = {"vision": True, "completion_chat": True, "function_calling": False}
    return ModelCard.model_validate({"id": NAME, "created": created, "owned_by": NAME, **SIGHT, "capabilities": able})


def seeing(found: Any) -> Any:
    """The upstream's list of models, or one of them, with image input."""
    if not isinstance(found, dict):
        return found
    changed = dict(found)
    for key in ("data", "models"):  # llama.cpp has both
        if isinstance(found.get(key), list):
            changed[key] = [_seeing(one) if isinstance(one, dict) else one for one in found[key]]
    return changed if changed != found else _seeing(found) if "id" in found else found


def _seeing(one: dict[str, Any]) -> dict[str, Any]:
    given = {name: one.get(name) for name in SIGHT}
    sight = {**SIGHT}
    if isinstance(given["architecture"], dict):
        sight["architecture"] = {**given["architecture"], **SIGHT["architecture"]}
    match one.get("capabilities"):
        case list() as names:  # Ollama's words, and llama.cpp's
            sight["capabilities"] = list(dict.fromkeys([*names, "vision", "multimodal"]))
        case dict() as flags if "image_input" in flags:  # Anthropic's
            sight["capabilities"] = {**flags, "image_input": {"supported": True}}
        case dict() as flags:  # Mistral's
            sight["capabilities"] = {**flags, "vision": True}
        case _:
            sight["capabilities"] = {"vision": True}
    return {**one, **sight}
