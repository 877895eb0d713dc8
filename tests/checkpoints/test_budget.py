"""What a model takes, what is free, and what to try."""

import pytest

from blip2tools.checkpoints import family
from blip2tools.checkpoints.budget import Budget, admit
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.settings import Settings

GB = 10**9


def refusal(name, budget, **given):
    with pytest.raises(ModelUnavailableError) as raised:
        admit(name, family.find(name).weights, budget, **given)
    return raised.value.message


class TestAdvice:
    def test_a_card_of_six_gigabytes(self):
        card = Budget(6 * GB, 2, place="cuda:0", main_memory=32 * GB)
        assert refusal("opt-2.7b", card) == (
            "opt-2.7b needs 7.7 GB of memory on cuda:0, only 6.0 GB is free: try `--quantize 8bit` (5.2 GB), "
            "`--quantize 4bit` (4.0 GB) or `--device spread`, which uses main memory too."
        )

    def test_a_large_model_names_smaller_ones(self):
        card = Budget(8_500_000_000, 2, place="cuda:0")
        assert refusal("opt-6.7b", card) == (
            "opt-6.7b needs 15.7 GB of memory on cuda:0, only 8.5 GB is free: try `--quantize 4bit` (6.2 GB), "
            "flan-t5-xl or opt-2.7b."
        )

    def test_a_computer_without_a_gpu(self):
        assert "`--dtype bfloat16` (7.7 GB)" in refusal("opt-2.7b", Budget(12 * GB, 4))

    def test_a_tuned_model_names_its_like(self):
        message = refusal("opt-6.7b-coco", Budget(9 * GB, 2, place="cuda:0"))
        assert "flan-t5-xl-coco" in message
        assert "or opt-2.7b-coco." in message

    def test_others_only_when_quantized(self):
        message = refusal("flan-t5-xxl", Budget(5 * GB, 2, place="cuda:0"))
        assert "try flan-t5-xl with `--quantize 4bit`" in message or "try opt-2.7b with `--quantize 4bit`" in message

    def test_already_quantized(self):
        message = refusal("opt-6.7b", Budget(8 * GB, 2, quantize="8bit", place="cuda:0"))
        assert "needs 9.3 GB" in message
        assert "try `--quantize 4bit` (6.2 GB)" in message
        assert "8bit`" not in message

    def test_nothing_fits(self):
        assert refusal("opt-2.7b", Budget(GB, 2, place="cuda:0")).endswith(
            "only 1.0 GB is free: no model of the family fits there; free some, or use another machine."
        )

    def test_a_matcher_beside_its_captioner(self):
        message = refusal("itm-vit-g", Budget(9 * GB, 2, place="cuda:0"), kind="matcher", beside=7 * GB)
        assert message.startswith("itm-vit-g needs 2.7 GB of memory on cuda:0, only 2.0 GB is free: ")

    def test_what_fits_is_no_word(self):
        for budget in (Budget(None, 4), Budget(15 * GB, 4), Budget(8 * GB, 2)):
            admit("opt-2.7b", family.find("opt-2.7b").weights, budget)

    def test_flan_t5_on_a_card_without_bfloat16_is_float32(self):
        card = Budget(12 * GB, 2, t5_bytes_each=4, place="cuda:0")
        admit("opt-2.7b", family.find("opt-2.7b").weights, card)
        assert "flan-t5-xl needs 15.8 GB" in refusal("flan-t5-xl", card)


class TestSettings:
    def test_limits(self):
        chosen = Settings.load({"BLIP2TOOLS_MAX_MEMORY": "cuda:0=6GiB, cpu=1.5MiB"})
        assert chosen.memory_limits == {"cuda:0": 6 * 2**30, "cpu": 3 * 2**19}

    @pytest.mark.parametrize("limit", ["6GiB", "cpu=6", "cpu=6GB", "gpu=6GiB", "cpu=-1GiB", "cuda:0=6 GiB"])
    def test_refused_limits(self, limit):
        with pytest.raises(InvalidInputError, match="max_memory"):
            Settings.load({}, max_memory=(limit,))

    @pytest.mark.parametrize("revision", ["v1", "refs/pr/12", "a" * 40, "1.0.2", "main"])
    def test_revisions(self, revision):
        assert Settings.load({}, revision=revision, matcher_revision=revision).revision == revision

    @pytest.mark.parametrize("revision", ["", "..", "a/../b", "/etc", "a//b", "a b", "refs/..", "-x", "a/", "a\n"])
    def test_refused_revisions(self, revision):
        with pytest.raises(InvalidInputError):
            Settings.load({}, revision=revision)
