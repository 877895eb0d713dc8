"""BLIP-2 as tensors: trunk, captioner (OPT or T5), matcher. No queue, no files, no words: ids in, ids out.

The model is that of Li et al. 2023, "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and
Large Language Models". Weights and layers are those of transformers; the way through them is our own, because the stock
path recomputes the vision tower for every call, pads between image and text, and scores one text per picture.

All methods run without gradients, on the device of the weights. Tensors that come back may be kept, moved and joined.
"""

from blip2tools.model.captioner import Asked, Captioner
from blip2tools.model.matcher import Matcher, cosine
from blip2tools.model.options import GenerationOptions, Spoken
from blip2tools.model.pixels import Pixels
from blip2tools.model.trunk import Trunk
from blip2tools.model.weights import fingerprint

__all__ = ["Asked", "Captioner", "GenerationOptions", "Matcher", "Pixels", "Spoken", "Trunk", "cosine", "fingerprint"]
