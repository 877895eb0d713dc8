"""Loading and fetching, with our own error messages, and nothing left behind by a failure."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from typing import TYPE_CHECKING

from blip2tools.checkpoints.hub import Progress
from blip2tools.checkpoints.plan import Choice, Loaded, downloadable, pull, shown_name
from blip2tools.errors import ModelUnavailableError, VisionError
from blip2tools.settings import Settings

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def load(settings: Settings, progress: Progress | None = None, *, download: bool = False) -> Loaded:
    """Load what `settings` ask for. Takes seconds to minutes. A failure leaves nothing behind; it may be called again.

    Args:
        settings: model, matcher, device, dtype, threads, offline.
        progress: receives what is being done.
        download: pull a *named* model that is missing. `auto` never downloads.

    Raises:
        ModelUnavailableError: with the model's name and the remedy.
    """
    from blip2tools.checkpoints import loading

    report = progress or _silent
    try:
        return loading.load(settings, report, download=download)
    except VisionError as error:
        _let_go(error)
        raise
    except Exception as error:  # paths of the cache and foreign text stay in the log
        logger.error("loading failed", exc_info=error)
        _let_go(error)
        raise ModelUnavailableError(
            f"The model {shown_name(settings.model)} could not be loaded; the server's log, or --verbose, says why."
        ) from error


def choose_device(name: str) -> torch.device:
    """The device that a setting stands for.

    Raises:
        ModelUnavailableError: there is no such device here.
    """
    from blip2tools.checkpoints import devices

    return devices.choose_device(name)


def fetch(name: str, settings: Settings, progress: Progress | None = None, *, anyway: bool = False) -> None:
    """Download a model, unless it is known to be too large for the device of the settings.

    Args:
        name: short name or hub id.
        settings: revision, allow_pickle, device, dtype, quantize, offline.
        progress: receives the progress.
        anyway: do not check the device: the model may be for another machine.

    Raises:
        ModelUnavailableError: with the model's name and the remedy.
    """
    if settings.offline:
        raise ModelUnavailableError(f"Downloads are switched off (`offline`), so {shown_name(name)} cannot be fetched.")
    downloadable(name)
    budget = None
    if not anyway:
        from blip2tools.checkpoints.devices import budget_of, choose_device

        budget = budget_of(settings, choose_device(settings.device))
    pull(name, progress, choice=Choice(settings.revision, settings.allow_pickle), budget=budget)


def _let_go(error: BaseException) -> None:
    """Free what a failed load built: the frames of its traceback would keep half-loaded weights alive."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _silent(what: str, share: float | None) -> None:
    pass
