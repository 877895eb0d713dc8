"""Search over pictures: features as embeddings, and a retriever that checks what it finds."""

import asyncio
import gc
import math
import random
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from blip2tools import Vision
from blip2tools.demo.draw import draw
from blip2tools.demo.words import caption
from blip2tools.demo.world import sample_scene
from blip2tools.errors import BusyError, InvalidInputError, NotFoundError
from blip2tools.langchain_tools import Blip2Embeddings, ImageRetriever
from tests.conftest import REPOSITORY, handle_of


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of 12 pictures with different captions, a subfolder, and files that are not pictures."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "more").mkdir()
    chance = random.Random(7)
    captions = {}
    while len(captions) < 12:
        scene = sample_scene(chance)
        path = folder / ("more" if len(captions) % 3 == 0 else "") / f"{len(captions):02}.png"
        if caption(scene) not in captions.values():
            draw(scene).save(path)
            captions[path] = caption(scene)
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"not a picture either")
    return folder, captions


@pytest.fixture(scope="module")
def eyes(album):
    """No allowed folders: the program's own paths may be read anywhere."""
    with Vision.load(model="demo", threads=1) as vision:
        yield vision


def test_a_query_is_one_vector_and_a_picture_many(eyes, album):
    captions = album[1]
    embeddings = Blip2Embeddings(eyes)
    path = next(iter(captions))
    query = embeddings.embed_query(captions[path])
    assert math.hypot(*query) == pytest.approx(1, abs=1e-4)
    assert embeddings.embed_documents([captions[path]]) == [pytest.approx(query, abs=1e-5)]
    (rows,) = embeddings.embed_images([path])
    assert len(rows) == 8  # the demo's query tokens
    best = max(sum(a * b for a, b in zip(row, query, strict=True)) for row in rows)
    assert best == pytest.approx(eyes.match(path, [captions[path]]).matches[0].cosine, abs=1e-3)


async def test_sync_and_async_say_the_same(eyes, album):
    path = next(iter(album[1]))
    embeddings = Blip2Embeddings(eyes, documents="image")
    assert embeddings.embed_query("a red star") == await embeddings.aembed_query("a red star")
    assert embeddings.embed_documents([str(path)]) == await embeddings.aembed_documents([str(path)])
    assert embeddings.embed_images([path]) == await embeddings.aembed_images([path])


def test_many_and_long_texts(eyes):
    texts = [f"a red star {number}" for number in range(70)] + ["word " * 1000]
    vectors = Blip2Embeddings(eyes).embed_documents(texts)
    assert len(vectors) == 71
    assert {len(vector) for vector in vectors} == {64}
    assert Blip2Embeddings(eyes).embed_documents([]) == []


def test_documents_are_texts_or_pictures(eyes):
    with pytest.raises(InvalidInputError, match="'documents' must be 'text' or 'image'"):
        Blip2Embeddings(eyes, documents="both")
    with pytest.raises(NotFoundError):
        Blip2Embeddings(eyes, documents="image").embed_documents(["no-such-file.png"])


def test_a_vector_store_over_pictures(eyes, album):
    """One vector for a picture is an approximation, and on the demo's world a good one."""
    store = InMemoryVectorStore(Blip2Embeddings(eyes, documents="image"))
    store.add_texts([str(path) for path in album[1]])
    found = [store.similarity_search(words, k=3) for words in album[1].values()]
    hits = sum(str(path) in [one.page_content for one in best] for path, best in zip(album[1], found, strict=True))
    assert hits >= 10


def test_every_picture_is_found_by_its_caption(eyes, album):
    folder, captions = album
    retriever = ImageRetriever.from_folder(eyes, folder, k=1, captions=False)
    best = [retriever.invoke(words)[0] for words in captions.values()]
    assert [one.metadata["source"] for one in best] == [str(path) for path in captions]
    assert [source for source, _ in retriever.unreadable] == [str(folder / "broken.png")]
    assert retriever.unreadable[0][1].code == "unsupported_image"


def test_a_document_says_all_that_a_text_only_model_needs(eyes, album):
    folder, captions = album
    retriever = ImageRetriever.from_folder(eyes, folder, k=2)
    path, words = next(iter(captions.items()))
    first, second = retriever.invoke(words)
    handle = handle_of(path.read_bytes())
    assert first.page_content == f"[image {handle}: {words}]"
    assert first.id == handle
    assert first.metadata == {
        "handle": handle,
        "source": str(path),
        "width": 224,
        "height": 224,
        "probability": first.metadata["probability"],
        "cosine": first.metadata["cosine"],
    }
    assert 1 >= first.metadata["probability"] >= second.metadata["probability"] >= 0
    assert asyncio.run(retriever.ainvoke(words)) == [first, second]


