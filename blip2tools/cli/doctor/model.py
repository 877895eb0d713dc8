"""The model: which one, its files, whether it fits in memory, whether it loads, and its self-test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from blip2tools import checkpoints
from blip2tools.checkpoints import Located, Plan, Progress, converted, selftest
from blip2tools.checkpoints.budget import Budget
from blip2tools.checkpoints.family import CAPTIONERS
from blip2tools.checkpoints.published import Weights
from blip2tools.checkpoints.selftest import Finding
from blip2tools.checkpoints.sizes import weights_of
from blip2tools.cli.doctor.files import check_files, only_pickles
from blip2tools.cli.doctor.machine import HUB_PATIENCE_S
from blip2tools.cli.doctor.report import Section, size, tilde
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Quantize, Settings

_PICKLED = "its weights are only there as pickles, which can run code when they are loaded, and are refused"
_CONVERT = (
    "name a revision with safetensors weights (`--revision`), or have its maker convert it; for files that you trust, "
    "`--allow-pickle`"
)


def examine(settings: Settings, progress: Progress, *, online: bool) -> Iterator[Section]:
    """Everything about the model that `settings` ask for; checks that depend on a failed one are left out.

    Args:
        settings: model, matcher, device, dtype.
        progress: receives the progress of long reading and loading.
        online: whether the hub may be asked about a model that is not on this machine.
    """
    try:
        plan = checkpoints.locate(settings)
    except ModelUnavailableError as error:
        yield Section(title="model", findings=(_nowhere(settings, error),))
        return
    parts = [part for part in (plan.captioner, plan.matcher) if part is not None]
    absent = [part for part in parts if not part.here]
    about = [_named(part, online=online) for part in parts]
    about += [Finding(name="note", status="warning", sentence=text) for text in _notes(plan)]
    if absent:
        yield Section(title="model", findings=tuple(about))
        return
    about += _kept(settings, parts)
    about.append(_memory(settings, plan))
    yield Section(title="model", findings=tuple(about))
    healthy = about[-1].status != "failed"
    for part in parts:
        section = Section(title=f"files of {part.name} ({part.kind})", findings=tuple(check_files(part, progress)))
        healthy = healthy and not selftest.failed(section.findings)
        yield section
    if healthy:
        yield from _loaded(_unchanging(settings, plan), progress)


def absent(settings: Settings) -> bool:
    """Whether the model that is asked for is not on this computer."""
    try:
        return not checkpoints.locate(settings).here
    except ModelUnavailableError:
        return True


def _loaded(settings: Settings, progress: Progress) -> Iterator[Section]:
    """Load it and test it, even if a verdict is remembered."""
    started = time.perf_counter()
    try:
        loaded = checkpoints.load(settings, progress)
    except ModelUnavailableError as error:
        remedy = "run `blip2tools --verbose doctor` for the cause"
        finding = Finding(name="load", status="failed", sentence=error.message.rstrip("."), remedy=remedy)
        yield Section(title="self-test", findings=(finding,))
        return
    sentence = f"{loaded.device}, {loaded.dtype}, in {time.perf_counter() - started:.1f} s"
    if loaded.matcher is not None:
        sentence += ", one vision tower for captioner and matcher" if loaded.shared_trunk else ", two vision towers"
    verdict = selftest.verdict_on(loaded, settings, progress, again=True)
    findings = (Finding(name="load", status="ok", sentence=sentence), *verdict.findings)
    yield Section(title="self-test", findings=findings)


def _named(part: Located, *, online: bool) -> Finding:
    if part.folder is not None:
        return Finding(name=part.kind, status="ok", sentence=f"{part.name}, in {tilde(part.folder)}")
    name = part.repository
    if name is not None and (_cached_pickles(name) or (online and _offers_pickles(name))):
        return Finding(name=part.kind, status="failed", sentence=f"{part.name}: {_PICKLED}", remedy=_CONVERT)
    return Finding(
        name=part.kind,
        status="failed",
        sentence=f"{part.name} is not on this computer, or not all of it",
        remedy=f"blip2tools pull {part.name}",
    )


def _nowhere(settings: Settings, error: ModelUnavailableError) -> Finding:
    """A name that cannot be loaded: perhaps a folder that holds something else."""
    for name in (settings.model, settings.matcher):
        folder = Path(name).expanduser()
        if folder.is_dir() and only_pickles(folder):
            return Finding(name="model", status="failed", sentence=f"{folder.name}: {_PICKLED}", remedy=_CONVERT)
    return Finding(
        name="model",
        status="failed",
        sentence=error.message.rstrip("."),
        remedy="`blip2tools models` lists the family and what is on this machine",
    )


def _notes(plan: Plan) -> list[str]:
    """The plan's warnings, except those that other findings repeat."""
    return [text for text in plan.warnings if "not on this computer" not in text]


