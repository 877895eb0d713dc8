"""The verbs of `Vision` for programs that search and compare: features, hidden states, retrieval.

Retrieval works as in the reference: a shortlist by ITC for each query, put in order by ITM and ITC together.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, get_args, overload

from blip2tools.call import CALLER
from blip2tools.engine.requests import TextScore, Utterance
from blip2tools.errors import InvalidInputError
from blip2tools.schemas import (
    Hit,
    ImageEmbeddings,
    ImageFeatures,
    MultimodalEmbeddings,
    RetrievalResult,
    TextEmbeddings,
)
from blip2tools.vision import together
from blip2tools.vision.keywords import GenerationKeywords, ImageInput, ImageList, LookOptions, spelled_out
from blip2tools.vision.loop import Runner

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blip2tools.vision.verbs import Verbs

    Cosines = NDArray[np.float32]

Mode = Literal["image", "text", "multimodal"]


Direction = Literal["text_to_image", "image_to_text"]

SHORTLIST: Final = 128  # `k_test` of LAVIS
AT_ONCE: Final = 8  # pictures in progress: enough to fill batches, few enough for memory and for other callers
TEXTS_AT_ONCE: Final = 64  # as many as one request takes


class FeatureVerbs(Runner):
    """The verbs of this module, which `Vision` inherits."""

    _verbs: Verbs

    @overload
    async def afeatures(self, image: ImageInput, **options: Unpack[LookOptions]) -> ImageFeatures: ...
    @overload
    async def afeatures(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ImageFeatures]: ...
    @spelled_out
    async def afeatures(
        self, image: ImageInput | ImageList, **options: Unpack[LookOptions]
    ) -> ImageFeatures | list[ImageFeatures]:
        """See `features`."""
        return await self._verbs.each(self._verbs.features, image, dict(options))

    @overload
    def features(self, image: ImageInput, **options: Unpack[LookOptions]) -> ImageFeatures: ...
    @overload
    def features(self, image: ImageList, **options: Unpack[LookOptions]) -> list[ImageFeatures]: ...
    @spelled_out
    def features(
        self, image: ImageInput | ImageList, **options: Unpack[LookOptions]
    ) -> ImageFeatures | list[ImageFeatures]:
        """The picture's contrastive (ITC) features: `vectors`, query tokens x dimensions, each of length 1.

        The similarity of a picture and a text is the largest dot product of one of these with the text's vector.

        Args:
            image: one image or a list of them.
            region, return_errors: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        return self.run(self._verbs.each(self._verbs.features, image, dict(options)))

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
        return await self._extracted(image, text, mode, region)

    async def _extracted(
        self, image: ImageInput | None, text: str | None, mode: Mode, region: Sequence[float] | None
    ) -> ImageEmbeddings | TextEmbeddings | MultimodalEmbeddings:
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
    def extract_features(
        self,
        image: ImageInput | None = None,
        *,
        text: str | None = None,
        mode: Mode = "multimodal",
        region: Sequence[float] | None = None,
    ) -> ImageEmbeddings | TextEmbeddings | MultimodalEmbeddings:
        """Hidden states of the matcher's Q-Former, as the reference's `extract_features` (LAVIS, `blip2_qformer.py`).

        With Q query tokens (32 in the published checkpoints), L tokens of text, hidden size H (768) and D dimensions (256):

            mode "image"       an image       `states` Q x H and `projected` Q x D, the ITC features of `features`
            mode "text"        a text         `states` L x H and `projected` L x D; the first row is `text_features`'
            mode "multimodal"  both           `states` Q x H: the queries after they have read picture and text together

        Text is prepared as for `match`, lower case and without most punctuation, but read as a whole.

        Args:
            image: one image; None in mode "text".
            text: one text of up to 512 characters; not in mode "image".
            mode: which of the three.
            region: as in `caption`.

        Raises:
            VisionError: with one of the codes of `blip2tools.errors`; `model_unavailable` without a matcher.
        """
        work = self._extracted(image, text, mode, region)
        return self.run(work)

    @spelled_out
    async def autterance(
        self, image: ImageInput, question: str | None = None, **options: Unpack[GenerationKeywords]
    ) -> Utterance:
        """See `utterance`."""
        return await self._verbs.admitted(self._verbs.utterance, image, {"question": question, **options})

    @spelled_out
    def utterance(
        self, image: ImageInput, question: str | None = None, **options: Unpack[GenerationKeywords]
    ) -> Utterance:
        """A caption, or the answer to a question, with the numbers behind its confidence.

        For programs that calibrate or combine confidences: `logprob` is the mean log-probability of the `tokens` (the end
        included), under the model itself, before sampling or penalties.

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
        return await retrieve(self._verbs, images, texts, direction=direction, k=k, rerank=rerank)

    def retrieve(
        self,
        images: ImageList,
        texts: Sequence[str],
        *,
        direction: Direction = "text_to_image",
        k: int = SHORTLIST,
        rerank: bool = True,
    ) -> RetrievalResult:
        """Search among pictures by text, or among texts by picture, as the reference's benchmark does.

        Every query's k nearest candidates by ITC are judged again by ITM and ordered by its logit of a match plus the ITC
        cosine (LAVIS, `compute_sim_matrix` of `blip2.py`; k is its `k_test`, 128). It reads 35 tokens of a text, as there; a
        match reads 32, as the model was trained.

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