def test_the_matching_head_has_the_last_word(eyes, tmp_path):
    """The same things at other heights: the order of the words decides, which ITM judges."""
    from benchmarks.games import restacked, sample_trio

    chance = random.Random(3)
    trio = sample_trio(chance)
    one, two = (f"{thing.color} {thing.shape}" for thing in trio.things[:2])
    for name, (upper, lower) in {"first": (0, 1), "second": (1, 0)}.items():
        fits = lambda scene, up=upper, low=lower: scene.things[up].direction_from(scene.things[low]) == "above"  # noqa: E731
        draw(restacked(chance, trio, fits)).save(tmp_path / f"{name}.png")
    retriever = ImageRetriever.from_folder(eyes, tmp_path, k=2, captions=False)
    for statement, name in ((f"a {one} above a {two}", "first"), (f"a {two} above a {one}", "second")):
        best, other = retriever.invoke(statement)
        assert best.metadata["source"] == str(tmp_path / f"{name}.png")
        assert best.metadata["probability"] > 0.5 > other.metadata["probability"]


def test_pictures_of_every_kind_and_added_later(eyes, album):
    from PIL import Image

    paths = list(album[1])
    with Image.open(paths[2]) as image:
        retriever = ImageRetriever(vision=eyes, images=[str(paths[0]), paths[1].read_bytes(), image.copy()])
        array = np.asarray(image.convert("RGB"))[::-1]
    assert len(retriever.invoke("a star")) == 3
    retriever.add([paths[3], array])
    sources = {one.metadata["source"] for one in retriever.invoke("a star", k=5)}
    assert {str(paths[0]), "bytes", "PIL.Image", str(paths[3]), "numpy.ndarray"} == sources


def test_nothing_to_search_and_bad_arguments(eyes, tmp_path):
    assert ImageRetriever(vision=eyes, images=[]).invoke("a star") == []
    with pytest.raises(NotFoundError):
        ImageRetriever.from_folder(eyes, tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="'k' must be from 1"):
        ImageRetriever(vision=eyes, images=[]).invoke("a star", k=0)
    with pytest.raises(InvalidInputError):
        ImageRetriever(vision=eyes, images=["no.png"]).invoke("")


def test_the_allowed_folders_hold_for_lists_too(album, tmp_path):
    path = next(iter(album[1]))
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), preload=False) as vision:
        retriever = ImageRetriever(vision=vision, images=[path])
        assert retriever.invoke("a star") == []
        assert retriever.unreadable[0][1].code == "not_allowed"


@pytest.mark.parametrize("captions", [True, False])
def test_what_is_deleted_later_is_left_out(eyes, album, tmp_path, captions):
    paths = [Path(shutil.copy(path, tmp_path)) for path in list(album[1])[:3]]
    retriever = ImageRetriever(vision=eyes, images=list(paths), captions=captions)
    assert len(retriever.invoke("a star")) == 3
    paths[1].unlink()
    found = retriever.invoke("a circle")
    assert {one.metadata["source"] for one in found} == {str(paths[0]), str(paths[2])}
    assert [(source, error.code) for source, error in retriever.unreadable] == [(str(paths[1]), "not_found")]
    for path in (paths[0], paths[2]):
        path.unlink()
    assert retriever.invoke("a ring") == []


def test_what_passes_is_tried_again(eyes, album, monkeypatch):
    retriever = ImageRetriever(vision=eyes, images=list(album[1])[:3], captions=False)

    async def busy(self, image):
        raise BusyError("No room.")

    with monkeypatch.context() as patch:
        patch.setattr(Vision, "afeatures", busy)
        with pytest.raises(BusyError):
            retriever.invoke("a star")
    assert len(retriever.invoke("a star")) == 3
    assert retriever.unreadable == []


def test_features_are_computed_once(album):
    with Vision.load(model="demo", threads=1) as vision:
        retriever = ImageRetriever(vision=vision, images=list(album[1])[:5], captions=False)
        retriever.invoke("a star")
        misses = vision.status().cache.misses
        retriever.invoke("a ring")
        assert vision.status().cache.misses == misses


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return Blip2Embeddings

    @property
    def embedding_model_params(self):
        return {"vision": _Shared.vision()}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return Blip2Embeddings

    @property
    def embedding_model_params(self):
        return {"vision": _Shared.vision()}


class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self):
        return ImageRetriever

    @property
    def retriever_constructor_params(self):
        shapes = REPOSITORY / "examples" / "shapes.png"
        images = [shapes, shapes.read_bytes(), *(draw(sample_scene(random.Random(seed))) for seed in range(3))]
        return {"vision": _Shared.vision(), "images": images}

    @property
    def retriever_query_example(self):
        return "a red cross"


class _Shared:
    """The standard suites ask for constructor arguments outside of any fixture."""

    _visions: ClassVar[list[Vision]] = []

    @classmethod
    def vision(cls):
        if not cls._visions:
            cls._visions.append(Vision.load(model="demo", preload=False))
        return cls._visions[0]

    @classmethod
    def close(cls):
        while cls._visions:
            cls._visions.pop().close()


@pytest.fixture(scope="module", autouse=True)
def close_shared():
    yield
    _Shared.close()
    gc.collect()
