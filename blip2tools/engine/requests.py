"""Requests to an engine, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blip2tools.checkpoints import confidence
from blip2tools.model.options import Generation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from blip2tools.pictures.images import Target


@dataclass(frozen=True, slots=True)
class Sight:
    """The pixels to look at.

    Attributes:
        key: content digest and region; equal keys mean equal pixels, and equal sights.
        image: RGB, cropped to the region, any size; None once `pixels` holds all that a model wants.
        pixels: ready for a vision tower, by the key of its preprocessing.
        resized: the image as each target has it, where it was resized before it came here.
    """

    key: str
    image: Image | None = field(compare=False, repr=False)
    pixels: Mapping[str, Tensor] = field(compare=False, repr=False, default_factory=dict)
    resized: Mapping[Target, Image] = field(compare=False, repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """Ask for `count` captions that continue `prompt`; None is the checkpoint's own prompt, an empty one is none."""

    sight: Sight
    generation: Generation
    prompt: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Question:
    """A question with the (question, answer) turns before it, oldest first, and the template to put it in.

    Without a template the one that the checkpoint was trained with is used.
    """

    text: str
    history: tuple[tuple[str, str], ...]
    template: str | None


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Answer a question in the model's own words, and say how well each of `statements` fits the same picture."""

    sight: Sight
    question: Question
    generation: Generation
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Score each of `choices` as the answer, and say how well each of `statements` fits the same picture."""

    sight: Sight
    question: Question
    choices: tuple[str, ...]
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FitRequest:
    """Say how well each of `statements` fits, by ITM alone."""

    sight: Sight
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """Score how well each text fits."""

    sight: Sight
    texts: tuple[str, ...]
    retrieval: bool = False  # read as many ids of a text as the reference's retrieval does, and not its matching


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """The contrastive features of a picture."""

    sight: Sight


@dataclass(frozen=True, slots=True)
class TextFeatureRequest:
    """The contrastive features of texts."""

    texts: tuple[str, ...]
    retrieval: bool = False  # as in `MatchRequest`


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """The Q-Former's hidden states: of a picture, of a text, or of both read together."""

    sight: Sight | None
    text: str | None


@dataclass(frozen=True, slots=True)
class MatcherRequest:
    """Which matcher this is; answered with a `MatcherFacts`."""


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """Load the model and do nothing else."""


Request = (
    CaptionRequest
    | AnswerRequest
    | ChoiceRequest
    | FitRequest
    | MatchRequest
    | FeatureRequest
    | TextFeatureRequest
    | ExtractRequest
    | MatcherRequest
    | WarmRequest
)


@dataclass(frozen=True, slots=True)
class MatcherFacts:
    """What must be equal for features to be compared: the weights, how pictures come to them, and the features' shape."""

    name: str
    fingerprint: str  # 16 hex digits, of weights and preprocessing
    tokens: int  # query tokens of a picture
    size: int  # dimensions of a feature


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a statement fits a picture, by ITM alone.

    Attributes:
        odds: log-odds of a match; ITM's probability is their sigmoid.
        unread: whether one of its words is unknown to the matcher, whose tokenizer spells it out in letters.
    """

    odds: float
    unread: bool = False

    @property
    def probability(self) -> float:
        """ITM's probability of a match, 0 to 1."""
        return confidence.sigmoid(self.odds)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A text and the mean log-probability of its tokens, the end included."""

    text: str
    logprob: float
    finish: str  # "eos", or "length" when it was cut
    confidence: float  # 0 to 1: exp of the mean token log-probability, calibrated where a scaling was fitted
    unread: bool = False  # the prompt was too long, and its beginning was left out
    tokens: int = 1  # the end included
    fits: tuple[Fit, ...] | None = None  # of the request's statements, in their order; None without a matcher


@dataclass(frozen=True, slots=True)
class Ranking:
    """The probability of each choice, in the order of the request; together 1."""

    shares: tuple[float, ...]
    unread: bool  # as in `Utterance`
    said: float = 1.0  # probability that the model itself would have answered one of them, word for word
    fits: tuple[Fit, ...] | None = None  # as in `Utterance`


@dataclass(frozen=True, slots=True)
class TextScore:
    """One text against a picture: ITM probability, ITC cosine, whether the text had to be cut, and ITM's logit of a match."""

    probability: float
    cosine: float
    truncated: bool
    logit: float

    @property
    def ranking(self) -> float:
        """The reference's score for ordering candidates: the logit of a match plus the cosine (LAVIS, `compute_sim_matrix`)."""
        return self.logit + self.cosine


@dataclass(frozen=True, slots=True)
class Extract:
    """Hidden states (rows x H), and their ITC projections (rows x D) where the mode has them."""

    states: list[list[float]]
    projected: list[list[float]] | None
    truncated: bool
