"""`blip2tools evaluate` on small data sets of the demo's world, in every form that it reads."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import threading

import numpy as np
import pytest

from blip2tools import Vision
from blip2tools.checkpoints.confidence import Calibration, Scaling
from blip2tools.cli import main
from blip2tools.cli.evaluate import datasets, reliability, vqa
from blip2tools.cli.evaluate.captions import plain_tokens, scores
from blip2tools.cli.evaluate.journal import Journal
from blip2tools.cli.evaluate.tasks import _kept, _recalls
from blip2tools.errors import InvalidInputError, NotFoundError
from tests.support import demo_data

DEMO = ("--model", "demo", "--matcher", "demo", "--threads", "1")


def evaluate(capsys, *words):
    """Exit status, report, standard error."""
    status = main(["evaluate", *map(str, words)])
    told = capsys.readouterr()
    return status, json.loads(told.out) if told.out else None, told.err


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    return demo_data.json_lines(tmp_path_factory.mktemp("lines"), 4)


class TestSideBySide:
    """A quantized model and full precision; of questions, which need no extra."""

    def test_both_are_told(self, tmp_path, capsys):
        path, output = tmp_path / "asked.jsonl", tmp_path / "out"
        demo_data.json_lines(tmp_path, 1)
        asked = {"image": "0.png", "question": "what color is the shape?", "answers": ["red"]}
        path.write_text(json.dumps(asked) + "\n")
        given = ("vqa", path, "--output", output, "--side-by-side", *DEMO)
        status, report, _ = evaluate(capsys, *given, "--quantize", "8bit")
        assert status == 0
        assert report == json.loads((output / "report.json").read_text())
        kinds = [report[name]["quantize"] for name in ("quantized", "full_precision")]
        assert (kinds, report["without_full_precision"]) == (["8bit", "none"], None)
        assert report["quantized"]["accuracy"] == report["full_precision"]["accuracy"]
        assert (output / "predictions.jsonl").is_file()
        assert (output / "full-precision" / "predictions.jsonl").is_file()

    def test_of_what_is_not_quantized_there_is_one_side(self, lines, tmp_path, capsys):
        status, _, said = evaluate(capsys, "vqa", lines[1], "--output", tmp_path / "out", "--side-by-side", *DEMO)
        assert status == 2
        assert "add --quantize" in said


class TestCaptions:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("pycocoevalcap", reason="the extra `evaluate` is not installed")

    def test_coco(self, tmp_path, capsys):
        data, output = demo_data.coco(tmp_path / "coco", 4), tmp_path / "out"
        status, report, said = evaluate(capsys, "captions", data, "--output", output, *DEMO)
        assert status == 0
        assert "captions: 4 of 4" in said
        assert report == json.loads((output / "report.json").read_text())
        assert (report["items"], report["failed"], report["model"]) == (4, [], "demo")
        told = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
        assert told[0]["run"]["task"] == "captions"
        assert sorted(one["id"] for one in told[1:]) == ["1", "2", "3", "4"]
        right = sum(
            one["caption"] == demo_data.caption(scene)
            for one, scene in zip(sorted(told[1:], key=lambda one: one["id"]), demo_data.scenes(4), strict=True)
        )
        assert report["word_for_word"] == right / 4
        assert right >= 3
        assert report["scores"]["BLEU-4"] > 0.9
        assert report["scores"]["CIDEr"] > 5

    def test_a_stopped_run_goes_on(self, lines, tmp_path, capsys, monkeypatch):
        path, output = lines[0], tmp_path / "out"
        real, asked = Vision.acaption, []

        async def counted(self, image, **options):
            if len(asked) == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as Ctrl-C does
                await asyncio.sleep(60)
            asked.append(image.name)
            return await real(self, image, **options)

        monkeypatch.setattr("blip2tools.cli.evaluate.journal.AT_ONCE", 1)
        monkeypatch.setattr(Vision, "acaption", counted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is to ignore it
        try:
            assert main(["evaluate", "captions", str(path), "--output", str(output), *DEMO]) == 130
        finally:
            signal.signal(signal.SIGINT, before)
        monkeypatch.setattr(Vision, "acaption", real)
        capsys.readouterr()
        journal = output / "predictions.jsonl"
        with journal.open("a") as file:
            file.write('{"id": "3", "capt')  # cut in the middle of a line
        seen = []

        async def watched(self, image, **options):
            seen.append(image.name)
            return await real(self, image, **options)

        monkeypatch.setattr(Vision, "acaption", watched)
        status, report, _ = evaluate(capsys, "captions", path, "--output", output, *DEMO)
        assert status == 0
        assert report["items"] == 4
        assert sorted(asked + seen) == ["0.png", "1.png", "2.png", "3.png"]
        assert len(journal.read_text().splitlines()) == 5
        status, _, said = evaluate(capsys, "captions", path, "--output", output, "--style", "photo", *DEMO)
        assert status == 2
        assert "The output holds predictions of another run (other style)" in said

    def test_a_picture_that_is_missing_fails_alone(self, tmp_path, capsys):
        path, _ = demo_data.json_lines(tmp_path, 3)
        (tmp_path / "1.png").unlink()
        status, report, said = evaluate(capsys, "captions", path, "--output", tmp_path / "out", *DEMO)
        assert status == 1
        assert report["failed"] == [{"id": "1", "code": "not_found"}]
        assert "1: not_found: " in said
        assert report["scores"]["BLEU-1"] > 0.5

    def test_scores_by_hand(self):
        truths = {"a": ["a red dog runs"], "b": ["two cats"]}
        told = {"a": "a red dog runs", "b": "two dogs"}
        found = scores(truths, told, "plain")
        assert found["BLEU-1"] == pytest.approx(5 / 6)
        assert found["ROUGE-L"] == pytest.approx((1 + 0.5) / 2)
        assert scores(truths, {"a": "a red dog runs", "b": "two cats"}, "plain")["ROUGE-L"] == pytest.approx(1)

    @pytest.mark.skipif(shutil.which("java") is None, reason="the benchmark's tokenizer is a Java program")
    def test_the_plain_tokenizer_is_near_the_benchmarks(self):
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

        texts = [
            "A man riding a wave on top of a surfboard.",
            "Two dogs, running on the beach; one's red.",
            "The man doesn't see the dog's ball!",
            'A sign that says "Stop" near 3.5 feet of snow',
            "A black-and-white photo of a tennis player",
            "They're sitting; we've seen it - it'll rain",
        ]
        theirs = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(texts)})
        assert [" ".join(plain_tokens(text)) for text in texts] == [theirs[n][0] for n in range(len(texts))]


class TestVqa:
    def test_vqav2(self, tmp_path, capsys):
        data, output = demo_data.vqav2(tmp_path / "vqa", 4), tmp_path / "out"
        status, report, said = evaluate(capsys, "vqa", data, "--output", output, *DEMO)
        assert status == 0
        assert "vqa: 8 of 8" in said
        assert report["items"] == 8
        assert report["accuracy"] > 0.8
        groups = report["by_answer_type"]
        assert sum(group["questions"] for group in groups.values()) == 8
        mean = sum(group["accuracy"] * group["questions"] for group in groups.values()) / 8
        assert mean == pytest.approx(report["accuracy"])

    def test_a_scaling_is_fitted_and_used(self, lines, tmp_path, capsys):
        file = tmp_path / "mine.json"
        words = ("vqa", lines[1], "--output", tmp_path / "out", "--calibrate", file, *DEMO)
        status, report, _ = evaluate(capsys, *words)
        assert status == 0
        assert report["reliability"]["fitted_on"] == report["reliability"]["tested_on"] == 4
        written = json.loads(file.read_text())["confidence"]
        for name in ("temperature", "shift"):
            assert written["answer"][name] == pytest.approx(report["reliability"][name], abs=1e-3)
        assert written["caption"] is None
        image = lines[1].parent / "0.png"
        with Vision.load(model="demo", calibration=str(file)) as eyes:
            raw = eyes.utterance(image, "how many objects are there?")
            judged = reliability.Judged.of(raw, 1)
            assert raw.confidence == judged.confidence(Scaling(**written["answer"]))
            assert eyes.ask(image, "how many objects are there?").confidence == raw.confidence

    def test_lemmas_and_reference_questions(self, tmp_path, capsys):
        pytest.importorskip("lemminflect", reason="the extra `evaluate` is not installed")
        lemmas = vqa.Lemmatizer()
        assert lemmas("two dogs running") == "two dog run"
        assert lemmas("children sitting on larger benches") == "child sit on larger bench"
        assert lemmas("on the left is a broken frisbee") == "on the left is a broken frisbee"
        asked = vqa.reference_question('What is the "Color" of it: red, or (blue)?')
        assert asked == "what is the color of it red, or blue?"
        assert len(vqa.reference_question("word " * 80).split()) == 50

    @pytest.mark.parametrize(
        ("answer", "normal"),
        [
            ("A red, big dog.", "red big dog"),
            ("the two of them", "2 of them"),
            ("none", "0"),
            ("dont know", "don't know"),
            ("it's 3.5 feet", "it's 3.5 feet"),
            ("1,000", "1000"),
            ("t-shirt/jacket", "t shirt jacket"),
            ("yes!", "yes"),  # beside the end there is no space: it becomes one, and goes
            ("couldnt've", "couldn't've"),
            ("10:30", "10:30"),
            ("new\nline", "new line"),
            ("", ""),
        ],
    )
    def test_normalising(self, answer, normal):
        assert vqa.normalized(answer) == normal

    def test_soft_accuracy(self):
        def people(number):
            return ["red"] * number + [f"other {n}" for n in range(10 - number)]

        # Leave-one-out over ten: with n that agree, n times (n-1)/3 and 10-n times n/3, each 1 at most.
        expected = {0: 0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1, 10: 1}
        for number, share in expected.items():
            assert vqa.soft_accuracy("Red.", people(number)) == pytest.approx(share)
        assert vqa.soft_accuracy("a red", ["red"]) == 1
        assert vqa.soft_accuracy("blue", ["red"]) == 0
        with pytest.raises(ValueError, match="at least one truth"):
            vqa.soft_accuracy("red", [])


class TestRetrieval:
    def test_both_ways(self, tmp_path, capsys):
        data, output = demo_data.coco(tmp_path / "coco", 6), tmp_path / "out"
        status, report, said = evaluate(capsys, "retrieval", data, "-k", 3, "--output", output, *DEMO)
        assert status == 0
        assert "retrieval: 6 of 6" in said
        assert (report["items"], report["texts"], report["k"]) == (6, 12, 3)
        for step in ("itc", "reranked"):
            for way in ("text_to_image", "image_to_text"):
                shares = report["recall"][step][way]
                assert shares["R@1"] <= shares["R@5"] <= shares["R@10"]
                assert shares["R@1"] > 0.8
        again, same, _ = evaluate(capsys, "retrieval", data, "-k", 3, "--output", output, *DEMO)
        assert (again, same) == (0, report)

    def test_ranks_by_brute_force(self):
        chance = np.random.default_rng(3)
        images, texts, k = 7, 21, 4
        owner = np.repeat(np.arange(images), 3)
        cosines = chance.random((images, texts)).astype(np.float32)
        sums = chance.random((images, texts)).astype(np.float32) * 8
        found = _recalls(_kept(sums.T, cosines.T, k), _kept(sums, cosines, k), owner)
        for number in (1, 5, 10):
            hits = 0
            for text in range(texts):
                short = sorted(range(images), key=lambda i, t=text: -cosines[i, t])[:k]
                order = sorted(short, key=lambda i, t=text: -sums[i, t])
                # As in the reference all others tie behind; here they keep their places.
                order += [image for image in range(images) if image not in short]
                hits += owner[text] in order[:number]
            assert found["text_to_image"][f"R@{number}"] == pytest.approx(hits / texts)
            hits = 0
            for image in range(images):
                short = sorted(range(texts), key=lambda t, i=image: -cosines[i, t])[:k]
                order = sorted(short, key=lambda t, i=image: -sums[i, t])
                order += [text for text in range(texts) if text not in short]
                hits += any(owner[text] == image for text in order[:number])
            assert found["image_to_text"][f"R@{number}"] == pytest.approx(hits / images)


class TestDatasets:
    def test_a_karpathy_split(self, tmp_path):
        (tmp_path / "val2014").mkdir()
        (tmp_path / "val2014" / "a.jpg").touch()
        rows = [{"image": "val2014/a.jpg", "caption": ["one", "two"]}, {"image": "b.jpg", "caption": "three"}]
        (tmp_path / "split.json").write_text(json.dumps(rows))
        first, second = datasets.captioned(tmp_path)
        assert (first.image, first.captions) == (tmp_path / "val2014" / "a.jpg", ("one", "two"))
        assert (second.image.name, second.captions) == ("b.jpg", ("three",))

    def test_pictures_elsewhere(self, tmp_path, lines):
        copy = shutil.copy(lines[0], tmp_path)
        found = datasets.captioned(tmp_path / "captions.jsonl", images=lines[0].parent)
        assert all(item.image.is_file() for item in found)
        assert not any(item.image.is_file() for item in datasets.captioned(type(tmp_path)(copy)))

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ("[]", "is empty or has none of the known forms"),
            ("{", "is not readable as JSON"),
            ('{"a": 1}', "neither the form of COCO captions nor"),
            ('[{"image": "a.png"}]', "an entry without 'captions'"),
            ('[{"captions": ["a"]}]', "an entry without 'image'"),
            ('[{"image": "a", "captions": ["a"], "id": 1}, {"image": "b", "captions": ["a"], "id": 1}]', "same id"),
        ],
    )
    def test_what_is_none(self, tmp_path, content, sentence):
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(InvalidInputError, match=sentence):
            datasets.captioned(tmp_path)

    def test_what_is_not_there(self, tmp_path, lines):
        for path in (tmp_path, tmp_path / "none.jsonl"):
            with pytest.raises(NotFoundError, match="There is no data set"):
                datasets.captioned(path)
        with pytest.raises(NotFoundError, match="There is no folder"):
            datasets.captioned(lines[0], images=tmp_path / "none")
        with pytest.raises(InvalidInputError, match="holds several data sets"):
            datasets.captioned(lines[0].parent)

    def test_a_journal_of_something_else(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("notes\n")
        with pytest.raises(InvalidInputError, match="not a file of predictions"):
            Journal(tmp_path / "a.jsonl", {})


class TestReliability:
    def test_the_error_by_hand(self):
        sure, right = [0.95, 0.95, 0.55, 0.15], [1, 0, 1, 0]
        # bins: 0.95 (2 texts, half right), 0.55 (right), 0.15 (wrong)
        assert reliability.calibration_error(sure, right) == pytest.approx((2 * 0.45 + 0.45 + 0.15) / 4)
        assert reliability.calibration_error([1.0, 0.0], [1, 0]) == 0

    def test_auroc_against_all_pairs(self):
        chance = random.Random(2)
        sure = [round(chance.random(), 1) for _ in range(60)]
        right = [float(chance.random() < value) for value in sure]
        pairs = [
            (a, b) for a, x in zip(sure, right, strict=True) if x for b, y in zip(sure, right, strict=True) if not y
        ]
        expected = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
        assert reliability.auroc(sure, right) == pytest.approx(expected)
        assert reliability.auroc([0.5], [1.0]) is None

    @pytest.mark.parametrize("true", [Scaling(temperature=0.5, shift=0.5), Scaling(temperature=3, shift=-1)])
    def test_a_scaling_is_found_again(self, true):
        chance = random.Random(4)
        judged = []
        for _ in range(4000):
            one = reliability.Judged(-chance.expovariate(6), chance.randint(1, 12), 0.0)
            judged.append(reliability.Judged(one.logprob, one.tokens, float(chance.random() < one.confidence(true))))
        found = reliability.fit(judged)
        assert found.temperature == pytest.approx(true.temperature, rel=0.15)
        assert found.shift == pytest.approx(true.shift, abs=0.15)
        least = reliability.cross_entropy(judged, found)
        for change in (
            {"temperature": found.temperature * 1.1},
            {"shift": found.shift + 0.2},
            {"shift": found.shift - 0.2},
        ):
            assert reliability.cross_entropy(judged, found.model_copy(update=change)) > least

    def test_texts_that_are_all_right_or_all_alike(self):
        right = [reliability.Judged(-0.01 * n, 3, 1.0) for n in range(9)]
        assert reliability.fit(right).shift > 0
        backwards = [reliability.Judged(-0.3 * n, 3, float(n > 4)) for n in range(40)]
        assert reliability.fit(backwards).temperature == 50
        with pytest.raises(ValueError, match="nothing to fit"):
            reliability.fit([])

    def test_the_diagram(self, tmp_path):
        from xml.etree import ElementTree

        judged = tuple(reliability.Judged(-0.1 * n, 3, float(n < 5)) for n in range(10))
        task = reliability.Reliability("captions <b>", Scaling(temperature=2), 5, judged)
        drawn = ElementTree.fromstring(reliability.diagram([task, task], "a & b"))
        texts = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert texts.count("captions <b>") == 2
        assert "a & b" in texts
        assert any(text.startswith("after: ECE") for text in texts)


def test_the_study_of_the_demo(tmp_path, capsys):
    plot, file = tmp_path / "plot.svg", tmp_path / "blip2tools.json"
    words = ("calibration", "--pictures", 12, "--best-of", 4, "--plot", plot, "--output", file)
    status, report, _ = evaluate(capsys, *words)
    assert status == 0
    assert [task["tested_on"] for task in report["reliability"]] == [12, 12]
    for seed in ("fit_seed", "test_seed"):
        counts = report["best_of"][seed]["all"]
        assert counts["best_of"] == counts["search"] + counts["mended"] - counts["spoilt"]
    assert Calibration(**json.loads(file.read_text())["confidence"]) == Calibration(**report["confidence"])
    assert plot.read_text().startswith("<svg")
    status, _, said = evaluate(capsys, "calibration", "--fit-seed", 3, "--test-seed", 3)
    assert status == 2
    assert "must differ" in said
