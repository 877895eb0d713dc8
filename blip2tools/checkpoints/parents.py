"""The published checkpoint that a folder was made from, by its own metadata, and its caption prompt. Loads nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blip2tools.checkpoints.family import Member, find
from blip2tools.checkpoints.published import COCO_IMAGE_SIZE, COCO_PROMPT

_CARD = "README.md"
_CARD_BYTES = 2**20
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")


def caption_prompt(member: Member | None, folder: Path | None) -> str:
    """The default prompt for a checkpoint's captions; empty where it was trained without one.

    For an unknown folder its files tell what it was made from, or else the size of its pictures: of captioners only those
    that were tuned on COCO have 364 px.

    Args:
        member: its entry in the family's table, if it is known.
        folder: its files, if they are here.
    """
    if member is None and folder is not None:
        member = parent(folder)
    if member is not None:
        return member.prompt
    return COCO_PROMPT if folder is not None and _image_size(folder) == COCO_IMAGE_SIZE else ""


def parent(folder: Path) -> Member | None:
    """The published captioner that a folder holds, or was made from, by its own metadata; None if that does not tell.

    The metadata are the folder's place in the hub's cache, `_name_or_path` of its config.json and `base_model` of its card.
    """
    for name in _names(folder):
        last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
        for known in (name, f"Salesforce/{last}"):
            member = find(known, "captioner")
            if member is not None and member.hub is not None:
                return member
    return None


def _names(folder: Path) -> Iterator[str]:
    if found := _CACHED.fullmatch(folder.parent.parent.name):
        yield "/".join(found.groups())
    named = _config(folder).get("_name_or_path")
    bases = _card(folder).get("base_model")
    for name in (named, *(bases if isinstance(bases, list) else [bases])):
        if isinstance(name, str) and name.strip():
            yield name.strip()


def _config(folder: Path) -> dict[str, Any]:
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def _image_size(folder: Path) -> int | None:
    vision = _config(folder).get("vision_config")
    size = vision.get("image_size") if isinstance(vision, dict) else None
    return size if isinstance(size, int) else None


def _card(folder: Path) -> dict[str, Any]:
    """The head of a model card."""
    card = folder / _CARD
    if not card.is_file() or card.stat().st_size > _CARD_BYTES:
        return {}
    from huggingface_hub import metadata_load

    try:
        return metadata_load(card) or {}
    except Exception:  # noqa: BLE001 - whatever its YAML makes the library raise: it says nothing then
        return {}
