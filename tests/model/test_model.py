"""The tensor side against the library's own path, one row at a time, in float32."""

from __future__ import annotations

import random
from itertools import pairwise
from unittest.mock import MagicMock, patch

import pytest
import torch
from PIL import Image

from blip2tools.model import Asked, Captioner, GenerationOptions, Matcher, Pixels, Trunk, cosine, fingerprint, language
from blip2tools.model.decoding import nucleus
from blip2tools.model.matcher import FEW, SHORT
from tests.support import random_models as rm


def replace(options, **given):
    return GenerationOptions(**{**options.model_dump(), **given})


GREEDY = GenerationOptions(num_beams=1)
BEAM = GenerationOptions(num_beams=4)
SEARCHES = [
    pytest.param(GREEDY, id="greedy"),
    pytest.param(GenerationOptions(num_beams=1, min_new_tokens=5, no_repeat_ngram_size=2), id="greedy-constrained"),
    pytest.param(BEAM, id="beam"),
    pytest.param(GenerationOptions(num_beams=5, length_penalty=-1.0), id="beam-short"),
    pytest.param(GenerationOptions(num_beams=5, length_penalty=0.0, min_new_tokens=4), id="beam-sum"),
]
LENGTHS = (0, 3, 7, 2, 11, 4)
CAPS = (12, 6, 12, 5, 12, 9)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=["opt", "t5"])
def family(request):
    return request.param


def library_model(family):
    return rm.opt() if family == "opt" else rm.t5()


@pytest.fixture
def captioner(family):
    return Captioner(library_model(family))


@pytest.fixture
def matcher():
    return Matcher(rm.matcher())


def rows(family, lengths=LENGTHS, seed=1):
    chance = random.Random(seed)
    bodies = [[chance.randrange(20, 300) for _ in range(length)] for length in lengths]
    return [[rm.OPT_BOS, *body] if family == "opt" else [*body, rm.T5_EOS] for body in bodies]


def texts(lengths=(3, 9, 1, 30, 5)):
    chance = random.Random(5)
    return [[rm.BERT_CLS, *(chance.randrange(10, 300) for _ in range(length)), rm.BERT_SEP] for length in lengths]


def stock(model, family, pixels, row, cap, **options):
    """New tokens of the library's own `generate` for one picture and one row, and its log-probability sum."""
    image = rm.OPT_IMAGE if family == "opt" else rm.T5_IMAGE
    ids = torch.tensor([[image] * rm.QUERIES + list(row)])
    eos = rm.OPT_EOS if family == "opt" else rm.T5_EOS
    pad = rm.OPT_PAD if family == "opt" else rm.T5_PAD
    out = model.generate(
        pixels[None],
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=cap,
        eos_token_id=eos,
        pad_token_id=pad,
        do_sample=False,
        **options,
    )
    new = out[0, ids.shape[1] if family == "opt" else 1 :].tolist()
    return tuple(new[: new.index(eos)] if eos in new else new), eos in new


def stock_options(options):
    given = {
        "num_beams": options.num_beams,
        "min_new_tokens": options.min_new_tokens,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
    }
    penalty = 1.0 if options.length_penalty is None else options.length_penalty
    return given | ({"length_penalty": penalty} if options.num_beams > 1 else {})


@torch.no_grad()
def teacher_forced(model, family, pixels, row, generated):
    """Summed log-probability of `generated` after the row, by one forward pass of the library's model."""
    image = rm.OPT_IMAGE if family == "opt" else rm.T5_IMAGE
    prefix = [image] * rm.QUERIES + list(row)
    if family == "opt":
        logits = model(pixel_values=pixels[None], input_ids=torch.tensor([prefix + list(generated)])).logits
        logits = logits[0, len(prefix) - 1 : -1]
    else:
        decoder = torch.tensor([[rm.T5_PAD, *generated[:-1]]])
        logits = model(pixel_values=pixels[None], input_ids=torch.tensor([prefix]), decoder_input_ids=decoder).logits[0]
    return logits.log_softmax(-1).gather(1, torch.tensor(generated)[:, None]).sum().item()


def generated(spoken, family):
    eos = rm.OPT_EOS if family == "opt" else rm.T5_EOS
    return [*spoken.ids, eos] if spoken.finish == "eos" else list(spoken.ids)


class TestTrunk:
    def test_layernorm_of_its_states_is_the_stock_output(self, family):
        model = library_model(family)
        pixels = rm.pixels(3)
        states = Trunk(model.vision_model).see(pixels)
        assert states.shape == (3, 17, 32)
        with torch.no_grad():
            expected = model.vision_model(pixels).last_hidden_state
            torch.testing.assert_close(model.vision_model.post_layernorm(states), expected, atol=2e-6, rtol=1e-5)

    def test_describes_itself(self):
        trunk = Trunk(rm.opt().vision_model)
        assert (trunk.image_size, trunk.dtype, trunk.device.type) == (rm.IMAGE_SIZE, torch.float32, "cpu")
        assert trunk.states_shape == (17, 32)

    @pytest.mark.parametrize("shape", [(3, 28, 28), (1, 3, 21, 21), (1, 3, 56, 56), (1, 1, 28, 28)])
    def test_refuses_pixels_of_another_size(self, shape):
        with pytest.raises(ValueError, match="pixels must be"):
            Trunk(rm.opt().vision_model).see(torch.zeros(shape))

    def test_states_can_be_kept_and_joined_outside(self, captioner):
        states = captioner.trunk.see(rm.pixels(2))
        assert not states.requires_grad
        joined = torch.cat([states.clone(), states.to(torch.float16).float()])
        assert captioner.query(joined).shape == (4, rm.QUERIES, 32)


