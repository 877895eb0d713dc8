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
from blip2tools.settings import foreign_variable

Progress = Callable[[str, float | None], None]  # what is being done, and the share done (0 to 1) where it is known

CLASSES = {"captioner": "Blip2ForConditionalGeneration", "matcher": "Blip2ForImageTextRetrieval"}

# Nothing else is ever fetched: Python files are code, and pickled weights can run code unless they are opened for values only.
_TEXT_FILES = re.compile(r"[\w.-]+\.json|merges\.txt|vocab\.txt|spiece\.model")
_WEIGHT_FILES = re.compile(r"(adapter_)?model(-\d{5}-of-\d{5})?\.safetensors")
_PICKLES = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|adapter_model\.bin")
ADAPTER = "adapter_config.json"  # of peft: the folder holds changes to another model
_PULL_REQUESTS = 8  # looked at for safetensors, newest first
_FULL_REVISION = re.compile(r"[0-9a-f]{40}")
_SPARE_DISK = 2**28  # left free after a download

logger = logging.getLogger(__name__)


def cached(repository: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path | None:
    """The folder of a complete copy in the local cache, or None. Never uses the network.

    Args:
        repository: hub id.
        revision: commit, tag, branch or `refs/pr/N`; `main` by default.
        allow_pickle: whether pickled weights count as weights.
    """
    folder = _snapshot(repository, revision or "main")
    if folder is None or not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
        return None
    return folder if missing_from(folder, allow_pickle=allow_pickle) is None else None


def cache_folder() -> Path:
    """The local cache of the hub."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _snapshot(repository: str, revision: str) -> Path | None:
    """The folder of a revision in the local cache (huggingface_hub, "Understand caching").

    The library's own `try_to_load_from_cache` says the same, but comes with an HTTP client and a YAML reader: 0.1 s of every
    command.
    """
    kept = cache_folder() / f"models--{repository.replace('/', '--')}"
    reference = kept / "refs" / revision
    try:
        commit = reference.read_text(encoding="utf-8") if reference.is_file() else revision
        known = {folder.name for folder in (kept / "snapshots").iterdir()}
    except (OSError, ValueError):
        return None
    return kept / "snapshots" / commit if commit in known else None


def offline_variables() -> list[str]:
    """The variables that switch the hub's client off; all of them must be unset before it works."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return [name for name in names if (foreign_variable(name) or "").upper() in ("1", "ON", "YES", "TRUE")]


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and _FULL_REVISION.fullmatch(folder.name) else None


def missing_from(folder: Path, *, allow_pickle: bool = False) -> str | None:
    """The first thing that a checkpoint folder lacks to be loaded, in words; None if it is complete."""
    adapter = (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()
    if not adapter:
        if not (folder / "config.json").is_file():
            return "config.json"
        if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            return "the image processor's configuration"
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")):
            return "the tokenizer"
        if not any((folder / name).is_file() for name in ("tokenizer.json", "merges.txt", "vocab.txt", "spiece.model")):
            return "merges.txt, half of its tokenizer"
    try:
        shards = weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "a readable list of weight files"
    if not shards or not all((folder / name).is_file() for name in shards):
        return "safetensors weights"
    if _PICKLES.fullmatch(shards[0]) and not allow_pickle:
        return "safetensors weights (it has pickled ones, which `--allow-pickle` opens for values only)"
    return None


def pull(
    repository: str,
    name: str,
    progress: Progress | None = None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    admit: Callable[[int], None] | None = None,
) -> Path:
    """Download a checkpoint into the local cache: weights, configuration, tokenizer, nothing else.

    Files that are already there are kept, an interrupted file is resumed, and a complete older copy stays in use until the new
    one is complete.

    Args:
        repository: hub id, `owner/name`.
        name: what the user calls it.
        progress: receives the progress; nothing is printed.
        revision: commit, tag, branch or `refs/pr/N`; `main` by default.
        allow_pickle: take pickled weights where there are no safetensors.
        admit: called with the number of values in the weights, before any are fetched; it may raise.

    Raises:
        ModelUnavailableError: no such repository, nothing safe in it, no network, or not enough disk.
    """
    try:
        return _pull(repository, name, progress or _silent, revision, allow_pickle, admit)
    except ModelUnavailableError:
        raise
    except Exception as error:  # whatever the hub's client raises must not reach a caller: it holds addresses and paths
        logger.warning("downloading %r failed", repository, exc_info=error)
        raise ModelUnavailableError(_reason(error, name)) from error


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int


def _pull(
    repository: str,
    name: str,
    progress: Progress,
    wanted: str | None,
    allow_pickle: bool,
    admit: Callable[[int], None] | None,
) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    progress(f"looking up {name}", None)
    info = HfApi().model_info(repository, revision=wanted, files_metadata=True)
    revision = str(info.sha)
    files = _chosen(
        [_File(file.rfilename, file.size or 0) for file in info.siblings or []], repository, name, allow_pickle
    )
    folder = _snapshot_folder(repository, revision)
    todo = [file for file in files if not (folder / file.name).is_file()]
    _check_disk(folder, sum(file.size for file in todo), name)
    meter = _Meter(f"downloading {name}", sum(file.size for file in files), progress)
    meter.add(sum(file.size for file in files) - sum(file.size for file in todo))
    for file in todo:
        if not _TEXT_FILES.fullmatch(file.name) and admit is not None and (folder / "config.json").is_file():
            admit(_values(folder, files))
            admit = None
        meter.begin()
        hf_hub_download(repository, file.name, revision=revision, tqdm_class=meter.bar_class())
        meter.end(file.size)
        if file.name == "config.json":
            _check_kind(folder, name)
    if lacking := missing_from(folder, allow_pickle=allow_pickle):
        raise ModelUnavailableError(f"The repository of {name} lacks {lacking}; it cannot be used.")
    _point_at(folder, wanted or "main")
    progress(f"downloaded {name}", 1.0)
    return folder


def _chosen(listed: list[_File], repository: str, name: str, allow_pickle: bool) -> list[_File]:
    """The files of a repository to fetch, the small ones first."""
    files = [file for file in listed if _TEXT_FILES.fullmatch(file.name)]
    weights = [file for file in listed if _WEIGHT_FILES.fullmatch(file.name)]
    if any(file.name == "model.safetensors.index.json" for file in files):
        weights = [file for file in weights if file.name != "model.safetensors"]
    if not weights:
        weights = [file for file in listed if _PICKLES.fullmatch(file.name)]
        if weights and not allow_pickle:
            raise ModelUnavailableError(_pickled(repository, name))
    if not weights:
        raise ModelUnavailableError(f"The repository of {name} has no weights that can be loaded.")
    files.sort(key=lambda file: (file.name not in ("config.json", ADAPTER), file.size))
    return files + sorted(weights, key=lambda file: file.size)


def _pickled(repository: str, name: str) -> str:
    refused = f"The repository of {name} has pickled weights only, which can run code when they are opened"
    allowed = "`--allow-pickle`, which opens them for values only"
    if converted := _converted(repository):
        warning = "a pull request that holds safetensors (anybody can open one: look at it first)"
        return f"{refused}; add `--revision {converted}`, {warning}, or {allowed}."
    return f"{refused}; add `--revision` with one that holds safetensors, or {allowed}."


def _converted(repository: str) -> str | None:
    """The newest pull request of a repository that holds safetensors, if there is one."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        requests = api.list_repo_refs(repository, include_pull_requests=True).pull_requests or []
        newest = sorted(
            (request.ref for request in requests), key=lambda ref: int(ref.rpartition("/")[2]), reverse=True
        )
        for reference in newest[:_PULL_REQUESTS]:
            listed = api.model_info(repository, revision=reference).siblings or []
            if any(_WEIGHT_FILES.fullmatch(file.rfilename) for file in listed):
                return reference
    except Exception as error:  # only a better remedy is lost
        logger.info("no pull requests of %r", repository, exc_info=error)
    return None


def _values(folder: Path, files: list[_File]) -> int:
    """How many values the weights hold: their size, and the precision that the configuration names."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    precision = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    size = sum(file.size for file in files if not _TEXT_FILES.fullmatch(file.name))
    return size // (2 if "16" in precision else 4)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold a folder's weights, safetensors before pickles; they need not be there.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: the list of them cannot be read.
    """
    if not (folder / "config.json").is_file() and (folder / ADAPTER).is_file():
        whole = ["adapter_model.safetensors", "adapter_model.bin"]
        return [next((name for name in whole if (folder / name).is_file()), whole[0])]
    for index, name, pattern in (
        ("model.safetensors.index.json", "model.safetensors", _WEIGHT_FILES),
        ("pytorch_model.bin.index.json", "pytorch_model.bin", _PICKLES),
    ):
        if (folder / index).is_file():
            listed = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(listed.values()))
            if not all(isinstance(name, str) and pattern.fullmatch(name) for name in names):
                raise ValueError("a weight file has a strange name")
            return names
        if (folder / name).is_file():
            return [name]
    return ["model.safetensors"]


def _snapshot_folder(repository: str, revision: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=repository, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "snapshots" / revision


def _point_at(folder: Path, revision: str) -> None:
    """Make this folder the cached `revision`. Done last: until then an older, complete copy stays in use."""
    if revision == folder.name:
        return
    reference = folder.parent.parent / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    fresh = reference.with_name(f"{reference.name}.{os.getpid()}")
    fresh.write_text(folder.name, encoding="utf-8")
    fresh.replace(reference)


def _check_disk(folder: Path, needed: int, name: str) -> None:
    existing = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed and needed + _SPARE_DISK > free:
        raise ModelUnavailableError(
            f"{name} needs {needed / 1e9:.1f} GB of disk, only {free / 1e9:.1f} GB is free; "
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
    if isinstance(error, errors.RevisionNotFoundError):
        return f"The hub's {name} has no such revision; check `--revision`."
    if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return f"The hub has no public model named {name}; check the name."
    if isinstance(error, errors.OfflineModeIsEnabled):
        switches = " and ".join(offline_variables()) or "HF_HUB_OFFLINE"
        return f"The hub is switched off ({switches}); unset that and {again}."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full; make room, or point HF_HOME at a larger disk, and {again}."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"The model cache cannot be written to; point HF_HOME at another folder and {again}."
    return f"The download of {name} failed; check the network and {again}, finished files are kept."


def _silent(what: str, share: float | None) -> None:
    pass


class _Meter:
    """Adds up what the hub's client reports to its progress bars."""

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
        """Count the file as complete, whatever was reported meanwhile."""
        self._file = 0
        self.add(size)

    def received(self, size: float) -> None:
        """`size` more bytes of the file; less than 0 when the client starts it over."""
        self._file = max(0, self._file + int(size))
        self._tell()

    def bar_class(self) -> Any:
        """A stand-in for tqdm's class that draws nothing.

        With `update_transfer`, the client makes no second bar that counts the same bytes again.
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
