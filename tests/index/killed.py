"""A process that writes an index of fake features, slowly enough to be killed: `python -m tests.index.killed FOLDER CACHE`."""

import os
import sys
import time
from pathlib import Path

import numpy as np

from blip2tools.index.library import Library
from blip2tools.index.walk import Walk
from blip2tools.index.writing import Looked

SHAPE = (4, 8)


def features(content):
    """The features of a file with this content, the same every time."""
    return np.random.default_rng(int(content)).standard_normal(SHAPE).astype(np.float16)


def main(folder, cache):
    library = Library(Path(cache))
    with library.writer(Path(folder), "rules") as writer:
        changes = writer.changes(Walk(Path(folder), lambda real: True, lambda real: False))
        writer.begin("m", "f" * 16, SHAPE)
        for first in range(0, len(changes.new), 7):
            portion = []
            for entry in changes.new[first : first + 7]:
                content = (Path(folder) / os.fsdecode(entry.name)).read_text()
                digest = int(content).to_bytes(32, "big")
                portion.append(Looked(entry, digest, None if writer.is_known(digest) else features(content)))
            writer.put(portion)
            time.sleep(0.002)
        writer.finish(changes.gone, lambda done, total: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
