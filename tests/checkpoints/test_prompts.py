"""Words to ids and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from blip2tools.checkpoints.family import demo_folder
from blip2tools.checkpoints.prompts import (
    CANDIDATE_TOKENS,
    MATCH_TOKENS,
    VQA_TEMPLATE,
    CaptionerText,
    MatcherText,
    PlainEncoder,
)
from tests.support import random_models as rm

BUDGET = 120


def words(family, budget=BUDGET, tokenizer=None):
    if family == "opt":
        reserved = {rm.OPT_PAD}
        return CaptionerText(
            tokenizer or rm.opt_tokenizer(), "opt", special=rm.OPT_BOS, budget=budget, reserved=reserved
        )
    return CaptionerText(tokenizer or rm.t5_tokenizer(), "t5", special=rm.T5_EOS, budget=budget, reserved={rm.T5_PAD})


def matcher_words():
    return MatcherText(rm.bert_tokenizer(), cls=rm.BERT_CLS, sep=rm.BERT_SEP)


@pytest.fixture(params=["opt", "t5"])
def family(request):
    return request.param


def body(prompt, family):
    return prompt.ids[1:] if family == "opt" else prompt.ids[:-1]


class TestRows:
    def test_opt_begins_with_its_only_bos(self):
        prompt = words("opt").caption("a photo of")
        assert prompt.ids[0] == rm.OPT_BOS
        assert prompt.ids.count(rm.OPT_BOS) == 1
        assert words("opt").decode(prompt.ids) == "a photo of"

    def test_t5_ends_with_its_only_eos(self):
        prompt = words("t5").caption("a photo of")
        assert prompt.ids[-1] == rm.T5_EOS
        assert prompt.ids.count(rm.T5_EOS) == 1

    def test_a_template_in_the_tokenizer_file_does_not_double_the_bos(self):
        """`add_bos_token` and templates come and go between versions of a tokenizer file; the row is the same."""
        with_template, without = rm.opt_tokenizer(), json.loads(rm.opt_tokenizer().to_str())
        without["post_processor"] = None
        bare = Tokenizer.from_str(json.dumps(without))
        assert with_template.encode("a").ids != bare.encode("a").ids
        assert words("opt", tokenizer=with_template).caption("a") == words("opt", tokenizer=bare).caption("a")

    @pytest.mark.parametrize("prompt", [None, "", "  \n"])
    def test_no_prompt_is_the_special_token_alone(self, family, prompt):
        special = rm.OPT_BOS if family == "opt" else rm.T5_EOS
        assert words(family).caption(prompt).ids == (special,)

    def test_spaces_and_lines_are_folded(self, family):
        assert words(family).caption(" a \n photo\tof ") == words(family).caption("a photo of")

    def test_truncation_and_padding_of_the_file_are_off(self):
        tokenizer = rm.opt_tokenizer()
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=50, pad_id=rm.OPT_PAD)
        assert len(words("opt", tokenizer=tokenizer).caption("a photo of").ids) == 1 + len("a photo of")

    def test_a_long_prompt_loses_its_beginning(self, family):
        prompt = words(family, budget=12).caption("b " * 30 + "end")
        assert prompt.truncated
        assert len(prompt.ids) == 12
        assert words(family).decode(prompt.ids).replace(" ", "").endswith("bend")
        assert not words(family).caption("a photo of").truncated


class TestQuestions:
    def text(self, family, prompt):
        return words(family).decode(prompt.ids)

    def test_the_trained_template(self, family):
        prompt = words(family).question("what is red?")
        assert self.text(family, prompt) == "Question: what is red? Short answer:"
        assert VQA_TEMPLATE == "Question: {question} Short answer:"

    def test_another_template(self, family):
        prompt = words(family).question("what is red?", template="Q: {question} A:")
        assert self.text(family, prompt) == "Q: what is red? A:"

    def test_braces_in_a_question_are_text(self):
        prompt = words("opt").question("is {question} or {0} there?")
        assert self.text("opt", prompt) == "Question: is {question} or {0} there? Short answer:"

    def test_a_dialogue_has_the_trained_form(self, family):
        prompt = words(family).question("is a dog red?", [("what is a dog", "a dog"), ("is a dog a dog?", "yes.")])
        assert self.text(family, prompt) == (
            "Question: what is a dog Answer: a dog. Question: is a dog a dog? Answer: yes. Question: is a dog red? Answer:"
        )

    def test_the_oldest_turns_go_first(self, family):
        history = [(f"what is {number}?", f"no {number}") for number in range(8)]
        budget = BUDGET if family == "opt" else 60
        prompt = words(family, budget).question("what is red?", history)
        text = self.text(family, prompt)
        assert prompt.truncated
        assert len(prompt.ids) <= budget
        assert text.endswith("Question: what is 7? Answer: no 7. Question: what is red? Answer:")
        assert text.startswith("Question: what is ")
        assert "what is 0?" not in text

    def test_the_dialogue_form_stays_when_no_turn_fits(self, family):
        prompt = words(family, budget=60).question("what is red?", [("b " * 80, "no")])
        assert self.text(family, prompt) == "Question: what is red? Answer:"
        assert prompt.truncated

    def test_a_question_too_long_keeps_its_end_and_the_template(self, family):
        prompt = words(family).question("b " * 200 + "what is red?")
        text = self.text(family, prompt)
        assert prompt.truncated
        assert text.startswith("Question: b b")
        assert text.endswith("what is red? Short answer:")
        assert BUDGET - 3 <= len(prompt.ids) <= BUDGET

    def test_one_endless_word_still_gives_a_row(self, family):
        prompt = words(family).question("b" * 900 + "?")
        assert prompt.truncated
        assert len(prompt.ids) == BUDGET
        assert self.text(family, prompt).endswith("bbb? Short answer:")

    def test_a_budget_below_the_template_still_gives_a_row(self, family):
        prompt = words(family, budget=4).question("what is red?")
        assert len(prompt.ids) == 4
        assert prompt.truncated

    def test_all_that_fits_is_kept(self, family):
        history = [("what is red?", "a dog")] * 2
        assert not words(family).question("is a dog red?", history).truncated


class TestCandidates:
    def test_opt_continues_with_a_space(self):
        text = words("opt")
        assert text.candidate("red") == tuple(rm.opt_tokenizer().encode(" red", add_special_tokens=False).ids)
        whole = text.question("what?").ids + text.candidate("red")
        assert whole == text.caption("Question: what? Short answer: red").ids

    def test_t5_begins_anew(self):
        assert words("t5").candidate(" red ") == tuple(rm.t5_tokenizer().encode("red", add_special_tokens=False).ids)

    def test_no_special_token_and_no_end(self, family):
        ids = words(family).candidate("a dog</s>")
        assert not {0, 1} & set(ids)
        assert rm.OPT_BOS not in ids or family == "t5"

    def test_at_most_32(self, family):
        assert len(words(family).candidate("b " * 100)) == CANDIDATE_TOKENS


SPECIAL = ["<image>", "</s>", "<pad>", "<s>", "<unk>", "<extra_id_0>", "[MASK]", "[CLS]", "[SEP]", "[PAD]", "[DEC]"]


class TestSpecialTokensAreText:
    """A caller's "</s>" must not end the text, nor its "<image>" become a picture's slot."""

    @pytest.mark.parametrize("typed", SPECIAL)
    def test_captioner(self, family, typed):
        tokenizer = rm.opt_tokenizer() if family == "opt" else rm.t5_tokenizer()
        special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.content != "<unk>"}
        own = rm.OPT_BOS if family == "opt" else rm.T5_EOS
        for prompt in (
            words(family).caption(f"a {typed} dog{typed}"),
            words(family).question(f"{typed}is it?", [(typed, typed)]),
        ):
            assert not special & set(body(prompt, family))
            assert prompt.ids.count(own) == 1

    @pytest.mark.parametrize("typed", ["<image>", "</s>", "<pad>", "<s>"])
    def test_byte_level_text_is_kept_to_the_letter(self, typed):
        assert words("opt").decode(words("opt").caption(f"a{typed}b").ids) == f"a{typed}b"

    def test_switching_recognition_off_is_not_enough_for_sentencepiece(self):
        """Why `PlainEncoder` looks at its result: the pieces of T5 hold the special tokens."""
        tokenizer = rm.t5_tokenizer()
        tokenizer.encode_special_tokens = True
        assert rm.T5_EOS in tokenizer.encode("a</s>", add_special_tokens=False).ids
        assert rm.T5_EOS not in PlainEncoder(rm.t5_tokenizer())("a</s>")

    @pytest.mark.parametrize("typed", ["</</s>s>", "<</s>/s>", "</s></s>", "<pad</s>>"])
    def test_nested_ones(self, typed):
        assert not {0, 1} & set(PlainEncoder(rm.t5_tokenizer(), {0, 1})(typed))

    @pytest.mark.parametrize("typed", SPECIAL)
    def test_matcher(self, typed):
        tokenizer = rm.bert_tokenizer()
        special = {n for n, added in tokenizer.get_added_tokens_decoder().items() if added.content != "[UNK]"}
        ids = matcher_words()(f"a {typed} dog").ids
        assert (ids[0], ids[-1]) == (rm.BERT_CLS, rm.BERT_SEP)
        assert not special & set(ids[1:-1])

    def test_added_tokens_that_are_not_special_too(self):
        tokenizer = rm.opt_tokenizer()
        tokenizer.add_tokens([AddedToken("<extra>", special=False)])
        ids = PlainEncoder(tokenizer)("a<extra>b")
        assert max(ids) < tokenizer.token_to_id("<extra>")

    def test_unknown_characters_are_unknown(self):
        assert 2 in PlainEncoder(rm.t5_tokenizer())("a \u2603")  # <unk>, an honest id
        assert 1 in matcher_words()("a \u2603").ids  # [UNK]

    def test_an_unknown_token_that_means_something_else_is_left_out(self):
        """OPT's tokenizer calls </s> its unknown token; it is the BOS."""
        assert rm.T5_EOS not in PlainEncoder(rm.t5_tokenizer(), {rm.T5_EOS, 2})("a \u2603")
        assert 2 not in PlainEncoder(rm.t5_tokenizer(), {2})("a \u2603")

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.sampled_from([*SPECIAL, "<", "/", "s", ">", " ", "a", "\n", "\u2581", "\u2603", "[", "]"]), max_size=12
        )
    )
    def test_whatever_is_typed(self, parts):
        text = "".join(parts)
        assert words("opt").caption(text).ids.count(rm.OPT_BOS) == 1
        assert words("t5").caption(text).ids.count(rm.T5_EOS) == 1
        assert not {0, 319} & set(words("t5").question(text).ids)
        row = matcher_words()(text).ids
        assert (row.count(rm.BERT_CLS), row.count(rm.BERT_SEP)) == (1, 1)


