"""The machine: torch and the device, caches and their disk, allowed folders, the hub."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip2tools.checkpoints import hub, is_cached
from blip2tools.checkpoints.family import FAMILY, SUGGESTED, find
from blip2tools.checkpoints.selftest import Finding
from blip2tools.cli.doctor.report import size, tilde
from blip2tools.errors import InvalidInputError
from blip2tools.pictures.folders import Folders
from blip2tools.settings import Settings

HUB_PATIENCE_S = 4.0  # for the hub to answer
_DRIVER_PATIENCE_S = 10.0  # nvidia-smi wakes a sleeping card first
_SPARE_DISK = 2**28
_BUILDS = "see https://pytorch.org/get-started/locally for the command that fits"


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card as its driver reports it, without torch."""

    name: str
    driver: str
    memory: int  # bytes


def cards() -> list[Card]:
    """NVIDIA cards of this machine; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_DRIVER_PATIENCE_S, check=True)  # noqa: S603
        rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
        return [Card(name, driver, int(memory) * 2**20) for name, driver, memory in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


# ---- the device ----


def device(settings: Settings) -> Iterator[Finding]:
    """Whether torch can use this machine's devices, and computes correctly on them."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a torch that is installed and broken raises what it likes
        yield Finding(
            name="torch",
            status="failed",
            sentence=f"it cannot be imported ({type(error).__name__})",
            remedy=f"pip install --force-reinstall torch; {_BUILDS}",
        )
        return
    build = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    yield Finding(
        name="torch", status="ok", sentence=f"{torch.__version__}, built {f'for {build}' if build else 'without CUDA'}"
    )
    found = cards()
    if found and settings.device.startswith(("auto", "cuda")):
        problem = _unusable(torch, found[0], build)
        if problem is not None:
            yield problem
            return
    yield _chosen(torch, settings.device)


def _unusable(torch: Any, card: Card, build: str) -> Finding | None:
    """Why torch cannot use a card that is there."""
    if not build:
        return Finding(
            name="device",
            status="failed",
            sentence=f"this machine has an {card.name}, but this torch was built without CUDA and cannot use it",
            remedy=f"install a torch that is built for CUDA ({_BUILDS}), or choose `--device cpu`",
        )
    if not torch.cuda.is_available():
        return Finding(
            name="device",
            status="failed",
            sentence=f"torch is built for {build}, which does not run with this machine's driver {card.driver}",
            remedy=f"update the driver, or install a torch for an older CUDA ({_BUILDS})",
        )
    major, minor = torch.cuda.get_device_capability(0)
    if not any(_serves(name, major, minor) for name in torch.cuda.get_arch_list()):
        return Finding(
            name="device",
            status="failed",
            sentence=f"this torch has no kernels for the {card.name} (compute capability {major}.{minor})",
            remedy=f"install a torch that is built for this card ({_BUILDS})",
        )
    return None


def _serves(built: str, major: int, minor: int) -> bool:
    """Whether kernels of this name run on the card: `sm_` on its own generation from its minor on, `compute_` on later ones."""
    kind, _, number = built.partition("_")
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    generation, revision = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return (generation, revision) <= (major, minor)
    return generation == major and revision <= minor


def _chosen(torch: Any, wanted: str) -> Finding:
    """The device that would be used, and a calculation on it."""
    from blip2tools.checkpoints import choose_device
    from blip2tools.errors import ModelUnavailableError

    try:
        name = str(choose_device(wanted))
    except ModelUnavailableError as error:
        return Finding(name="device", status="failed", sentence=error.message, remedy="choose `--device auto`")
    try:
        ones = torch.ones(8, 8, device=name)
        right = float((ones @ ones).sum().cpu()) == 8**3
    except Exception as error:  # noqa: BLE001 - drivers raise what they like
        return Finding(
            name="device",
            status="failed",
            sentence=f"{name} cannot compute ({type(error).__name__})",
            remedy="restart the machine or update the driver, or choose `--device cpu`",
        )
    if not right:
        return Finding(
            name="device", status="failed", sentence=f"{name} computes wrong results", remedy="choose `--device cpu`"
        )
    if not name.startswith("cuda"):
        return Finding(
            name="device", status="ok", sentence=f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores"
        )
    free, total = torch.cuda.mem_get_info(name)
    sentence = f"{name}, {torch.cuda.get_device_name(name)}, {size(free)} of {size(total)} free"
    return Finding(name="device", status="ok", sentence=sentence)


# ---- places ----


