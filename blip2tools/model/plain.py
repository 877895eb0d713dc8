"""The library's own language model over loaded weights: the standard that our way through them must agree with."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from blip2tools.model.modules import OptModel, T5Model
from blip2tools.model.quantized.layers import quantized


def language_model(ours: Any) -> Any:
    """A stock OPT or T5 that shares every tensor; tensors that the library made itself are freed.

    Args:
        ours: the language model of a loaded captioner.
    """
    if not isinstance(ours, OptModel | T5Model):
        return ours
    import transformers

    opt, written = isinstance(ours, OptModel), {one.name: getattr(ours.config, one.name) for one in fields(ours.config)}
    if opt:
        written["word_embed_proj_dim"] = written["word_embed_proj_dim"] or written["hidden_size"]
    config: Any = (transformers.OPTConfig if opt else transformers.T5Config)(**written)
    with torch.device("meta"):
        made: Any = (transformers.OPTForCausalLM if opt else transformers.T5ForConditionalGeneration)(config)
    for path, module in quantized(ours).items():
        made.set_submodule(path, module)
    weights = dict(ours.state_dict())
    if not opt:
        for part in ("encoder", "decoder"):
            made.get_submodule(part).embed_tokens = made.shared
            for leaf in made.shared.state_dict():
                weights[f"{part}.embed_tokens.{leaf}"] = weights[f"shared.{leaf}"]
    made.load_state_dict(weights, assign=True)
    return made.eval().requires_grad_(False)
