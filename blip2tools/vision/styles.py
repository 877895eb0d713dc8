"""Styles of captions: a prompt with the options that belong to it; and by what matches are ordered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What orders the texts of a match: ITM's probability (the cosine where that is saturated), ITC's cosine, or both as the
# reference ranks what it retrieves: ITM's logit of a match plus the cosine (LAVIS, `blip2_image_text_matching`, `blip2_qformer`).
Score = Literal["itm", "itc", "both"]


Style = Literal["plain", "photo", "coco", "nocaps"]


@dataclass(frozen=True, slots=True)
class CaptionStyle:
    """A prompt and generation options that belong together; what a caller gives by itself has precedence."""

    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


# plain   the model's own way: no prompt, the settings as they are
# photo   the prompt that the caption-tuned checkpoints were trained with (LAVIS, configs `blip2_caption_*.yaml`)
# coco    that prompt with what the reference evaluates COCO captions by (LAVIS, `caption_coco_*_eval.yaml`: beams 5, 8 to 30
#         tokens; repetition and length penalty of its captioning task)
# nocaps  long captions without a prompt (LAVIS, `caption_nocaps_out_domain_flant5xl_eval.yaml`: beams 5, 10 to 80 tokens)
STYLES: Mapping[Style, CaptionStyle] = {
    "plain": CaptionStyle(),
    "photo": CaptionStyle("a photo of"),
    "coco": CaptionStyle(
        "a photo of",
        {
            "num_beams": 5,
            "min_new_tokens": 8,
            "max_new_tokens": 30,
            "repetition_penalty": 1.15,
            "length_penalty": 0.0,
        },
    ),
    "nocaps": CaptionStyle(
        None,
        {
            "num_beams": 5,
            "min_new_tokens": 10,
            "max_new_tokens": 80,
            "repetition_penalty": 1.15,
            "length_penalty": 1.0,
        },
    ),
}
