#!/usr/bin/env bash
# An animated PNG may carry a still picture that is no frame of the animation, for readers that know no animations (no fcTL before
# IDAT; PNG specification, third edition, 11.3.6.2). The animation then begins on a canvas of nothing. Pillow 13.0.0 puts its first
# frame on that still picture instead, so wherever the frame is transparent or smaller the still shows through: a picture
# that neither the specification nor any browser ever shows. (Its `default_image` does tell that the still is apart.)
# Seen on 2026-11-27: the still is red, the frame a blue square over nothing; beside the square Pillow gives opaque red.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct
import zlib

from PIL import Image


def chunk(name, content=b""):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def rows(width, height, pixel):
    return zlib.compress((b"\0" + pixel * width) * height)


data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 6, 0, 0, 0))
data += chunk(b"acTL", struct.pack(">II", 1, 0))
data += chunk(b"IDAT", rows(8, 8, bytes((255, 0, 0, 255))))
data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 1, 10, 0, 0))
data += chunk(b"fdAT", struct.pack(">I", 1) + rows(4, 4, bytes((0, 0, 255, 255)))) + chunk(b"IEND")
image = Image.open(io.BytesIO(data))
assert image.default_image
image.seek(1)
inside, beside = image.convert("RGBA").getpixel((1, 1)), image.convert("RGBA").getpixel((6, 6))
print(inside, beside)
assert inside == (0, 0, 255, 255)
assert beside == (255, 0, 0, 255), "the frame begins on nothing now"
PYTHON
