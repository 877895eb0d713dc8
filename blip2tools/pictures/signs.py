"""Signs that a file is a picture, whether or not it can be read here: the end of its name, or its first bytes.

Broad on purpose: a file missed here could be the newest picture, and an older one would be described in its place.
"""

from __future__ import annotations

import re

HEAD_BYTES = 512  # that `in_bytes` looks at

# Endings that also mean something else (.raw, .img, .hdr, .pic) are left to the first bytes.
_ENDINGS = (  # noqa: SIM905  a list of these would take a page
    "jpg jpeg jpe jfif jfi jif mpo jps png apng webp gif bmp dib rle tif tiff avif avifs avci heic heif heics heifs hif jxl "
    "jp2 j2k j2c jpc jpx jpf jpm jph jhc jxr wdp hdp svg svgz ico cur icns psd psb psdt xcf kra ora tga dds exr pcx dcx pbm "
    "pgm ppm pnm pam pfm qoi flif bpg sgi xbm xpm wbmp eps wmf emf dcm fits insp "
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf ori raf rw2 rwl pef ptx srw x3f 3fr fff erf kdc dcr k25 mrw iiq mos mef"
).split()
_KNOWN = frozenset(_ENDINGS)
# Also what programs append to an ending: photo.jpg_large, photo.jpg:large, photo.jpg!d, photo.png~, photo.jpg.1. A second
# ending (photo.jpg.json, photo.png.md5) is another kind of file.
_NAME = re.compile(
    rf".*\.(?:{'|'.join(_ENDINGS)})(?:[_:!?@~=;&#%,-][^.]{{0,60}}|~\d*|\.\d{{1,3}}|\s*\(\d{{1,4}}\))?[\s.]*",
    re.I | re.S,
)
_BYTES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|\x8bJNG|GIF8[79]a|RIFF.{4}WEBP"
    rb"|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"
    rb"|II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]|II\xbc[\x00\x01]"
    rb"|IIR[OS]|IIU\x00|MMOR|FUJIFILMCCD-RAW|\x00MRM|II\x1a\x00\x00\x00HEAPCCDR|FOVb"
    rb"|.{4}ftyp(?:avi[fs]|hei[cmsx]|hev[cmsx]|mif[12]|msf1|miaf|avci|crx |jxl |jp2 |jpx )"
    rb"|\x00\x00\x00\x0c(?:jP  |JXL )\r\n\x87\n|\xff\x4f\xff\x51|\xff\x0a"
    rb"|8BP[SB]|gimp xcf |icns|DDS |qoif|FLIF|BPG\xfb|\x76\x2f\x31\x01|#\?(?:RADIANCE|RGBE)"
    rb"|\x00\x00[\x01\x02]\x00[^\x00]\x00.{3}[\x00\x01]"
    rb"|(?:\xef\xbb\xbf)?\s{0,64}(?:<\?xml[^>]{0,200}>)?(?:\s|<!--.{0,200}?-->|<!DOCTYPE svg[^>]{0,200}>){0,8}<svg[\s>]",
    re.DOTALL,
)


def in_name(name: str) -> bool:
    """Whether a file is called like a picture."""
    _, dot, ending = name.rpartition(".")
    return bool(dot) and (ending.lower() in _KNOWN or _NAME.fullmatch(name) is not None)


def in_bytes(head: bytes) -> bool:
    """Whether a file begins like a picture."""
    return _BYTES.match(head) is not None