class TestMatcherText:
    def decoded(self, text):
        return rm.bert_tokenizer().decode(list(matcher_words()(text).ids))

    def test_bert_style(self):
        ids = matcher_words()("a red circle").ids
        assert ids == tuple(rm.bert_tokenizer().encode("a red circle").ids)

    @pytest.mark.parametrize(
        ("typed", "read"),
        [
            ("A RED Circle.", "a red circle"),
            ('a "red" (circle)!', "a red circle"),
            ("a *red* #circle; ~dog:", "a red circle dog"),
            ("  a\nred\tcircle ", "a red circle"),
            ("a.red.circle", "a red circle"),
        ],
    )
    def test_case_and_punctuation_as_in_lavis(self, typed, read):
        assert matcher_words()(typed) == matcher_words()(read)

    @pytest.mark.parametrize("kept", ["?", ",", "-", "'"])
    def test_punctuation_that_lavis_keeps(self, kept):
        assert matcher_words()(f"a {kept} dog") != matcher_words()("a dog")

    def test_punctuation_alone_is_kept(self):
        assert len(matcher_words()("...").ids) == 5

    def test_nothing_is_an_empty_row(self):
        assert matcher_words()("  ").ids == (rm.BERT_CLS, rm.BERT_SEP)

    def test_32_ids_at_most_and_it_says_so(self):
        fits, longer = matcher_words()("dog " * 30), matcher_words()("dog " * 31)
        assert len(fits.ids) == len(longer.ids) == MATCH_TOKENS
        assert (fits.truncated, longer.truncated) == (False, True)
        assert longer.ids[-1] == rm.BERT_SEP


class TestDemo:
    """The tokenizers inside the package."""

    def test_captioner_round_trip(self):
        tokenizer = Tokenizer.from_file(str(demo_folder("captioner") / "tokenizer.json"))
        text = CaptionerText(tokenizer, "opt", special=2, budget=80, reserved={1, 2})
        sentence = "a large red circle at the top left of a white background"
        assert text.decode(text.caption(sentence).ids) == sentence
        assert set(text.caption("</s><image><pad>").ids[1:]).isdisjoint({0, 1, 2, 3})

    def test_matcher(self):
        tokenizer = Tokenizer.from_file(str(demo_folder("matcher") / "tokenizer.json"))
        row = MatcherText(tokenizer, cls=2, sep=3)("A red [MASK] <image> circle.")
        assert (row.ids[0], row.ids[-1]) == (2, 3)
        assert not {0, 2, 3, 4, 171, 172} & set(row.ids[1:-1])
