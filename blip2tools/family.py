"""The BLIP-2 checkpoints that have a short name. Data only; loads nothing.

Parameters are counted from the published configurations. Downloads are the float32 safetensors files of the hub, four
bytes for each parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["captioner", "matcher"]
Branch = Literal[
    "pretrain", "coco", "demo"
]  # what the vision tower was trained for; a matcher serves its own branch best

TRUNK_PARAMETERS = 985_950_000  # of ViT-g, which a captioner and the matcher of its branch may share
SUGGESTED = "opt-2.7b"  # the smallest captioner for photographs


@dataclass(frozen=True, slots=True)
class Member:
    """One checkpoint of the family."""

    name: str  # what users type
    hub: str | None  # repository on the Hugging Face hub; None inside the package
    kind: Kind
    branch: Branch
    language_model: str | None  # of captioners
    parameters: int
    image_size: int  # pixels, both sides
    note: str
    # The prompt that it was trained with: of the published ones, that of LAVIS's zero-shot VQA configurations.
    vqa_template: str = "Question: {question} Short answer:"

    @property
    def download_bytes(self) -> int:
        """Size of the download, about."""
        return 0 if self.hub is None else self.parameters * 4


# Most capable first: that is the order in which `auto` looks. FLAN-T5 follows questions best; checkpoints tuned for
# captions describe well but have forgotten how to answer.
CAPTIONERS = (
    Member(
        "flan-t5-xxl", "Salesforce/blip2-flan-t5-xxl", "captioner", "pretrain", "FLAN-T5 XXL", 12_098_000_384, 224,
        "best answers of the family; needs a large GPU",
    ),
    Member(
        "flan-t5-xl", "Salesforce/blip2-flan-t5-xl", "captioner", "pretrain", "FLAN-T5 XL", 3_876_648_448, 224,
        "good answers and captions",
    ),
    Member(
        "opt-6.7b", "Salesforce/blip2-opt-6.7b", "captioner", "pretrain", "OPT 6.7B", 7_752_869_376, 224,
        "good captions, weaker answers",
    ),
    Member(
        "opt-2.7b", "Salesforce/blip2-opt-2.7b", "captioner", "pretrain", "OPT 2.7B", 3_744_761_856, 224,
        "good captions, weaker answers; the smallest",
    ),
    Member(
        "flan-t5-xl-coco", "Salesforce/blip2-flan-t5-xl-coco", "captioner", "coco", "FLAN-T5 XL", 3_877_239_808, 364,
        "tuned for COCO captions; poor at questions",
    ),
    Member(
        "opt-6.7b-coco", "Salesforce/blip2-opt-6.7b-coco", "captioner", "coco", "OPT 6.7B", 7_753_460_736, 364,
        "tuned for COCO captions; poor at questions",
    ),
    Member(
        "opt-2.7b-coco", "Salesforce/blip2-opt-2.7b-coco", "captioner", "coco", "OPT 2.7B", 3_745_353_216, 364,
        "tuned for COCO captions; poor at questions",
    ),
)  # fmt: skip

MATCHERS = (
    Member(
        "itm-vit-g", "Salesforce/blip2-itm-vit-g", "matcher", "pretrain", None, 1_172_032_258, 224,
        "shares its vision tower with the 224 px captioners",
    ),
    Member(
        "itm-vit-g-coco", "Salesforce/blip2-itm-vit-g-coco", "matcher", "coco", None, 1_172_623_618, 364,
        "tuned for retrieval on COCO",
    ),
)  # fmt: skip

DEMO_CAPTIONER = Member(
    "demo", None, "captioner", "demo", "a very small OPT", 1_179_360, 64, "inside the package; knows drawn shapes only",
    vqa_template="Question: {question} Answer:",
)  # fmt: skip
DEMO_MATCHER = Member(
    "demo", None, "matcher", "demo", None, 1_547_874, 64, "inside the package; knows drawn shapes only"
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
    """Where the package keeps its own checkpoints."""
    return Path(__file__).with_name("demo") / kind
