"""The table of forms in `docs/pictures.md`, generated from what Chromium drew and what is decoded here."""

from __future__ import annotations

from pathlib import Path

from tests.pictures.forms import compare

PAGE = Path(__file__).parents[3] / "docs" / "pictures.md"
BEGIN, END = "<!-- forms: begin -->", "<!-- forms: end -->"

# Beginnings of names, the longest first, and what these forms are about.
GROUPS = {
    "jpeg_icc": "JPEG: ICC profiles, whole and broken, and where they stand",
    "jpeg_l_icc": "JPEG, grey: ICC profiles",
    "jpeg_split": "JPEG: parts of a profile in any order, double or missing",
    "jpeg_exif": "JPEG: orientation in EXIF, in every place and spelling",
    "jpeg_xmp": "JPEG: orientation in XMP",
    "jpeg_end": "JPEG: its last byte or two missing",
    "jpeg_cmyk": "JPEG: CMYK, with and without a profile",
    "jpeg_ycck": "JPEG: CMYK, with and without a profile",
    "jpeg": "JPEG: kinds of coding",
    "png_icc_": "PNG: ICC profiles",
    "png_iccp": "PNG: iCCP beside other chunks, and on every kind of pixel",
    "png_cicp": "PNG: cICP, with cLLI and mDCV",
    "png_gama": "PNG: gAMA and cHRM",
    "png_chrm": "PNG: gAMA and cHRM",
    "png_srgb": "PNG: sRGB beside other chunks",
    "png_l_": "PNG, grey: profiles and code points",
    "png_l16": "PNG, grey: profiles and code points",
    "png_la": "PNG, grey: profiles and code points",
    "png_exif": "PNG: orientation in eXIf, XMP and text",
    "png_xmp": "PNG: orientation in eXIf, XMP and text",
    "png_raw": "PNG: orientation in eXIf, XMP and text",
    "png": "PNG: depths, palettes, transparent colours, alpha",
    "apng": "PNG: animations, with the still picture in them or apart",
    "webp_icc": "WebP: ICC profiles",
    "webp_animated": "WebP: first frames",
    "webp": "WebP: kinds, EXIF and XMP",
    "avif_icc": "AVIF: ICC profiles",
    "avif_nclx": "AVIF: code points (nclx)",
    "avif": "AVIF: kinds, turns and alpha",
    "gif": "GIF: first frames, transparency",
    "bmp": "BMP: depths, alpha, profiles",
}


def rows(data: dict[str, bytes]) -> str:
    """The table, and below it every form that differs."""
    version, drawn = compare.recorded()
    found: dict[str, list[str]] = {}
    for name in data:
        found.setdefault(GROUPS[max((one for one in GROUPS if name.startswith(one)), key=len)], []).append(name)
    verdicts = {name: compare.judged(name, content, drawn[name]) for name, content in data.items()}
    lines = ["| forms | how many | as in Chromium |", "|---|---|---|"]
    for title, names in found.items():
        lines.append(f"| {title} | {len(names)} | {sum(verdicts[name].agrees for name in names)} |")
    agree = sum(verdict.agrees for verdict in verdicts.values())
    lines += [f"| **all** | **{len(data)}** | **{agree}** |", ""]
    lines += [
        f"Chromium {version}; opaque patches within {compare.TOLERANCE} levels ({compare.HDR_TOLERANCE} for PQ and HLG), "
        "and the same sides. The others:",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        if not verdict.agrees:
            reasons.setdefault(compare.EXCEPTIONS[name], []).append(f"`{name}`")
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines)


def page(data: dict[str, bytes]) -> str:
    """The page with its table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{rows(data)}\n{END}{rest.partition(END)[2]}"
