"""Verdicts on disk: one small file for each set of weights on each machine, versions and settings that matter included.

A problem with these files is not an error: the test is then run again at the next load.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from blip2tools.__version__ import __version__
from blip2tools.checkpoints import Loaded
from blip2tools.checkpoints.selftest.findings import Verdict

EDITION = 4  # of the checks: a new one makes old verdicts invalid
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "pillow", "bitsandbytes")

logger = logging.getLogger(__name__)


def key(loaded: Loaded) -> str:
    """32 hex digits that name the weights, tokenizers, preprocessing, dtype, device and versions."""
    captioner, matcher = loaded.captioner, loaded.matcher
    facts = [
        EDITION,
        __version__,
        loaded.model,
        loaded.matcher_name,
        loaded.dtype,
        _device(loaded.device),
        captioner.trunk.fingerprint,
        captioner.fingerprint,
        captioner.language_fingerprint,
        loaded.pixels.key,
        loaded.words.fingerprint,
        matcher and (matcher.trunk.fingerprint, matcher.fingerprint),
        loaded.matcher_pixels and loaded.matcher_pixels.key,
        loaded.matcher_words and loaded.matcher_words.fingerprint,
        platform.python_version(),
        [_version(package) for package in _PACKAGES],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def recall(folder: Path, name: str) -> Verdict | None:
    """The verdict kept under this key; None where there is none that can be read."""
    try:
        return Verdict.model_validate_json((folder / f"{name}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def keep(folder: Path, name: str, verdict: Verdict) -> bool:
    """Keep a verdict for later processes; returns whether that was possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8", suffix=".part", delete=False) as stream:
            stream.write(verdict.model_dump_json(indent=2))
        Path(stream.name).replace(folder / f"{name}.json")
    except OSError as error:
        logger.info("the self-test's verdict could not be kept (%s); it will be run again", type(error).__name__)
        return False
    return True


def _device(name: str) -> str:
    import torch

    if name.startswith("cuda"):
        return f"{torch.cuda.get_device_name(name)}, CUDA {torch.version.cuda}"
    return f"{name}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
