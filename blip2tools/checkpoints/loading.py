"""Files to modules, checked on the way: the part of `checkpoints` that needs torch."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from blip2tools.checkpoints import confidence, configuration, weights
from blip2tools.checkpoints.budget import Budget
from blip2tools.checkpoints.configuration import unfit
from blip2tools.checkpoints.devices import (
    budget_of,
    choose_device,
    dtype_for,
    quantization,
    quantizes_itself,
)
from blip2tools.checkpoints.family import DEMO_CAPTIONER
from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.memory import is_out_of_memory
from blip2tools.checkpoints.plan import Loaded, Located, Plan, check_memory, locate, pull
from blip2tools.checkpoints.prompts import CANDIDATE_TOKENS, VQA_TEMPLATE, CaptionerText, MatcherText
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.model import Captioner, Matcher, Pixels, Trunk
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel, MatcherModel
from blip2tools.settings import Settings

PROMPT_TOKENS = 512  # the longest prompt, image tokens not counted; what FLAN-T5 was trained with
_PULLS = 3  # a model, what it is based on, and a matcher

logger = logging.getLogger(__name__)


def load(settings: Settings, report: Progress, *, download: bool) -> Loaded:
    """See `checkpoints.load`, which translates the errors raised here."""
    device = choose_device(settings.device)
    plan = _plan(settings, device, report, download=download)
    settings = settings.model_copy(update={"quantize": plan.quantize})
    if threads := settings.threads or (1 if plan.captioner.member is DEMO_CAPTIONER else 0):
        # For this thread, the engine's, and later ones. A model as small as the demo would spend more on sharing than on work.
        torch.set_num_threads(threads)
    captioner, pixels, words, half = _load_captioner(plan.captioner, settings, device, report)
    notes = list(plan.warnings)
    matcher: Matcher | None = None
    matcher_pixels: Pixels | None = None
    matcher_words: MatcherText | None = None
    if plan.matcher is not None:
        try:
            matcher, matcher_pixels, matcher_words = _load_matcher(
                plan.matcher, captioner, pixels, half, settings, device, report
            )
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
) -> tuple[Captioner, Pixels, CaptionerText, str | None]:
    """Also the digest of a quantized vision tower by which a matcher's is recognised as the same."""
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located):
        config = configuration.config(folder, located, "captioner")
        t5 = config.text_config.model_type == "t5"
        pixels = configuration.pixels(folder, config, located)
        dtype = dtype_for(settings, device, t5=t5, name=located.name, demo=located.member is DEMO_CAPTIONER)
        if settings.quantize != "none" and located.adapter is not None:
            raise ModelUnavailableError(
                f"{located.name} cannot be merged into quantized weights; leave `quantize` out."
            )
        model: Any
        trunk: Trunk | None = None
        known: tuple[str | None, str | None] = (None, None)
        half: str | None = None
        plain = weights.is_plain(folder, config, located)
        if plain and quantizes_itself(settings, device):
            from blip2tools.checkpoints import quantizing

            read = quantizing.read(CaptionerModel, located, config, settings, report)
            known, half = (read.rest, read.language), read.weights.trunk
            model = quantizing.ready(read, settings, located)
            trunk = Trunk(model.vision_model, read.trunk)
        else:
            quantized = quantization(settings, device, dtype, located.name)
            if plain and quantized is None and settings.device != "spread":
                model = weights.read(CaptionerModel, folder, config, dtype, device)
            else:
                from blip2tools.checkpoints import stock

                model = stock.captioner(folder, config, dtype, located, settings, device, quantized)
        if t5:
            configuration.check_untied(model, located)
        captioner = Captioner(model, trunk, known)
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
    return captioner, pixels, words, half


def _load_matcher(
    located: Located,
    captioner: Captioner,
    pixels: Pixels,
    half: str | None,
    settings: Settings,
    device: torch.device,
    report: Progress,
) -> tuple[Matcher, Pixels, MatcherText]:
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located):
        config = _matcher_config(located)
        own_pixels = configuration.pixels(folder, config, located)
        dtype = captioner.trunk.dtype
        model: Any
        known: str | None = None
        plain, alike = weights.is_plain(folder, config, located), own_pixels.key == pixels.key
        if plain and quantizes_itself(settings, device):
            from blip2tools.checkpoints import quantizing

            read = quantizing.read(MatcherModel, located, config, settings, report)
            alike, known = alike and read.weights.trunk == half, read.rest
            if alike:
                quantizing.leave_out_trunk(read)
            model = quantizing.ready(read, settings, located)
            trunk = captioner.trunk if alike else Trunk(model.vision_model, read.trunk)
        else:
            if plain:
                model = weights.read(MatcherModel, folder, config, dtype, device)
            else:
                from blip2tools.checkpoints import stock

                model = stock.matcher(folder, config, dtype, located, device)
            trunk = Trunk(model.vision_model)
            alike = alike and same_weights(captioner.trunk, trunk)
        if alike:
            trunk, own_pixels = captioner.trunk, pixels
        matcher = Matcher(model, trunk, known)
        tokenizer = configuration.tokenizer(folder, located.name)
        cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        if cls is None or sep is None:
            raise unfit(located, "its tokenizer is not BERT's")
        words = MatcherText(tokenizer, cls=cls, sep=sep)
    return matcher, own_pixels, words


def _matcher_config(located: Located) -> Blip2Config:
    config = configuration.config(cast(Path, located.folder), located, "matcher")
    # Files from before 5.0 call it `qformer_text_input`; unset, the text layers are left out of the model.
    config.qformer_config.use_qformer_text_input = True
    return config


def in_full_precision(plan: Plan, loaded: Loaded) -> tuple[Captioner, Matcher | None] | None:
    """What a quantized model was made from, read from its files as it is used; None where those are not plain.

    Args:
        plan: of the model that is loaded.
        loaded: the quantized model.
    """
    from blip2tools.checkpoints import streamed

    folder = cast(Path, plan.captioner.folder)
    config = configuration.config(folder, plan.captioner, "captioner")
    if not weights.is_plain(folder, config, plan.captioner):
        return None
    captioner = Captioner(streamed.read(CaptionerModel, plan.captioner, config), fingerprints=("", ""))
    matcher = None
    if plan.matcher is not None and loaded.matcher is not None:
        config = _matcher_config(plan.matcher)
        if weights.is_plain(cast(Path, plan.matcher.folder), config, plan.matcher):
            model = streamed.read(MatcherModel, plan.matcher, config)
            matcher = Matcher(model, captioner.trunk if loaded.shared_trunk else None)
    return captioner, matcher


def same_weights(one: Trunk, other: Trunk) -> bool:
    """Whether two trunks can replace each other: equal tensors, in float16, as the files differ in precision."""
    mine, theirs = dict(one.named_tensors()), dict(other.named_tensors())
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name].half(), theirs[name].half()) for name in mine
    )


@contextmanager
def _problems(located: Located) -> Iterator[None]:
    """Turn whatever loading raises into one sentence about this model."""
    name = located.name
    try:
        yield
    except VisionError:
        raise
    except weights.MisfitError as error:
        logger.error("loading %s failed", name, exc_info=error)
        raise unfit(located, "its weights do not fit its configuration") from error
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
