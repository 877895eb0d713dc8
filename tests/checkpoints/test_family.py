"""Each member of the family, narrow and shallow, from its folder on disk: equal to stock transformers."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from blip2tools import Vision
from blip2tools.checkpoints import family, published
from blip2tools.model import GenerationOptions, cosine
from tests.support import family_models as fm

CAPTIONERS = [member.name for member in family.CAPTIONERS]
MATCHERS = [member.name for member in family.MATCHERS]
SAVED_AGAIN = ("opt-2.7b", "flan-t5-xl", "itm-vit-g")  # by the library as it is now; its layout is the same for all


def cases(names):
    return [(name, layout) for name in names for layout in fm.LAYOUTS if layout != "today" or name in SAVED_AGAIN]


CASES, MATCHER_CASES = cases(CAPTIONERS), cases(MATCHERS)
PROMPTS = ("", "a photo of", "Question: what color is the dog? Short answer:")
TEXTS = ("a red dog", "a photo of the cat on the dog is it", "no")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def picture(number: int) -> Image.Image:
    image = Image.radial_gradient("L").convert("RGB").resize((300, 200))
    ImageDraw.Draw(image).rectangle((20 * number, 10, 120 + 30 * number, 90), fill=(250 - 90 * number, 40, 80 * number))
    return image


PICTURES = [picture(number) for number in range(3)]


def pixels_of(name: str) -> torch.Tensor:
    """By the library's processor with the published size, whatever the folder's files say."""
    size = published.number(published.published(name).vision, "image_size")
    processor = BlipImageProcessorPil(size={"height": size, "width": size}, **fm.CLIP)
    return processor(PICTURES, return_tensors="pt")["pixel_values"]


class TestPublishedValues:
    @pytest.mark.parametrize("name", CAPTIONERS + MATCHERS)
    def test_counts_are_those_of_the_model_that_the_library_builds(self, name):
        with torch.device("meta"):
            model = (Blip2ForImageTextRetrieval if name in MATCHERS else Blip2ForConditionalGeneration)(
                fm.config(name, reduced=False)
            )
        facts = published.published(name)
        counted = sum(parameter.numel() for parameter in model.parameters())
        if facts.text and not facts.text["tie_word_embeddings"].value:
            counted += model.language_model.lm_head.weight.numel()  # the library ties it until weights are loaded
        parts = published.weights(facts)
        assert parts.total == counted == family.find(name).parameters
        assert parts.trunk == sum(parameter.numel() for parameter in model.vision_model.parameters())
        if facts.text:
            layers = [
                m
                for n, m in model.language_model.named_modules()
                if isinstance(m, torch.nn.Linear) and n.rpartition(".")[2] not in ("lm_head", "wo")
            ]
            assert parts.linear == sum(layer.weight.numel() for layer in layers)
            assert parts.projection == sum(parameter.numel() for parameter in model.language_projection.parameters())

    @pytest.mark.parametrize(
        ("name", "billions"),
        [
            ("opt-2.7b", 3.74), ("opt-6.7b", 7.75), ("flan-t5-xl", 3.94), ("flan-t5-xxl", 12.2), ("opt-2.7b-coco", 3.87),
            ("opt-6.7b-coco", 7.75),
        ],
    )  # fmt: skip
    def test_stored_values_are_those_that_the_hub_counts(self, name, billions):
        assert family.find(name).download_bytes / 4e9 == pytest.approx(billions, rel=3e-3)

    def test_every_value_has_a_source(self):
        for name in CAPTIONERS + MATCHERS:
            for part in published.published(name).parts.values():
                assert all(fact.source in published.SOURCES for fact in part.values())

    def test_memory_in_each_precision(self):
        member = family.find("opt-2.7b")
        assert member.memory(4) == 4 * member.parameters
        # The model card's own figures: 14.43 GB of float32 in GiB, and half of it; the Q-Former stays in 32 bits here.
        assert member.memory(4) / 2**30 == pytest.approx(13.95, abs=0.01)
        assert 2 * member.parameters < member.memory(2) < 2.1 * member.parameters
        assert member.memory(2, "4bit") < member.memory(2, "8bit") < member.memory(2)


@lru_cache(maxsize=1)
def reference(name):
    """A random model and the library's results for it, computed once for its three layouts."""
    model = fm.build(name)
    if name in MATCHERS:
        token, model.config.image_token_index = (
            model.config.image_token_index,
            None,
        )  # else its forward cuts 32 text ids
        scores = stock_scores(model, name, itm=True), stock_scores(model, name, itm=False)
        model.config.image_token_index = token
        return model, *scores
    kind = fm.kind_of(published.published(name))
    return model, *(stock_texts(model, kind, name, PROMPTS, num_beams=beams) for beams in (1, 3))


