"""`bench cpu --agreement` tells how far quantized models are from full precision, and nothing where there is nothing to tell."""

import json
import math

import pytest
import torch

from blip2tools.cli import main
from blip2tools.cli.bench import cpu_agreement
from blip2tools.cli.bench.random_models import Size
from tests.conftest import run_cli
from tests.support.side import InThread

TINY = Size((32, 2, 4), (32, 2, 4), (32, 4, 4, 64), 600, queries=4, image_size=56)


def test_figures_are_those_of_a_hand():
    """The first and third row are decided, by 2 and by 3; of these the first says the same."""
    expected = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 0.75], [0.0, 0.0, 3.0]])
    found = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 4.0, 3.0]])
    figures = cpu_agreement.first_words(expected, found)
    cosines = (7 / math.sqrt(50), 0.0, 3 / 5)
    assert figures["cosine_mean"] == pytest.approx(sum(cosines) / 3)
    assert figures["cosine_lowest"] == pytest.approx(0.0)
    assert (figures["rows"], figures["decided"], figures["same"], figures["share"], figures["words"]) == (
        3,
        2,
        1,
        0.5,
        2,
    )
    told = "\n".join(cpu_agreement.table("small", {"pictures": 3, "sides": {"8bit": {"logits": figures}}}))
    assert "of 2 decided words of 3 (2 different) 1 are the same: 50.0%" in told
    assert "match" not in told


def test_without_a_decided_word_there_is_no_share():
    """A margin of exactly the limit is not above it."""
    expected = torch.tensor([[1.5, 1.0], [1.0, 1.25]])
    figures = cpu_agreement.first_words(expected, expected)
    assert figures["share"] is None
    assert (figures["decided"], figures["same"], figures["words"]) == (0, 0, 0)
    told = "\n".join(cpu_agreement.table("small", {"pictures": 2, "sides": {"4bit": {"logits": figures}}}))
    assert "none of 2 words is decided" in told
    assert "%" not in told


def test_what_all_rows_share_does_not_make_them_alike():
    """A large logit of all rows hides that what differs is the opposite."""
    expected = torch.tensor([[100.0, 1.0, 0.0], [100.0, 0.0, 1.0]])
    figures = cpu_agreement.first_words(expected, expected.flip(0))
    assert figures["cosine_lowest"] > 0.999
    assert figures["differing"] == pytest.approx(-1)
    assert figures["words"] == 1
    assert cpu_agreement.first_words(expected[:1], expected[:1])["differing"] is None


def test_a_model_that_lost_its_numbers_agrees_in_nothing():
    expected = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    figures = cpu_agreement.first_words(expected, torch.tensor([[float("nan"), float("nan")], [0.0, 3.0]]))
    assert math.isnan(figures["cosine_mean"])
    assert math.isnan(figures["cosine_lowest"])
    same = cpu_agreement.first_words(expected, torch.tensor([[0.0, float("nan")], [0.0, 3.0]]))["same"]
    assert same == 1


def test_probabilities_are_compared_pair_by_pair():
    expected, found = torch.tensor([[0.5, 0.75], [0.25, 1.0]]), torch.tensor([[0.25, 0.75], [0.5, 1.0]])
    figures = cpu_agreement.compare({"match": expected}, {"match": found})
    assert figures.keys() == {"match"}
    assert figures["match"] == {
        "pairs": 4,
        "difference_mean": 0.125,
        "difference_largest": 0.25,
        "lowest": 0.25,
        "highest": 1.0,
    }
    told = list(cpu_agreement.table("small", {"pictures": 2, "sides": {"8bit": {"match": figures["match"]}}}))
    assert "0.1250 apart, at most 0.2500, 4 pairs from 0.250 to 1.000" in told[1]
    assert len(told) == 2


def checked(figures, names):
    """The figures of a run are all there, and of a quantized model: near full precision, and not the same."""
    assert figures["agreement"]["sides"].keys() == names
    for side in figures["agreement"]["sides"].values():
        words, match = side["logits"], side["match"]
        assert words["rows"] == 4
        assert 0.9 < words["cosine_lowest"] <= words["cosine_mean"] < 1 - 1e-7
        assert 0.9 < words["differing"] < words["cosine_mean"]
        assert 0 <= words["same"] <= words["decided"] <= 4
        assert (words["share"] is None) == (words["decided"] == 0)
        assert match["pairs"] == 4 * 8
        assert 0 < match["difference_mean"] <= match["difference_largest"] < 0.1
        assert 0 <= match["lowest"] < match["highest"] <= 1
    return figures["agreement"]["sides"]


@pytest.mark.slow
def test_the_agreement_of_both_quantized_sides(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu_agreement, "Process", InThread)
    options = ["bench", "cpu", "--random", "mid", "--agreement", "4", "--folder", str(tmp_path)]
    assert main([*options, "--output", str(tmp_path / "cpu.json")]) == 0
    figures = json.loads((tmp_path / "cpu.json").read_text())
    sides = checked(figures, {"8bit", "4bit"})
    assert sides["8bit"]["logits"]["cosine_mean"] > sides["4bit"]["logits"]["cosine_mean"]
    assert sides["8bit"]["logits"]["decided"] > 0  # else nothing is told about words
    assert "seconds" not in figures
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["mid:", "8bit", "8bit", "4bit", "4bit"]


def test_the_sides_that_are_asked_for_without_a_matcher(tmp_path, capsys, monkeypatch):
    """Of T5, too, whose prompt and output layer are others."""
    from blip2tools.cli.bench import random_checkpoint

    monkeypatch.setattr(cpu_agreement, "Process", InThread)
    random_checkpoint.write(tmp_path / "made", TINY, "t5", "captioner")
    options = ["bench", "cpu", "--model", str(tmp_path / "made"), "--side", "8bit", "--folder", str(tmp_path)]
    assert main([*options, "--agreement", "2", "--output", str(tmp_path / "cpu.json")]) == 0
    (side,) = json.loads((tmp_path / "cpu.json").read_text())["agreement"]["sides"].values()
    assert side.keys() == {"logits"}
    assert side["logits"]["rows"] == 2
    assert side["logits"]["cosine_lowest"] > 0.9


def test_a_matcher_of_published_size_is_compared_alone(tmp_path, capsys, monkeypatch):
    """Its captioner only lends it the vision tower."""
    from blip2tools.cli.bench import random_checkpoint

    monkeypatch.setattr(random_checkpoint, "sizes", lambda name: (TINY, "opt"))
    monkeypatch.setattr(cpu_agreement, "Process", InThread)
    options = ["bench", "cpu", "--random", "itm", "--side", "8bit", "--agreement", "2", "--folder", str(tmp_path)]
    assert main(options) == 0
    told = capsys.readouterr().out
    assert "match probabilities" in told
    assert "logits" not in told.partition("\n")[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--agreement", "0"), "--agreement is at least 1"),
        (("--agreement", "2", "--side", "stock", "--side", "float32"), "--side names neither"),
        (("--agreement", "2", "--only", "match"), "--agreement times nothing"),
    ],
)
def test_what_is_no_comparison(words, told, capsys):
    assert main(["bench", "cpu", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.long
def test_each_side_has_a_process_of_its_own(tmp_path):
    done = run_cli("bench", "cpu", "--agreement", "4", "--output", str(tmp_path / "cpu.json"))
    assert done.returncode == 0, done.stderr
    checked(json.loads((tmp_path / "cpu.json").read_text()), {"8bit", "4bit"})