def places(settings: Settings) -> Iterator[Finding]:
    """The model cache and its disk, this package's own cache, the allowed folders."""
    yield _model_cache(settings)
    yield _own_cache(settings)
    yield from _folders(settings)


def _model_cache(settings: Settings) -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(folder)).free
    here = [member.name for member in FAMILY if member.hub is not None and is_cached(member.name)]
    holds = f"holds {', '.join(here)}" if here else "holds no BLIP-2 model"
    sentence = f"{tilde(folder)} {holds}; {size(free)} of disk free"
    needed = sum(
        member.download_bytes
        for name in (settings.model, settings.matcher)
        if (member := find(name)) is not None and member.name not in here
    )
    if not writable(folder):
        return Finding(
            name="model cache",
            status="failed" if needed else "warning",
            sentence=f"{sentence}; it cannot be written to, so nothing can be downloaded",
            remedy="make it writable, or point HF_HOME at another folder",
        )
    if needed + _SPARE_DISK > free:
        wanted = f", and the model needs {size(needed)}" if needed else ""
        return Finding(
            name="model cache",
            status="failed",
            sentence=f"{sentence}{wanted}",
            remedy="free some space (`hf cache ls` lists what takes it), or point HF_HOME at a larger disk",
        )
    suggested = find(SUGGESTED)
    if not here and suggested is not None and suggested.download_bytes + _SPARE_DISK > free:
        return Finding(
            name="model cache",
            status="warning",
            sentence=f"{sentence}, too little for the smallest captioner ({size(suggested.download_bytes)})",
            remedy="free some space, or point HF_HOME at a larger disk",
        )
    return Finding(name="model cache", status="ok", sentence=sentence)


def _own_cache(settings: Settings) -> Finding:
    folder = settings.cache_folder
    if writable(folder):
        return Finding(name="own cache", status="ok", sentence=f"{tilde(folder)} can be written to")
    return Finding(
        name="own cache",
        status="warning",
        sentence=f"{tilde(folder)} cannot be written to, so each start tests the model again",
        remedy="make it writable, or name another folder (`--cache-dir`)",
    )


def _folders(settings: Settings) -> Iterator[Finding]:
    try:
        roots = Folders(settings, trusted=False, reveal=True).roots
    except InvalidInputError as error:
        yield Finding(name="folder", status="failed", sentence=error.message, remedy="correct `--allow-dir`")
        return
    if not roots:
        yield Finding(
            name="folder",
            status="warning",
            sentence="no folder is open to the tools: the working directory is the root or a home folder",
            remedy="name a folder (`--allow-dir FOLDER`), or pass pictures as data: URIs",
        )
    for root in roots:
        try:
            entries = sum(1 for _ in os.scandir(root))
        except OSError as error:
            yield Finding(
                name="folder",
                status="failed",
                sentence=f"{tilde(root)} cannot be read ({error.strerror})",
                remedy="let this user read it, or name another folder (`--allow-dir`)",
            )
        else:
            yield Finding(name="folder", status="ok", sentence=f"{tilde(root)} can be read, {entries} entries")


def writable(folder: Path) -> bool:
    """Whether a file can be put into `folder`, or the folder be made; found out by trying where it exists."""
    place = _existing(folder)
    if not place.is_dir():
        return False
    if place != folder:
        return os.access(place, os.W_OK | os.X_OK)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


# ---- the hub ----


def network(settings: Settings, asked: bool | None) -> Finding:
    """Whether the hub answers. Downloads nothing.

    Args:
        settings: `offline`.
        asked: whether to try; None: unless the hub is switched off.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    off = settings.offline or constants.HF_HUB_OFFLINE
    if asked is False or (off and not asked):
        reason = "switched off (offline)" if off else "not asked for"
        return Finding(name="hub", status="skipped", sentence=f"{reason}; models on this machine need no network")
    member = find(SUGGESTED)
    try:
        HfApi().model_info(str(member and member.hub), timeout=HUB_PATIENCE_S)
    except OfflineModeIsEnabled:
        switches = " and ".join(hub.offline_variables()) or "HF_HUB_OFFLINE"
        return Finding(
            name="hub", status="warning", sentence="the hub is switched off", remedy=f"unset {switches} to download"
        )
    except Exception as error:  # noqa: BLE001 - whatever the hub's client raises holds addresses
        return Finding(
            name="hub",
            status="warning",
            sentence=f"{constants.ENDPOINT} does not answer ({type(error).__name__}); models on this machine still work",
            remedy="check network and proxy, or use `--offline`",
        )
    return Finding(name="hub", status="ok", sentence=f"{constants.ENDPOINT} answers")
