"""The two networks of the library: one finds lines of text, the other reads them.

The library's own pipeline is not used. It first shrinks a picture with a side above 2,000 pixels: a long page loses its letters,
and the wrong text can still score 1.00. It also puts the lines of a turned page in the wrong order.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from blip2tools.pictures.reading.boxes import Quad

Pixels = NDArray[np.uint8]
"""Height × width × 3, blue first, as OpenCV and the networks have it."""

DETECTOR: Final = "PP-OCRv6_det_small.onnx"
RECOGNISER: Final = "PP-OCRv6_rec_small.onnx"

HEIGHT: Final = 48  # pixels of a line that the recogniser looks at
LONGEST: Final = (
    60 * HEIGHT
)  # of a line in one piece; a longer one is read in pieces, for the network's cost grows with it
BATCH: Final = 6
LEAST_SIDE: Final = 64  # of what the detector looks at; less is framed


class Networks:
    """Both networks, loaded from the library's own wheel; nothing is ever downloaded.

    Args:
        threads: of each network.
    """

    def __init__(self, threads: int) -> None:
        import rapidocr

        models = Path(rapidocr.__file__).parent / "models"
        engine: Any = rapidocr.RapidOCR(
            params={
                # Named files are taken as they are: without a name a file whose digest is not the expected one is fetched anew.
                "Det.model_path": str(models / DETECTOR),
                "Rec.model_path": str(models / RECOGNISER),
                "Det.limit_type": "max",
                "Det.limit_side_len": 2**20,  # what is looked at has its size already
                "Rec.rec_batch_num": BATCH,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "critical",
            }
        )
        self._find: Any = engine._load_det_model()
        self._read: Any = engine._load_rec_model()
        self._input: Any = rapidocr.ch_ppocr_rec.TextRecInput
        self.name = f"PP-OCRv6 small (rapidocr {version('rapidocr')})"

    def find(self, pixels: Pixels) -> list[Quad]:
        """Corners of the lines in a picture, which is not scaled."""
        height, width = pixels.shape[:2]
        if min(height, width) < LEAST_SIDE:
            below, right = max(0, LEAST_SIDE - height), max(0, LEAST_SIDE - width)
            pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
        found = self._find(pixels).boxes
        return [] if found is None else [np.asarray(quad, np.float32) for quad in found]

    def read(self, lines: Sequence[Pixels]) -> list[tuple[str, float]]:
        """Text in each picture of a line, and the network's confidence (0 to 1)."""
        pieces = [_pieces(line) for line in lines]
        flat = [piece for parts in pieces for piece in parts]
        if not flat:
            return []
        found = self._read(self._input(img=flat, return_word_box=False))
        told = list(zip(found.txts, map(float, found.scores), strict=True))
        results = []
        for parts in pieces:
            own, told = told[: len(parts)], told[len(parts) :]
            letters = sum(len(text) for text, _ in own)
            score = sum(len(text) * score for text, score in own) / letters if letters else 0.0
            results.append((" ".join(text for text, _ in own if text), score))
        return results


def cut_out(pixels: Pixels, quad: Quad) -> Pixels:
    """Picture of the line inside four corners, with straight edges; a line that is upright on a lying page stays upright."""
    width = max(1, round(max(_length(quad[0], quad[1]), _length(quad[3], quad[2]))))
    height = max(1, round(max(_length(quad[0], quad[3]), _length(quad[1], quad[2]))))
    wanted = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    # Only what is around the line is handed over: OpenCV refuses pictures with a side of 32,768 and more.
    left, top = np.floor(quad.min(axis=0)).astype(int).clip(0) - 2
    right, bottom = np.ceil(quad.max(axis=0)).astype(int) + 2
    left, top = max(left, 0), max(top, 0)
    part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    change = cv2.getPerspectiveTransform(quad - np.array([left, top], np.float32), wanted)
    line = cv2.warpPerspective(part, change, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    thick = min(width, height)  # of a line that stands upright as of one that lies
    if thick > 2 * HEIGHT:  # what follows takes single pixels
        size = (max(1, round(width * HEIGHT / thick)), max(1, round(height * HEIGHT / thick)))
        line = cv2.resize(line, size, interpolation=cv2.INTER_AREA)
    return np.asarray(line, np.uint8)


def _length(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(one - other))


def _pieces(line: Pixels) -> list[Pixels]:
    """Parts in which a line is read: all of it, or pieces that are cut where there is least ink."""
    height, width = line.shape[:2]
    longest = max(HEIGHT, LONGEST * height // HEIGHT)
    pieces = []
    ink = np.abs(line.astype(np.int16) - np.median(line, axis=(0, 1))).sum(axis=(0, 2))
    start = 0
    while width - start > longest:
        # The emptiest column of the last quarter; of several the one in the middle of a gap.
        first = start + 3 * longest // 4
        room = ink[first : start + longest]
        empty = np.flatnonzero(room <= room.min() + 1)
        end = first + int(empty[len(empty) // 2])
        pieces.append(line[:, start:end])
        start = end
    return [*pieces, line[:, start:]]