def _cached_pickles(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    return isinstance(config, str) and only_pickles(Path(config).parent)


def _offers_pickles(repository: str) -> bool:
    """Whether the hub has pickles alone. Downloads nothing."""
    from huggingface_hub import HfApi

    try:
        files = [file.rfilename for file in HfApi().model_info(repository, timeout=HUB_PATIENCE_S).siblings or []]
    except Exception:  # noqa: BLE001 - whether the hub answers is another check's business
        return False
    return any(name.endswith(".bin") for name in files) and not any(name.endswith(".safetensors") for name in files)


def _kept(settings: Settings, parts: list[Located]) -> Iterator[Finding]:
    """Quantized weights that are kept of these checkpoints."""
    names = {(part.name, part.kind) for part in parts}
    found = [one for one in converted.kept(settings) if (one.name, one.kind) in names]
    if found:
        total, folder = sum(one.size for one in found), tilde(found[0].file.parent)
        sentence = f"{size(total)} of quantized weights in {folder}, for quick starts; `blip2tools remove` deletes them"
        yield Finding(name="kept", status="ok", sentence=sentence)


def _unchanging(settings: Settings, plan: Plan) -> Settings:
    """The settings with which loading writes no new quantized weights, which take gigabytes; kept ones are used."""
    bits = converted.BITS.get(plan.quantize)
    if bits is not None and converted.place(settings, plan.captioner, bits).is_file():
        return settings
    return settings.model_copy(update={"keep_quantized": False})


def _memory(settings: Settings, plan: Plan) -> Finding:
    """Whether the weights fit, before anything is loaded."""
    from blip2tools.checkpoints import devices

    try:
        device = checkpoints.choose_device(settings.device)
        budget = replace(devices.budget_of(settings, device), quantize=plan.quantize)
    except ModelUnavailableError as error:
        return Finding(name="memory", status="skipped", sentence=error.message.rstrip("."))
    parts: list[Weights] = []
    for part in (plan.captioner, plan.matcher):
        if part is not None and part.folder is not None:
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # told by the files' own checks
                parts.append(weights_of(part.folder))
    needed = sum(budget.needed(each) for each in parts)
    if budget.memory is None:
        return Finding(
            name="memory",
            status="skipped",
            sentence=f"{size(needed)} are needed; the system does not report free memory",
        )
    sentence = f"{size(needed)} for the weights, {size(budget.memory)} free on {device}"
    if budget.fits(needed):
        return Finding(name="memory", status="ok", sentence=sentence)
    return Finding(
        name="memory", status="failed", sentence=f"too little: {sentence}", remedy=_lighter(needed, parts, budget)
    )


def _lighter(needed: int, parts: list[Weights], budget: Budget) -> str:
    """The remedy: what would fit instead."""
    ways = []
    if budget.bytes_each == 4 and budget.fits(needed // 2):
        ways.append("numbers of half the size (`--dtype bfloat16`)")
    sizes: tuple[Quantize, ...] = ("8bit", "4bit")
    for form in (replace(budget, quantize=each) for each in sizes):
        if budget.quantize == "none" and budget.processor and form.fits(sum(map(form.needed, parts))):
            ways.append(f"`--quantize {form.quantize}`")
            break
    if fitting := [one.name for one in CAPTIONERS if budget.fits(budget.needed(one.weights))]:
        ways.append(f"choose {fitting[0]}")
    return ", or ".join([*ways, "free some memory, or use a device with more"])
