"""What a checkpoint's files are, without reading all of them: whether results of two runs come from the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from blip2tools.checkpoints.plan import Located

SAMPLES: Final = 64  # places of a file that are read
SAMPLE_BYTES: Final = 4096
_KINDS: Final = (".safetensors", ".json", ".bin", ".txt", ".model")


def identity(located: Located) -> dict[str, Any]:
    """Name, revision and a digest of the files: other sizes, or other bytes in one of 64 places of a file, change it.

    Two folders of one name are told apart, and so are weights that were trained further; a file that differs in a few bytes
    alone may not be.
    """
    digest = hashlib.sha256()
    for folder in filter(None, (located.folder, located.adapter)):
        for path in sorted(one for one in folder.iterdir() if one.suffix in _KINDS and one.is_file()):
            digest.update(path.name.encode() + b"\0")
            _add(digest, path)
    return {"name": located.name, "revision": located.revision, "files": digest.hexdigest()[:16]}


def _add(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        step = max(SAMPLE_BYTES, size // SAMPLES)
        for place in range(0, size, step):
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
