"""`docs/lavis.md`, row by row, against what LAVIS itself said; see `tests/reference/lavis/README.md`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip2tools import Vision, toolset
from blip2tools.checkpoints.prompts import CaptionerText
from blip2tools.cli import main
from blip2tools.cli.evaluate.command import published_style
from blip2tools.model import Pixels
from blip2tools.settings import Settings
from blip2tools.vision.styles import STYLES
from tests.reference.lavis import folders, small

HERE = Path(__file__).parent / "lavis"
PAGE = (Path(__file__).parents[2] / "docs" / "lavis.md").read_text(encoding="utf-8")
CAPTIONERS = [name for name, one in small.MODELS.items() if one.kind != "bert"]
MATCHERS = [name for name, one in small.MODELS.items() if one.kind == "bert"]
REFERENCE = json.loads((HERE / "scores.json").read_text(encoding="utf-8"))


def rows(file: str, model: str) -> list[dict[str, Any]]:
    lines = (HERE / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["model"] == model]


def table(name: str) -> dict[str, str]:
    """The page's table of a name: the second cell of each row by its first."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", PAGE, re.S)
    assert found is not None
    cells = [line.strip("|").split(" | ") for line in found[1].splitlines()[2:]]
    return {row[0].strip(): row[1].strip() for row in cells}


@lru_cache(maxsize=1)
def pictures() -> list[Image.Image]:
    return [Image.fromarray(small.picture(number)) for number in range(small.PICTURES)]


