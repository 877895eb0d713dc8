"""Files of tensors read one tensor at a time into memory of its own.

The library maps a whole file, and every page that was read of it then counts as memory of the process: converting a checkpoint
that way would take as much as holding it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch
from safetensors import safe_open
from torch import Tensor

from blip2tools.checkpoints import hub
from blip2tools.checkpoints.sizes import header

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """The place of one tensor.

    Attributes:
        file: where it is.
        start: its first byte there.
        dtype: of its values.
        shape: of it.
    """

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, stream: BinaryIO | None = None) -> Tensor:
        """The tensor.

        Args:
            stream: the file, where it is open already.

        Raises:
            OSError: it cannot be read, or ends too early.
        """
        if stream is None:
            with self.file.open("rb", buffering=0) as opened:
                return self.read(opened)
        made = torch.empty(self.shape, dtype=self.dtype)
        room = made.view(-1).view(torch.uint8).numpy().data if made.numel() else memoryview(b"")
        stream.seek(self.start)
        done = 0
        while done < len(room):
            count = stream.readinto(room[done:])  # type: ignore[attr-defined]
            if not count:
                raise OSError(f"{self.file.name} ends too early")
            done += count
        return made


def pieces(folder: Path) -> dict[str, Piece]:
    """Every tensor of a folder's files by its name, in the order in which they lie there.

    Raises:
        OSError, SafetensorError: a file cannot be read, or is not in the format.
        ValueError: values of a kind that no checkpoint of the family has.
    """
    found: dict[str, Piece] = {}
    for name in hub.weight_files(folder):
        found |= _of_file(folder / name)
    return found


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder's files, each read when it is asked for; raises as `pieces` and `Piece.read`."""
    file, stream = None, None
    try:
        for name, piece in pieces(folder).items():
            if piece.file != file:
                if stream is not None:
                    stream.close()
                file, stream = piece.file, piece.file.open("rb", buffering=0)
            yield name, piece.read(stream)
    finally:
        if stream is not None:
            stream.close()


def _of_file(file: Path) -> dict[str, Piece]:
    with safe_open(file, framework="pt"):
        pass  # checks that the header is whole, and that the tensors lie inside of the file without overlapping
    entries, begin = header(file)
    entries.pop("__metadata__", None)
    for entry in entries.values():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"values of the kind {entry['dtype']}")
    ordered = sorted(entries.items(), key=lambda item: int(item[1]["data_offsets"][0]))
    return {
        name: Piece(file, begin + entry["data_offsets"][0], DTYPES[entry["dtype"]], tuple(entry["shape"]))
        for name, entry in ordered
    }
