"""Results in a notebook, as IPython's display asks for them: their HTML is parsed as a browser would."""

import base64
import gc
import io
import random
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.pictures.thumbnails import MAX_BYTES
from blip2tools.schemas import (
    AnswersResult,
    CaptionResult,
    ImageInfo,
    ReadResult,
    SearchHit,
    SearchResult,
    TextLine,
    UnindexedFile,
)
from blip2tools.schemas.notebook import MOST_PICTURES

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&"
LINE = (214, 51, 108)  # of an outline


class Page(HTMLParser):
    """The elements, texts and pictures of a piece of HTML."""

    def __init__(self, result):
        super().__init__()
        self.tags, self.texts, self.sources, self.open = set(), [], [], []
        self.feed(result._repr_html_())
        assert self.open == [], "not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert {name for name, _ in attributes} <= {"style", "src", "alt"}
        if tag == "img":
            self.sources.append(dict(attributes)["src"])
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def pictures(self):
        head = "data:image/jpeg;base64,"
        assert all(source.startswith(head) for source in self.sources)
        encoded = [base64.b64decode(source.removeprefix(head)) for source in self.sources]
        assert all(len(data) <= MAX_BYTES for data in encoded)
        return [Image.open(io.BytesIO(data)) for data in encoded]


def outlined(image):
    """Where an outline's colour is, as a box in fractions of the picture."""
    near = np.abs(np.asarray(image.convert("RGB"), dtype=int) - LINE).sum(axis=2) < 120
    rows, columns = np.nonzero(near)
    if len(rows) < 20:
        return None
    height, width = near.shape
    return [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]


def test_every_verb_s_result_is_words_and_a_picture(vision, picture):
    path = picture.path
    seen = vision.caption(path, num_captions=2)
    page = Page(seen)
    assert {seen.text, seen.image.handle} <= {word for text in page.texts for word in (text, text[:20])}
    assert f"confidence: {seen.confidence:.2f} (sure)" in page.text
    assert all(f"warning: {warning}" in page.text for warning in seen.warnings)
    (shown,) = page.pictures()
    assert shown.size == (seen.image.width, seen.image.height)
    thing = picture.scene.things[0]
    asked = vision.ask(path, f"what color is the {thing.shape}?", choices=["red", "blue", thing.color])
    assert {"choice", "probability", "red", "blue"} <= set(Page(asked).texts)
    matched = Page(vision.match(path, ["a dog", picture.caption]))
    assert {"a dog", picture.caption} <= set(matched.texts)
    surveyed = vision.survey(path)
    page = Page(surveyed)
    assert {"1", "2", "3", "4"} <= set(page.texts)
    assert outlined(page.pictures()[0])[:2] == pytest.approx([0, 0], abs=0.03)
    assert len(Page(vision.compare([path, path])).pictures()) == 2
    each = Page(vision.ask_each([path, "none.png"], "what is there?"))
    assert len(each.pictures()) == 1
    assert "not_found" in each.text
    for other in (vision.list_images(), vision.status(), vision.keep(path), vision.features(path)):
        assert Page(other).text
    assert len(Page(vision.features(path)).text) < 500, "sizes, and not the numbers themselves"
    assert repr(seen).startswith("CaptionResult(image=ImageInfo(handle='img_")


def test_the_region_is_drawn(vision, picture):
    region = [0.25, 0.5, 0.75, 1.0]
    assert outlined(Page(vision.caption(picture.path, region=region)).pictures()[0]) == pytest.approx(region, abs=0.03)


def test_large_and_long_pictures_are_small(vision, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (1500, 900, 3), dtype=np.uint8)
    with Vision.load(model="demo", threads=1, preload=False) as eyes:
        (shown,) = Page(eyes.keep(Image.fromarray(noise))).pictures()
        assert shown.size == (192, 320)
        (long,) = Page(eyes.keep(Image.new("RGB", (2000, 2)))).pictures()
        assert long.size == (320, 1)


def test_words_from_anywhere_stay_words():
    image = ImageInfo(handle=EVIL, width=1, height=1, source=EVIL)
    plain = {"image": image, "region": None, "model": EVIL, "warnings": [EVIL]}
    hit = SearchHit(path=EVIL, probability=0.1, cosine=0.1, fits=False)
    told = {"none_fits": True, "indexed": 0, "searched": 1, "model": EVIL, "warnings": [EVIL]}
    for result in (
        CaptionResult(**plain, text=EVIL, confidence=0.1, match=None, alternatives=[]),
        ReadResult(**plain, lines=[TextLine(text=EVIL, confidence=1, box=[0, 0, 1, 1])], text=EVIL),
        SearchResult(hits=[hit], **told),
        AnswersResult(
            images=[],
            region=None,
            model=EVIL,
            warnings=[EVIL],
            answers=[{"source": EVIL, "error": {"code": "not_found", "message": EVIL}}],
        ),
    ):
        page = Page(result)
        assert not {"script", "img", "iframe", "object", "svg", "link", "form"} & page.tags
        assert EVIL in page.text
    assert not hasattr(UnindexedFile, "_repr_html_"), "only whole results are shown"


def test_without_the_picture_there_are_still_the_words():
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "teal").save(buffer, "PNG")
    with Vision.load(model="demo", threads=1, preload=False) as eyes:
        kept = eyes.keep(buffer.getvalue())
        assert len(Page(kept).pictures()) == 1
    page = Page(kept)
    assert page.pictures() == []
    assert kept.handle in page.text
    copied = ImageInfo.model_validate_json(kept.model_dump_json())
    assert copied == kept, "nothing that is hidden in it makes a result unequal to itself"


def test_a_result_keeps_neither_eyes_nor_picture_alive(picture):
    eyes = Vision.load(model="demo", threads=1, preload=False)
    kept = eyes.keep(picture.path)
    gone = weakref.ref(eyes)
    eyes.close()
    del eyes
    gc.collect()
    assert gone() is None
    assert kept.handle in kept._repr_html_()


def test_hits_are_shown_but_no_address_is_asked(vision, pictures, monkeypatch):
    hits = [SearchHit(path=one.path.name, probability=0.9, cosine=0.3, fits=True) for one in pictures] * 2
    far = SearchHit(path="http://127.0.0.1:9/a.png", probability=0.9, cosine=0.3, fits=True)
    facts = {"none_fits": False, "indexed": 0, "searched": 12, "model": "demo", "warnings": []}
    assert len(Page(SearchResult(hits=hits, **facts)).pictures()) == MOST_PICTURES
    with Vision.load(model="demo", threads=1, preload=False, allow_urls=True) as eyes:
        monkeypatch.setattr("blip2tools.pictures.sources.Sources._fetched", lambda *_: pytest.fail("fetched"))
        assert Page(SearchResult(hits=[far], **facts)).pictures() == []
        assert eyes.status().limits.urls


def test_a_long_table_is_cut(random_texts, vision, picture):
    page = Page(vision.match(picture.path, random_texts))
    assert "and 14 more" in page.text


@pytest.fixture
def random_texts():
    chance = random.Random(5)
    return [f"number {chance.random()}" for _ in range(64)]
