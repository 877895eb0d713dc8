"""Checkpoints that the library loads: quantized, spread over devices, changed by an adapter, pickled, or of an unusual kind.

Everything else is read by `weights`, as importing what this needs takes longer than a caption of the demo.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Blip2Config as LibraryConfig
from transformers import Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval
from transformers.utils import logging as library_logging

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.adapters import merged
from blip2tools.checkpoints.configuration import unfit
from blip2tools.checkpoints.devices import bring_back, placement
from blip2tools.checkpoints.plan import Located
from blip2tools.errors import ModelUnavailableError
from blip2tools.model.configuration import Blip2Config
from blip2tools.settings import Settings

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


def captioner(
    folder: Path,
    config: Blip2Config,
    dtype: torch.dtype,
    located: Located,
    settings: Settings,
    device: torch.device,
    quantized: Any | None,
) -> Any:
    """The library's captioner with the weights of a folder.

    Args:
        folder: its files.
        config: what they say, put right.
        dtype: of all but the Q-Former.
        located: what it is.
        settings: where its parts may go.
        device: the main one.
        quantized: how to quantize it.

    Raises:
        ModelUnavailableError: it does not fit, or its weights do not fit its configuration.
    """
    where = placement(settings, device, _CAPTIONER, _written(folder, config), dtype, located.name)
    if located.adapter is not None and len(where["device_map"]) > 1:
        raise ModelUnavailableError(
            f"{located.name} cannot be merged into a spread model; choose one device (`device`)."
        )
    return _weights(_CAPTIONER, folder, config, dtype, located, **where, quantization_config=quantized)


def matcher(folder: Path, config: Blip2Config, dtype: torch.dtype, located: Located, device: torch.device) -> Any:
    """The library's matcher with the weights of a folder; see `captioner`."""
    return _weights(_MATCHER, folder, config, dtype, located, device_map={"": str(device)})


def _written(folder: Path, config: Blip2Config) -> Any:
    """The library's configuration of a folder, with the corrections of ours."""
    found: Any = LibraryConfig.from_pretrained(folder, local_files_only=True)
    found.vision_config.layer_norm_eps = config.vision_config.layer_norm_eps
    found.qformer_config.use_qformer_text_input = config.qformer_config.use_qformer_text_input
    return found


def _weights(
    kind: Any,
    folder: Path,
    config: Blip2Config,
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
            config=_written(folder, config),
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
