"""The self-test as a whole: when a model is tested, and what its verdict means for it."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from blip2tools import checkpoints
from blip2tools.checkpoints import Loaded, Plan, Progress
from blip2tools.checkpoints.family import find
from blip2tools.checkpoints.selftest import remembered
from blip2tools.checkpoints.selftest.findings import Verdict
from blip2tools.errors import ModelUnavailableError
from blip2tools.settings import Settings

if TYPE_CHECKING:
    from blip2tools.checkpoints.selftest.beside import Whole
    from blip2tools.model import Captioner


def load(settings: Settings, progress: Progress | None = None, *, download: bool = False) -> Loaded:
    """Load what `settings` ask for, and test it unless that was done before or is switched off; record and compile it.

    Args:
        settings: as for `checkpoints.load`, `self_test`, `cache_dir` for the verdicts, `cuda_graphs` and `compile`.
        progress: as for `checkpoints.load`.
        download: as for `checkpoints.load`.

    Raises:
        ModelUnavailableError: with the model's name and the remedy.
    """
    loaded = _tested(checkpoints.load(settings, progress, download=download), settings, progress)
    if not settings.compile and not (settings.cuda_graphs and loaded.device.startswith("cuda")):
        return loaded
    from blip2tools.checkpoints.selftest.compiling import switch_on

    return switch_on(loaded, settings, progress)


def _tested(loaded: Loaded, settings: Settings, progress: Progress | None) -> Loaded:
    quantized = loaded.quantize != "none"
    if not settings.self_test and not quantized:
        return loaded
    verdict = verdict_on(loaded, settings, progress)
    notes = loaded.notes
    if verdict.failed and quantized:
        raise ModelUnavailableError(
            f"{loaded.model} fails its self-test in {loaded.quantize} ({', '.join(verdict.failed)}) and is refused; "
            f"{'try `--quantize 8bit`, or ' if loaded.quantize == '4bit' else ''}leave `quantize` out."
        )
    if verdict.failed:
        notes += (
            f"the self-test of this model failed ({', '.join(verdict.failed)}), its answers may be wrong; "
            "`blip2tools doctor` says what to do",
        )
    return replace(loaded, notes=notes, self_test=verdict.summary)


def verdict_on(loaded: Loaded, settings: Settings, progress: Progress | None = None, *, again: bool = False) -> Verdict:
    """The verdict that is remembered for these weights, or a new one, which is remembered from then on.

    Args:
        loaded: the model.
        settings: where verdicts are kept.
        progress: receives that a test is running.
        again: test even if there is a verdict.
    """
    folder = settings.cache_folder / "self-test"
    key = remembered.key(loaded)
    known = None if again else remembered.recall(folder, key)
    if known is not None:
        return known
    if progress is not None:
        progress("testing the model, once", None)
    verdict = examine(loaded, settings)
    if verdict.complete:
        remembered.keep(folder, key, verdict)
    return verdict


def examine(loaded: Loaded, settings: Settings | None = None) -> Verdict:
    """Run every check now.

    Args:
        loaded: the model.
        settings: what it was loaded with; a quantized one can then be compared with what it was made from.
    """
    from blip2tools.checkpoints.selftest.checks import run

    started = time.perf_counter()
    whole = partial(_unquantized, loaded, settings)
    findings, complete = run(loaded, named=find(loaded.model, "captioner"), unquantized=whole)
    name = loaded.model if loaded.matcher_name is None else f"{loaded.model} + {loaded.matcher_name}"
    return Verdict(
        model=name,
        tested=datetime.now(UTC).replace(microsecond=0),
        seconds=round(time.perf_counter() - started, 3),
        findings=tuple(findings),
        complete=complete,
    )


def _unquantized(loaded: Loaded, settings: Settings | None) -> Whole | None:
    """The model before it was quantized, on the same device; None if there is not enough memory, or it is unknown."""
    if settings is None:
        return None
    # `auto` would choose again, now that less memory is free.
    chosen = {} if settings.model != "auto" else {"model": loaded.model}
    chosen |= {} if settings.matcher != "auto" else {"matcher": loaded.matcher_name or "none"}
    settings = settings.model_copy(update={"quantize": loaded.quantize, **chosen})
    plan = checkpoints.locate(settings)
    from blip2tools.checkpoints import devices
    from blip2tools.checkpoints.selftest.beside import Whole

    try:
        if devices.quantizes_itself(settings, checkpoints.choose_device(loaded.device)):
            from blip2tools.checkpoints.loading import in_full_precision

            if (found := in_full_precision(plan, loaded)) is not None:
                return Whole(*found)
        whole = _loaded_whole(plan, settings, loaded.device)
    except (ModelUnavailableError, OSError, ValueError, KeyError):
        return None
    return None if whole is None else Whole(whole)


def _loaded_whole(plan: Plan, settings: Settings, device: str) -> Captioner | None:
    """The captioner as it would be loaded without quantizing it."""
    from blip2tools.checkpoints import devices
    from blip2tools.checkpoints.sizes import weights_of

    folder = plan.captioner.folder
    plain = settings.model_copy(update={"quantize": "none", "matcher": "none"})
    budget = devices.budget_of(plain, checkpoints.choose_device(device))
    fits = folder is not None and budget.memory is not None and budget.fits(budget.needed(weights_of(folder)))
    return checkpoints.load(plain).captioner if fits else None
