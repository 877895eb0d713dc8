"""Files to modules, checked on the way: the part of `checkpoints` that needs torch."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.utils import logging as library_logging

from blip2tools.checkpoints import confidence, configuration, hub
from blip2tools.checkpoints.adapters import merged
from blip2tools.checkpoints.budget import Budget
from blip2tools.checkpoints.configuration import unfit
from blip2tools.checkpoints.devices import bring_back, budget_of, choose_device, dtype_for, placement, quantization
from blip2tools.checkpoints.family import DEMO_CAPTIONER
from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.memory import is_out_of_memory
from blip2tools.checkpoints.plan import Loaded, Located, Plan, check_memory, locate, pull
from blip2tools.checkpoints.prompts import CANDIDATE_TOKENS, VQA_TEMPLATE, CaptionerText, MatcherText
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.model import Captioner, Matcher, Pixels, Trunk
from blip2tools.settings import Settings

PROMPT_TOKENS = 512  # the longest prompt, image tokens not counted; what FLAN-T5 was trained with
_PULLS = 3  # a model, what it is based on, and a matcher

logger = logging.getLogger(__name__)


# The library keeps the Q-Former in float32 only with float16 weights: with bfloat16 it would be rounded first, and return to
# float32 without the lost digits. Everything after a matcher's vision tower is float32. These names are searched for in those
# of the weights, and the tower has `embeddings` too.
_CAPTIONER: Any = type(
    "Blip2ForConditionalGeneration",
    (Blip2ForConditionalGeneration,),
    {"_keep_in_fp32_modules_strict": ("query_tokens", "qformer")},
)
_MATCHER: Any = type(
    "Blip2ForImageTextRetrieval",
    (Blip2ForImageTextRetrieval,),
    {
        "_keep_in_fp32_modules_strict": (
            "query_tokens",
            "qformer",
            "^embeddings",
            "vision_projection",
            "text_projection",
            "itm_head",
        )
    },
)


def load(settings: Settings, report: Progress, *, download: bool) -> Loaded:
    """See `checkpoints.load`, which translates the errors raised here."""
    device = choose_device(settings.device)
    plan = _plan(settings, device, report, download=download)
    if threads := settings.threads or (1 if plan.captioner.member is DEMO_CAPTIONER else 0):
        # For this thread, the engine's, and later ones. A model as small as the demo would spend more on sharing than on work.
        torch.set_num_threads(threads)
    captioner_parts = _load_captioner(plan.captioner, settings, device, report)
    captioner, pixels, words = captioner_parts
    notes = list(plan.warnings)
    matcher: Matcher | None = None
    matcher_pixels: Pixels | None = None
    matcher_words: MatcherText | None = None
    if plan.matcher is not None:
        try:
            matcher, matcher_pixels, matcher_words = _load_matcher(plan.matcher, captioner, pixels, device, report)
        except VisionError as error:
            if settings.matcher != "auto":
                raise
            logger.warning("the matcher is left out", exc_info=error)
            notes.append(f"there is no image-text matcher: {plan.matcher.name} could not be loaded")
    report("ready", 1.0)
    return Loaded(
        captioner=captioner,
        pixels=pixels,
        words=words,
        matcher=matcher,
        matcher_pixels=matcher_pixels,
        matcher_words=matcher_words,
        model=plan.captioner.name,
        matcher_name=plan.matcher.name if plan.matcher is not None and matcher is not None else None,
        device=str(device),
        dtype=str(captioner.dtype).removeprefix("torch."),
        notes=tuple(notes),
        calibration=confidence.find(settings.calibration, plan.captioner.adapter or cast(Path, plan.captioner.folder)),
        familiar=confidence.familiarity_threshold(plan.captioner.adapter or cast(Path, plan.captioner.folder)),
        premises=confidence.premises_rule(plan.captioner.adapter or cast(Path, plan.captioner.folder)),
        revision=plan.captioner.revision,
        matcher_revision=plan.matcher.revision if plan.matcher is not None and matcher is not None else None,
        quantize=settings.quantize,
    )


def _plan(settings: Settings, device: torch.device, report: Progress, *, download: bool) -> Plan:
    budget = budget_of(settings, device)
    for _ in range(_PULLS):  # an adapter tells which model it changes only once it is downloaded
        plan = locate(settings, budget)
        check_memory(plan, settings, budget)
        missing = [part for part in (plan.captioner, plan.matcher) if part is not None and not part.here]
        if not missing:
            return plan
        for part in missing:
            _fetch(part, settings, budget, report, download=download)
    return locate(settings, budget)


def _fetch(part: Located, settings: Settings, budget: Budget, report: Progress, *, download: bool) -> None:
    if not download or settings.offline:
        raise ModelUnavailableError(f"The model {part.name} is not on this computer; run {part.pull_command}.")
    pull(part.source or part.name, report, choice=part.choice, budget=budget)


def _load_captioner(
    located: Located, settings: Settings, device: torch.device, report: Progress
) -> tuple[Captioner, Pixels, CaptionerText]:
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located):
        config = configuration.config(folder, located, "captioner")
        t5 = config.text_config.model_type == "t5"
        pixels = configuration.pixels(folder, config, located)
        dtype = dtype_for(settings, device, t5=t5, name=located.name, demo=located.member is DEMO_CAPTIONER)
        quantized = quantization(settings, device, dtype, located.name)
        if quantized is not None and located.adapter is not None:
            raise ModelUnavailableError(
                f"{located.name} cannot be merged into quantized weights; leave `quantize` out."
            )
        where = placement(settings, device, _CAPTIONER, config, dtype, located.name)
        if located.adapter is not None and len(where["device_map"]) > 1:
            raise ModelUnavailableError(
                f"{located.name} cannot be merged into a spread model; choose one device (`device`)."
            )
        model = _weights(_CAPTIONER, folder, config, dtype, located, **where, quantization_config=quantized)
        if t5:
            configuration.check_untied(model, located)
        captioner = Captioner(model)
        room = PROMPT_TOKENS
        if captioner.positions is not None:
            room = min(room, captioner.positions - captioner.num_queries - CANDIDATE_TOKENS)
        words = CaptionerText(
            configuration.tokenizer(folder, located.name),
            captioner.family,
            special=captioner.eos if captioner.bos is None else captioner.bos,
            budget=room,
            reserved={captioner.eos, captioner.pad},
            template=located.member.vqa_template if located.member is not None else VQA_TEMPLATE,
            prompt=located.prompt,
        )
    return captioner, pixels, words


def _load_matcher(
    located: Located, captioner: Captioner, pixels: Pixels, device: torch.device, report: Progress
) -> tuple[Matcher, Pixels, MatcherText]:
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located):
        config = configuration.config(folder, located, "matcher")
        # Files from before 5.0 call it `qformer_text_input`; unset, the text layers are left out of the model.
        config.qformer_config.use_qformer_text_input = True
        own_pixels = configuration.pixels(folder, config, located)
        dtype = captioner.trunk.dtype
        model = _weights(_MATCHER, folder, config, dtype, located, device_map={"": str(device)})
        trunk = Trunk(model.vision_model)
        if own_pixels.key == pixels.key and same_weights(captioner.trunk, trunk):
            trunk, own_pixels = captioner.trunk, pixels
        matcher = Matcher(model, trunk)
        tokenizer = configuration.tokenizer(folder, located.name)
        cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        if cls is None or sep is None:
            raise unfit(located, "its tokenizer is not BERT's")
        words = MatcherText(tokenizer, cls=cls, sep=sep)
    return matcher, own_pixels, words


def same_weights(one: Trunk, other: Trunk) -> bool:
    """Whether two trunks can replace each other: equal tensors, in float16, as the files differ in precision."""
    mine, theirs = dict(one.named_tensors()), dict(other.named_tensors())
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name].half(), theirs[name].half()) for name in mine
    )


def _weights(
    kind: Any,
    folder: Path,
    config: Any,
    dtype: torch.dtype,
    located: Located,
    **options: Any,
) -> Any:
    pickled = not hub.weight_files(folder)[0].endswith(".safetensors")
    with _quiet(), warnings.catch_warnings():
        # A warning of accelerate about the query tokens: a weight of the model itself, in none of its modules.
        warnings.filterwarnings("ignore", "The following device_map keys do not match", UserWarning)
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=not pickled,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        if len(set(options["device_map"].values())) > 1:
            bring_back(model)
        if located.adapter is not None:
            model = merged(model, located.adapter, located.name)
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    if info["missing_keys"] or unexpected or info["mismatched_keys"] or info["error_msgs"]:
        logger.error("%s: missing %s, unexpected %s", located.name, sorted(info["missing_keys"])[:8], unexpected[:8])
        raise unfit(located, "its weights do not fit its configuration")
    return model


@contextmanager
def _problems(located: Located) -> Iterator[None]:
    """Turn whatever loading raises into one sentence about this model."""
    name = located.name
    try:
        yield
    except VisionError:
        raise
    except pickle.UnpicklingError as error:
        logger.error("loading %s failed", name, exc_info=error)
        raise ModelUnavailableError(
            f"The pickled weights of {name} are damaged or hold more than values, and are refused; choose another model."
        ) from error
    except Exception as error:  # the library's messages hold paths of the cache
        if is_out_of_memory(error):
            raise ModelUnavailableError(
                f"There is not enough memory for {name}; choose a smaller model, another device, or a half-precision dtype."
            ) from error
        logger.error("loading %s failed", name, exc_info=error)
        raise ModelUnavailableError(
            f"The files of {name} are damaged or not those of a BLIP-2 model; run {located.pull_command} again."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's progress bars and advice while it loads: problems are judged here."""
    voice: Any = library_logging
    bars, verbosity = voice.is_progress_bar_enabled(), voice.get_verbosity()
    voice.disable_progress_bar()
    voice.set_verbosity_error()
    try:
        yield
    finally:
        voice.set_verbosity(verbosity)
        if bars:
            voice.enable_progress_bar()
