"""Files to modules, checked on the way: the part of `checkpoints` that needs torch."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.utils import logging as library_logging

from blip2tools import calibration, hub
from blip2tools.checkpoints.memory import free_memory
from blip2tools.checkpoints.plan import Budget, Loaded, Located, Plan, locate, pull
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.family import DEMO_CAPTIONER
from blip2tools.hub import Progress
from blip2tools.model import Captioner, Matcher, Pixels, Trunk
from blip2tools.settings import Settings
from blip2tools.text import CANDIDATE_TOKENS, VQA_TEMPLATE, CaptionerText, MatcherText

_VISION_EPS = 1e-6
PROMPT_TOKENS = 512  # the longest prompt, image tokens not counted; what FLAN-T5 was trained with

logger = logging.getLogger(__name__)


# The library keeps the Q-Former in float32 beside float16 weights only: beside bfloat16 it would be rounded first, and come
# back to float32 without the digits it lost. A matcher behind its vision tower is float32 as a whole. The names are searched
# for in those of the weights, and the tower has `embeddings` too.
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
    """See `checkpoints.load`, which translates what goes wrong here."""
    device = choose_device(settings.device)
    plan = _plan(settings, device, report, download=download)
    if threads := settings.threads or (1 if plan.captioner.member is DEMO_CAPTIONER else 0):
        # For this thread, the engine's, and later ones. So small a model as the demo would spend more on sharing than on work.
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
        temperatures=calibration.find(settings.calibration, cast(Path, plan.captioner.folder)),
    )


def _plan(settings: Settings, device: torch.device, report: Progress, *, download: bool) -> Plan:
    budget = budget_of(settings, device)
    plan = locate(settings, budget)
    missing = [part for part in (plan.captioner, plan.matcher) if part is not None and not part.here]
    for part in missing:
        if not download or settings.offline:
            raise ModelUnavailableError(
                f"The model {part.name} is not on this computer; run `blip2tools pull {part.name}`."
            )
        pull(part.name, report)
    return locate(settings, budget) if missing else plan


def _load_captioner(
    located: Located, settings: Settings, device: torch.device, report: Progress
) -> tuple[Captioner, Pixels, CaptionerText]:
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located.name):
        config = _config(folder, located, "captioner")
        pixels = _pixels(folder, config, located)
        dtype = _dtype(settings, device, config, located)
        model = _weights(_CAPTIONER, folder, config, dtype, device, located)
        if config.text_config.model_type == "t5":
            _check_untied(model, located)
        captioner = Captioner(model)
        room = PROMPT_TOKENS
        if captioner.positions is not None:
            room = min(room, captioner.positions - captioner.num_queries - CANDIDATE_TOKENS)
        words = CaptionerText(
            _tokenizer(folder),
            captioner.family,
            special=captioner.eos if captioner.bos is None else captioner.bos,
            budget=room,
            reserved={captioner.eos, captioner.pad},
            template=located.member.vqa_template if located.member is not None else VQA_TEMPLATE,
        )
    return captioner, pixels, words


def _load_matcher(
    located: Located, captioner: Captioner, pixels: Pixels, device: torch.device, report: Progress
) -> tuple[Matcher, Pixels, MatcherText]:
    report(f"loading {located.name}", None)
    folder = cast(Path, located.folder)
    with _problems(located.name):
        config = _config(folder, located, "matcher")
        # Files from before 5.0 call it `qformer_text_input`; unset, the text layers are left out of the model.
        config.qformer_config.use_qformer_text_input = True
        own_pixels = _pixels(folder, config, located)
        model = _weights(_MATCHER, folder, config, captioner.trunk.dtype, device, located)
        trunk = Trunk(model.vision_model)
        if own_pixels.key == pixels.key and same_weights(captioner.trunk, trunk):
            trunk, own_pixels = captioner.trunk, pixels
        matcher = Matcher(model, trunk)
        tokenizer = _tokenizer(folder)
        cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        if cls is None or sep is None:
            raise _unfit(located, "its tokenizer is not BERT's")
        words = MatcherText(tokenizer, cls=cls, sep=sep)
    return matcher, own_pixels, words


def same_weights(one: Trunk, other: Trunk) -> bool:
    """Whether two trunks may stand for each other: equal tensors, in float16, as the files differ in precision."""
    mine, theirs = dict(one.named_tensors()), dict(other.named_tensors())
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape and torch.equal(mine[name].half(), theirs[name].half()) for name in mine
    )


def _config(folder: Path, located: Located, kind: Literal["captioner", "matcher"]) -> Any:
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = hub.CLASSES[kind]
    if written["model_type"] != "blip-2" or wanted not in written.get("architectures", [wanted]):
        raise _unfit(located, f"it is not a BLIP-2 {kind}")
    config: Any = Blip2Config.from_pretrained(folder, local_files_only=True)
    if getattr(config, "quantization_config", None) is not None:
        raise _unfit(located, "quantized weights give empty or wrong answers and are not supported")
    if config.vision_config.layer_norm_eps != _VISION_EPS:
        # LAVIS #418: early files say 1e-5, which changes every answer a little. The family was trained with 1e-6; of other
        # checkpoints nobody but their makers can know.
        if located.member is None:
            raise _unfit(
                located, f"its vision layer_norm_eps is not {_VISION_EPS}, correct its config.json if it should be"
            )
        config.vision_config.layer_norm_eps = _VISION_EPS
    if kind == "captioner":
        _check_language_model(config.text_config, located)
    return config


def _check_language_model(text: Any, located: Located) -> None:
    if text.model_type not in ("opt", "t5"):
        raise _unfit(located, "its language model is neither OPT nor T5")
    if text.model_type == "t5" and (text.scale_decoder_outputs or text.dense_act_fn != "gelu"):
        # Without the right flags transformers scales the logits of an original T5, which FLAN-T5 is not.
        raise _unfit(located, "its configuration is not that of FLAN-T5")
    needed = ["eos_token_id", "pad_token_id", *(["bos_token_id"] if text.model_type == "opt" else [])]
    if not all(isinstance(getattr(text, name, None), int) for name in needed):
        raise _unfit(located, "its configuration lacks a special token id")


def _check_untied(model: Any, located: Located) -> None:
    language_model = model.language_model
    if language_model.lm_head.weight is language_model.shared.weight:
        raise _unfit(located, "its output layer is tied to the embeddings, which FLAN-T5's is not")


def _pixels(folder: Path, config: Any, located: Located) -> Pixels:
    pixels = Pixels(BlipImageProcessorPil.from_pretrained(folder, local_files_only=True))
    if config.vision_config.image_size != pixels.size:
        raise _unfit(located, "its image processor and its vision tower differ in size")
    return pixels


def _weights(kind: Any, folder: Path, config: Any, dtype: torch.dtype, device: torch.device, located: Located) -> Any:
    with _quiet():
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map={"": str(device)},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]
    if info["missing_keys"] or unexpected or info["mismatched_keys"] or info["error_msgs"]:
        logger.error("%s: missing %s, unexpected %s", located.name, sorted(info["missing_keys"])[:8], unexpected[:8])
        raise _unfit(located, "its weights do not fit its configuration")
    return model


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        return Tokenizer.from_file(str(file))
    loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return copy.deepcopy(cast(Tokenizer, loaded.backend_tokenizer))


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = "cuda:0"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailableError(f"There is no device {name}; choose another one (`device`), or `auto`.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelUnavailableError("There is no device mps; choose another one (`device`), or `auto`.")
    return device


def budget_of(settings: Settings, device: torch.device) -> Budget:
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    half = settings.dtype in ("float16", "bfloat16") or (settings.dtype == "auto" and device.type == "cuda")
    return Budget(memory, bytes_each=2 if half else 4)


def _dtype(settings: Settings, device: torch.device, config: Any, located: Located) -> torch.dtype:
    t5 = config.text_config.model_type == "t5"
    if settings.dtype == "float16" and t5:
        # LAVIS #206, transformers #20287: activations overflow, the answers are garbage.
        raise ModelUnavailableError(f"{located.name} overflows in float16; use bfloat16 or float32 (`dtype`).")
    if settings.dtype != "auto":
        return cast(torch.dtype, getattr(torch, settings.dtype))
    if device.type != "cuda" or located.member is DEMO_CAPTIONER:
        return torch.float32
    if not t5:
        return torch.float16
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def _unfit(located: Located, why: str) -> ModelUnavailableError:
    # Downloading again mends a damaged copy of a published model, but not somebody's own folder.
    remedy = f"run `blip2tools pull {located.name}` again or choose" if located.repository else "choose"
    return ModelUnavailableError(f"{located.name} cannot be used: {why}; {remedy} another model.")


@contextmanager
def _problems(name: str) -> Iterator[None]:
    """Turn whatever loading raises into one sentence about this model."""
    try:
        yield
    except VisionError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelUnavailableError(
            f"There is not enough memory for {name}; choose a smaller model, another device, or a half-precision dtype."
        ) from error
    except Exception as error:  # the library's messages hold paths of the cache
        logger.error("loading %s failed", name, exc_info=error)
        raise ModelUnavailableError(
            f"The files of {name} are damaged or not those of a BLIP-2 model; run `blip2tools pull {name}` again."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of the library while it loads: what it finds wrong is judged here."""
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
