"""Pictures and texts as documents of a LangChain vector store, found by the best of their vectors."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from blip2tools.errors import InvalidInputError
from blip2tools.langchain_tools.retrieval import Blip2Embeddings
from blip2tools.pictures.inline import placeholder

if TYPE_CHECKING:
    from blip2tools.index.stores import RowStore, Stored
    from blip2tools.vision.keywords import ImageInput

Filter = Callable[[Document], bool]


class Blip2VectorStore(VectorStore):
    """A vector store that keeps all of a picture's ITC vectors, and so finds pictures by text exactly (MaxSim).

        store = Blip2VectorStore(Blip2Embeddings(vision))
        store.add_images(["beach.jpg", "street.jpg"])
        store.similarity_search("a dog on a beach", k=1)

    A document of a picture says `[image img_...]`, has the handle as its id, and `handle`, `source`, `width` and `height` as
    metadata. Texts are documents of one vector, as in any store; with other embeddings than `Blip2Embeddings` only texts can
    be added. A score is a cosine: for a verdict, let `ImageRetriever` or `Vision.search` judge.

    Args:
        embedding: embeds queries, texts and pictures.
        store: where documents are kept: in memory by default; `LanceStore` and `QdrantStore` of `blip2tools.index.stores`
            with the extra `search`.
    """

    def __init__(self, embedding: Embeddings, store: RowStore | None = None) -> None:
        from blip2tools.index.stores import MemoryStore

        self._embedding = embedding
        self._store: RowStore = MemoryStore() if store is None else store

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings of queries, texts and pictures."""
        return self._embedding

    def add_texts(
        self,
        texts: Any,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, or replace those of the same id; their ids."""
        listed = list(texts)
        rows = [[vector] for vector in self._embedding.embed_documents(listed)]
        return self._put(listed, rows, metadatas, ids)

    def add_images(
        self,
        images: Sequence[ImageInput],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
    ) -> list[str]:
        """Add pictures with all their vectors; their ids.

        Args:
            images: references, paths, bytes, `PIL.Image`s or numpy arrays.
            metadatas: further metadata of each.
            ids: instead of the pictures' handles.

        Raises:
            VisionError: the first that any picture causes; none is added then.
        """
        if not isinstance(self._embedding, Blip2Embeddings):
            raise InvalidInputError("Pictures can only be added with Blip2Embeddings.")
        seen = self._embedding.look_at(images)
        own = [one.image.model_dump() for one in seen]
        more = metadatas or [{} for _ in own]
        told = [{**facts, **added} for facts, added in zip(own, more, strict=True)]
        texts = [placeholder(one.image.handle, None) for one in seen]
        return self._put(texts, [one.vectors for one in seen], told, ids or [one.image.handle for one in seen])

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Drop documents, or all of them."""
        self._store.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Those documents that are there, in the order of the ids."""
        return [_document(one) for one in self._store.get(ids)]

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The documents nearest to a text, nearest first; only those that `filter` accepts."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter=filter)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The same with their cosines."""
        return self._nearest(self._embedding.embed_query(query), k, filter)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The documents nearest to a vector, nearest first."""
        return [document for document, _ in self._nearest(embedding, k, filter)]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: RowStore | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with these texts in it."""
        made = cls(embedding, store)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    def _put(
        self,
        texts: Sequence[str],
        rows: Sequence[Any],
        metadatas: Sequence[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        names = [name or str(uuid.uuid4()) for name in ids or [None] * len(texts)]
        contents = [
            {"text": text, "metadata": metadata}
            for text, metadata in zip(texts, metadatas or [{} for _ in texts], strict=True)
        ]
        self._store.put(names, rows, contents)
        return names

    def _nearest(self, vector: Sequence[float], k: int, chosen: Filter | None) -> list[tuple[Document, float]]:
        if k < 1:
            raise InvalidInputError("The argument 'k' must be at least 1.")
        count = k
        while True:
            near = self._store.nearest(vector, count)
            found = [(_document(one), one.score) for one in near]
            kept = found if chosen is None else [pair for pair in found if chosen(pair[0])]
            if len(kept) >= k or len(near) < count:
                return kept[:k]
            count *= 4

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1 + cosine) / 2


def _document(one: Stored) -> Document:
    return Document(id=one.name, page_content=one.content["text"], metadata=dict(one.content["metadata"]))
