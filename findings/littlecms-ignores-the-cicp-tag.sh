#!/usr/bin/env bash
# Pillow's ImageCms (13.0.0, LittleCMS 2.19) applies the curves and matrix of an ICC profile of version 4.4 although the profile has a
# `cicp` tag, which tells the same by code points (ICC.1:2022, 9.2.17). Chromium 156 goes by the tag, and HDR pictures rely on it. So
# one file has two sets of colours: below, code points 1 and 13 mean plain sRGB, while curves and matrix exchange red and green.
# Seen on 2026-11-27: pixel (200, 80, 40) -> (80, 200, 40); with the tag heeded it would stay as it is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

from PIL import Image, ImageCms


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


# Columns of sRGB under D50, red and green exchanged, and the curve of sRGB.
columns = {b"rXYZ": (0.3851, 0.7169, 0.0971), b"gXYZ": (0.4361, 0.2225, 0.0139), b"bXYZ": (0.1431, 0.0606, 0.7141)}
curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
name = "finding".encode("utf-16-be")
text = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(name), 28) + name
tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
tags |= {tag: b"XYZ \0\0\0\0" + fixed(*xyz) for tag, xyz in columns.items()}
tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cicp": b"cicp\0\0\0\0" + bytes((1, 13, 0, 1))}
at, table, body = 132 + 12 * len(tags), b"", b""
for tag, content in tags.items():
    content += b"\0" * (-len(content) % 4)
    table += tag + struct.pack(">II", at + len(body), len(content))
    body += content
head = struct.pack(">I4xI", at + len(body), 0x04400000) + b"mntrRGB XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
head += b"\0" * 28 + fixed(0.9642, 1, 0.8249) + b"\0" * 48
profile = ImageCms.ImageCmsProfile(io.BytesIO(head + struct.pack(">I", len(tags)) + table + body))
image = Image.new("RGB", (1, 1), (200, 80, 40))
seen = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB").getpixel((0, 0))
print(seen)
assert all(abs(a - b) <= 2 for a, b in zip(seen, (80, 200, 40))), "the tag is heeded now, or something else changed"
PYTHON
