"""Adapters (LoRA and its relatives, saved by peft), merged into a checkpoint when it is loaded."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from torch import nn

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
    if (layer := _unmergeable(changed)) is not None:
        raise ModelUnavailableError(
            f"{name} cannot be merged: it changes `{layer}`, and with that change in its weights the model would say other "
            "words than the adapter was trained for; train it without that layer, or choose another model."
        )
    return changed.merge_and_unload(safe_merge=True)


def _unmergeable(changed: Any) -> str | None:
    """A changed layer that would give other words once the change is merged; None if there is none.

    Tied weights are one tensor in two places (OPT's embeddings are its output layer), of which peft changes one. And OPT's
    table of positions is read with an offset that peft's change of it does not know.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    places: dict[int, set[str]] = {}
    for name, parameter in changed.named_parameters(remove_duplicate=False):
        places.setdefault(parameter.data_ptr(), set()).add(name)
    for name, layer in changed.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        base: Any = layer.get_base_layer()
        shared = places.get(base.weight.data_ptr(), set())
        special = isinstance(base, nn.Embedding) and type(base).forward is not nn.Embedding.forward
        if special or any(not other.startswith(f"{name}.") for other in shared):
            return str(name).removesuffix(".token_adapter").rpartition(".")[2]
    return None
