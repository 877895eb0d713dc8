"""Random models of the library turned into ours, in full precision or quantized, without files."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel, MatcherModel
from blip2tools.model.quantized import QuantizedEmbedding, QuantizedLinear, quantize, replace_linears


def ours(stock: Any, bits: int | None = None, parts: tuple[str, ...] = ("",)) -> Any:
    """Our modules with the weights of a stock captioner or matcher, copied.

    Args:
        stock: of the library.
        bits: 8 or 4; None for full precision.
        parts: beginnings of the paths that are quantized; the others stay as they are.
    """
    kind = CaptionerModel if hasattr(stock, "language_model") else MatcherModel
    with torch.device("meta"):
        config = Blip2Config.read(stock.config.to_dict())
        model: Any = kind(config)
        if bits is not None:
            whole = kind(config)
            replace_linears(model, bits)
            for path, module in whole.named_modules():
                if isinstance(module, nn.Linear | nn.Embedding) and not path.startswith(parts):
                    model.set_submodule(path, module)
    weights = stock.state_dict()
    text: Any = config.text_config
    if isinstance(model, CaptionerModel) and text.model_type == "opt":
        weights["language_model.lm_head.weight"] = weights["language_model.model.decoder.embed_tokens.weight"]
    for path, module in model.named_modules():
        for leaf in dict(module.named_parameters(recurse=False)):
            values = weights.get(f"{path}.{leaf}".strip("."))
            if values is None:  # a scale, or powers of columns
                continue
            tensors = {leaf: values.detach().clone()}
            if leaf == "weight" and isinstance(module, QuantizedLinear | QuantizedEmbedding):
                tensors = quantize(values.detach(), module.bits)
            for name, tensor in tensors.items():
                setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    return model