class Eyes:
    """A small model and the ids of every text that it gives."""

    def __init__(self, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.family = small.MODELS[name].kind
        self.ids: list[list[int]] = []
        plain = CaptionerText.decode

        def decode(words: CaptionerText, ids: Any) -> str:
            self.ids.append(list(ids))
            return plain(words, ids)

        monkeypatch.setattr(CaptionerText, "decode", decode)
        settings = {"self_test": False, "threads": 1, "keep_answers": 0, "deadline_s": 600}
        self.vision = Vision.load(model=str(folders.save(name, folder)), matcher="none", **settings)


@pytest.fixture(scope="module", params=CAPTIONERS)
def eyes(request, tmp_path_factory) -> Iterator[tuple[str, Eyes]]:
    with pytest.MonkeyPatch.context() as patch:
        made = Eyes(tmp_path_factory.mktemp("model") / request.param, request.param, patch)
        with made.vision:
            yield request.param, made


@pytest.fixture(scope="module", params=MATCHERS)
def matching(request, tmp_path_factory) -> Iterator[tuple[Vision, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("matcher")
    size = small.MODELS[request.param].image_size
    captioner, matcher = folders.save(f"opt-{size}", root / "opt"), folders.save(request.param, root / "matcher")
    settings = {"self_test": False, "threads": 1, "deadline_s": 600}
    (values,) = [one for one in REFERENCE["matchers"] if one["model"] == request.param]
    with Vision.load(model=str(captioner), matcher=str(matcher), **settings) as vision:
        yield vision, values


# ---- the table of options: each row is a rule that turns an option of LAVIS into ours ----

OPTIONS = {
    "`generate`, OPT: `max_length=N`": lambda n: {"max_new_tokens": n - 1},
    "`generate`, T5: `max_length=N`": lambda n: {"max_new_tokens": n},
    "`generate`: `min_length=N`": lambda n: {"min_new_tokens": n - 1},
    "`predict_answers`: `max_len=N`": lambda n: {"max_new_tokens": n},
    "`predict_answers`: `min_len=N`": lambda n: {"min_new_tokens": n - 1},
    "`num_beams=N`": lambda n: {"num_beams": n},
    "`length_penalty=X`": lambda x: {"length_penalty": x},
    "`repetition_penalty=X`": lambda x: {"repetition_penalty": x},
    "`num_captions=N`": lambda n: {"num_captions": n},
    '`samples["prompt"]`': lambda text: {"prompt": text},
    '`predict_answers`: `prompt="Question: {} Answer:"`': lambda text: {
        "vqa_template": text.replace("{}", "{question}")
    },
}


def test_the_page_has_the_rules_that_are_tested():
    written = table("options")
    assert written.keys() == OPTIONS.keys()
    for row, rule in OPTIONS.items():
        value = "Question: {} Answer:" if "Question" in row else 10
        ((name, given),) = rule(value).items()
        said = f"N{'' if given == value else f' - {value - given}'}" if isinstance(given, int) else None
        expected = {"N": f"`{name}={said}`", "X": f"`{name}=X`"}.get(row[-2])
        assert written[row] == expected or name in ("prompt", "vqa_template")


def ours(family: str, call: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a call of LAVIS, its defaults included, by the page's rules."""
    longest = {"generate": {"max_length": 30}, "predict_answers": {"max_len": 10}}[call]
    shortest = {"generate": {"min_length": 1}, "predict_answers": {"min_len": 1}}[call]
    found: dict[str, Any] = {"beam_rule": "lavis"}
    for name, value in {**longest, **shortest, **options}.items():
        fitting = [row for row in OPTIONS if f"`{name}=" in row and (f"{family.upper()}:" in row or ", " not in row)]
        found |= OPTIONS[fitting[0]](value)
    return found


# ---- captions and answers ----


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_captions(eyes):
    name, seen = eyes
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows("captions", name):
        groups.setdefault(json.dumps([row["prompt"], row["options"]]), []).append(row)
    equal = 0
    for group in groups.values():
        prompt, options = group[0]["prompt"], ours(seen.family, "generate", group[0]["options"])
        prompted = {} if prompt is None else OPTIONS['`samples["prompt"]`'](prompt)
        seen.ids.clear()
        shown = [pictures()[row["picture"]] for row in group]
        told = seen.vision.caption(shown, **prompted, **options)
        texts = [[one.text, *(other.text for other in one.alternatives)] for one in told]
        if prompt == small.LONG and seen.family == "opt":
            assert all(row["ids"][0] not in seen.ids for row in group)  # cut by LAVIS, read as a whole here
            continue
        for row, mine in zip(group, texts, strict=True):
            assert all(ids in seen.ids for ids in row["ids"])
            assert mine == [text.strip() for text in row["texts"]]
            equal += len(mine)
    assert equal == (78 if seen.family == "opt" else 80)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_answers(eyes):
    name, seen = eyes
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows("answers", name):
        groups.setdefault(json.dumps([row["question"], row["template"], row["options"]]), []).append(row)
    for group in groups.values():
        first = group[0]
        options = ours(seen.family, "predict_answers", first["options"])
        if first["template"] != "Question: {} Short answer:":
            options |= OPTIONS['`predict_answers`: `prompt="Question: {} Answer:"`'](first["template"])
        seen.ids.clear()
        told = seen.vision.ask([pictures()[row["picture"]] for row in group], first["question"], **options)
        assert [one.answer for one in told] == [row["text"].strip() for row in group]
        assert sorted(seen.ids) == sorted(row["ids"] for row in group)


def test_an_empty_text_only_where_it_is_asked_for(eyes):
    name, seen = eyes
    empty = [row for row in rows("captions", name) if row["ids"] == [[]] and row["options"] == {}]
    empty += [row for row in rows("answers", name) if not row["ids"] and row["options"] == {}]
    for row in empty[:2]:
        picture = pictures()[row["picture"]]
        seen.ids.clear()
        if "question" in row:
            assert seen.vision.ask(picture, row["question"], beam_rule="lavis").answer
        else:
            seen.vision.caption(picture, prompt=row["prompt"], beam_rule="lavis", max_new_tokens=29)
        assert all(seen.ids)
    assert empty or name == "t5-224"


def test_a_checkpoint_at_364_px_continues_its_prompt_by_its_files_alone(eyes):
    name, seen = eyes
    status = seen.vision.status()
    assert status.prompt == (small.MODELS[name].prompt or None)
    picture = pictures()[0]
    plain = seen.vision.caption(picture).text
    assert plain == seen.vision.caption(picture, prompt=small.MODELS[name].prompt).text
    free = seen.vision.caption(picture, prompt="").text
    assert (plain != free) == bool(small.MODELS[name].prompt)
    # A model that calls a tool fills in what it means to leave out: there an empty prompt is one that is not given.
    for empty in ({}, {"prompt": ""}, {"prompt": " "}, {"prompt": None}):
        handle = seen.vision.caption(picture).image.handle
        told = seen.vision.run(toolset.call(seen.vision.for_tools(), "caption_image", {"image": handle, **empty}))
        assert told.text == plain


def test_an_empty_prompt_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BLIP2TOOLS_SELF_TEST", "0")
    folder = folders.save("opt-364", tmp_path / "model")
    pictures()[0].save(tmp_path / "picture.png")
    with Vision.load(model=str(folder), matcher="none") as vision:
        expected = [vision.caption(tmp_path / "picture.png", prompt=prompt).text for prompt in (None, "")]
    told = []
    for options in ([], ["--prompt", ""]):
        given = ["--model", str(folder), "--matcher", "none", "--json", *options]
        assert main(["caption", str(tmp_path / "picture.png"), *given]) == 0
        told.append(json.loads(capsys.readouterr().out)["text"])
    assert told == expected
    assert told[0] != told[1]


def test_the_published_style(eyes):
    """As LAVIS speaks with the evaluation's minimum and its own defaults; OPT may say one token more before it is cut."""
    name, seen = eyes
    for row in rows("captions", name):
        if row["options"] == {"min_length": 8} and small.MODELS[name].prompt:
            longest = {"max_new_tokens": 29} if seen.family == "opt" else {}
            told = seen.vision.caption(pictures()[row["picture"]], style="coco", **longest)
            assert [told.text] == [text.strip() for text in row["texts"]]
    penalised = {"min_length": 8, "repetition_penalty": 1.15, "length_penalty": 0.0}
    for row in rows("captions", name):
        if row["options"] == penalised and small.MODELS[name].prompt:
            longest = {"max_new_tokens": 29} if seen.family == "opt" else {}
            told = seen.vision.caption(pictures()[row["picture"]], style="coco-2023-12", **longest)
            assert [told.text] == [text.strip() for text in row["texts"]]


def test_the_styles_are_those_of_the_page():
    for name in STYLES:
        if name not in ("plain", "photo"):
            assert f"`{name}`" in PAGE
    assert STYLES["coco"].options["repetition_penalty"] == STYLES["coco"].options["length_penalty"] == 1


@pytest.mark.parametrize(("name", "style"), [("opt-364", "coco"), ("opt-224", "plain")])
def test_evaluations_are_in_the_published_style(tmp_path, name, style):
    settings = Settings(model=str(folders.save(name, tmp_path / "model")))
    assert published_style(settings) == style


# ---- pictures ----


@pytest.mark.parametrize("size", [224, 364])
def test_pixels(size, tmp_path):
    name = next(name for name, one in small.MODELS.items() if one.image_size == size)
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    made = Pixels(BlipImageProcessorPil.from_pretrained(folders.save(name, tmp_path / "model"), local_files_only=True))
    digests = [hashlib.sha256(made(picture)[0].numpy().tobytes()).hexdigest() for picture in pictures()]
    assert digests == REFERENCE["pixels"][str(size)]


def test_pictures_that_are_turned_or_flattened_here(eyes, tmp_path):
    assert REFERENCE["left_alone"] == {"orientation": True, "transparency": True}
    name, seen = eyes
    if name != "opt-224":
        pytest.skip("one model is enough")
    plain = pictures()[0]
    exif = Image.Exif()
    exif[small.ORIENTATION] = 6
    plain.save(tmp_path / "turned.png", exif=exif)
    plain.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    clear = plain.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    Image.new("RGB", plain.size, "white").save(tmp_path / "white.png")
    texts = {file.stem: seen.vision.caption(file).text for file in tmp_path.glob("*.png")}
    assert texts["turned"] == texts["upright"]
    assert texts["clear"] == texts["white"] != seen.vision.caption(plain).text


# ---- matching, features, retrieval ----


def test_scores(matching):
    vision, values = matching
    for number, picture in enumerate(pictures()):
        expected = {pair["text"]: pair for pair in values["pairs"] if pair["picture"] == number}
        found = vision.match(picture, list(expected))
        assert len(found.matches) == len(expected) == 21
        for match in found.matches:
            probability = torch.tensor(expected[match.text]["itm"]).softmax(0)[1].item()
            assert match.probability == pytest.approx(probability, abs=1e-5)
            assert match.cosine == pytest.approx(expected[match.text]["itc"], abs=1e-5)


def test_a_text_is_prepared(matching):
    vision, values = matching
    text = small.TEXTS[2]
    raw = torch.tensor(values["unprocessed"]).softmax(0)[1].item()
    assert abs(vision.match(pictures()[0], [text]).matches[0].probability - raw) > 1e-3


def test_features(matching):
    vision, values = matching
    picture = pictures()[0]
    image = vision.extract_features(picture, mode="image")
    np.testing.assert_allclose(image.states, values["image"]["states"], atol=1e-5)
    np.testing.assert_allclose(image.projected, values["image"]["projected"], atol=1e-5)
    for expected in values["features"]:
        words = vision.extract_features(text=expected["text"], mode="text")
        assert not words.truncated
        np.testing.assert_allclose(words.states, expected["states"], atol=1e-5)
        np.testing.assert_allclose(words.projected, expected["projected"], atol=1e-5)
        together = vision.extract_features(picture, text=expected["text"])
        np.testing.assert_allclose(together.states, expected["multimodal"], atol=1e-5)
    assert len(values["features"][1]["states"]) > 35  # longer than what a match and a retrieval read


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_retrieval(matching, direction):
    vision, values = matching
    found = vision.retrieve(pictures(), [*small.TEXTS, small.LONG], direction=direction, k=4)
    for hits, expected in zip(found.queries, values[direction], strict=True):
        assert [hit.index for hit in hits] == [place for place, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)
    if direction == "text_to_image":
        assert found.truncated == [len(small.TEXTS)]


def test_a_match_reads_32_ids_and_a_retrieval_35(matching):
    vision, _ = matching
    words = small.LONG.split()
    thirty, more = " ".join(words[:30]), " ".join(words[:33])
    one, other = (vision.match(pictures()[0], [text]).matches[0].probability for text in (thirty, more))
    assert one == pytest.approx(other, abs=1e-7)  # [CLS] + 30 + [SEP]
    scores = [vision.retrieve(pictures()[:1], [text]).queries[0][0].score for text in (thirty, more)]
    assert abs(scores[0] - scores[1]) > 1e-6


# ---- the page ----

TESTED = {
    "calls": {
        '`vis_processors["eval"]`': test_pixels,
        "`model.generate(samples)` of `blip2_opt`": test_captions,
        "`model.generate(samples)` of `blip2_t5`": test_captions,
        "`model.generate(...)` of a `caption_coco_…` model": test_captions,
        '`model.predict_answers(samples, prompt="Question: {} Short answer:")`': test_answers,
        "decoded texts": test_captions,
        '`model(samples, match_head="itm")`, softmax, class 1': test_scores,
        '`model(samples, match_head="itc")`': test_scores,
        "`compute_sim_matrix(...)`, `k_test=4`": test_retrieval,
        '`model.extract_features(samples, mode="image")`': test_features,
        '`model.extract_features(samples, mode="text")`': test_features,
        "`model.extract_features(samples)`": test_features,
    },
    "differences": {
        "empty texts": test_an_empty_text_only_where_it_is_asked_for,
        "prompts of OPT over 32 tokens": test_captions,
        "texts that were not prepared": test_a_text_is_prepared,
        "a picture with an orientation": test_pictures_that_are_turned_or_flattened_here,
        "a transparent picture": test_pictures_that_are_turned_or_flattened_here,
    },
}


@pytest.mark.parametrize("name", sorted(TESTED))
def test_every_row_of_the_page_is_tested(name):
    assert table(name).keys() == TESTED[name].keys()


def test_the_calls_of_the_page_are_those_that_are_run():
    """What the page says for OPT and T5 is what the rules make of LAVIS' defaults."""
    for family in ("opt", "t5"):
        options = ours(family, "generate", {})
        said = table("calls")[f"`model.generate(samples)` of `blip2_{family}`"]
        assert (
            said
            == f'`vision.caption(picture, max_new_tokens={options["max_new_tokens"]}, min_new_tokens=0, beam_rule="lavis")`'
        )
        assert options["min_new_tokens"] == 0
