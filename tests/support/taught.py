"""A matcher with random weights whose head is fitted to the self-test's pictures: sound folders have nothing to be warned of."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools.checkpoints.prompts import MatcherText
from blip2tools.checkpoints.selftest.samples import PICTURES
from blip2tools.model import Matcher, Pixels
from tests.support import family_models as fm


@torch.no_grad()
def matcher(name: str) -> Any:
    """A small matcher of the family that finds each bundled picture to fit its own statement best."""
    model = fm.build(name)
    size = model.config.vision_config.image_size
    pixels = Pixels(BlipImageProcessorPil(size={"height": size, "width": size}, **fm.CLIP))
    backend = fm.tokenizer("bert", image_token=False)
    words = MatcherText(type(backend).from_str(backend.to_str()), cls=101, sep=102)
    made = Matcher(model)
    states = made.trunk.see(pixels([picture.open() for picture in PICTURES]))
    ids = [words(picture.statement).ids for picture in PICTURES]
    queries = torch.stack(
        [made.multimodal_embeddings(states[i : i + 1], ids[j]).mean(0) for i in range(3) for j in range(3)]
    )
    wanted = (2 * torch.eye(3) - 1).flatten()[:, None]
    solved = torch.linalg.lstsq(queries.double(), wanted.double()).solution.float()
    model.itm_head.weight.zero_()
    model.itm_head.bias.zero_()
    model.itm_head.weight[1] = solved[:, 0]
    return model