async def retrieve(
    verbs: Verbs, images: Sequence[ImageInput], texts: Sequence[str], *, direction: Direction, k: int, rerank: bool
) -> RetrievalResult:
    """See `Vision.retrieve`."""
    if direction not in get_args(Direction):
        raise InvalidInputError(f"The argument 'direction' must be {' or '.join(get_args(Direction))}.")
    if k < 1:
        raise InvalidInputError("The argument 'k' must be at least 1.")
    if not images or not texts:
        raise InvalidInputError("At least one image and one text are needed.")
    turn = CALLER.set(secrets.token_hex(8))  # a long search takes turns with single calls
    try:
        cosines = await _cosines(verbs, images, texts)
        near = shortlists(cosines if direction == "image_to_text" else cosines.T, k)
        if not rerank:
            by_cosine = cosines if direction == "image_to_text" else cosines.T
            return RetrievalResult(
                queries=[
                    [_unranked(candidate, float(row[candidate])) for candidate in short]
                    for short, row in zip(near, by_cosine, strict=True)
                ],
                truncated=[],
            )
        pairs = (
            {(query, candidate) for query, short in enumerate(near) for candidate in short}
            if direction == "image_to_text"
            else {(candidate, query) for query, short in enumerate(near) for candidate in short}
        )
        scores = await _scores(verbs, images, texts, pairs)
    finally:
        CALLER.reset(turn)
    found = []
    for query, short in enumerate(near):
        hits = [
            _hit(candidate, scores[(query, candidate) if direction == "image_to_text" else (candidate, query)])
            for candidate in short
        ]
        found.append(sorted(hits, key=lambda hit: hit.score, reverse=True))
    cut = sorted({text for (_, text), score in scores.items() if score.truncated})
    return RetrievalResult(queries=found, truncated=cut)


async def _cosines(verbs: Verbs, images: Sequence[ImageInput], texts: Sequence[str]) -> Cosines:
    """ITC similarities, pictures x texts: the largest cosine over the query tokens."""
    import numpy as np

    groups = [texts[first : first + TEXTS_AT_ONCE] for first in range(0, len(texts), TEXTS_AT_ONCE)]
    rows = await together.each(partial(verbs.text_features, retrieval=True), groups, at_once=AT_ONCE)
    words = np.asarray([vector for group in rows for vector in group], dtype=np.float32)

    async def similarity(image: ImageInput) -> Cosines:
        seen = await verbs.admitted(verbs.features, image, {})
        found: Cosines = (np.asarray(seen.vectors, dtype=np.float32) @ words.T).max(axis=0)
        return found

    return np.stack(await together.each(similarity, images, at_once=AT_ONCE))


async def _scores(
    verbs: Verbs, images: Sequence[ImageInput], texts: Sequence[str], pairs: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], TextScore]:
    """Scores of (picture, text) pairs; all texts of a picture together, for which its keys and values are computed once."""
    wanted: dict[int, list[int]] = {}
    for image, text in sorted(pairs):
        wanted.setdefault(image, []).append(text)

    async def judge(item: tuple[int, list[int]]) -> dict[tuple[int, int], TextScore]:
        image, numbers = item
        judged: dict[tuple[int, int], TextScore] = {}
        for first in range(0, len(numbers), TEXTS_AT_ONCE):
            group = numbers[first : first + TEXTS_AT_ONCE]
            options: dict[str, Any] = {"texts": [texts[number] for number in group], "retrieval": True}
            scores = await verbs.admitted(verbs.score, images[image], options)
            judged |= {(image, number): score for number, score in zip(group, scores, strict=True)}
        return judged

    return {
        pair: score
        for judged in await together.each(judge, wanted.items(), at_once=AT_ONCE)
        for pair, score in judged.items()
    }


def shortlists(cosines: NDArray[np.floating[Any]], k: int) -> list[list[int]]:
    """The k best candidates (columns) of each query (row), best first."""
    import numpy as np

    return [[int(place) for place in np.argsort(-row, kind="stable")[:k]] for row in cosines]


def _hit(candidate: int, score: TextScore) -> Hit:
    return Hit(index=candidate, score=score.ranking, cosine=score.cosine, probability=score.probability)


def _unranked(candidate: int, cosine: float) -> Hit:
    bounded = max(-1.0, min(1.0, cosine))
    return Hit(index=candidate, score=bounded, cosine=bounded, probability=None)
