"""The traps of BLIP-2, each with the guard against it and the tests that fail without the guard.

Most of them raise nothing: the words still come out fluent, and are wrong. `pytest -m long tests/safety/test_traps.py` takes
one guard after the other out of a copy of the package and runs the tests that should notice; the quick tests only check that
the guards and the tests that are named here exist.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SPEAK = "tests/model/test_model.py::TestSpeak::"
MATCH = "tests/model/test_model.py::TestMatcher::"
TEXT = "tests/checkpoints/test_prompts.py::"
LOAD = "tests/checkpoints/test_loading.py::TestLoad::"
REFUSE = "tests/checkpoints/test_loading.py::TestRefusals::"
FAMILY = "tests/checkpoints/test_family.py::test_a_captioner_speaks_as_stock_transformers"
MATCHERS = "tests/checkpoints/test_family.py::test_a_matcher_scores_as_stock_transformers"
FORMS = "tests/checkpoints/test_loading_forms.py::"


@dataclass(frozen=True, slots=True)
class Trap:
    """One trap: the fault, its source, the guard against it, and how to remove the guard."""

    what: str
    source: str
    file: str  # in the package
    guard: str  # its text, once in the file
    without: str  # what stands there when it is gone
    tests: tuple[str, ...]


TRAPS = (
    Trap(
        "the picture does not reach the words",
        "transformers #34223, #42311",
        "model/language.py",
        "embeds = torch.cat([image_tokens, start], 1)",
        "embeds = torch.cat([image_tokens * 0, start], 1)",
        (SPEAK + "test_picture_and_prompt_both_matter", FAMILY + "[opt-2.7b-2023]"),
    ),
    Trap(
        "another number of image slots than query tokens",
        "transformers #34223",
        "model/captioner.py",
        "if image_tokens.ndim != 3 or image_tokens.shape[1] != self.num_queries:",
        "if image_tokens.ndim != 3:",
        (SPEAK + "test_refuses_what_does_not_fit",),
    ),
    Trap(
        "OPT rows padded on the right",
        "transformers #22014, #27251",
        "model/language.py",
        "[*[0] * (width - len(text)), *text] for text in texts",
        "[*text, *[0] * (width - len(text))] for text in texts",
        (SPEAK + "test_same_tokens_as_the_library_alone_and_in_a_batch",),
    ),
    Trap(
        "T5 rows padded between picture and text",
        "relative positions; measured",
        "model/language.py",
        "[*prompt, *[0] * (width - len(prompt))] for prompt in prompts",
        "[*[0] * (width - len(prompt)), *prompt] for prompt in prompts",
        (SPEAK + "test_same_tokens_as_the_library_alone_and_in_a_batch",),
    ),
    Trap(
        "matcher's texts padded on the left: [CLS] is not the first token",
        "measured",
        "model/trunk.py",
        "ids = [[*row, *[pad] * (width - len(row))] for row in rows]\n"
        "    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]",
        "ids = [[*[pad] * (width - len(row)), *row] for row in rows]\n"
        "    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]",
        (MATCH + "test_itc_is_the_stock_score", MATCH + "test_one_picture_is_broadcast_over_many_texts"),
    ),
    Trap(
        "32 ids of a matcher's text cut off for image slots that are not there",
        "`image_token_index`, transformers #34876",
        "model/matcher.py",
        "return right_padded(texts, self.pad, self.device)",
        "return right_padded([[*text[self.num_queries :]] or [self.pad] for text in texts], self.pad, self.device)",
        (MATCH + "test_itm_is_the_stock_score_alone_and_in_a_batch", MATCHERS + "[itm-vit-g-2024]"),
    ),
    Trap(
        "BOS twice",
        "transformers #17498, #25886",
        "checkpoints/prompts.py",
        'row = (self._special, *ids) if self.family == "opt"',
        'row = (self._special, self._special, *ids) if self.family == "opt"',
        (FAMILY + "[opt-2.7b-2023]",),
    ),
    Trap(
        "a prompt with its special token twice, or in another place",
        "transformers #17498",
        "model/captioner.py",
        " or list(prompt).count(special) != 1:",
        ":",
        (SPEAK + "test_refuses_what_does_not_fit",),
    ),
    Trap(
        "special tokens that a caller types",
        "sentencepiece keeps them as pieces",
        "checkpoints/prompts.py",
        "if self._reserved.isdisjoint(ids):",
        "if ids is not None:",
        (TEXT + "TestSpecialTokensAreText::test_captioner",),
    ),
    Trap(
        "the checkpoint's generation defaults",
        "transformers: only the language model's own count",
        "model/captioner.py",
        "room = max_new_tokens\n",
        "room = self._language_model.generation_config.max_new_tokens or max_new_tokens\n",
        (SPEAK + "test_generation_defaults_of_a_checkpoint_count_for_nothing",),
    ),
    Trap(
        "OPT's end of sequence is the newline, not </s>",
        "the converter's `eos_token_id`",
        "model/captioner.py",
        "self.eos = int(text.eos_token_id)",
        'self.eos = int(text.eos_token_id) if family == "t5" else 2',
        (FAMILY + "[opt-2.7b-2024]",),
    ),
    Trap(
        "OPT beyond its table of positions",
        "transformers #29438, #29837",
        "model/captioner.py",
        "room = min(room, self.positions - self.num_queries - len(prompt) + 1)",
        "pass",
        (SPEAK + "test_opt_ends_where_its_positions_end",),
    ),
    Trap(
        "FLAN-T5's logits scaled, or another activation",
        "the tie key left out of a configuration",
        "checkpoints/configuration.py",
        'if text.model_type == "t5" and (text.scale_decoder_outputs or text.dense_act_fn != "gelu"):',
        "if text is None:",
        (REFUSE + "test_configurations",),
    ),
    Trap(
        "FLAN-T5's output layer tied to the embeddings",
        "transformers 5 ties it by default",
        "checkpoints/configuration.py",
        "if language_model.lm_head.weight is language_model.shared.weight:",
        "if language_model is None:",
        (REFUSE + "test_a_t5_with_tied_output_is_not_flan",),
    ),
    Trap(
        "FLAN-T5 in float16",
        "LAVIS #206, transformers #20287",
        "checkpoints/devices.py",
        'if settings.dtype == "float16" and t5:',
        "if settings is None:",
        (LOAD + "test_t5_is_refused_in_float16",),
    ),
    Trap(
        "the Q-Former rounded to bfloat16 on its way from the file",
        "transformers keeps it float32 beside float16 only",
        "checkpoints/weights.py",
        "torch.float32 if precise else dtype",
        "dtype",
        (LOAD + "test_the_q_former_keeps_every_digit_of_the_file",),
    ),
    Trap(
        "the Q-Former in half precision after a cast",
        "LAVIS #267, transformers #37103",
        "model/captioner.py",
        "inner.qformer.float()",
        "inner.qformer",
        ("tests/model/test_model.py::TestQuery::test_the_q_former_is_float32_whatever_the_rest_is",),
    ),
    Trap(
        "two softmaxes: every match between 27 and 73 %",
        "the stock docstring",
        "engine/stages.py",
        "itm.softmax(-1)[:, 1].tolist()",
        "itm.softmax(-1).softmax(-1)[:, 1].tolist()",
        (MATCHERS + "[itm-vit-g-2023]",),
    ),
    Trap(
        "the probability of no match",
        "columns are [no match, match]",
        "engine/stages.py",
        "itm.softmax(-1)[:, 1].tolist()",
        "itm.softmax(-1)[:, 0].tolist()",
        (MATCHERS + "[itm-vit-g-2023]",),
    ),
    Trap(
        "ITM from one query instead of their mean",
        "LAVIS blip2_qformer.py",
        "model/matcher.py",
        "self._itm_head(self._read_together(texts, look, pictures)).mean(1)",
        "self._itm_head(self._read_together(texts, look, pictures))[:, 0]",
        (MATCH + "test_itm_is_the_stock_score_alone_and_in_a_batch",),
    ),
    Trap(
        "ITC from the mean of the queries instead of the best",
        "LAVIS blip2_qformer.py",
        "model/matcher.py",
        "(image_features @ text_features.t()).amax(1)",
        "(image_features @ text_features.t()).mean(1)",
        (MATCH + "test_itc_is_the_stock_score",),
    ),
    Trap(
        "a bare question gives an empty answer",
        "transformers #30383",
        "checkpoints/prompts.py",
        "newest = NEWEST_TURN if turns else template or self._template",
        'newest = "{question}"',
        (TEXT + "TestQuestions::test_the_trained_template",),
    ),
    Trap(
        "punctuation that the matcher never saw",
        "lavis/processors/blip_processors.py",
        "checkpoints/prompts.py",
        '_PUNCTUATION.sub(" ", lowered)',
        "lowered",
        (TEXT + "TestMatcherText::test_case_and_punctuation_as_in_lavis",),
    ),
    Trap(
        "matcher's texts longer than it was trained with",
        "LAVIS #424, max_txt_len",
        "checkpoints/prompts.py",
        "room = (limit or self._limit) - 2",
        "room = (limit or self._limit) * 9",
        (TEXT + "TestMatcherText::test_32_ids_at_most_and_it_says_so",),
    ),
    Trap(
        "one model with the other's last LayerNorm",
        "LAVIS trains `ln_vision` in each stage",
        "checkpoints/loading.py",
        "matcher = Matcher(model, trunk, known)",
        "matcher = Matcher(model, trunk, known)\n        matcher._post_layernorm = captioner._post_layernorm",
        ("tests/checkpoints/test_loading.py::TestDemo::test_one_trunk_serves_both_and_each_keeps_its_layernorm",),
    ),
    Trap(
        "a trunk shared that is not the same",
        "-coco towers are fine-tuned (LAVIS #159, #581)",
        "checkpoints/loading.py",
        "alike = alike and same_weights(captioner.trunk, trunk)",
        "alike = bool(alike)",
        (LOAD + "test_different_trunks_are_kept_apart",),
    ),
    Trap(
        "a trunk shared by two recipes for pixels",
        "the -coco members' 364 px",
        "checkpoints/loading.py",
        "own_pixels.key == pixels.key",
        "True",
        (LOAD + "test_another_pixel_recipe_keeps_them_apart",),
    ),
    Trap(
        "the matcher's text layers left out: the flag's former name",
        "files from before transformers 5",
        "checkpoints/loading.py",
        "config.qformer_config.use_qformer_text_input = True",
        "pass",
        (LOAD + "test_an_old_matcher_file_without_its_text_flag",),
    ),
    Trap(
        "missing, unexpected or misshapen weights",
        "random values in their place",
        "checkpoints/weights.py",
        "if missing := sorted(set(wanted) - found):",
        "if missing := sorted(set(wanted) - set(wanted)):",
        (REFUSE + "test_files",),
    ),
    Trap(
        "vision layer_norm_eps 1e-5",
        "LAVIS #418",
        "checkpoints/configuration.py",
        "found.vision_config.layer_norm_eps = _VISION_EPS",
        "pass",
        (LOAD + "test_an_early_file_of_the_family_has_its_epsilon_corrected",),
    ),
    Trap(
        "pictures of another size than the vision tower's",
        "the processor class's own default is 384",
        "checkpoints/configuration.py",
        "if settled.vision_config.image_size != made.size:",
        "if made is None:",
        (REFUSE + "test_files", REFUSE + "test_configurations"),
    ),
    Trap(
        "another filter than Pillow's bicubic",
        "transformers takes torchvision where it is installed",
        "model/trunk.py",
        "picture.resize((side, side), Image.Resampling(resample))",
        "picture.resize((side, side), Image.Resampling.BILINEAR)",
        ("tests/model/test_model.py::TestPixels::test_equals_pillow_by_hand",),
    ),
    Trap(
        "a checkpoint that was saved quantized",
        "transformers #30383",
        "checkpoints/configuration.py",
        'if written.get("quantization_config") is not None:',
        "if found is None:",
        (REFUSE + "test_configurations",),
    ),
    Trap(
        "more than the language model quantized",
        "transformers #30383",
        "checkpoints/devices.py",
        'WHOLE_MODULES = ["vision_model", "qformer", "query_tokens", "language_projection", "lm_head"]',
        'WHOLE_MODULES = ["query_tokens"]',
        (FORMS + "TestQuantized::test_only_the_language_model",),
    ),
    Trap(
        "wrong answers of a quantized model",
        "transformers #30383",
        "checkpoints/selftest/examination.py",
        "if verdict.failed and quantized:",
        "if loaded is None:",
        (FORMS + "TestQuantized::test_refused_where_it_fails_its_self_test",),
    ),
    Trap(
        "output layer and embeddings split from the main device",
        "transformers #21707, #26806, #34850; accelerate #2847",
        "checkpoints/devices.py",
        'ends[parameter.rpartition(".")[0] or parameter] = str(device)',
        'ends[parameter.rpartition(".")[0] or parameter] = "disk" if "lm_head" in parameter else str(device)',
        (FORMS + "TestSpread::test_the_same_tokens_with_layers_on_disk",),
    ),
    Trap(
        "an offline start that calls the hub",
        "LAVIS #632",
        "checkpoints/loading.py",
        "if not download or settings.offline:",
        "if not download:",
        (LOAD + "test_a_model_that_is_not_here",),
    ),
    Trap(
        "pickled weights that run code",
        "pickle",
        "checkpoints/hub.py",
        "if _PICKLES.fullmatch(shards[0]) and not allow_pickle:",
        "if shards is None:",
        (
            REFUSE + "test_pickled_weights_are_never_opened",
            FORMS + "TestPickles::test_equal_to_the_safetensors_once_allowed",
        ),
    ),
)


def table() -> str:
    """For FAMILY.md."""
    rows = ["| what goes wrong | known from | guard in | test that fails without it |", "|---|---|---|---|"]
    for trap in TRAPS:
        tests = ", ".join(f"`{test.rpartition('::')[2]}`" for test in trap.tests)
        rows.append(f"| {trap.what} | {trap.source} | `{trap.file}` | {tests} |")
    return "\n".join(rows)


def run(trap: Trap, *, without_guard: bool = True) -> tuple[list[str], str]:
    """The tests of one trap on a copy of the package, with or without its guard: which failed, and what pytest printed."""
    with tempfile.TemporaryDirectory(prefix="trap-") as place:
        copy = Path(place)
        for name in ("blip2tools", "tests"):
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "clients"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, copy / name)
        file = copy / "blip2tools" / trap.file
        text = file.read_text(encoding="utf-8")
        if text.count(trap.guard) != 1:
            raise ValueError(f"the guard against {trap.what!r} stands {text.count(trap.guard)} times in {trap.file}")
        if without_guard:
            file.write_text(text.replace(trap.guard, trap.without), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *trap.tests]
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        # The exit status alone would also count a copy that cannot be imported.
        return re.findall(r"^FAILED (\S+)", done.stdout, re.M), done.stdout[-2000:] + done.stderr[-2000:]
