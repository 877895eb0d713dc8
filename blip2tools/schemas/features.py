"""Results for programs that search and compare: features, hidden states, and retrieval. No tool returns these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from blip2tools.schemas.notebook import Showable, Shown
from blip2tools.schemas.results import ImageInfo


class _Numbers(BaseModel, Showable):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def _shown(self) -> Shown:
        image: ImageInfo | None = getattr(self, "image", None)
        region: list[float] | None = getattr(self, "region", None)
        boxes = [] if region is None else [region]
        rows = [[name, _size(value)] for name, value in self if name not in ("image", "region")]
        return Shown(
            columns=["", "size or value"], rows=rows, pictures=[] if image is None else [image.pictured(boxes)]
        )


def _size(value: Any) -> str:
    """The size of nested lists of numbers; of anything else, itself."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        inner = {len(one) for one in value}
        return f"{len(value)} × {min(inner)}" + ("" if len(inner) == 1 else f" to {max(inner)}")
    return str(value)


class ImageFeatures(_Numbers):
    """A picture's contrastive features."""

    image: ImageInfo
    region: list[float] | None
    vectors: list[list[float]] = Field(description="Query tokens x dimensions, each vector of length 1.")


class ImageEmbeddings(_Numbers):
    """The Q-Former's output for a picture. Published checkpoints: 32 x 768 and 32 x 256."""

    image: ImageInfo
    region: list[float] | None
    states: list[list[float]] = Field(description="Hidden states: query tokens x hidden size.")
    projected: list[list[float]] = Field(description="Their ITC projections: query tokens x dimensions, of length 1.")


class TextEmbeddings(_Numbers):
    """The Q-Former's output for a text. Published checkpoints: L x 768 and L x 256, L at most 32."""

    states: list[list[float]] = Field(description="Hidden states: tokens, [CLS] and [SEP] included, x hidden size.")
    projected: list[list[float]] = Field(
        description="Their ITC projections: tokens x dimensions, of length 1. The first, [CLS]'s, is the text's ITC vector."
    )
    truncated: bool = Field(
        description="Whether the text was too long for the model, so that only its beginning was read."
    )


class MultimodalEmbeddings(_Numbers):
    """The Q-Former's output for a picture and a text together. Published checkpoints: 32 x 768."""

    image: ImageInfo
    region: list[float] | None
    states: list[list[float]] = Field(description="Hidden states of the query tokens: query tokens x hidden size.")
    truncated: bool = Field(description="As in `TextEmbeddings`.")


class Hit(_Numbers):
    """One candidate that was found."""

    index: int = Field(description="Its place in the list that was searched, from 0.")
    score: float = Field(
        description="The score that decided the order: logit + cosine, or the cosine alone without re-ranking."
    )
    cosine: float = Field(ge=-1, le=1, description="Image-text contrastive similarity (ITC).")
    probability: float | None = Field(description="Image-text matching (ITM); null without re-ranking.")


class RetrievalResult(_Numbers):
    """The hits of each query, best first."""

    queries: list[list[Hit]] = Field(description="A list of hits for each query, in the order of the queries.")
    truncated: list[int] = Field(description="Indices of texts that were too long; their beginning was read.")
