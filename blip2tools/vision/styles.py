"""Caption styles (a prompt with the options that belong to it), and the scores that can order matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What orders the texts of a match: ITM's probability (the cosine where that is saturated), ITC's cosine, or both as the
# reference ranks what it retrieves: ITM's logit of a match plus the cosine (LAVIS, `blip2_image_text_matching`, `blip2_qformer`).
Score = Literal["itm", "itc", "both"]


Style = Literal["plain", "photo", "coco", "nocaps", "coco-2023-12", "nocaps-2023-12"]


@dataclass(frozen=True, slots=True)
class CaptionStyle:
    """A prompt and generation options that belong together; options that a caller gives separately take precedence.

    A style without a prompt uses that of the checkpoint.
    """

    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _evaluated(shortest: int, longest: int, repetition: float, length: float) -> dict[str, Any]:
    """Options of an evaluation of LAVIS, whose `min_len` counts the start token: no end before `min_len - 1` tokens."""
    return {
        "num_beams": 5,
        "min_new_tokens": shortest - 1,
        "max_new_tokens": longest,
        "repetition_penalty": repetition,
        "length_penalty": length,
        "beam_rule": "lavis",
    }


# plain   the model's own way: the checkpoint's prompt, the settings as they are
# photo   the prompt that the caption-tuned checkpoints were trained with (LAVIS, configs `blip2_caption_*.yaml`)
# coco    how the figures of the -coco captioners were made: BLIP-2, table 3, "COCO Fine-tuned" and, by the same models, "NoCaps
#         Zero-shot" (LAVIS 0e9a3ec of 2023-02-08, `caption_coco_*_eval.yaml`: beams 5, 8 to 30 tokens, no penalties)
# nocaps  long captions, of no row of that paper: they came with the code of X-InstructBLIP, for the FLAN-T5 members that are not
#         tuned (LAVIS a3637ae of 2023-11-30, `caption_nocaps_out_domain_*_eval.yaml`: beams 5, 10 to 80 tokens, no penalties)
# …-2023-12  the same since LAVIS 71a2da9 of 2023-12-06, which gave captions a repetition penalty of 1.15 and, where a file names
#         none, a length penalty of 0
STYLES: Mapping[Style, CaptionStyle] = {
    "plain": CaptionStyle(),
    "photo": CaptionStyle("a photo of"),
    "coco": CaptionStyle("a photo of", _evaluated(8, 30, 1.0, 1.0)),
    "nocaps": CaptionStyle(None, _evaluated(10, 80, 1.0, 1.0)),
    "coco-2023-12": CaptionStyle("a photo of", _evaluated(8, 30, 1.15, 0.0)),
    "nocaps-2023-12": CaptionStyle(None, _evaluated(10, 80, 1.15, 1.0)),
}
