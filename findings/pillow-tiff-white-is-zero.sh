#!/usr/bin/env bash
# Pillow 13.0.0 gives a grey TIFF whose PhotometricInterpretation is 0 (WhiteIsZero, TIFF 6.0, section 4) upright at 8 bits, but as a
# negative at 16 bits: scans and microscope pictures come out inverted, with no sign of it, depending on their depth alone.
# Seen on 2026-11-27: the same drawing, its darkest part first: 8 bits -> 0 ... 255, 16 bits -> 65535 ... 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

from PIL import Image


def tiff(bits, values):
    """A little-endian TIFF of one row; 0 is white."""
    pixels = b"".join(struct.pack("<B" if bits == 8 else "<H", value) for value in values)
    entries = [(256, 3, len(values)), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, 0), (273, 4, 0), (277, 3, 1), (278, 3, 1)]
    entries.append((279, 4, len(pixels)))
    at = 8 + 2 + 12 * len(entries) + 4
    lines = b"".join(struct.pack("<HHII", tag, kind, 1, at if tag == 273 else value) for tag, kind, value in entries)
    return b"II\x2a\0\x08\0\0\0" + struct.pack("<H", len(entries)) + lines + bytes(4) + pixels


# Black, grey, white: in both files the largest number is black.
eight = Image.open(io.BytesIO(tiff(8, (255, 128, 0))))
sixteen = Image.open(io.BytesIO(tiff(16, (65535, 32768, 0))))
seen = [[image.getpixel((x, 0)) for x in range(3)] for image in (eight, sixteen)]
print(eight.mode, seen[0], sixteen.mode, seen[1])
assert seen[0] == [0, 127, 255], "8 bits"
assert seen[1] == [65535, 32768, 0], "16 bits are turned around now"
PYTHON
