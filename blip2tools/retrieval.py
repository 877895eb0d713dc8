"""Search as the reference does it: a shortlist by ITC for each query, put in order by ITM and ITC together."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from blip2tools.concurrency import CALLER
from blip2tools.errors import InvalidInputError
from blip2tools.looking import ImageInput
from blip2tools.requests import TextScore
from blip2tools.schemas import Hit, RetrievalResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blip2tools.verbs import Verbs

    Cosines = NDArray[np.float32]

Direction = Literal["text_to_image", "image_to_text"]

SHORTLIST: Final = 128  # `k_test` of LAVIS
AT_ONCE: Final = 8  # pictures in work: enough to fill batches, few enough for memory and for other callers
TEXTS_AT_ONCE: Final = 64  # as many as one request takes

T = TypeVar("T")
R = TypeVar("R")


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
    turn = CALLER.set(secrets.token_hex(8))  # a long search waits its turns beside single calls
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
    rows = await each(verbs.text_features, groups)
    words = np.asarray([vector for group in rows for vector in group], dtype=np.float32)

    async def similarity(image: ImageInput) -> Cosines:
        seen = await verbs.admitted(verbs.features, image, {})
        found: Cosines = (np.asarray(seen.vectors, dtype=np.float32) @ words.T).max(axis=0)
        return found

    return np.stack(await each(similarity, images))


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
            options: dict[str, Any] = {"texts": [texts[number] for number in group]}
            scores = await verbs.admitted(verbs.score, images[image], options)
            judged |= {(image, number): score for number, score in zip(group, scores, strict=True)}
        return judged

    return {pair: score for judged in await each(judge, wanted.items()) for pair, score in judged.items()}


def shortlists(cosines: NDArray[np.floating[Any]], k: int) -> list[list[int]]:
    """The k best candidates (columns) of each query (row), best first."""
    import numpy as np

    return [[int(place) for place in np.argsort(-row, kind="stable")[:k]] for row in cosines]


def _hit(candidate: int, score: TextScore) -> Hit:
    return Hit(index=candidate, score=score.ranking, cosine=score.cosine, probability=score.probability)


def _unranked(candidate: int, cosine: float) -> Hit:
    bounded = max(-1.0, min(1.0, cosine))
    return Hit(index=candidate, score=bounded, cosine=bounded, probability=None)


async def each(verb: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """The verb's results in order, a few at a time; the first failure ends them all."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with gate:
            return await verb(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
