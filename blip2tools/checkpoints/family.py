"""The BLIP-2 checkpoints that have a short name. Data only; loads nothing.

Parameters and sizes come from the published configurations, see `published`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from blip2tools.checkpoints.published import Weights, number, published, stored, weights
from blip2tools.settings import Quantize

Kind = Literal["captioner", "matcher"]
Branch = Literal[
    "pretrain", "coco", "demo"
]  # what the vision tower was trained for; a matcher serves its own branch best

SUGGESTED = "opt-2.7b"  # the smallest captioner for photographs

# Bytes of a quantized value and its share of the scales: one float32 for each row in 8 bits; in 4 bits one 8-bit scale for
# each 64 values, and one float32 for each 256 of those (QLoRA, Dettmers et al. 2023, "double quantization").
QUANTIZED_BYTES = {"8bit": 1.001, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}

# The same on a processor, of a decoder alone and of an encoder and decoder, where nearly every matrix is quantized, tables of
# words too (`model.quantized`). In 8 bits an eighth of a T5 has 16; in 4 bits, with a float32 for each 128 values, are the
# feed-forward layers that speak, and the others in 8.
PROCESSOR_BYTES = {"8bit": (1.01, 1.2), "4bit": (0.7, 0.9)}


def memory_bytes(parts: Weights, bytes_each: int, quantize: Quantize = "none") -> int:
    """The memory of weights on their device: `bytes_each` for most, 4 for the Q-Former's side, less for quantized matrices."""
    linear = parts.linear * (bytes_each if quantize == "none" else QUANTIZED_BYTES[quantize])
    return round((parts.trunk + parts.projection + parts.rest) * bytes_each + parts.bridge * 4 + linear)


def processor_bytes(parts: Weights, quantize: Quantize) -> int:
    """The memory of quantized weights on a processor."""
    each, most = PROCESSOR_BYTES[quantize][parts.encoder_decoder], PROCESSOR_BYTES["8bit"][0]
    return round((parts.trunk + parts.bridge + parts.rest) * most + parts.projection * 4 + parts.linear * each)


@dataclass(frozen=True, slots=True)
class Member:
    """One checkpoint of the family."""

    name: str  # what users type
    hub: str | None  # repository on the Hugging Face hub; None inside the package
    kind: Kind
    branch: Branch
    language_model: str | None  # of captioners
    weights: Weights
    image_size: int  # pixels, both sides
    note: str
    # The prompt that it was trained with: of the published ones, that of LAVIS's zero-shot VQA configurations.
    vqa_template: str = "Question: {question} Short answer:"
    prompt: str = ""  # the same for captions, which continue it; empty is none

    @property
    def parameters(self) -> int:
        """Values in memory, tied ones counted once."""
        return self.weights.total

    @property
    def download_bytes(self) -> int:
        """Approximate size of the download: the published files are float32."""
        return 0 if self.hub is None else 4 * stored(published(self.name))

    def memory(self, bytes_each: int, quantize: Quantize = "none") -> int:
        """Bytes that its weights take, see `memory_bytes`."""
        return memory_bytes(self.weights, bytes_each, quantize)


def memory_table(member: Member) -> dict[str, int | None]:
    """Bytes of a member's weights in each precision; None where it has no language model to quantize."""
    large = member.language_model is not None and member.hub is not None
    return {
        "float32": member.memory(4),
        "16 bit": member.memory(2),
        "8bit": member.memory(2, "8bit") if large else None,
        "4bit": member.memory(2, "4bit") if large else None,
    }


def processor_table(member: Member) -> dict[str, int]:
    """Bytes of a member's quantized weights on a processor."""
    return {size: processor_bytes(member.weights, size) for size in get_args(Quantize) if size != "none"}


def _member(name: str, language_model: str | None, note: str) -> Member:
    facts = published(name)
    return Member(
        name=name,
        hub=f"Salesforce/blip2-{name}",
        kind="captioner" if language_model else "matcher",
        branch="coco" if name.endswith("-coco") else "pretrain",
        language_model=language_model,
        weights=weights(facts),
        image_size=number(facts.vision, "image_size"),
        note=note,
        prompt=str(facts.captions["prompt"].value) if facts.captions else "",
    )


# Most capable first: that is the order in which `auto` looks. FLAN-T5 answers questions best; checkpoints tuned for
# captions describe well but answer badly.
CAPTIONERS = (
    _member("flan-t5-xxl", "FLAN-T5 XXL", "best answers of the family; needs a large GPU"),
    _member("flan-t5-xl", "FLAN-T5 XL", "good answers and captions"),
    _member("opt-6.7b", "OPT 6.7B", "good captions, weaker answers"),
    _member("opt-2.7b", "OPT 2.7B", "good captions, weaker answers; the smallest"),
    _member("flan-t5-xl-coco", "FLAN-T5 XL", "tuned for COCO captions, which continue 'a photo of'; poor at questions"),
    _member("opt-6.7b-coco", "OPT 6.7B", "tuned for COCO captions, which continue 'a photo of'; poor at questions"),
    _member("opt-2.7b-coco", "OPT 2.7B", "tuned for COCO captions, which continue 'a photo of'; poor at questions"),
)

MATCHERS = (
    _member("itm-vit-g", None, "shares its vision tower with the 224 px captioners"),
    _member("itm-vit-g-coco", None, "tuned for retrieval on COCO"),
)

_DRAWN = "inside the package; knows drawn shapes only"
DEMO_CAPTIONER = Member(
    "demo",
    None,
    "captioner",
    "demo",
    "a very small OPT",
    Weights(trunk=567_936, bridge=399_872, projection=16_512, linear=491_520, rest=118_784),
    80,
    _DRAWN,
    vqa_template="Question: {question} Answer:",
)
DEMO_MATCHER = Member(
    "demo",
    None,
    "matcher",
    "demo",
    None,
    Weights(trunk=567_936, bridge=1_112_578, projection=0, linear=0, rest=0),
    80,
    _DRAWN,
)

FAMILY = (*CAPTIONERS, *MATCHERS, DEMO_CAPTIONER, DEMO_MATCHER)


def find(name: str, kind: Kind | None = None) -> Member | None:
    """The member with this short name or hub id, in any case; None if there is none of this kind."""
    wanted = name.strip().lower()
    for member in FAMILY:
        if kind in (None, member.kind) and wanted in (member.name, (member.hub or member.name).lower()):
            return member
    return None


def partner(captioner: Member) -> Member:
    """The matcher of a captioner's branch."""
    return next(member for member in (*MATCHERS, DEMO_MATCHER) if member.branch == captioner.branch)


def demo_folder(kind: Kind) -> Path:
    """The folder of the package's own checkpoint."""
    return Path(__file__).parents[1] / "demo" / kind
