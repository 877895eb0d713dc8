"""Search over pictures: ITC features as LangChain embeddings, and a retriever that checks its findings with ITM."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr

from blip2tools.errors import PASSING, InvalidInputError, VisionError
from blip2tools.pictures.inline import placeholder
from blip2tools.schemas import MAX_TEXT, Hit, ImageFeatures, ImageInfo, plain
from blip2tools.vision import Vision
from blip2tools.vision.keywords import ImageInput
from blip2tools.vision.search import AT_ONCE
from blip2tools.vision.together import each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float32]

TEXTS_AT_ONCE: Final = 64  # as many as the verb takes
MAX_K: Final = 1000


class Blip2Embeddings(Embeddings):
    """BLIP-2's contrastive (ITC) features as LangChain embeddings.

    The interface has one vector for each document, which suits only half of ITC: a text is one vector, but
    a picture is many (32, the query tokens), and the similarity of the two is the *largest* dot product. Therefore:

    - `embed_query`, and `embed_documents` by default, embed texts, exactly.
    - With `documents="image"`, `embed_documents` takes references of pictures (paths, handles, `data:` URIs) and gives
      the mean of each picture's vectors, at length 1: an approximation, for vector stores that support nothing else. (On
      the demo checkpoint it finds the one right picture of 100 first in 91 and 93 cases, the exact way in 98 and 99.)
    - `embed_images` gives all vectors of each picture, for stores that can search many (MaxSim), exactly.

    Two texts may be compared, but ITC was never trained for that. For search in pictures without a vector store,
    `ImageRetriever` is exact and checks its findings. Texts may be of any length; only their first words are read.

    Args:
        vision: the model to embed with; it must have a matcher. The caller's own paths are read as its verbs read them.
        documents: what `embed_documents` takes: texts, or references of pictures.
    """

    def __init__(self, vision: Vision, *, documents: Literal["text", "image"] = "text") -> None:
        if documents not in ("text", "image"):
            raise InvalidInputError("The argument 'documents' must be 'text' or 'image'.")
        self._vision = vision
        self._documents = documents

    def embed_query(self, text: str) -> list[float]:
        """The text's vector, of length 1."""
        return self._vision.run(self.aembed_query(text))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector of length 1 for each text, or for each picture named."""
        return self._vision.run(self.aembed_documents(texts))

    def embed_images(self, images: Sequence[ImageInput]) -> list[list[list[float]]]:
        """All vectors of each picture: query tokens x dimensions."""
        return self._vision.run(self.aembed_images(images))

    async def aembed_query(self, text: str) -> list[float]:
        """See `embed_query`."""
        return (await self._texts([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `embed_documents`."""
        if self._documents == "text":
            return await self._texts(texts)
        return [_pooled(vectors) for vectors in await self.aembed_images(texts)]

    async def aembed_images(self, images: Sequence[ImageInput]) -> list[list[list[float]]]:
        """See `embed_images`."""
        return [seen.vectors for seen in await each(self._vision.afeatures, images, at_once=AT_ONCE)]

    def look_at(self, images: Sequence[ImageInput]) -> list[ImageFeatures]:
        """The same, with which pictures they are."""
        return self._vision.run(each(self._vision.afeatures, images, at_once=AT_ONCE))

    async def _texts(self, texts: Sequence[str]) -> list[list[float]]:
        # Documents are longer than the questions of a tool; what the matcher would not read anyway need not be refused.
        short = [text[:MAX_TEXT] for text in texts]
        groups = [short[start : start + TEXTS_AT_ONCE] for start in range(0, len(short), TEXTS_AT_ONCE)]
        return [vector for group in groups for vector in await self._vision.atext_features(group)]


