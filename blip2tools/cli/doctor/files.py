"""A checkpoint's files, one by one: readable, complete, consistent with each other, and as they were published."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from blip2tools.checkpoints import Located, Progress, hub
from blip2tools.checkpoints.family import Kind
from blip2tools.checkpoints.selftest import Finding
from blip2tools.cli.doctor.report import size
from blip2tools.errors import ModelUnavailableError

_BLOCK = 2**22  # bytes hashed between two reports
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.msgpack", "*.h5")


class Damage(Exception):  # noqa: N818 - a finding on its way out, not an error
    """A file is not what it should be: one sentence, and a remedy where another one fits better."""

    def __init__(self, sentence: str, remedy: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence, self.remedy = sentence, remedy


def check_files(part: Located, progress: Progress) -> Iterator[Finding]:
    """Configuration, image processor, tokenizer and every weight file of a checkpoint on this machine.

    Args:
        part: the checkpoint.
        progress: receives the progress of reading large files.
    """
    folder = part.folder
    if folder is None:
        return
    again = f"run `blip2tools pull {part.name}` again" if part.repository else "copy it again from where it came"

    def guarded(name: str, check: Callable[[], str]) -> Finding:
        try:
            return Finding(name=name, status="ok", sentence=check())
        except Damage as damage:
            return Finding(name=name, status="failed", sentence=damage.sentence, remedy=damage.remedy or again)
        except OSError as error:
            return Finding(name=name, status="failed", sentence=f"cannot be read ({error.strerror})", remedy=again)

    yield guarded("config.json", lambda: _configuration(folder, part.kind))
    yield guarded("picture size", lambda: _picture_size(folder))
    yield guarded("tokenizer", lambda: _tokenizer(folder, part.kind))
    tensors = _index(folder)
    for name in hub.weight_files(folder):
        yield guarded(name, lambda name=name: _weights(folder, name, tensors.get(name, set()), progress))  # type: ignore[misc]


def only_pickles(folder: Path) -> bool:
    """Whether a folder's weights can only be unpickled, which would run whatever code they hold."""
    return not any(folder.glob("*.safetensors")) and any(any(folder.glob(pattern)) for pattern in _PICKLES)


def published_digest(file: Path) -> str | None:
    """The hub's digest of a file when it was downloaded: SHA-256, or Git's SHA-1 for a small file; None if unknown.

    In the hub's cache each file is a link to a blob whose name is its digest; next to a folder of the user's own choice the
    hub's client keeps a note (huggingface_hub, "Understand caching" and `local_dir`).
    """
    blob = file.resolve()
    name = blob.name if blob.parent.name == "blobs" else ""
    with suppress(OSError, UnicodeDecodeError, IndexError):
        note = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
        name = name or note.read_text(encoding="ascii").splitlines()[1].strip()
    return name if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damage(f"{file.name} is not JSON") from error
    if not isinstance(content, dict):
        raise Damage(f"{file.name} holds no JSON object")
    return content


def _configuration(folder: Path, kind: Kind) -> str:
    config = _json(folder / "config.json")
    wanted = hub.CLASSES[kind]
    if config.get("model_type") != "blip-2" or wanted not in (config.get("architectures") or [wanted]):
        raise Damage(f"this is not a BLIP-2 {kind}", "choose another model; `blip2tools models` lists the family")
    text = config.get("text_config") or {}
    return f"BLIP-2 {kind}" + (f" with {str(text.get('model_type', 'opt')).upper()}" if kind == "captioner" else "")


def _picture_size(folder: Path) -> str:
    from blip2tools.model import Pixels
    from blip2tools.model.configuration import Blip2Config
    from blip2tools.model.preprocessing import Recipe

    try:
        tower = Blip2Config.read(_json(folder / "config.json")).vision_config.image_size
        made = Pixels(Recipe.of_folder(folder)).size
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damage("the picture sizes cannot be read from the configuration files") from error
    if tower != made:
        raise Damage(f"the vision tower wants {tower} px, the image processor makes {made} px")
    return f"{tower} px, vision tower and image processor agree"


def _tokenizer(folder: Path, kind: Kind) -> str:
    from blip2tools.checkpoints import configuration
    from blip2tools.checkpoints.prompts import PlainEncoder

    try:
        tokenizer = configuration.tokenizer(folder, folder.name)
        encode = PlainEncoder(tokenizer)
        ids = encode("a red circle")
    except ModelUnavailableError as error:
        raise Damage(error.message.rstrip("."), "install what is named") from error
    except Exception as error:  # the libraries may raise anything about foreign files
        name = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "the tokenizer"
        raise Damage(f"{name} cannot be read") from error
    if not ids:
        raise Damage("it turns words into no ids")
    words = encode.vocabulary
    config = _json(folder / "config.json")
    part = config.get("text_config" if kind == "captioner" else "qformer_config") or {}
    if words > int(part.get("vocab_size") or words):
        raise Damage(f"it knows {words} words, the model {part['vocab_size']}: it belongs to another model")
    if kind == "matcher" and None in (tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")):
        raise Damage("it is not BERT's: it belongs to another model")
    return f"{words} words"


def _index(folder: Path) -> dict[str, set[str]]:
    """Names of the tensors that each file should hold; empty for a checkpoint of one file."""
    tensors: dict[str, set[str]] = {}
    for file in folder.glob("*.safetensors.index.json"):
        for tensor, name in json.loads(file.read_text(encoding="utf-8"))["weight_map"].items():
            tensors.setdefault(name, set()).add(tensor)
    return tensors


def _weights(folder: Path, name: str, wanted: set[str], progress: Progress) -> str:
    file = folder / name
    with file.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise Damage("only a pointer of Git LFS, not the weights", "run `git lfs pull` in its repository")
    length = file.stat().st_size
    if file.suffix != ".safetensors":
        return f"{size(length)}, a pickle: read when the model is loaded, weights only"
    try:
        with safe_open(file, framework="np") as opened:
            found = set(opened.keys())
    except SafetensorError as error:
        raise Damage(f"damaged or incomplete ({size(length)} are here)") from error
    if lost := wanted - found:
        raise Damage(f"{len(lost)} of its {len(wanted)} tensors are missing")
    told = f"{size(length)}, {len(found)} tensors"
    published = published_digest(file)
    if published is None:
        return f"{told}, complete"
    if _digest(file, length, published, progress) != published:
        raise Damage(f"{told}, but not those that were published: the digest differs")
    return f"{told}, as published (digest)"


def _digest(file: Path, length: int, like: str, progress: Progress) -> str:
    """SHA-256 of a large file of the hub, Git's SHA-1 of a small one."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % length, usedforsecurity=False)
    with file.open("rb") as stream:
        read = 0
        while block := stream.read(_BLOCK):
            digest.update(block)
            read += len(block)
            progress(f"reading {file.name}", read / length)
    return digest.hexdigest()
