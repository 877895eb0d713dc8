"""`Blip2VectorStore` by LangChain's own standard tests, over every place for its rows; and with pictures."""

import importlib.util

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from blip2tools.errors import InvalidInputError
from blip2tools.index.stores import LanceStore, MemoryStore, QdrantStore
from blip2tools.langchain_tools import Blip2Embeddings, Blip2VectorStore


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}: the extra `search`")


def qdrant():
    from qdrant_client import QdrantClient

    return QdrantStore(QdrantClient(":memory:"))


class Standard(VectorStoreIntegrationTests):
    def store(self, folder):
        raise NotImplementedError

    @pytest.fixture
    def vectorstore(self, tmp_path):
        return Blip2VectorStore(self.get_embeddings(), self.store(tmp_path))


class TestInMemory(Standard):
    def store(self, folder):
        return MemoryStore()


@needs("lancedb")
class TestLance(Standard):
    def store(self, folder):
        return LanceStore(str(folder))


@needs("qdrant_client")
class TestQdrant(Standard):
    def store(self, folder):
        return qdrant()


del VectorStoreIntegrationTests, Standard  # which are no tests by themselves

PLACES = [
    pytest.param(lambda folder: MemoryStore(), id="memory"),
    pytest.param(lambda folder: LanceStore(str(folder)), id="lance", marks=needs("lancedb")),
    pytest.param(lambda folder: qdrant(), id="qdrant", marks=needs("qdrant_client")),
]


@pytest.mark.parametrize("place", PLACES)
def test_pictures_are_found_by_the_best_of_their_vectors(vision, pictures, tmp_path, place):
    store = Blip2VectorStore(Blip2Embeddings(vision), place(tmp_path))
    names = store.add_images([one.path for one in pictures], [{"number": n} for n in range(len(pictures))])
    found = store.similarity_search_with_score(pictures[2].caption, 3)
    expected = vision.match(pictures[2].path, [pictures[2].caption]).matches[0].cosine
    assert next(document.id for document, _ in found) == names[2]
    assert found[0][1] == pytest.approx(expected, abs=1e-4)
    assert found[0][0].page_content == f"[image {names[2]}]"
    assert found[0][0].metadata["number"] == 2
    only = store.similarity_search(pictures[2].caption, 1, filter=lambda document: document.metadata["number"] == 5)
    assert [document.id for document in only] == [names[5]]
    store.delete([names[2]])
    assert names[2] not in {document.id for document in store.similarity_search(pictures[2].caption, 9)}
    assert len(store.similarity_search("a star", 9)) == len(pictures) - 1
    store.delete()
    assert store.similarity_search("a star", 9) == []


def test_what_is_refused():
    store = Blip2VectorStore(DeterministicFakeEmbedding(size=4))
    with pytest.raises(InvalidInputError, match="Blip2Embeddings"):
        store.add_images(["a.png"])
    store.add_documents([Document(page_content="it's", id="o'clock")])
    assert store.get_by_ids(["o'clock"])[0].page_content == "it's"
    with pytest.raises(InvalidInputError, match="'k'"):
        store.similarity_search("x", 0)