@torch.no_grad()
def stock_texts(model, kind, name, prompts, **options):
    """New ids of the library's own `generate`, picture by picture, and their mean log-probability."""
    facts = published.published(name)
    image = published.number(facts.top, "image_token_index")
    backend = fm.tokenizer(kind, image_token=False)
    pixels = pixels_of(name)
    spoken = []
    for number, prompt in enumerate(prompts):
        words = backend.encode(prompt or "", add_special_tokens=False).ids
        row = [2, *words] if kind == "opt" else [*words, 1]
        ids = torch.tensor([[image] * 32 + row])
        out = model.generate(
            pixels[number][None],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            eos_token_id=published.number(facts.text, "eos_token_id"),
            pad_token_id=published.number(facts.text, "pad_token_id"),
            max_new_tokens=8,
            min_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        new = out.sequences[0, ids.shape[1] if kind == "opt" else 1 :].tolist()
        spoken.append((new, out.logits))
    return spoken


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_captioner_speaks_as_stock_transformers(name, layout, tmp_path):
    model, greedy, beams = reference(name)
    facts = published.published(name)
    kind, eos = fm.kind_of(facts), published.number(facts.text, "eos_token_id")
    fm.save(name, tmp_path / name, layout, model)
    backend = fm.tokenizer(kind, image_token=False)

    # The self-test takes as long as all the rest; it sees tensors, which are the same in every layout.
    tested = {"self_test": layout == "2023"}
    with Vision.load(model=str(tmp_path / name), matcher="none", device="cpu", offline=True, **tested) as vision:
        loaded = vision._engine._loaded
        captioner = loaded.captioner
        tokens = captioner.query(captioner.trunk.see(loaded.pixels(PICTURES)))
        with torch.no_grad():
            # Patches are embedded with a matrix product here, a convolution there: the same sums in another order.
            stock = model.get_image_features(pixels_of(name)).pooler_output
            torch.testing.assert_close(tokens, stock, rtol=1e-5, atol=1e-5)
        rows = [loaded.words.caption(prompt).ids for prompt in PROMPTS]
        assert [row.count(captioner.bos if kind == "opt" else captioner.eos) for row in rows] == [1, 1, 1]
        for options, expected in ((GenerationOptions(num_beams=1), greedy), (GenerationOptions(num_beams=3), beams)):
            spoken = [text for [text] in captioner.speak(tokens, rows, options, max_new_tokens=[8] * 3)]
            written = [new[: new.index(eos)] if eos in new else new for new, _ in expected]
            assert [list(text.ids) for text in spoken] == written
        for (new, logits), [text] in zip(
            greedy, captioner.speak(tokens, rows, GenerationOptions(num_beams=1), max_new_tokens=[8] * 3), strict=True
        ):
            chosen = [step[0].log_softmax(-1)[token].item() for step, token in zip(logits, new, strict=True)]
            assert text.logprob == pytest.approx(sum(chosen) / len(chosen), abs=1e-4)
        assert len({tuple(new) for new, _ in greedy}) >= 2

        # And through the verbs: the same words, and the confidence that the tokens have.
        for number in (0, 1):
            new, logits = greedy[number]
            ids = new[: new.index(eos)] if eos in new else new
            seen = vision.caption(PICTURES[number], prompt=PROMPTS[number], num_beams=1, max_new_tokens=8)
            assert seen.text == " ".join(backend.decode(ids).split())
            mean = sum(step[0].log_softmax(-1)[token].item() for step, token in zip(logits, new, strict=True)) / len(
                new
            )
            assert seen.confidence == pytest.approx(math.exp(mean), abs=1e-3)
        own = vision.caption(PICTURES[0], num_beams=1, max_new_tokens=8)
        prompt = "a photo of" if name.endswith("-coco") else ""
        assert own.text == vision.caption(PICTURES[0], prompt=prompt, num_beams=1, max_new_tokens=8).text
        assert vision.status().prompt == (prompt or None)
        answered = vision.ask(PICTURES[2], "what color is the dog?", num_beams=1, max_new_tokens=8)
        new = greedy[2][0]
        assert answered.answer == " ".join(backend.decode(new[: new.index(eos)] if eos in new else new).split())


@torch.no_grad()
def stock_scores(model, name, *, itm):
    """The library's own scores of each picture with each text, one pair at a time, without image ids."""
    backend = fm.tokenizer("bert", image_token=False)
    scores = []
    for pixels in pixels_of(name):
        for text in TEXTS:
            ids = torch.tensor([backend.encode(text).ids])
            out = model(
                pixel_values=pixels[None],
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                use_image_text_matching_head=itm,
            )
            scores.append(out.logits_per_image.reshape(-1))
    return torch.stack(scores).reshape(len(PICTURES), len(TEXTS), -1)


@pytest.mark.parametrize(("name", "layout"), MATCHER_CASES)
def test_a_matcher_scores_as_stock_transformers(name, layout, tmp_path):
    model, itm, itc = reference(name)
    fm.save(name, tmp_path / name, layout, model)
    tested = {"self_test": layout == "2023"}  # as above
    with Vision.load(model="demo", matcher=str(tmp_path / name), device="cpu", offline=True, **tested) as vision:
        loaded = vision._engine._loaded
        matcher = loaded.matcher
        states = matcher.trunk.see(loaded.matcher_pixels(PICTURES))
        rows = [loaded.matcher_words(text).ids for text in TEXTS]
        for number in range(len(PICTURES)):
            logits = matcher.match(states[number : number + 1], rows)
            torch.testing.assert_close(logits, itm[number], atol=2e-5, rtol=0)
        similar = cosine(matcher.image_features(states), matcher.text_features(rows))
        torch.testing.assert_close(similar, itc[..., 0], atol=2e-5, rtol=0)
        assert itm.std((0, 1)).min() > 1e-3
        assert itc.std() > 1e-3
        for number, image in enumerate(PICTURES):
            probabilities = itm[number].softmax(-1)[:, 1]
            for match in vision.match(image, list(TEXTS)).matches:
                place = TEXTS.index(match.text)
                assert match.probability == pytest.approx(probabilities[place].item(), abs=1e-3)
                assert match.cosine == pytest.approx(itc[number, place, 0].item(), abs=1e-3)
