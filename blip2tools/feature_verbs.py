"""The verbs of `Vision` for programs that search and compare: features, hidden states, retrieval."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from blip2tools import retrieval
from blip2tools.errors import InvalidInputError
from blip2tools.keywords import GenerationKeywords, LookOptions
from blip2tools.looking import ImageInput, ImageList
from blip2tools.requests import Utterance
from blip2tools.retrieval import SHORTLIST, Direction
from blip2tools.schemas import ImageEmbeddings, ImageFeatures, MultimodalEmbeddings, RetrievalResult, TextEmbeddings

if TYPE_CHECKING:
    from blip2tools.verbs import Verbs

T = TypeVar("T")
Mode = Literal["image", "text", "multimodal"]


class FeatureVerbs:
    """What `Vision` inherits; it has the verbs and the loop."""

    _verbs: Verbs

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """See `Vision.run`."""
        raise NotImplementedError

    @overload
    async def afeatures(self, image: ImageInput, **options: Unpack[LookOptions]) -> ImageFeatures: ...
    @overload
    async def afeatures(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ImageFeatures]: ...
    async def afeatures(self, image: Any, **options: Any) -> Any:
        """See `features`."""
        return await self._verbs.each(self._verbs.features, image, options)

    @overload
    def features(self, image: ImageInput, **options: Unpack[LookOptions]) -> ImageFeatures: ...
    @overload
    def features(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ImageFeatures]: ...
    def features(self, image: Any, **options: Any) -> Any:
        """The picture's contrastive (ITC) features: `vectors`, query tokens x dimensions, each of length 1.

        The similarity of a picture and a text is the largest dot product of one of these with the text's vector.

        Args:
            image: one image or a list of them.
            region, return_errors: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self.afeatures(image, **options))

    async def atext_features(self, texts: Sequence[str]) -> list[list[float]]:
        """See `text_features`."""
        return await self._verbs.text_features(texts)

    def text_features(self, texts: Sequence[str]) -> list[list[float]]:
        """One contrastive (ITC) vector of length 1 for each of 1 to 64 texts.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self.atext_features(texts))

    @overload
    async def aextract_features(
        self, image: ImageInput, *, mode: Literal["image"], region: Sequence[float] | None = None
    ) -> ImageEmbeddings: ...
    @overload
    async def aextract_features(self, image: None = None, *, text: str, mode: Literal["text"]) -> TextEmbeddings: ...
    @overload
    async def aextract_features(
        self,
        image: ImageInput,
        *,
        text: str,
        mode: Literal["multimodal"] = "multimodal",
        region: Sequence[float] | None = None,
    ) -> MultimodalEmbeddings: ...
    async def aextract_features(
        self,
        image: ImageInput | None = None,
        *,
        text: str | None = None,
        mode: Mode = "multimodal",
        region: Sequence[float] | None = None,
    ) -> ImageEmbeddings | TextEmbeddings | MultimodalEmbeddings:
        """See `extract_features`."""
        wanted = {"image": (True, False), "text": (False, True), "multimodal": (True, True)}.get(mode)
        if wanted is None:
            raise InvalidInputError("The argument 'mode' must be image, text or multimodal.")
        if wanted != (image is not None, text is not None):
            needs = {"image": "an image alone", "text": "a text alone", "multimodal": "an image and a text"}[mode]
            raise InvalidInputError(f"The mode {mode} takes {needs}.")
        return await self._verbs.admitted(self._verbs.extract, image, {"text": text, "region": region})

    @overload
    def extract_features(
        self, image: ImageInput, *, mode: Literal["image"], region: Sequence[float] | None = None
    ) -> ImageEmbeddings: ...
    @overload
    def extract_features(self, image: None = None, *, text: str, mode: Literal["text"]) -> TextEmbeddings: ...
    @overload
    def extract_features(
        self,
        image: ImageInput,
        *,
        text: str,
        mode: Literal["multimodal"] = "multimodal",
        region: Sequence[float] | None = None,
    ) -> MultimodalEmbeddings: ...
    def extract_features(self, image: Any = None, **options: Any) -> Any:
        """The matcher's Q-Former from the inside, as the reference's `extract_features` (LAVIS, `blip2_qformer.py`).

        With Q query tokens (32 in the published checkpoints), L tokens of text, hidden size H (768) and D dimensions (256):

            mode "image"       an image       `states` Q x H and `projected` Q x D, the ITC features of `features`
            mode "text"        a text         `states` L x H and `projected` L x D; the first row is `text_features`'
            mode "multimodal"  both           `states` Q x H: the queries after they have read picture and text together

        Text is prepared as for `match`: lower case, without most punctuation, 32 tokens at most.

        Args:
            image: one image; None in mode "text".
            text: one text of up to 512 characters; not in mode "image".
            mode: which of the three.
            region: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self.aextract_features(image, **options))

    async def autterance(
        self, image: ImageInput, question: str | None = None, **options: Unpack[GenerationKeywords]
    ) -> Utterance:
        """See `utterance`."""
        return await self._verbs.admitted(self._verbs.utterance, image, {"question": question, **options})

    def utterance(
        self, image: ImageInput, question: str | None = None, **options: Unpack[GenerationKeywords]
    ) -> Utterance:
        """A caption, or the answer to a question, with the numbers behind its confidence.

        For programs that calibrate or combine confidences: `logprob` is the mean log-probability of the `tokens` (the end
        included), under the model and not under what sampling or penalties make of it.

        Args:
            image: one image.
            question: in English; None for a caption.
            **options: generation options.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`.
        """
        return self.run(self.autterance(image, question, **options))

    async def aretrieve(
        self,
        images: ImageList,
        texts: Sequence[str],
        *,
        direction: Direction = "text_to_image",
        k: int = SHORTLIST,
        rerank: bool = True,
    ) -> RetrievalResult:
        """See `retrieve`."""
        return await retrieval.retrieve(self._verbs, images, texts, direction=direction, k=k, rerank=rerank)

    def retrieve(
        self,
        images: ImageList,
        texts: Sequence[str],
        *,
        direction: Direction = "text_to_image",
        k: int = SHORTLIST,
        rerank: bool = True,
    ) -> RetrievalResult:
        """Search among pictures by text, or among texts by picture, as the reference's benchmark does it.

        Every query's k nearest candidates by ITC are judged again by ITM and ordered by its logit of a match plus the ITC
        cosine (LAVIS, `compute_sim_matrix` of `blip2_qformer.py`; k is its `k_test`, 128).

        Args:
            images: the pictures; candidates, or queries with "image_to_text".
            texts: statements of up to 512 characters; queries, or candidates with "image_to_text".
            direction: "text_to_image" or "image_to_text".
            k: how many candidates of each query are judged and returned; no more than there are.
            rerank: False is the first step alone, which is far cheaper: k candidates in the order of their cosines.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; the first that any picture or text causes.
        """
        work = self.aretrieve(images, texts, direction=direction, k=k, rerank=rerank)
        return self.run(work)
