#!/usr/bin/env bash
# rapidocr shrinks a picture with a side above `Global.max_side_len` (2,000 pixels) before it looks for text, without a word in its
# result. Of a long screenshot nothing is then read as it is written, and what is read instead has high scores. The setting
# `Global.max_side_len` cures it, at the price of memory: the whole picture then goes through the network in one piece.
# Seen on 2026-11-27 with rapidocr 3.10.0, onnxruntime 1.32.0, opencv-python-headless 5.0.0.93: a page of 420 × 6,000 pixels with 200
# rows of 13-pixel letters: 0 rows right with the default, at least 190 with 10,000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet rapidocr==3.10.0 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93 pillow==13.0.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr import RapidOCR

rows = [f"Row {number}: the harbour was quiet at {number % 24}:30" for number in range(200)]
page = Image.new("RGB", (420, 6000), "white")
for number, row in enumerate(rows):
    ImageDraw.Draw(page).text((10, 30 * number + 6), row, fill="black", font=ImageFont.load_default(15))
right = {}
for side in (2000, 10000):
    reader = RapidOCR(params={"Global.max_side_len": side, "Global.log_level": "error"})
    found = reader(np.asarray(page), use_cls=False)
    texts = set(found.txts or ())
    right[side] = sum(row in texts for row in rows)
    print(side, right[side], "rows right of", len(rows), "highest score", max(map(float, found.scores or (0,))))
assert right[2000] <= 2, "long pictures are no longer shrunk until nothing can be read"
assert right[10000] >= 180
PYTHON
