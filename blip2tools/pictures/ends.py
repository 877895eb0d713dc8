"""JPEGs that lack only their end marker (0xFF 0xD9): all of their pixels are there, so they are read."""

from __future__ import annotations

import hashlib
import io
import re

from PIL import Image

from blip2tools.pictures import formats

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_JPEG_END = b"\xff\xd9"
# Bits to append, to see whether a decoder needs more: none, alternating, all ones, and without pattern.
_TAILS = (b"\x55\xaa" * 64, b"\xff\0" * 64, bytes(n * 73 % 251 for n in range(128)))


def whole_jpeg(data: bytes, room: int) -> bytes:
    """A JPEG that lacks only its end marker, completed; any other as it is.

    Args:
        data: bytes that `formats.is_sane`.
        room: bytes of memory that may be taken before damage is noticed.
    """
    if data.endswith(_JPEG_END):
        return data
    scans: list[bytes] = []
    frame, last, progressive = b"", 0, False
    interval, begin = 0, 0
    for code, position in formats.jpeg_markers(data):
        last = code
        segment = data[position : position + int.from_bytes(data[position : position + 2], "big")]
        if code in formats.JPEG_FRAMES and not frame:
            frame, progressive = segment, code & 3 == 2
        if code == 0xDD:
            interval = int.from_bytes(segment[2:4], "big")
        if code == 0xDA:
            scans.append(segment)
            begin = position
    if last == 0xD9 or len(frame) < 9 or not _covers(scans, frame[8::3], progressive):
        return data
    if interval and len(_RESTART.findall(data, begin)) < (_units(frame, scans[-1]) - 1) // interval:
        return data
    several = progressive or len(scans) > 1
    height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
    # The coefficients of several scans stay in memory until the last has been read.
    if several and width * height * (formats.cost_of("JPEG", data) - 3) > room:
        return data
    ended = data[:-1] if data.endswith(b"\xff") else data
    return ended + _JPEG_END if _needs_no_more(ended, 2 if several else 8) else data


def _units(frame: bytes, scan: bytes) -> int:
    """How many coded units a scan has (ITU-T T.81, A.2): blocks of its one component, or squares of several."""
    height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
    factors = {identity: (both >> 4, both & 15) for identity, both in zip(frame[8::3], frame[9::3], strict=False)}
    across, down = (max(pair[axis] for pair in factors.values()) for axis in (0, 1))
    own = factors.get(scan[3], (across, down)) if scan[2] == 1 else (1, 1)
    return -(-width * own[0] // (8 * across)) * -(-height * own[1] // (8 * down))


def _covers(scans: list[bytes], components: bytes, progressive: bool) -> bool:
    """Whether the scans together hold every coefficient to its last bit (ITU-T T.81, G.1.1.1)."""
    done = dict.fromkeys(components, 0)
    for scan in scans:
        if len(scan) < 3 or len(scan) < 6 + 2 * scan[2]:
            return False
        begin, end, bits = scan[3 + 2 * scan[2] : 6 + 2 * scan[2]] if progressive else (0, 63, 0)
        for identity in scan[3 : 3 + 2 * scan[2] : 2]:
            if identity in done and bits & 15 == 0:
                done[identity] |= (1 << (end + 1)) - (1 << begin)
    return bool(done) and all(coefficients == 2**64 - 1 for coefficients in done.values())


def _needs_no_more(data: bytes, scale: int) -> bool:
    """Whether bytes after the data change nothing, so that all of the pixels are in it. Decoded at a fraction of its size."""
    seen = set()
    for tail in _TAILS:
        with Image.open(io.BytesIO(data + tail + _JPEG_END), formats=("JPEG",)) as image:
            image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
            try:
                seen.add(hashlib.sha256(image.tobytes()).digest())
            except (OSError, SyntaxError, ValueError):
                return False
        if len(seen) > 1:
            return False
    return True