class ImageRetriever(BaseRetriever):
    """Finds pictures by what they show, in a list or a folder, in memory.

        retriever = ImageRetriever.from_folder(vision, "photos", k=3)
        retriever.invoke("a dog on a beach")

    Every picture's ITC features are computed once, at the first query; each query ranks all pictures by them, and the
    best `shortlist` are checked by the slower and stricter matching head (ITM), whose probability decides the order, or,
    with `score="both"`, the sum by which the reference ranks.

    A document's text is `[image img_...: a caption]`, as in a conversation with `VisionMiddleware`, so that a text-only
    model can go on asking about the handle. Its metadata are `handle`, `source`, `width`, `height`, `probability` (ITM) and
    `cosine` (ITC). It always returns k documents if there are that many pictures: a low probability means "no".

    The pictures are the program's own choice, read as the verbs of `vision` read them; the query may come from a model.
    One that cannot be read is left out and listed in `unreadable`.

    Attributes:
        vision: the model to look with; it must have a matcher. Not closed by the retriever.
        images: what is searched: references, paths, bytes, `PIL.Image`s or numpy arrays.
        k: how many documents are returned; `invoke(query, k=...)` overrides it.
        shortlist: how many pictures ITM checks for a query; never fewer than k.
        score: what orders the checked pictures: "itm", its probability, or "both", its logit of a match plus the ITC cosine
            (LAVIS, `compute_sim_matrix`), which `Vision.retrieve` orders by.
        captions: whether documents have captions; without them a query is faster and a document holds only its handle.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    vision: Vision = Field(exclude=True, repr=False)
    images: list[Any] = Field(default_factory=list, exclude=True, repr=False)
    k: int = Field(default=4, ge=1, le=MAX_K)
    shortlist: int = Field(default=16, ge=1, le=MAX_K)
    score: Literal["itm", "both"] = "itm"
    captions: bool = True

    _shelf: dict[int, _Shelved] = PrivateAttr(default_factory=dict)
    _unreadable: dict[int, VisionError] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_folder(cls, vision: Vision, folder: str | Path, *, recursive: bool = True, **options: Any) -> Self:
        """A retriever over the pictures in a folder: what is called like one or begins like one, as in every listing.

        Args:
            vision: the model to look with.
            folder: the folder.
            recursive: with its subfolders.
            **options: `k`, `shortlist`, `captions`, and what every LangChain retriever takes.

        Raises:
            NotFoundError: there is no such folder.
        """
        return cls(vision=vision, images=vision.pictures_in(folder, recursive=recursive), **options)

    @property
    def unreadable(self) -> list[tuple[str, VisionError]]:
        """The pictures that were left out, and why; filled when they are first read."""
        return [(_label(self.images[index]), error) for index, error in sorted(self._unreadable.items())]

    def add(self, images: Sequence[ImageInput]) -> None:
        """Add pictures to search in."""
        self.images.extend(images)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return self.vision.run(self._search(query, k))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return await self._search(query, k)

    async def _search(self, query: str, k: int | None) -> list[Document]:
        wanted = self.k if k is None else k
        if not 1 <= wanted <= MAX_K:
            raise InvalidInputError(f"The argument 'k' must be from 1 to {MAX_K}.")
        await self._read_new()
        statement = query[:MAX_TEXT]
        text = (await self.vision.atext_features([statement]))[0]
        while self._shelf:
            order = sorted(self._shelf)
            places = _nearest(text, [self._shelf[index].rows for index in order], max(wanted, self.shortlist))
            near = [order[place] for place in places]
            try:
                return await self._checked(statement, [self._shelf[index] for index in near], wanted)
            except VisionError as error:
                if error.code in PASSING or not await self._let_go(near):
                    raise
        return []

    async def _checked(self, statement: str, shortlisted: list[_Shelved], wanted: int) -> list[Document]:
        """The best of the shortlist, by the matching head."""
        images = [shelved.image for shelved in shortlisted]
        (found,) = (await self.vision.aretrieve(images, [statement], k=len(images))).queries
        if self.score == "itm":  # probabilities saturate at 1, then the cosine decides
            found.sort(key=lambda hit: (hit.probability or 0.0, hit.cosine), reverse=True)
        checks = [(shortlisted[hit.index], hit) for hit in found]
        return await each(self._document, checks[:wanted], at_once=AT_ONCE)

    async def _read_new(self) -> None:
        """Features of the pictures that have none yet. Two queries that do this at once do it twice, harmlessly."""

        async def shelve(index: int) -> None:
            image = self.images[index]
            try:
                seen = await self.vision.afeatures(image)
            except VisionError as error:
                if error.code in PASSING:  # the engine's fault, not the picture's: the next query tries again
                    raise
                self._unreadable[index] = error
            else:
                self._shelf[index] = _Shelved(image, seen.image, _rows(seen.vectors))

        done = {*self._shelf, *self._unreadable}
        await each(shelve, [index for index in range(len(self.images)) if index not in done], at_once=AT_ONCE)

    async def _let_go(self, near: list[int]) -> bool:
        """Drop those that can no longer be read, such as deleted files; returns whether there were any."""
        before = len(self._unreadable)
        for index in near:
            try:
                await self.vision.afeatures(self.images[index])
            except VisionError as error:
                if error.code in PASSING:
                    raise
                self._unreadable[index] = error
        for index in self._unreadable:
            self._shelf.pop(index, None)
        return len(self._unreadable) > before

    async def _document(self, check: tuple[_Shelved, Hit]) -> Document:
        shelved, hit = check
        if self.captions and shelved.caption is None:
            shelved.caption = (await self.vision.acaption(shelved.image)).text
        return Document(
            id=shelved.info.handle,
            page_content=placeholder(shelved.info.handle, shelved.caption),
            metadata={**shelved.info.model_dump(), "probability": hit.probability, "cosine": hit.cosine},
        )


@dataclass(slots=True)
class _Shelved:
    """A picture that can be found."""

    image: Any
    info: ImageInfo
    rows: Rows
    caption: str | None = None


def _rows(vectors: list[list[float]]) -> Rows:
    import numpy as np

    return np.asarray(vectors, dtype=np.float32)


def _nearest(text: list[float], pictures: list[Rows], number: int) -> list[int]:
    """Indices of the pictures whose best vector is nearest to the text's, nearest first."""
    import numpy as np

    scores = (np.stack(pictures) @ np.asarray(text, dtype=np.float32)).max(axis=1)
    return [int(index) for index in np.argsort(-scores, kind="stable")[:number]]


def _pooled(vectors: list[list[float]]) -> list[float]:
    """The direction of the vectors' mean."""
    mean = [math.fsum(column) for column in zip(*vectors, strict=True)]
    length = math.hypot(*mean) or 1.0
    return [value / length for value in mean]


def _label(image: Any) -> str:
    return plain(str(image))[:200] if isinstance(image, str | os.PathLike) else type(image).__name__