class TestFingerprint:
    def test_same_weights_same_name(self):
        assert Trunk(rm.make_opt().vision_model).fingerprint == Trunk(rm.opt().vision_model).fingerprint
        assert Captioner(rm.make_opt()).fingerprint == Captioner(rm.opt()).fingerprint

    @pytest.mark.parametrize("place", [0, 1023, 3001, -1])
    def test_one_changed_value_changes_it(self, place):
        tensor = torch.randn(70, 60)
        before = fingerprint([("a", tensor)])
        tensor.view(-1)[place] += 1e-6
        assert fingerprint([("a", tensor)]) != before

    def test_order_name_shape_and_dtype_count(self):
        tensor = torch.randn(4, 6)
        named = {
            fingerprint([("a", value)])
            for value in (tensor, tensor.flip(0), tensor.reshape(6, 4), tensor.half(), tensor.bfloat16())
        }
        assert len(named) == 5
        assert fingerprint([("b", tensor)]) not in named

    def test_the_layernorm_belongs_to_the_captioner_not_to_the_trunk(self):
        one, other = rm.make_opt(), rm.make_opt()
        with torch.no_grad():
            other.vision_model.post_layernorm.weight += 0.5
        assert Trunk(one.vision_model).fingerprint == Trunk(other.vision_model).fingerprint
        assert Captioner(one).fingerprint != Captioner(other).fingerprint
        assert Matcher(rm.make_matcher(3)).fingerprint != Matcher(rm.make_matcher(4)).fingerprint


class TestQuery:
    def test_image_tokens_are_the_stock_ones(self, captioner, family):
        pixels = rm.pixels(3)
        tokens = captioner.query(captioner.trunk.see(pixels))
        with torch.no_grad():
            expected = library_model(family).get_image_features(pixels).pooler_output
        torch.testing.assert_close(tokens, expected, atol=2e-6, rtol=1e-5)

    def test_pictures_differ(self, captioner):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        assert (tokens[0] - tokens[1]).abs().max() > 0.05

    def test_the_q_former_is_float32_whatever_the_rest_is(self):
        captioner = Captioner(rm.make_opt().to(torch.bfloat16))
        assert {parameter.dtype for parameter in captioner._qformer.parameters()} == {torch.float32}
        assert captioner._query_tokens.dtype == torch.float32
        assert captioner.dtype == captioner.trunk.dtype == torch.bfloat16
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        assert tokens.dtype == torch.bfloat16
        [[spoken]] = captioner.speak(tokens, rows("opt", [2]), BEAM, max_new_tokens=[4])
        assert spoken.logprob < 0


