"""BLIP-2 as tensors: trunk, captioner (OPT or T5), matcher. No queue, no files, no words: ids in, ids out.

The model is that of Li et al. 2023, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and
Large Language Models". Weights and layers have the names of transformers' own; the way through them is ours, because the
stock path recomputes the vision tower for every call, pads between image and text, and scores one text per picture, and because
importing the library takes longer than a caption of the demo.

All methods run without gradients, on the device of the weights. Tensors that come back may be kept, moved and joined.

Names are loaded at their first use: `model.options`, which the settings share, must not bring torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip2tools.model.captioner import Asked, Captioner
    from blip2tools.model.matcher import Matcher, cosine
    from blip2tools.model.options import Generation, GenerationOptions, Spoken
    from blip2tools.model.trunk import Pixels, Trunk
    from blip2tools.model.weights import fingerprint

__all__ = [
    "Asked",
    "Captioner",
    "Generation",
    "GenerationOptions",
    "Matcher",
    "Pixels",
    "Spoken",
    "Trunk",
    "cosine",
    "fingerprint",
]

_ROOMS = {
    "captioner": ("Asked", "Captioner"),
    "matcher": ("Matcher", "cosine"),
    "options": ("Generation", "GenerationOptions", "Spoken"),
    "trunk": ("Pixels", "Trunk"),
    "weights": ("fingerprint",),
}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
