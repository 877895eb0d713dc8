"""Device and precision of a model: one device, or its language model spread over several places."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, cast

import torch

from blip2tools.checkpoints.budget import EVERYWHERE, Budget
from blip2tools.checkpoints.family import DEMO_CAPTIONER, memory_bytes
from blip2tools.checkpoints.memory import free_memory
from blip2tools.checkpoints.published import Weights
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Settings

_BLOCK = re.compile(r"(language_model\.(?:model\.)?(?:encoder|decoder)\.(?:layers|block)\.\d+)\.")
_SHARE = 0.9  # of what is free: the rest is for the work
_LLM_INT8 = (7, 5)  # bitsandbytes: 8-bit products need the tensor cores of Turing
_FOUR_BIT = (6, 0)

# Parts that are not quantized with a language model: everything outside of it, and what turns its states into words.
WHOLE_MODULES = ["vision_model", "qformer", "query_tokens", "language_projection", "lm_head"]


def choose_device(name: str) -> torch.device:
    """The device that a setting names; where it spreads, the one that holds everything but parts of the language model.

    Raises:
        ModelUnavailableError: there is no such device.
    """
    if name in ("auto", "spread"):
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
    """The memory that a model may take there now."""
    cuda = device.type == "cuda"
    half = settings.dtype in ("float16", "bfloat16") or (settings.dtype == "auto" and cuda)
    own = torch.cuda.mem_get_info(device)[0] if cuda else None
    memory, place = (own if cuda else free_memory()), str(device) if cuda else "this computer"
    if settings.device == "spread":
        limits = _limits(settings, device)
        memory = None if settings.offload_dir is not None else sum(limits.values())
        place = EVERYWHERE
    return Budget(
        memory,
        bytes_each=2 if half else 4,
        t5_bytes_each=4 if half and settings.dtype == "auto" and not _has_bfloat16() else None,
        quantize=settings.quantize,
        place=place,
        main_memory=free_memory() if cuda and settings.device != "spread" else None,
        processor=device.type == "cpu" and settings.device != "spread",
    )


def dtype_for(settings: Settings, device: torch.device, *, t5: bool, name: str, demo: bool) -> torch.dtype:
    """The precision of everything but the Q-Former.

    Raises:
        ModelUnavailableError: float16 for FLAN-T5, whose activations overflow in it (LAVIS #206, transformers #20287).
    """
    if settings.dtype == "float16" and t5:
        raise ModelUnavailableError(f"{name} overflows in float16; use bfloat16 or float32 (`dtype`).")
    if settings.dtype != "auto":
        return cast(torch.dtype, getattr(torch, settings.dtype))
    if device.type != "cuda" or demo:
        return torch.float32
    if not t5:
        return torch.float16
    return torch.bfloat16 if _has_bfloat16() else torch.float32


def _has_bfloat16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def quantizes_itself(settings: Settings, device: torch.device) -> bool:
    """Whether a plain checkpoint is quantized by this package and not by the library: on a processor.

    Raises:
        ModelUnavailableError: the settings ask for what cannot be had with that.
    """
    if settings.quantize == "none" or device.type != "cpu":
        return False
    if settings.device == "spread":
        raise ModelUnavailableError("A quantized model goes to one device: choose either `quantize` or `spread`.")
    if settings.dtype not in ("auto", "float32"):
        raise ModelUnavailableError("A model that is quantized on a CPU computes in float32; leave `dtype` out.")
    return True


def quantization(settings: Settings, device: torch.device, dtype: torch.dtype, name: str) -> Any | None:
    """The library's quantization options; None for none.

    Raises:
        ModelUnavailableError: the extra is missing, or the device cannot do it.
    """
    if settings.quantize == "none":
        return None
    if name == DEMO_CAPTIONER.name:
        raise ModelUnavailableError("The demo is too small to be quantized; leave `quantize` out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnavailableError("`quantize` needs an extra: pip install 'blip2tools[quantize]'.")
    if settings.device == "spread":
        raise ModelUnavailableError("A quantized model goes to one device: choose either `quantize` or `spread`.")
    eight = settings.quantize == "8bit"
    if device.type not in ("cuda", "cpu"):
        raise ModelUnavailableError(
            f"{settings.quantize} does not work on {device.type}; choose `cuda` or `cpu` (`device`)."
        )
    needed = _LLM_INT8 if eight else _FOUR_BIT
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < needed:
        another = "try `--quantize 4bit`" if eight else "choose a smaller model"
        raise ModelUnavailableError(
            f"This card cannot do {settings.quantize}: it needs compute capability {needed[0]}.{needed[1]}; {another}."
        )
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    if eight:
        return config(load_in_8bit=True, llm_int8_skip_modules=WHOLE_MODULES)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=WHOLE_MODULES,
    )


def placement(
    settings: Settings, device: torch.device, kind: Any, config: Any, dtype: torch.dtype, name: str
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where each part goes.

    Only layers of the language model leave the main device. The parts at its ends stay there: a split between the layers
    and the output layer, or between two tied ones, gives wrong words or none (transformers #21707, #26806).

    Raises:
        ModelUnavailableError: it does not fit and there is no folder for the rest.
    """
    if settings.device != "spread":
        return {"device_map": {"": str(device)}}
    with torch.device("meta"):
        empty = kind(config)
    sizes: dict[str, int] = {}
    ends: dict[str, str] = {}
    fixed = Weights(0, 0, 0, 0, 0)
    seen: set[int] = set()
    for parameter, tensor in empty.named_parameters(remove_duplicate=False):
        block = _BLOCK.match(parameter)
        # Tied ones have several names and one size; FLAN-T5's output layer is only tied until its weights are loaded.
        again = id(tensor) in seen and not (config.text_config.model_type == "t5" and "lm_head" in parameter)
        seen.add(id(tensor))
        size = 0 if again else tensor.numel()
        if block:
            sizes[block[1]] = sizes.get(block[1], 0) + size * dtype.itemsize
        else:
            ends[parameter.rpartition(".")[0] or parameter] = str(device)
            bridge = parameter.startswith(("qformer", "query_tokens"))
            fixed = Weights(0, fixed.bridge + size * bridge, 0, 0, fixed.rest + size * (not bridge))
    room = _limits(settings, device)
    room[str(device)] -= memory_bytes(fixed, dtype.itemsize)
    if room[str(device)] < 0:
        raise ModelUnavailableError(f"{name} has parts that must stay together and do not fit on {device}.")
    spread, places = dict(ends), list(room)
    for block_name, size in sizes.items():
        while places and room[places[0]] < size:
            places.pop(0)
        spread[block_name] = places[0] if places else "disk"
        if places:
            room[places[0]] -= size
    if set(spread.values()) == {str(device)}:
        return {"device_map": {"": str(device)}}
    if "disk" not in spread.values():
        return {"device_map": spread}
    if settings.offload_dir is None:
        raise ModelUnavailableError(
            f"{name} does not fit in all memory together; name a folder for the rest (`offload_dir`)."
        )
    return {"device_map": spread, "offload_folder": str(Path(settings.offload_dir).expanduser())}


def bring_back(model: Any) -> None:
    """Make every part of a spread model return its results on the device of its arguments.

    The decoding loop calls the parts of a layer one by one, and keeps its sums on the main device.
    """
    for module in model.modules():
        hook: Any = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            if hasattr(each, "io_same_device"):
                each.io_same_device = True


def _limits(settings: Settings, device: torch.device) -> dict[str, int]:
    """The memory limit of each place, the main device first, main memory last."""
    limits: dict[str, int] = {}
    if device.type == "cuda":
        order = [
            device.index or 0,
            *(other for other in range(torch.cuda.device_count()) if other != (device.index or 0)),
        ]
        limits = {f"cuda:{index}": int(torch.cuda.mem_get_info(index)[0] * _SHARE) for index in order}
    elif device.type == "mps":
        limits = {"mps": int((free_memory() or 0) * _SHARE / 2)}
    limits["cpu"] = int((free_memory() or 0) * _SHARE)
    return {place: min(free, settings.memory_limits.get(place, free)) for place, free in limits.items()}