class TestSpeak:
    @pytest.mark.parametrize("options", SEARCHES)
    def test_same_tokens_as_the_library_alone_and_in_a_batch(self, captioner, family, options):
        model, pixels, prompts = library_model(family), rm.pixels(len(LENGTHS)), rows(family)
        tokens = captioner.query(captioner.trunk.see(pixels))
        # The library counts the prompt of OPT among the n-grams; compare without one where that would matter.
        compared = replace(options, no_repeat_ngram_size=0) if family == "opt" else options
        expected = [
            stock(model, family, pixels[row], prompts[row], CAPS[row], **stock_options(compared))
            for row in range(len(prompts))
        ]
        alone = [
            captioner.speak(tokens[row : row + 1], prompts[row : row + 1], compared, max_new_tokens=[CAPS[row]])[0]
            for row in range(len(prompts))
        ]
        together = captioner.speak(tokens, prompts, compared, max_new_tokens=CAPS)
        assert [spoken.ids for [spoken] in alone] == [ids for ids, _ in expected]
        assert [spoken.ids for [spoken] in together] == [ids for ids, _ in expected]
        assert [spoken.finish == "eos" for [spoken] in together] == [closed for _, closed in expected]
        assert len({ids for ids, _ in expected}) >= 5  # or the comparison would prove little

    def test_some_texts_end_and_some_are_cut(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(6)))
        spoken = [text for [text] in captioner.speak(tokens, rows(family), BEAM, max_new_tokens=[12] * 6)]
        assert {text.finish for text in spoken} == {"eos", "length"}
        for text in spoken:
            assert text.tokens == len(text.ids) + (text.finish == "eos")
            assert rm.OPT_EOS not in text.ids or family == "t5"

    @pytest.mark.parametrize(
        "options",
        [
            *SEARCHES,
            pytest.param(GenerationOptions(num_beams=1, repetition_penalty=1.7), id="greedy-penalty"),
            pytest.param(GenerationOptions(num_beams=4, repetition_penalty=1.7, num_return_sequences=3), id="beam-3"),
            pytest.param(GenerationOptions(do_sample=True, seed=4, top_p=0.8, num_return_sequences=2), id="sampled"),
        ],
    )
    def test_confidence_is_that_of_a_teacher_forced_pass(self, captioner, family, options):
        model, pixels, prompts = library_model(family), rm.pixels(6), rows(family)
        tokens = captioner.query(captioner.trunk.see(pixels))
        for row, spoken in enumerate(captioner.speak(tokens, prompts, options, max_new_tokens=CAPS)):
            assert len(spoken) == options.num_return_sequences
            for text in spoken:
                new = generated(text, family)
                total = teacher_forced(model, family, pixels[row], prompts[row], new)
                assert text.tokens == len(new)
                assert text.logprob == pytest.approx(total / len(new), abs=1e-4)

    def test_alternatives_of_a_beam_search_are_the_librarys(self, captioner, family):
        model, pixels, prompts = library_model(family), rm.pixels(2), rows(family, [3, 8])
        tokens = captioner.query(captioner.trunk.see(pixels))
        options = replace(BEAM, num_return_sequences=3)
        for row, texts_of_row in enumerate(captioner.speak(tokens, prompts, options, max_new_tokens=[8, 8])):
            image = rm.OPT_IMAGE if family == "opt" else rm.T5_IMAGE
            ids = torch.tensor([[image] * rm.QUERIES + prompts[row]])
            out = model.generate(
                pixels[row : row + 1],
                input_ids=ids,
                num_beams=4,
                num_return_sequences=3,
                min_new_tokens=1,
                max_new_tokens=8,
                eos_token_id=captioner.eos,
                pad_token_id=captioner.pad,
            )[:, ids.shape[1] if family == "opt" else 1 :].tolist()
            expected = [tuple(new[: new.index(captioner.eos)] if captioner.eos in new else new) for new in out]
            assert [text.ids for text in texts_of_row] == expected

    def test_a_penalised_row_does_not_depend_on_its_neighbours(self, captioner, family):
        """The library's own penalty would skip as many generated tokens as a row has padding on the left."""
        prompts = rows(family, [0, 12])
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        for options in (GREEDY, BEAM):
            penalised = replace(options, repetition_penalty=2.5)
            [[alone]] = captioner.speak(tokens[:1], prompts[:1], penalised, max_new_tokens=[12])
            [[together], _] = captioner.speak(tokens, prompts, penalised, max_new_tokens=[12, 12])
            assert alone.ids == together.ids
            assert len(set(alone.ids)) > len(alone.ids) // 2

    def test_penalties_of_t5_are_the_librarys(self):
        captioner, pixels = Captioner(rm.t5()), rm.pixels(3)
        prompts = rows("t5", [2, 6, 4])
        tokens = captioner.query(captioner.trunk.see(pixels))
        options = GenerationOptions(num_beams=3, repetition_penalty=1.4, no_repeat_ngram_size=2, min_new_tokens=3)
        spoken = captioner.speak(tokens, prompts, options, max_new_tokens=[9] * 3)
        for row in range(3):
            given = {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
            assert spoken[row][0].ids == stock(rm.t5(), "t5", pixels[row], prompts[row], 9, **given)[0]

    def test_generation_defaults_of_a_checkpoint_count_for_nothing(self, family):
        model = rm.make_opt() if family == "opt" else rm.make_t5()
        for holder in (model, model.language_model):
            holder.generation_config.max_new_tokens = 1
            holder.generation_config.num_beams = 3
            holder.generation_config.repetition_penalty = 9.0
        captioner = Captioner(model)
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        spoken = captioner.speak(tokens, rows(family, [4]), GREEDY, max_new_tokens=[7])[0][0]
        reference = Captioner(library_model(family))
        assert spoken == reference.speak(tokens, rows(family, [4]), GREEDY, max_new_tokens=[7])[0][0]

    def test_picture_and_prompt_both_matter(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        first, second = rows(family, [5, 5])
        spoken = captioner.speak(
            tokens[[0, 1, 0]], [first, first, second], GenerationOptions(num_beams=1), max_new_tokens=[8] * 3
        )
        assert len({text.logprob for [text] in spoken}) == 3

    def test_opt_ends_where_its_positions_end(self):
        captioner = Captioner(rm.opt())
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        positions = rm.opt().config.text_config.max_position_embeddings
        row = [rm.OPT_BOS, *[50] * (positions - rm.QUERIES - 4)]
        options = replace(GREEDY, min_new_tokens=30)
        [[spoken]] = captioner.speak(tokens, [row], options, max_new_tokens=[30])
        assert (spoken.tokens, spoken.finish) == (4, "length")
        with pytest.raises(ValueError, match="no room"):
            captioner.speak(tokens, [[*row, *[50] * 4]], options, max_new_tokens=[30])

    @pytest.mark.parametrize(
        "broken",
        [
            pytest.param(lambda t, r: (t, [[5, 6]], [3]), id="no special token"),
            pytest.param(lambda t, r: (t, [[]], [3]), id="empty"),
            pytest.param(lambda t, r: (t, [r[0] + r[0]], [3]), id="special token twice"),
            pytest.param(lambda t, r: (t, [[r[0][0], 400, r[0][-1]]], [3]), id="outside the vocabulary"),
            pytest.param(lambda t, r: (t[:, :-1], r, [3]), id="a slot short"),
            pytest.param(lambda t, r: (t, r + r, [3, 3]), id="more prompts than pictures"),
            pytest.param(lambda t, r: (t, r, [3, 3]), id="more lengths than prompts"),
            pytest.param(lambda t, r: (t, r, [0]), id="no token allowed"),
        ],
    )
    def test_refuses_what_does_not_fit(self, captioner, family, broken):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        tokens, prompts, caps = broken(tokens, rows(family, [1]))
        with pytest.raises(ValueError):
            captioner.speak(tokens, prompts, GREEDY, max_new_tokens=caps)

    def test_another_language_model_is_refused(self):
        model = rm.make_opt()
        model.config.text_config.model_type = "llama"
        with pytest.raises(ValueError, match="neither OPT nor T5"):
            Captioner(model)


class TestStopping:
    @pytest.mark.parametrize("options", [GREEDY, BEAM, GenerationOptions(do_sample=True, seed=1)])
    def test_a_stopped_row_ends_at_its_next_token_and_the_others_go_on(self, captioner, family, options):
        options = replace(options, min_new_tokens=10)
        tokens = captioner.query(captioner.trunk.see(rm.pixels(3)))
        prompts = rows(family, [3, 1, 5])
        expected = captioner.speak(tokens, prompts, options, max_new_tokens=[10] * 3)
        asked = []

        def stop(row):
            asked.append(row)
            return row == 1 and asked.count(1) >= 3

        spoken = captioner.speak(tokens, prompts, options, max_new_tokens=[10] * 3, stop=stop)
        assert (spoken[1][0].finish, spoken[1][0].tokens) == ("stopped", 3)
        for row in (0, 2):  # in a smaller batch by then: the same tokens, and the same sums but for rounding
            assert [text.ids for text in spoken[row]] == [text.ids for text in expected[row]]
            assert spoken[row][0].logprob == pytest.approx(expected[row][0].logprob, abs=1e-5)
        assert asked.count(1) == 3  # never again once stopped
        assert asked.count(0) >= 8

    @pytest.mark.parametrize("options", [GREEDY, BEAM])
    def test_a_batch_without_live_rows_ends(self, captioner, family, options, monkeypatch):
        steps = []
        original = type(captioner._words).extend

        def counted(self, *args, **kwargs):
            steps.append(1)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(type(captioner._words), "extend", counted)
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        spoken = captioner.speak(
            tokens,
            rows(family, [3, 1]),
            replace(options, min_new_tokens=20),
            max_new_tokens=[20, 20],
            stop=lambda row: True,
        )
        assert [text.finish for [text] in spoken] == ["stopped", "stopped"]
        assert len(steps) <= 2

    def test_every_sample_of_a_stopped_row_ends(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        options = GenerationOptions(do_sample=True, seed=1, num_return_sequences=3, min_new_tokens=8)
        spoken = captioner.speak(
            tokens, rows(family, [3, 1]), options, max_new_tokens=[8, 8], stop=lambda row: row == 0
        )
        assert [text.tokens for text in spoken[0]] == [1, 1, 1]
        assert [text.tokens for text in spoken[1]] == [8, 8, 8]

    def test_a_row_that_ended_by_itself_is_not_stopped(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(6)))
        free = captioner.speak(tokens, rows(family), GREEDY, max_new_tokens=[12] * 6)
        ended = next(row for row, [text] in enumerate(free) if text.finish == "eos")
        length = free[ended][0].tokens
        polls = []

        def stop(row):
            polls.append(row)
            return row == ended and polls.count(row) > length

        spoken = captioner.speak(tokens, rows(family), GREEDY, max_new_tokens=[12] * 6, stop=stop)
        assert spoken == free


class TestJoining:
    """Rows that join a running batch get the words that they would get alone, and change nothing for the others."""

    JOINED = ((0, [0, 1]), (1, [2]), (4, [3, 4]), (5, [5]))  # before which token, and who

    def speak(self, captioner, family, options):
        tokens, prompts = captioner.query(captioner.trunk.see(rm.pixels(len(LENGTHS)))), rows(family)
        parts = list(self.JOINED[1:])
        steps, joins = [], []
        join = type(captioner._words).join

        def joined(words, batch, others):
            joins.append(len(others.starts))
            return join(words, batch, others)

        def asked(which):
            return Asked(tokens[which], [prompts[row] for row in which], [CAPS[row] for row in which])

        def more():
            steps.append(1)
            if parts and len(steps) >= parts[0][0]:
                return asked(parts.pop(0)[1])
            return None

        first = asked(self.JOINED[0][1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(captioner._words), "join", joined)
            together = captioner.speak(
                first.image_tokens, first.prompts, options, max_new_tokens=first.max_new_tokens, more=more
            )
        assert not parts
        assert len(joins) >= 2  # or nobody joined anybody
        alone = [
            captioner.speak(tokens[row : row + 1], prompts[row : row + 1], options, max_new_tokens=[CAPS[row]])[0]
            for row in range(len(prompts))
        ]
        return together, alone

    @pytest.mark.parametrize(
        "options",
        [
            *SEARCHES,
            GREEDY,
            replace(GREEDY, repetition_penalty=2.5, no_repeat_ngram_size=2, min_new_tokens=6),
            GenerationOptions(do_sample=True, seed=5, num_return_sequences=3),
        ],
    )
    def test_same_tokens_as_alone(self, captioner, family, options):
        together, alone = self.speak(captioner, family, options)
        for one, other in zip(together, alone, strict=True):
            assert [(text.ids, text.finish) for text in one] == [(text.ids, text.finish) for text in other]
            assert [text.logprob for text in one] == pytest.approx([text.logprob for text in other], abs=1e-5)

    def test_who_stops_and_who_is_told_go_by_the_number_of_the_row(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        prompts, told, asked = rows(family, [3, 5]), [], []

        def more():
            asked.append(1)
            return Asked(tokens[1:], prompts[1:], [10]) if len(asked) == 2 else None

        spoken = captioner.speak(
            *(tokens[:1], prompts[:1], replace(GREEDY, min_new_tokens=10)),
            max_new_tokens=[10],
            stop=lambda row: row == 1 and len(asked) > 4,
            said=lambda row, texts: told.append((row, texts)),
            more=more,
        )
        assert [text.finish for [text] in spoken] == ["length", "stopped"]
        assert told == [(1, spoken[1]), (0, spoken[0])]

    def test_a_batch_that_is_joined_for_ever_does_not_grow(self, captioner, family):
        tokens, prompts = captioner.query(captioner.trunk.see(rm.pixels(1))), rows(family, [3])
        forced, places, left = replace(GREEDY, min_new_tokens=8), [], []

        def more():
            left.append(1)
            if len(left) % 3 or len(left) > 120:
                return None
            return Asked(tokens, prompts, [8])

        join = type(captioner._words).join

        def joined(words, one, other):
            both = join(words, one, other)
            places.append(both.own.shape[4])
            return both

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(captioner._words), "join", joined)
            spoken = captioner.speak(tokens, prompts, forced, max_new_tokens=[8], more=more)
        assert len(spoken) == 41
        assert len({text.ids for [text] in spoken}) == 1
        assert len(places) > 10
        assert max(places) <= 2 * 8 + 1

    def test_what_does_not_fit_is_refused_in_the_middle_too(self, captioner, family):
        tokens, prompts = captioner.query(captioner.trunk.see(rm.pixels(1))), rows(family, [3])
        with pytest.raises(ValueError):
            captioner.speak(
                *(tokens, prompts, GREEDY), max_new_tokens=[4], more=lambda: Asked(tokens, prompts * 2, [4, 4])
            )


class TestSampling:
    OPTIONS = GenerationOptions(do_sample=True, seed=11, top_p=0.95, num_return_sequences=2)

    def speak(self, captioner, family, options, which=(0, 1, 2)):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(3)))[list(which)]
        prompts = [rows(family, [3, 1, 6])[row] for row in which]
        return captioner.speak(tokens, prompts, options, max_new_tokens=[9] * len(prompts))

    def test_a_seed_repeats_whatever_the_global_state(self, captioner, family):
        torch.manual_seed(1)
        first = self.speak(captioner, family, self.OPTIONS)
        torch.manual_seed(2)
        random.seed(3)
        assert self.speak(captioner, family, self.OPTIONS) == first

    def test_sampling_leaves_the_global_state_alone(self, captioner, family):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        self.speak(captioner, family, self.OPTIONS)
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_row_does_not_depend_on_its_neighbours(self, captioner, family):
        together = self.speak(captioner, family, self.OPTIONS)
        for row in range(3):
            [alone] = self.speak(captioner, family, self.OPTIONS, which=(row,))
            assert [text.ids for text in alone] == [text.ids for text in together[row]]

    def test_samples_seeds_and_fresh_calls_differ(self, captioner, family):
        first = self.speak(captioner, family, self.OPTIONS)[0]
        assert first[0].ids != first[1].ids
        assert self.speak(captioner, family, replace(self.OPTIONS, seed=12))[0] != first
        fresh = replace(self.OPTIONS, seed=None)
        assert self.speak(captioner, family, fresh) != self.speak(captioner, family, fresh)

    def test_a_nearly_empty_nucleus_is_greedy(self, captioner, family):
        spoken = self.speak(captioner, family, replace(self.OPTIONS, top_p=1e-6, num_return_sequences=1))
        assert [text.ids for [text] in spoken] == [
            text.ids for [text] in self.speak(captioner, family, replace(GREEDY, min_new_tokens=1))
        ]

    def test_shares_are_those_of_the_nucleus(self):
        probabilities = torch.tensor([0.05, 0.5, 0.15, 0.3])
        stream = random.Random(7)
        drawn = [int(nucleus(probabilities.log()[None], 1.0, 0.75, [stream.random()])) for _ in range(4000)]
        shares = [drawn.count(token) / 4000 for token in range(4)]
        assert shares[0] == shares[2] == 0
        assert shares[1] == pytest.approx(0.5 / 0.8, abs=0.03)

    def test_temperature_sharpens(self):
        stream, scores = random.Random(7), torch.tensor([[0.6, 0.4]]).log()
        drawn = [int(nucleus(scores, 0.5, 1.0, [stream.random()])) for _ in range(4000)]
        assert drawn.count(0) / 4000 == pytest.approx(0.36 / 0.52, abs=0.03)

    def test_a_forbidden_token_is_never_drawn(self):
        scores = torch.tensor([[0.0, float("-inf"), -3.0, float("-inf")]])
        assert int(nucleus(scores, 1.0, 1.0, [1 - 2**-53])) == 2


class TestRank:
    def test_scores_are_those_of_teacher_forced_passes(self, captioner, family):
        model, pixels = library_model(family), rm.pixels(1)
        tokens = captioner.query(captioner.trunk.see(pixels))
        [row] = rows(family, [6])
        candidates = [[30], [40, 41, 42], [50, 51], [30, 31, 32, 33, 34, 35]]
        for (total, count), candidate in zip(captioner.rank(tokens, row, candidates), candidates, strict=True):
            full = [*candidate, captioner.eos]
            assert total == pytest.approx(teacher_forced(model, family, pixels[0], row, full), abs=1e-4)
            assert count == len(full)

    def test_many_candidates_go_in_chunks(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        [row] = rows(family, [2])
        candidates = [[20 + number, *[60] * (number % 4)] for number in range(70)]
        scores = captioner.rank(tokens, row, candidates)
        assert len(scores) == 70
        for number in (0, 31, 32, 69):
            [(total, count)] = captioner.rank(tokens, row, [candidates[number]])
            assert scores[number] == (pytest.approx(total, abs=1e-4), count)

    @pytest.mark.parametrize("candidates", [[], [[]], [[5], []], [[400]], [[-1]], [[7] * 90]])
    def test_refuses_what_does_not_fit(self, candidates):
        captioner = Captioner(rm.opt())
        tokens = captioner.query(captioner.trunk.see(rm.pixels(1)))
        with pytest.raises(ValueError):
            captioner.rank(tokens, [rm.OPT_BOS], candidates)

    def test_one_picture_only(self, captioner, family):
        tokens = captioner.query(captioner.trunk.see(rm.pixels(2)))
        with pytest.raises(ValueError, match="one picture"):
            captioner.rank(tokens, rows(family, [1])[0], [[5]])


class TestMatcher:
    @torch.no_grad()
    def stock(self, model, pixels, ids, itm):
        """The library's own scores of pairs (ITM) or of all with all (ITC), texts one by one."""
        scores = []
        for number, row in enumerate(ids):
            given = {
                "input_ids": torch.tensor([row]),
                "attention_mask": torch.ones(1, len(row), dtype=torch.long),
                "use_image_text_matching_head": itm,
            }
            picture = pixels[number : number + 1] if itm else pixels
            scores.append(model(pixel_values=picture, **given).logits_per_image)
        return torch.cat(scores) if itm else torch.cat(scores, 1)

    def test_itm_is_the_stock_score_alone_and_in_a_batch(self, matcher):
        pixels, ids = rm.pixels(5), texts()
        states = matcher.trunk.see(pixels)
        expected = self.stock(rm.matcher(), pixels, ids, itm=True)
        torch.testing.assert_close(matcher.match(states, ids), expected, atol=1e-5, rtol=0)
        for number, row in enumerate(ids):
            alone = matcher.match(states[number : number + 1], [row])
            torch.testing.assert_close(alone, expected[number : number + 1], atol=1e-5, rtol=0)

    def test_one_picture_is_broadcast_over_many_texts(self, matcher):
        pixels, ids = rm.pixels(1), texts()
        expected = self.stock(rm.matcher(), pixels.expand(len(ids), -1, -1, -1), ids, itm=True)
        logits = matcher.match(matcher.trunk.see(pixels), ids)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        assert logits.std(0).min() > 1e-3  # texts are told apart

    def test_kept_keys_give_the_stock_score(self, matcher):
        pixels, ids = rm.pixels(2), texts()
        keys = matcher.keys(matcher.trunk.see(pixels))
        for number in range(2):
            expected = self.stock(rm.matcher(), pixels[number].expand(len(ids), -1, -1, -1), ids, itm=True)
            kept = matcher.match_kept(keys[number : number + 1], ids)
            torch.testing.assert_close(kept, expected, atol=1e-5, rtol=0)
        with pytest.raises(ValueError, match="one picture"):
            matcher.match_kept(keys, ids)

    def test_texts_that_were_read_before_have_the_stock_score_of_another_picture(self):
        matcher, ids = Matcher(rm.make_matcher()), texts()
        pixels = rm.pixels(2)
        states = matcher.trunk.see(pixels)
        matcher.match(states[:1], ids[:2])
        matcher.match(states[:1], ids[2:3])
        read = MagicMock(side_effect=matcher._reader.opening)
        with patch.object(matcher._reader, "opening", read):
            for known in ([ids[2]], [ids[2], ids[0]], ids[:2], ids[1:3] * 2):
                expected = self.stock(rm.matcher(), pixels[1].expand(len(known), -1, -1, -1), known, itm=True)
                torch.testing.assert_close(matcher.match(states[1:], known), expected, atol=1e-5, rtol=0)
        assert not read.called

    def test_keeps_little_of_the_texts_it_read(self):
        matcher = Matcher(rm.make_matcher())
        assert matcher.most_openings > 1000  # of this size
        matcher.most_openings = 3
        states = matcher.trunk.see(rm.pixels(1))
        for text in ([2, 3, 4], [2, 4, 4], [2, 5, 4], [2, 3, 4], [2, 6, 4], [2] * (SHORT + 1)):
            matcher.match(states, [text])
        matcher.match(states, [[2, 4, 5, 6]] * (FEW + 1))
        assert [*matcher._openings] == [(2, 5, 4), (2, 3, 4), (2, 6, 4)]

    def test_texts_may_be_about_any_of_several_pictures(self, matcher):
        pixels, ids, pictures = rm.pixels(3), texts(), [2, 0, 0, 2, 1]
        expected = self.stock(rm.matcher(), pixels[pictures], ids, itm=True)
        states = matcher.trunk.see(pixels)
        torch.testing.assert_close(matcher.match(states, ids, pictures), expected, atol=1e-5, rtol=0)
        for wrong in ([0, 1], [0, 0, 0, 0, 3], [0, 0, 0, 0, -1]):
            with pytest.raises(ValueError, match="number of a picture"):
                matcher.match(states, ids, wrong)

    def test_a_spread_matcher_has_its_modules_called_and_the_same_scores(self, matcher):
        """A module with a hook brings its weights when it is called, and only then."""
        model, called = rm.make_matcher(), []
        for module in model.qformer.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
                module._hf_hook = object()
                module.register_forward_pre_hook(lambda module, given: called.append(module))
        spread, states, ids = Matcher(model), matcher.trunk.see(rm.pixels(1)), texts()
        torch.testing.assert_close(spread.match(states, ids), matcher.match(states, ids), atol=1e-6, rtol=0)
        torch.testing.assert_close(spread.text_features(ids), matcher.text_features(ids), atol=1e-6, rtol=0)
        every = {one for one in model.qformer.modules() if isinstance(one, torch.nn.Linear | torch.nn.LayerNorm)}
        assert set(called) == every

    def test_joined_projections_are_held_once(self):
        matcher = Matcher(rm.make_matcher())
        for layer in matcher._qformer.encoder.layer:
            own = layer.attention.attention
            held = {part.weight.untyped_storage().data_ptr() for part in (own.query, own.key, own.value)}
            assert len(held) == 1

    def test_itc_is_the_stock_score(self, matcher):
        pixels, ids = rm.pixels(3), texts()
        images = matcher.image_features(matcher.trunk.see(pixels))
        words = matcher.text_features(ids)
        assert (images.shape, words.shape) == ((3, rm.QUERIES, 16), (5, 16))
        torch.testing.assert_close(images.norm(dim=-1), torch.ones(3, rm.QUERIES))
        torch.testing.assert_close(words.norm(dim=-1), torch.ones(5))
        expected = self.stock(rm.matcher(), pixels, ids, itm=False)
        torch.testing.assert_close(cosine(images, words), expected, atol=1e-5, rtol=0)

    def test_an_image_token_in_the_configuration_changes_nothing(self):
        """The stock forward then cuts as many ids as there are queries, whatever they are: texts become equal."""
        with_token = Matcher(rm.make_matcher(image_token=318))
        plain = Matcher(rm.make_matcher())
        states, ids = plain.trunk.see(rm.pixels(1)), texts()
        assert torch.equal(with_token.match(states, ids), plain.match(states, ids))
        assert torch.equal(with_token.text_features(ids), plain.text_features(ids))

    def test_features_from_kept_states_are_bit_equal(self, matcher):
        pixels, ids = rm.pixels(2), texts()[:2]
        kept = matcher.trunk.see(pixels).clone()
        fresh = matcher.trunk.see(pixels)
        assert torch.equal(matcher.image_features(kept), matcher.image_features(fresh))
        assert torch.equal(matcher.match(kept, ids), matcher.match(fresh, ids))

    def test_logits_are_logits(self, matcher):
        """A probability of one softmax may pass 73 %, which two in a row never do."""
        with torch.no_grad():
            model = rm.make_matcher()
            model.itm_head.bias.copy_(torch.tensor([-6.0, 6.0]))
        logits = Matcher(model).match(matcher.trunk.see(rm.pixels(1)), texts()[:1])
        assert logits.softmax(-1)[0, 1] > 0.95

    def test_keeps_its_own_layernorm_on_a_shared_trunk(self):
        captioner_model, matcher_model = rm.make_opt(), rm.make_matcher()
        own = Trunk(matcher_model.vision_model)
        with torch.no_grad():
            for (_, mine), (_, shared) in zip(
                own.named_tensors(), Trunk(captioner_model.vision_model).named_tensors(), strict=True
            ):
                mine.copy_(shared)
        pixels, ids = rm.pixels(2), texts()[:2]
        expected = self.stock(matcher_model, pixels, ids, itm=True)
        captioner = Captioner(captioner_model)
        matcher = Matcher(matcher_model, captioner.trunk)
        states = captioner.trunk.see(pixels)
        assert matcher.trunk is captioner.trunk
        torch.testing.assert_close(matcher.match(states, ids), expected, atol=1e-5, rtol=0)
        ours, theirs = matcher._post_layernorm, captioner._post_layernorm
        assert not torch.equal(ours.weight, theirs.weight)

    def test_is_float32_behind_a_half_precision_trunk(self):
        matcher = Matcher(rm.make_matcher().to(torch.float16))
        assert matcher.trunk.dtype == torch.float16
        states = matcher.trunk.see(rm.pixels(1))
        assert matcher.match(states, texts()).dtype == torch.float32
        assert cosine(matcher.image_features(states), matcher.text_features(texts())).dtype == torch.float32

    @pytest.mark.parametrize("ids", [[], [[]], [[1, 2], []], [[1] * 65], [[400]], [[-2]]])
    def test_refuses_what_does_not_fit(self, matcher, ids):
        states = matcher.trunk.see(rm.pixels(1))
        with pytest.raises(ValueError):
            matcher.match(states, ids)
        with pytest.raises(ValueError):
            matcher.text_features(ids)

    def test_as_many_pictures_as_texts(self, matcher):
        with pytest.raises(ValueError, match="one picture"):
            matcher.match(matcher.trunk.see(rm.pixels(2)), texts()[:3])


class TestPixels:
    PICTURE = Image.radial_gradient("L").convert("RGB").resize((90, 40))

    def test_equals_pillow_by_hand(self):
        pixels = Pixels(rm.image_processor())(self.PICTURE)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        resized = self.PICTURE.resize((rm.IMAGE_SIZE, rm.IMAGE_SIZE), Image.Resampling.BICUBIC)
        values = torch.tensor(list(resized.get_flattened_data())).reshape(rm.IMAGE_SIZE, rm.IMAGE_SIZE, 3) / 255
        expected = ((values - mean) / std).permute(2, 0, 1)
        assert (pixels.dtype, pixels.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(pixels[0], expected, atol=1e-6, rtol=0)

    def test_several_pictures(self):
        pixels = Pixels(rm.image_processor())
        other = self.PICTURE.rotate(90, expand=True)
        both = pixels([self.PICTURE, other])
        assert torch.equal(both, torch.cat([pixels(self.PICTURE), pixels(other)]))

    @pytest.mark.parametrize(
        "given",
        [
            "https://example.com/a.png",
            "/etc/hostname",
            ["a.png"],
            b"\x89PNG",
            [b"\x89PNG"],
            [None],
            torch.zeros(3, 8, 8),
        ],
    )
    def test_anything_but_pictures_is_a_type_error(self, given, monkeypatch):
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
        pixels = Pixels(rm.image_processor())
        with pytest.raises(TypeError):
            pixels(given)

    @pytest.mark.parametrize("given", [[], Image.new("L", (4, 4)), [Image.new("RGBA", (4, 4))]])
    def test_pictures_must_be_rgb(self, given):
        with pytest.raises(ValueError):
            Pixels(rm.image_processor())(given)

    def test_the_key_names_what_decides_the_pixels(self):
        processor = rm.image_processor()
        other = rm.image_processor()
        other.image_mean = [0.5, 0.5, 0.5]
        keys = {Pixels(processor).key, Pixels(other).key, Pixels(rm.image_processor(56)).key}
        assert len(keys) == 3
        assert Pixels(rm.image_processor()).key in keys

    def test_a_size_that_is_not_square_is_refused(self):
        processor = rm.image_processor()
        processor.size = {"height": 28, "width": 56}
        with pytest.raises(ValueError, match="square"):
            Pixels(processor)


class TestOptions:
    def test_equal_options_can_be_grouped(self):
        assert len({GenerationOptions(), GenerationOptions(num_beams=5), GenerationOptions(seed=1)}) == 2

    def test_width_is_the_rows_that_a_request_takes(self):
        assert GenerationOptions(num_beams=4, num_return_sequences=2).width == 4
        assert GenerationOptions(num_beams=4, num_return_sequences=3, do_sample=True).width == 3

    @pytest.mark.parametrize(
        "values",
        [
            {"num_beams": 0},
            {"num_beams": 2, "num_return_sequences": 3},
            {"temperature": 0},
            {"top_p": 0},
            {"top_p": 1.1},
            {"repetition_penalty": 0},
            {"min_new_tokens": -1},
            {"no_repeat_ngram_size": -1},
            {"num_return_sequences": 0},
        ],
    )
    def test_refuses_values_without_meaning(self, values):
        with pytest.raises(ValueError):
            GenerationOptions(**values)


def test_rows_come_back_in_their_order(family, captioner):
    """Rows come back in the order they went in, whatever their lengths."""
    prompts = rows(family, [9, 0, 5, 2])
    tokens = captioner.query(captioner.trunk.see(rm.pixels(4)))
    forth = captioner.speak(tokens, prompts, GREEDY, max_new_tokens=[6] * 4)
    back = captioner.speak(tokens.flip(0), prompts[::-1], GREEDY, max_new_tokens=[6] * 4)
    assert [text.ids for [text] in forth] == [text.ids for [text] in back[::-1]]
    assert all(one != other for one, other in pairwise(forth))


@pytest.mark.parametrize("family", ["opt", "t5"])
def test_projections_joined_into_one_product_say_the_same_and_take_no_more_memory(family, monkeypatch):
    """As on a GPU."""
    prompts, options = rows(family, (0, 3, 7)), GenerationOptions(num_beams=3)

    def said(model):
        captioner = Captioner(model)
        tokens = captioner.query(captioner.trunk.see(rm.pixels(3)))
        texts = captioner.speak(tokens, prompts, options, max_new_tokens=[9] * 3)
        return [text.ids for row in texts for text in row], captioner.rank(tokens[:1], prompts[1], [[7, 8], [9]])

    make = rm.make_opt if family == "opt" else rm.make_t5
    apart, scores = said(make())
    monkeypatch.setattr(language, "JOINED", ("cpu",))
    monkeypatch.setattr(torch.nn.Linear, "forward", never_of_projections(torch.nn.Linear.forward))
    model = make()
    texts = model.language_model
    one = texts.model.decoder.layers[0].self_attn if family == "opt" else texts.decoder.block[0].layer[0].SelfAttention
    parts = (one.q_proj, one.k_proj, one.v_proj) if family == "opt" else (one.q, one.k, one.v)
    for part in parts:
        part.joined = True
    together, joined_scores = said(model)
    assert together == apart
    assert [total for total, _ in joined_scores] == pytest.approx([total for total, _ in scores], abs=1e-4)


def never_of_projections(right):
    def forward(part, states):
        assert not hasattr(part, "joined"), "a projection was called by itself"
        return right(part, states)

    return forward


def test_joined_projections_lie_in_one_memory_and_offloaded_ones_stay_apart(monkeypatch):
    monkeypatch.setattr(language, "JOINED", ("cpu",))
    attention = rm.make_opt().language_model.model.decoder.layers[0].self_attn
    before = [getattr(attention, name).weight.clone() for name in language.OPT_NAMES]
    language._join(attention, language.OPT_NAMES)
    held = {getattr(attention, name).weight.untyped_storage().data_ptr() for name in language.OPT_NAMES}
    assert held == {attention.joined_weight.untyped_storage().data_ptr()}
    assert all(map(torch.equal, before, (getattr(attention, name).weight for name in language.OPT_NAMES)))
    other = rm.make_opt().language_model.model.decoder.layers[0].self_attn
    other.k_proj._hf_hook = object()
    language._join(other, language.OPT_NAMES)
    assert not hasattr(other, "joined_weight")
