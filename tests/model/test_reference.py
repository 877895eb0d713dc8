"""The features of LAVIS, against a second computation from the library's own modules, on small models with random weights.

The stock side uses whole library classes (`Blip2ForImageTextRetrieval`, `Blip2TextModelWithProjection`, ...) and its own
tokenizers, padding and formulas; ours goes from picture files through `Vision`.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Blip2ForImageTextRetrieval,
    Blip2TextModelWithProjection,
    Blip2VisionModelWithProjection,
)

from blip2tools import Vision
from blip2tools.engine.requests import TextScore, Utterance
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.vision.results import Described, best_first, doubted
from blip2tools.vision.styles import STYLES
from tests.support import random_models as rm

TEXTS = ["a red circle", "a dog with a frisbee", "the cat", "a photo of a red dog on the photo", "circle"]
CHOICES = ["red", "yes", "a photo of a dog", "no"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "opt": rm.save(rm.make_opt(), root / "opt"),
        "t5": rm.save(rm.make_t5(), root / "t5"),
        "matcher": rm.save(rm.make_matcher(), root / "matcher"),
    }


@pytest.fixture(scope="module", params=["opt", "t5"])
def eyes(request, folders):
    """A captioner of either family with the matcher."""
    with Vision.load(model=str(folders[request.param]), matcher=str(folders["matcher"]), threads=1) as vision:
        yield request.param, vision


@pytest.fixture(scope="module")
def vision(folders):
    with Vision.load(model=str(folders["opt"]), matcher=str(folders["matcher"]), threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def images():
    chance = np.random.default_rng(5)
    return [
        Image.fromarray((chance.random((60, 40, 3)) * 120 + chance.random(3) * 135).astype(np.uint8)) for _ in range(4)
    ]


def pixels(images):
    return rm.image_processor()(images, return_tensors="pt")["pixel_values"]


def bert_ids(text):
    tokenizer = rm.bert_tokenizer()
    return torch.tensor([tokenizer.encode(text).ids])


@torch.no_grad()
def stock_scores(folder, images):
    """ITM logits (pictures, texts, 2) and ITC cosines (pictures, texts), one pair per stock forward."""
    model = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=torch.float32).eval()
    logits = torch.zeros(len(images), len(TEXTS), 2)
    cosines = torch.zeros(len(images), len(TEXTS))
    for i, picture in enumerate(pixels(images)):
        for j, text in enumerate(TEXTS):
            ids = bert_ids(text)
            given = {"pixel_values": picture[None], "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits[i, j] = model(**given, use_image_text_matching_head=True).logits_per_image[0]
            cosines[i, j] = model(**given, use_image_text_matching_head=False).logits_per_image[0, 0]
    return logits, cosines


@pytest.fixture(scope="module")
def stock(folders, images):
    return stock_scores(folders["matcher"], images)


def test_matches_are_the_stock_ones_in_each_order(vision, images, stock):
    logits, cosines = stock
    orders = {"itm": logits.softmax(-1)[..., 1], "itc": cosines, "both": logits[..., 1] + cosines}
    assert len({tuple(order[0].argsort().tolist()) for order in orders.values()}) > 1  # the orders can be told apart
    for i, image in enumerate(images):
        for score, values in orders.items():
            found = vision.match(image, TEXTS, score=score).matches
            assert [match.text for match in found] == [TEXTS[j] for j in values[i].argsort(descending=True)]
            for match in found:
                j = TEXTS.index(match.text)
                assert match.probability == pytest.approx(orders["itm"][i, j].item(), abs=1e-5)
                assert match.cosine == pytest.approx(cosines[i, j].item(), abs=1e-5)


def test_ranked_answers_are_the_stock_likelihoods(eyes, folders, images):
    family, vision = eyes
    model = {"opt": rm.opt, "t5": rm.t5}[family]()
    tokenizer = {"opt": rm.opt_tokenizer, "t5": rm.t5_tokenizer}[family]()
    eos = {"opt": rm.OPT_EOS, "t5": rm.T5_EOS}[family]
    question = "Question: what is it? Short answer:"
    for image in images[:2]:
        sums = []
        for choice in CHOICES:
            spaced = f" {choice}" if family == "opt" else choice
            answer = [*tokenizer.encode(spaced, add_special_tokens=False).ids, eos]
            sums.append(stock_likelihood(model, family, image, tokenizer.encode(question).ids, answer))
        expected = torch.tensor(sums).softmax(0).tolist()
        result = vision.ask(image, "what is it?", choices=CHOICES)
        assert {one.text: one.probability for one in result.choices} == pytest.approx(
            dict(zip(CHOICES, expected, strict=True)), abs=1e-4
        )
        assert result.answer == CHOICES[int(np.argmax(expected))]


@torch.no_grad()
def stock_likelihood(model, family, image, prompt, answer):
    """Summed log-probability of an answer: one forward of the whole stock model."""
    given = {"pixel_values": pixels([image])}
    if family == "opt":
        ids = torch.tensor([[rm.OPT_IMAGE] * rm.QUERIES + prompt + answer])
        logits = model(**given, input_ids=ids).logits[0, -len(answer) - 1 : -1]
    else:
        ids = torch.tensor([[rm.T5_IMAGE] * rm.QUERIES + prompt])
        told = torch.tensor([[rm.T5_PAD, *answer[:-1]]])
        logits = model(**given, input_ids=ids, decoder_input_ids=told).logits[0]
    return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum().item()


class TestFeatures:
    """Shapes here: 8 query tokens, hidden size 32, 16 dimensions; 32, 768 and 256 in the published checkpoints."""

    @torch.no_grad()
    def test_of_an_image(self, vision, folders, images):
        model = Blip2VisionModelWithProjection.from_pretrained(folders["matcher"], dtype=torch.float32).eval()
        output = model(pixel_values=pixels(images[:1]))
        found = vision.extract_features(images[0], mode="image")
        assert np.shape(found.states) == (rm.QUERIES, 32)
        assert np.shape(found.projected) == (rm.QUERIES, 16)
        queries = model.qformer(query_embeds=model.query_tokens, encoder_hidden_states=output.last_hidden_state)
        assert np.allclose(found.states, queries.last_hidden_state[0], atol=1e-5)
        assert np.allclose(found.projected, output.image_embeds[0], atol=1e-5)
        assert np.allclose(found.projected, vision.features(images[0]).vectors, atol=1e-6)

    @torch.no_grad()
    def test_of_a_text(self, vision, folders):
        model = Blip2TextModelWithProjection.from_pretrained(folders["matcher"], dtype=torch.float32).eval()
        text = "a red circle"
        ids = bert_ids(text)
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        found = vision.extract_features(text="A red circle!", mode="text")
        assert np.shape(found.states) == (ids.shape[1], 32)
        assert np.shape(found.projected) == (ids.shape[1], 16)
        assert np.allclose(found.states, output.last_hidden_state[0], atol=1e-5)
        stock = torch.nn.functional.normalize(output.text_embeds[0], dim=-1)
        assert np.allclose(found.projected, stock, atol=1e-5)
        assert np.allclose(found.projected[0], vision.text_features([text])[0], atol=1e-6)
        assert not found.truncated
        long = vision.extract_features(text="circle " * 60, mode="text")
        assert not long.truncated
        assert len(long.states) == 62
        longer = vision.extract_features(text="circle " * 70, mode="text")
        assert longer.truncated  # beyond the positions that there are
        assert len(longer.states) == 64

    @torch.no_grad()
    def test_of_both(self, vision, folders, images, stock):
        model = Blip2ForImageTextRetrieval.from_pretrained(folders["matcher"], dtype=torch.float32).eval()
        for j, text in enumerate(TEXTS):
            found = vision.extract_features(images[0], text=text)
            assert np.shape(found.states) == (rm.QUERIES, 32)
            # The stock forward shows these states only through its matching head: the head's mean is the logit.
            logit = model.itm_head(torch.tensor(found.states)).mean(0)
            assert torch.allclose(logit, stock[0][0, j], atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"mode": "image", "text": "a dog"}, "The mode image takes an image alone."),
            ({"mode": "multimodal"}, "The mode multimodal takes an image and a text."),
            ({"mode": "text", "text": "a dog"}, "The mode text takes a text alone."),
            ({"mode": "pixels"}, "The argument 'mode' must be image, text or multimodal."),
        ],
    )
    def test_a_mode_takes_what_it_takes(self, vision, images, options, sentence):
        with pytest.raises(InvalidInputError, match=sentence.replace(".", r"\.")):
            vision.extract_features(images[0], **options)

    def test_without_a_matcher(self, folders, images):
        with (
            Vision.load(model=str(folders["opt"]), matcher="none") as eyes,
            pytest.raises(ModelUnavailableError, match="no image-text matcher"),
        ):
            eyes.extract_features(images[0], mode="image")


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
@pytest.mark.parametrize("k", [2, 3, 100])
def test_retrieval_is_a_shortlist_put_in_order(vision, images, stock, direction, k):
    logits, cosines = stock
    sums = logits[..., 1] + cosines
    if direction == "text_to_image":
        cosines, sums = cosines.T, sums.T
    result = vision.retrieve(images, TEXTS, direction=direction, k=k)
    assert len(result.queries) == cosines.shape[0]
    assert result.truncated == []
    for query, hits in enumerate(result.queries):
        short = cosines[query].topk(min(k, cosines.shape[1])).indices
        order = short[sums[query, short].argsort(descending=True)]
        assert [hit.index for hit in hits] == order.tolist()
        assert [hit.score for hit in hits] == pytest.approx(sums[query, order].tolist(), abs=1e-4)
    fast = vision.retrieve(images, TEXTS, direction=direction, k=k, rerank=False)
    for query, hits in enumerate(fast.queries):
        values, places = cosines[query].topk(min(k, cosines.shape[1]))
        assert [(hit.index, hit.probability) for hit in hits] == [(place, None) for place in places.tolist()]
        assert [hit.score for hit in hits] == pytest.approx(values.tolist(), abs=1e-5)


def test_retrieval_refuses_by_name(vision, images):
    for options, sentence in [
        ({"direction": "both"}, "direction"),
        ({"k": 0}, "'k' must be at least 1"),
    ]:
        with pytest.raises(InvalidInputError, match=sentence):
            vision.retrieve(images, TEXTS, **options)
    with pytest.raises(InvalidInputError, match="At least one image"):
        vision.retrieve([], TEXTS)
    with pytest.raises(InvalidInputError, match="at most 512 characters"):
        vision.retrieve(images, ["a" * 513])


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_style_is_its_prompt_and_options(vision, images, style):
    spelt = vision.caption(images[0], prompt=STYLES[style].prompt, **STYLES[style].options)
    assert vision.caption(images[0], style=style).text == spelt.text
    mine = vision.caption(images[0], style=style, max_new_tokens=12, min_new_tokens=1, num_beams=2)
    options = {**STYLES[style].options, "max_new_tokens": 12, "min_new_tokens": 1, "num_beams": 2}
    assert mine.text == vision.caption(images[0], prompt=STYLES[style].prompt, **options).text


def test_styles_differ_and_unknown_ones_are_refused(vision, images):
    told = {style: vision.caption(images[1], style=style).text for style in STYLES}
    assert len(set(told.values())) >= 4
    assert len({(style.prompt, *style.options.items()) for style in STYLES.values()}) == len(STYLES)
    with pytest.raises(InvalidInputError, match="'style' must be one of plain, photo, coco, nocaps"):
        vision.caption(images[0], style="poem")
    with pytest.raises(InvalidInputError, match="'score' must be one of itm, itc, both"):
        vision.match(images[0], TEXTS, score="best")


def test_a_template_for_one_question(vision, images):
    free = vision.ask(images[0], "what is it?")
    again = vision.ask(images[0], "what is it?", vqa_template="Question: {question} Short answer:")
    other = vision.ask(images[0], "what is it?", vqa_template="{question}")
    assert (free.answer, free.confidence) == (again.answer, again.confidence)
    assert other.answer != free.answer
    with pytest.raises(InvalidInputError, match=r"must hold \{question\} exactly once"):
        vision.ask(images[0], "what is it?", vqa_template="Question: Answer:")


def described(text, probability):
    return Described(Utterance(text, -0.1, "eos", 0.9), TextScore(probability, 0.1, False, probability))


class TestBestOf:
    def test_the_order(self):
        told, tried = [described("a", 0.4), described("b", 0.6)], [described("c", 0.9), described("b", 0.6)]
        assert [one.text for one in best_first(told, tried)] == ["b", "c", "a"]
        assert doubted(told)
        assert not doubted(tried)
        nameless = [Described(Utterance("", -0.1, "eos", 0.9), None)]
        assert [one.text for one in best_first(told, nameless)] == ["b", "a"]

    def test_where_the_matcher_doubts_the_best_match_is_told(self, vision, images):
        outcomes = set()
        for image in images:
            search = vision.caption(image)
            best = vision.caption(image, best_of=16, seed=3, temperature=2.0)
            samples = vision.caption(image, do_sample=True, num_captions=5, seed=3, temperature=2.0)
            fits = [one.match.probability for one in (samples, *samples.alternatives)]
            if search.match.probability >= 0.5:
                assert best == search
            else:  # the first five samples are among the fifteen
                assert best.match.probability >= max(search.match.probability, *fits)
            outcomes.add(best.text != search.text)
        assert True in outcomes

    def test_several(self, vision, images):
        several = vision.caption(images[0], best_of=4, num_captions=3, seed=1, temperature=2.0)
        assert len({one.text for one in (several, *several.alternatives)}) == 3

    def test_the_same_seed_gives_the_same_words(self, vision, images):
        seed = random.Random(1).getrandbits(20)
        told = {vision.caption(images[2], best_of=6, seed=seed, temperature=2.0).text for _ in range(3)}
        assert len(told) == 1

    def test_without_a_matcher_the_search_decides(self, folders, images):
        with Vision.load(model=str(folders["opt"]), matcher="none", best_of=4) as eyes:
            told = eyes.caption(images[0])
            assert told.text == eyes.caption(images[0], best_of=1).text
            assert any("no image-text matcher" in warning for warning in told.warnings)


class TestAbstaining:
    def test_below_the_threshold_it_says_so(self, vision, images):
        known = vision.caption(images[0])
        assert not known.abstained
        unsure = vision.caption(images[0], abstain_below=min(1.0, known.confidence + 0.01))
        assert unsure.abstained
        assert unsure.text == known.text
        assert unsure.text_block().startswith(f"caption: not sure (best guess: {known.text})")
        assert any(warning.startswith("not sure: the confidence is below") for warning in unsure.warnings)
        at = vision.caption(images[0], abstain_below=known.confidence)
        assert not at.abstained

    def test_answers_and_choices(self, vision, images):
        free = vision.ask(images[0], "what is it?", abstain_below=1.0)
        assert free.abstained
        assert "answer: not sure (best guess: " in free.text_block()
        chosen = vision.ask(images[0], "what is it?", choices=CHOICES, abstain_below=1.0)
        assert chosen.abstained
        sure = vision.ask(images[0], "what is it?", choices=CHOICES, abstain_below=chosen.confidence)
        assert not sure.abstained
        assert sure.choices == chosen.choices
