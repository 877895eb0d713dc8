"""Checkpoints in 8 or 4 bits on a processor: converted tensor by tensor as their files are read, or as they were kept.

At no time is more than a tensor or two held in full precision. The kernels are chosen by measurement on the machine that runs
them (`model.quantized`), which is remembered next to the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from blip2tools.checkpoints import converted, shards, weights
from blip2tools.checkpoints.converted import Converted
from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.memory import processor
from blip2tools.checkpoints.plan import Located
from blip2tools.model.configuration import Blip2Config
from blip2tools.model.modules import CaptionerModel
from blip2tools.settings import Settings

_TRUNK: Final = ("vision_model.embeddings.", "vision_model.encoder.")
_LANGUAGE: Final = "language_model."
# What the choice of kernels depends on, besides the processor and the number of threads.
_PACKAGES: Final = ("torch", "onnxruntime")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A model with quantized weights, not yet ready to run: see `ready`."""

    model: Any
    weights: Converted
    bits: int

    @property
    def trunk(self) -> str:
        """Digest of the vision tower without its last norm."""
        return self._digest(lambda name: name.startswith(_TRUNK))

    @property
    def language(self) -> str:
        """Digest of the language model."""
        return self._digest(lambda name: name.startswith(_LANGUAGE))

    @property
    def rest(self) -> str:
        """Digest of what is neither: Q-Former, query tokens, projections and heads."""
        return self._digest(lambda name: not name.startswith((*_TRUNK, _LANGUAGE)))

    def _digest(self, belongs: Callable[[str], bool]) -> str:
        return _summary({name: one for name, one in self.weights.digests.items() if belongs(name)})


def read(
    kind: type[nn.Module],
    located: Located,
    config: Blip2Config,
    settings: Settings,
    report: Progress,
) -> Quantized:
    """A model with the quantized weights of a checkpoint.

    Args:
        kind: `CaptionerModel` or `MatcherModel`.
        located: the checkpoint, of the kind that `weights.is_plain` knows.
        config: its configuration.
        settings: the bits, whether weights are kept, and where.
        report: receives the progress.

    Raises:
        MisfitError: tensors are missing, left over or of another shape.
        OSError, SafetensorError, ValueError: a file cannot be read.
    """
    from blip2tools.model.quantized import replace_linears

    bits = converted.BITS[settings.quantize] if kind is CaptionerModel else 8  # the matcher has no layers that get 4
    with torch.device("meta"):
        model: Any = kind(config)
        plain = dict(model.named_parameters())
        replace_linears(model, bits)
    wanted = dict(model.named_parameters(remove_duplicate=False))
    file = converted.place(settings, located, bits) if settings.keep_quantized else None
    facts = converted.origin(located, bits)
    found = None if file is None else converted.recall(file, facts, wanted)
    if found is None:
        found = _converted(_Conversion(kind, model, plain, config, located, report), file, facts, wanted)
    _fill(model, wanted, found.tensors)
    return Quantized(model, found, bits)


def ready(read: Quantized, settings: Settings, located: Located) -> Any:
    """The model with its kernels chosen and its weights in their form.

    Args:
        read: the model; parts that it does not need have been taken out of it.
        settings: where the choice is remembered.
        located: the checkpoint.
    """
    from blip2tools.model.quantized import prepare

    file = converted.place(settings, located, read.bits).with_suffix(".kernels.json")
    machine = _machine()
    known = _known(file, machine)
    choices = prepare(read.model, known)
    read.weights.release()
    if known is None:
        _remember(file, {"machine": machine, "choices": choices})
    return read.model


def leave_out_trunk(read: Quantized) -> None:
    """Take out a vision tower that another one stands for, so that it is not made ready; its last norm stays."""
    tower = read.model.vision_model
    del tower.encoder, tower.embeddings


def _converted(
    conversion: _Conversion,
    file: Path | None,
    facts: dict[str, Any],
    wanted: dict[str, nn.Parameter],
) -> Converted:
    size = sum(one.numel() * one.element_size() for one in {id(one): one for one in wanted.values()}.values())
    if file is not None:
        try:
            return converted.convert(conversion, file, facts, wanted, size)
        except converted.CannotKeepError as error:
            logger.warning(
                "the quantized weights (%.1f GB) cannot be kept: %s; every start converts the checkpoint again",
                size / 1e9,
                error,
            )
    return converted.convert(conversion, None, facts, wanted, size)


class _Conversion:
    """The tensors of a checkpoint, quantized, in the names of a model; read once for each time that it is iterated."""

    def __init__(
        self,
        kind: type[nn.Module],
        model: nn.Module,
        plain: dict[str, nn.Parameter],
        config: Blip2Config,
        located: Located,
        report: Progress,
    ) -> None:
        self._kind, self._model, self._plain = kind, model, plain
        self._config, self._located, self._report = config, located, report
        self._halves: dict[str, str] = {}

    @property
    def trunk(self) -> str:
        """Digest of the vision tower in float16, see `loading.same_weights`: files of the same differ in precision."""
        return _summary(self._halves)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        found: set[str] = set()
        ties = weights.Ties(self._kind, self._config)
        total, done = sum(one.numel() for one in self._plain.values()), 0
        for name, tensor in shards.tensors(cast(Path, self._located.folder)):
            if ties.holds(name):
                ties.put(name, tensor.float())
            elif weights.is_wanted(name, self._plain):
                found.add(name)
                yield from self._put(name, tensor)
            done += tensor.numel()
            self._report(f"converting {self._located.name}, once", min(1.0, done / total))
        for name, tensor in ties.settled().items():
            found.add(name)
            yield from self._put(name, tensor)
        if ties.tied is not None:
            found.add(ties.tied[1])
        weights.check_complete(self._plain, found)

    def _put(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        from blip2tools.model.quantized import quantize

        weights.check_fit(name, tensor, self._plain[name])
        if name.startswith(_TRUNK):
            self._halves[name] = converted.digest(name, tensor.half())
        path, _, leaf = name.rpartition(".")
        bits = getattr(self._model.get_submodule(path), "bits", None) if leaf == "weight" else None
        if bits is None:
            yield name, tensor.float()
        else:
            yield from ((f"{path}.{part}", values) for part, values in quantize(tensor, bits).items())


def _fill(model: Any, wanted: dict[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors in their places; an output layer that is not among them is one with the table of words."""
    made = {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if hasattr(tensor, "release"):
            made[name].release = tensor.release  # type: ignore[attr-defined]
    for name in wanted:
        path, _, leaf = name.rpartition(".")
        value = made.get(name)
        if value is None and path == "language_model.lm_head":
            value = getattr(model.get_input_embeddings(), leaf)
        if value is None:
            raise weights.MisfitError(f"missing: {name}")
        setattr(model.get_submodule(path), leaf, value)


def _summary(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]


def _machine() -> dict[str, Any]:
    """What the choice of kernels depends on."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "edition": converted.EDITION,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _known(file: Path, machine: dict[str, Any]) -> Any | None:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        return written["choices"] if written["machine"] == machine else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(file: Path, content: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, encoding="utf-8", prefix=f"{file.stem}.", suffix=".part", delete=False
        ) as stream:
            json.dump(content, stream)
        Path(stream.name).replace(file)
    except OSError as error:
        logger.info("the choice of kernels could not be kept (%s); it will be measured again", type(error).__name__)
