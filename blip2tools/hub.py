"""Checkpoints of the Hugging Face hub: what is in the local cache, and the one place that downloads."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blip2tools.errors import ModelUnavailableError

Progress = Callable[[str, float | None], None]  # what is being done, and the share done (0 to 1) where it is known

CLASSES = {"captioner": "Blip2ForConditionalGeneration", "matcher": "Blip2ForImageTextRetrieval"}

# Nothing else is ever fetched: pickled weights can run code, Python files are code.
_TEXT_FILES = re.compile(r"[\w.-]+\.json|merges\.txt|vocab\.txt|spiece\.model")
_WEIGHT_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_INDEX = "model.safetensors.index.json"
_SPARE_DISK = 2**28  # left free after a download

logger = logging.getLogger(__name__)


def cached(repository: str) -> Path | None:
    """The folder of a complete copy in the local cache, or None. Never reaches for the network."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if missing_from(folder) is None else None


def missing_from(folder: Path) -> str | None:
    """What a checkpoint folder lacks to be loaded, in words; None if it is complete."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return "the image processor's configuration"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")):
        return "the tokenizer"
    try:
        shards = weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "a readable list of weight files"
    if not shards or not all((folder / name).is_file() for name in shards):
        return "safetensors weights"
    return None


def pull(repository: str, name: str, progress: Progress | None = None) -> Path:
    """Download a checkpoint into the local cache: safetensors weights, configuration, tokenizer, nothing else.

    Files that are already there are kept, a broken connection is taken up again within a file, and a copy that was complete
    before stays in use until the new one is.

    Args:
        repository: hub id, `owner/name`.
        name: what the user calls it.
        progress: told how far it is; nothing is printed.

    Raises:
        ModelUnavailableError: no such repository, nothing safe in it, no network, or not enough disk.
    """
    try:
        return _pull(repository, name, progress or _silent)
    except ModelUnavailableError:
        raise
    except Exception as error:  # whatever the hub's client raises must not reach a caller: it holds addresses and paths
        logger.warning("downloading %r failed", repository, exc_info=error)
        raise ModelUnavailableError(_reason(error, name)) from error


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int


def _pull(repository: str, name: str, progress: Progress) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    progress(f"looking up {name}", None)
    info = HfApi().model_info(repository, files_metadata=True)
    revision = str(info.sha)
    files = [_File(file.rfilename, file.size or 0) for file in info.siblings or [] if _wanted(file.rfilename)]
    if not any(file.name.endswith(".safetensors") for file in files):
        raise ModelUnavailableError(
            f"The repository of {name} has no safetensors weights, and no others are ever loaded."
        )
    if any(file.name == _INDEX for file in files):
        files = [file for file in files if file.name != "model.safetensors"]
    files.sort(key=lambda file: (file.name != "config.json", file.size))

    folder = _snapshot_folder(repository, revision)
    todo = [file for file in files if not (folder / file.name).is_file()]
    _check_disk(folder, sum(file.size for file in todo), name)
    meter = _Meter(f"downloading {name}", sum(file.size for file in files), progress)
    meter.add(sum(file.size for file in files) - sum(file.size for file in todo))
    for file in todo:
        meter.begin()
        hf_hub_download(repository, file.name, revision=revision, tqdm_class=meter.bar_class())
        meter.end(file.size)
        if file.name == "config.json":
            _check_kind(folder, name)
    if lacking := missing_from(folder):
        raise ModelUnavailableError(f"The repository of {name} lacks {lacking}; it cannot be used.")
    _point_main_at(folder)
    progress(f"downloaded {name}", 1.0)
    return folder


def _wanted(name: str) -> bool:
    return bool(_TEXT_FILES.fullmatch(name) or _WEIGHT_FILES.fullmatch(name))


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights; they need not be there.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the list of them cannot be read.
    """
    index = folder / _INDEX
    if not index.is_file():
        return ["model.safetensors"]
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if not all(isinstance(name, str) and _WEIGHT_FILES.fullmatch(name) for name in names):
        raise ValueError("a weight file has a strange name")
    return names


def _snapshot_folder(repository: str, revision: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / revision


def _point_main_at(folder: Path) -> None:
    """Make this revision the cached `main`. Only now: until here an older, complete copy stays the one in use."""
    reference = folder.parent.parent / "refs" / "main"
    reference.parent.mkdir(exist_ok=True)
    fresh = reference.with_name(f"main.{os.getpid()}")
    fresh.write_text(folder.name, encoding="utf-8")
    fresh.replace(reference)


def _check_disk(folder: Path, needed: int, name: str) -> None:
    existing = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + _SPARE_DISK > free:
        raise ModelUnavailableError(
            f"{name} needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; "
            "make room, or point HF_HOME at a larger disk."
        )


def _check_kind(folder: Path, name: str) -> None:
    """Refuse what is not BLIP-2 before gigabytes are fetched."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.get("model_type") != "blip-2":
        raise ModelUnavailableError(f"{name} is not a BLIP-2 model.")


def _reason(error: Exception, name: str) -> str:
    from huggingface_hub import errors

    again = f"run `blip2tools pull {name}` again"
    if isinstance(error, errors.GatedRepoError):
        return f"{name} asks for its terms to be accepted on the hub first; do that, log in, and {again}."
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return f"The hub has no public model named {name}; check the name."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"The hub is switched off (HF_HUB_OFFLINE); unset that and {again}."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full; make room, or point HF_HOME at a larger disk, and {again}."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"The model cache cannot be written to; point HF_HOME at another folder and {again}."
    return f"The download of {name} failed; check the network and {again}, finished files are kept."


def _silent(what: str, share: float | None) -> None:
    pass


class _Meter:
    """Adds up what the hub's client reports to the progress bars that it believes to draw."""

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self._what, self._total, self._progress = what, total, progress
        self._done = self._file = 0
        self._told = -1.0

    def add(self, size: int) -> None:
        """Count `size` bytes that were there before."""
        self._done += size
        self._tell()

    def begin(self) -> None:
        """A file begins."""
        self._file = 0

    def end(self, size: int) -> None:
        """The file is there, whatever was reported meanwhile."""
        self._file = 0
        self.add(size)

    def received(self, size: float) -> None:
        """`size` more bytes of the file; less than 0 when the client starts it over."""
        self._file = max(0, self._file + int(size))
        self._tell()

    def bar_class(self) -> Any:
        """A stand-in for tqdm's class that draws nothing.

        Having `update_transfer`, it is not asked for a second bar that counts the same bytes once more.
        """
        meter = self

        class Bar:
            n = 0
            total: int | None = None

            def __init__(self, *_: object, initial: float = 0, **__: object) -> None:
                meter.received(initial or 0)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, size: float | None = 1) -> None:
                meter.received(size or 0)

            def update_transfer(self, *_: object) -> None:
                pass

            def __getattr__(self, name: str) -> Callable[..., None]:
                return lambda *_, **__: None  # descriptions, refreshing, closing: nothing is drawn

        return Bar

    def _tell(self) -> None:
        share = min(1.0, (self._done + self._file) / self._total) if self._total else 0.0
        if share - self._told >= 0.002 or share < self._told:
            self._told = share
            self._progress(self._what, share)
