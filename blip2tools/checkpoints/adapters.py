"""Changes to a checkpoint that were trained and saved apart from it (LoRA and its relatives, by peft), merged on loading."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from blip2tools.errors import ModelUnavailableError


def merged(model: Any, adapter: Path, name: str) -> Any:
    """The model with the adapter's changes in its own weights; as fast as without it, and nothing of peft remains.

    Args:
        model: the stock model that the adapter was trained on.
        adapter: folder with `adapter_config.json` and the adapter's weights.
        name: what the user calls it.

    Raises:
        ModelUnavailableError: peft is missing, or the adapter does not fit the model or cannot be merged.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelUnavailableError(f"{name} is an adapter, which needs an extra: pip install 'blip2tools[lora]'.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft still calls a part of transformers by its former name
        return _merged(model, adapter, name)


def _merged(model: Any, adapter: Path, name: str) -> Any:
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(adapter))
    if getattr(config, "is_prompt_learning", False):
        raise ModelUnavailableError(f"{name} cannot be merged: it changes prompts, not weights; choose another model.")
    config.inference_mode = True
    changed: Any = PeftModel(model, config)
    found = changed.load_adapter(str(adapter), "default", is_trainable=False)
    ours = [key for key in found.missing_keys if "lora_" in key or ".default" in key]
    if ours or found.unexpected_keys:
        raise ModelUnavailableError(f"{name} does not fit the model that it names; choose another one.")
    return changed.merge_and_unload(safe_merge=True)
