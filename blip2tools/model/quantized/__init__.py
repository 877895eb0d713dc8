"""Matrices of 8 or 4 bits for processors: how they are kept, which modules hold them, and which kernels multiply them.

    full-precision matrix ─► `quantize` ─► plain tensors, as in a file ─► `prepare` ─► the kernel that is quickest here

The order of a loader: a model of `modules` without memory, `replace_linears`, every tensor of a layer through `quantize` (or as
it was kept), `prepare`, and then `Captioner` and `Matcher`, which look at the modules once.
"""

from __future__ import annotations

from blip2tools.model.quantized.layers import PARTS, QuantizedEmbedding, QuantizedLinear, replace_linears
from blip2tools.model.quantized.prepared import Choices, prepare, unpacked
from blip2tools.model.quantized.storage import BLOCK, bits_kept, dequantize, quantize

__all__ = [
    "BLOCK",
    "PARTS",
    "Choices",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "bits_kept",
    "dequantize",
    "prepare",
    "quantize",
    "replace_linears",
    "unpacked",
]
