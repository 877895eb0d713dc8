"""ICC profiles made by hand (ICC.1:2022): curves and matrices, tables, grey, inks, and broken ones."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache

Triple = tuple[float, float, float]
Matrix = tuple[Triple, Triple, Triple]

D50: Triple = (0.9642, 1.0, 0.8249)
# CIE xy of red, green, blue and white.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290))
DCI_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290))
PROPHOTO = ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), (0.345704, 0.358540))
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), (0.3127, 0.3290))
NTSC = ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316))
SWAPPED = ((0.30, 0.60), (0.64, 0.33), (0.15, 0.06), (0.3127, 0.3290))


def multiply(a: Matrix, b: Matrix) -> Matrix:
    rows = [tuple(sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)) for i in range(3)]
    return rows[0], rows[1], rows[2]  # type: ignore[return-value]


def apply(matrix: Matrix, vector: Sequence[float]) -> Triple:
    x, y, z = (sum(row[k] * vector[k] for k in range(3)) for row in matrix)
    return x, y, z


def inverse(m: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = m
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return (
        ((e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det),
        ((f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det),
        ((d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det),
    )


def _xyz(point: tuple[float, float]) -> Triple:
    x, y = point
    return x / y, 1.0, (1 - x - y) / y


BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


@cache
def to_d50(primaries: Sequence[tuple[float, float]]) -> Matrix:
    """Linear RGB of some primaries to XYZ under D50, adapted as Bradford does."""
    columns = [_xyz(point) for point in primaries[:3]]
    base: Matrix = tuple(tuple(column[i] for column in columns) for i in range(3))  # type: ignore[assignment]
    white = _xyz(primaries[3])
    scale = apply(inverse(base), white)
    full: Matrix = tuple(tuple(row[k] * scale[k] for k in range(3)) for row in base)  # type: ignore[assignment]
    from_, to = apply(BRADFORD, white), apply(BRADFORD, D50)
    cone: Matrix = tuple(  # type: ignore[assignment]
        tuple(to[i] / from_[i] if i == k else 0.0 for k in range(3)) for i in range(3)
    )
    return multiply(multiply(inverse(BRADFORD), multiply(cone, BRADFORD)), full)


def fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def xyz_tag(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def sampled(function: Callable[[float], float], count: int = 1024) -> bytes:
    values = [round(65535 * min(1, max(0, function(i / (count - 1))))) for i in range(count)]
    return b"curv\0\0\0\0" + struct.pack(f">I{count}H", count, *values)


IDENTITY = b"curv\0\0\0\0\0\0\0\0"


def parametric(kind: int, *values: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(map(fixed, values))


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def srgb_to_linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def text_tag(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(raw)) + raw + b"\0" * 78


def mluc(text: str) -> bytes:
    raw = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(raw), 28) + raw


def profile(
    tags: Mapping[bytes, bytes],
    *,
    space: bytes = b"RGB ",
    pcs: bytes = b"XYZ ",
    version: int = 4,
    kind: bytes = b"mntr",
    intent: int = 0,
    name: str = "made by hand",
) -> bytes:
    """A profile of some tags; a description, a copyright and a white point come with it."""
    describe = mluc if version == 4 else text_tag
    right = mluc("none") if version == 4 else b"text\0\0\0\0none\0"
    every = {b"desc": describe(name), b"cprt": right, b"wtpt": xyz_tag(D50), **tags}
    every = {tag: content for tag, content in every.items() if content}
    position = 128 + 4 + 12 * len(every)
    table, body, seen = b"", b"", dict[bytes, int]()
    for tag, content in every.items():
        padded = content + b"\0" * (-len(content) % 4)
        if content not in seen:
            seen[content] = position + len(body)
            body += padded
        table += tag + struct.pack(">II", seen[content], len(content))
    header = struct.pack(">I", position + len(body)) + b"\0\0\0\0" + bytes((version, 0x40 if version == 2 else 0, 0, 0))
    header += kind + space + pcs + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 24
    header += struct.pack(">I", intent) + b"".join(map(fixed, D50)) + b"\0" * 48
    return header + struct.pack(">I", len(every)) + table + body


def matrix_profile(
    primaries: Sequence[tuple[float, float]],
    curve: bytes | Sequence[bytes],
    *,
    extra: Mapping[bytes, bytes] | None = None,
    version: int = 4,
    intent: int = 0,
    name: str = "matrix",
) -> bytes:
    """Curves and a matrix."""
    columns = to_d50(primaries)
    curves = [curve] * 3 if isinstance(curve, bytes) else list(curve)
    tags = {}
    for index, letter in enumerate(b"rgb"):
        tags[bytes((letter,)) + b"XYZ"] = xyz_tag([row[index] for row in columns])
        tags[bytes((letter,)) + b"TRC"] = curves[index]
    return profile({**tags, **(extra or {})}, version=version, intent=intent, name=name)


def cicp_tag(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return b"cicp\0\0\0\0" + bytes((primaries, transfer, matrix, full))


def grey_profile(curve: bytes, *, pcs: bytes = b"XYZ ", version: int = 4) -> bytes:
    return profile({b"kTRC": curve}, space=b"GRAY", pcs=pcs, version=version, name="grey")


def lab(xyz: Sequence[float]) -> Triple:
    def f(t: float) -> float:
        return t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29

    x, y, z = (f(max(0.0, value) / white) for value, white in zip(xyz, D50, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _lab16(values: Triple, version: int) -> list[int]:
    """The encoding of a mft2 table, which is that of version 2 whatever the profile's (ICC.1:2022, 10.10)."""
    top = 65280 if version == 2 else 65535
    lightness, a, b = values
    return [
        min(65535, max(0, round(lightness / 100 * top))),
        min(65535, max(0, round((a + 128) / 255 * top))),
        min(65535, max(0, round((b + 128) / 255 * top))),
    ]


def _corners(channels: int, points: int) -> list[tuple[float, ...]]:
    found: list[tuple[float, ...]] = [()]
    for _ in range(channels):
        found = [(*one, i / (points - 1)) for one in found for i in range(points)]
    return found


def mft2(
    channels: int, points: int, to_xyz: Callable[[Sequence[float]], Sequence[float]], pcs: bytes = b"Lab "
) -> bytes:
    """A table of 16 bits."""
    head = b"mft2\0\0\0\0" + bytes((channels, 3, points, 0))
    head += b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1))) + struct.pack(">HH", 2, 2)
    inputs = struct.pack(">2H", 0, 65535) * channels
    outputs = struct.pack(">2H", 0, 65535) * 3
    values: list[int] = []
    for one in _corners(channels, points):
        xyz = to_xyz(one)
        values += _lab16(lab(xyz), 2) if pcs == b"Lab " else [min(65535, max(0, round(v * 32768))) for v in xyz]
    return head + inputs + struct.pack(f">{len(values)}H", *values) + outputs


def mft1(channels: int, points: int, to_xyz: Callable[[Sequence[float]], Sequence[float]]) -> bytes:
    """A table of 8 bits."""
    head = b"mft1\0\0\0\0" + bytes((channels, 3, points, 0)) + b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    line = bytes(range(256))
    values = bytearray()
    for one in _corners(channels, points):
        lightness, a, b = lab(to_xyz(one))
        values += bytes(min(255, max(0, round(v))) for v in (lightness * 2.55, a + 128, b + 128))
    return head + line * channels + bytes(values) + line * 3


def mab(channels: int, points: int, to_xyz: Callable[[Sequence[float]], Sequence[float]]) -> bytes:
    """A `lutAToBType`: A curves, table, M curves, matrix and B curves, all but the table plain."""
    curves_in, curves_out = IDENTITY * channels, IDENTITY * 3
    matrix = b"".join(map(fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)))
    values: list[int] = []
    for one in _corners(channels, points):
        values += _lab16(lab(to_xyz(one)), 4)
    table = bytes([points] * channels + [0] * (16 - channels)) + b"\2\0\0\0" + struct.pack(f">{len(values)}H", *values)
    table += b"\0" * (-len(table) % 4)
    b_at = 32
    matrix_at = b_at + len(curves_out)
    m_at = matrix_at + len(matrix)
    table_at = m_at + len(curves_out)
    a_at = table_at + len(table)
    head = b"mAB \0\0\0\0" + bytes((channels, 3, 0, 0)) + struct.pack(">5I", b_at, matrix_at, m_at, table_at, a_at)
    return head + curves_out + matrix + curves_out + table + curves_in


def rgb_to_xyz(
    primaries: Sequence[tuple[float, float]], curve: Callable[[float], float]
) -> Callable[[Sequence[float]], Triple]:
    matrix = to_d50(primaries)
    return lambda rgb: apply(matrix, [curve(value) for value in rgb])


def rotated(rgb: Sequence[float]) -> Triple:
    """Red taken for green, green for blue, blue for red, somewhat duller: no one misses that a table was used."""
    r, g, b = (srgb_to_linear(0.1 + 0.8 * value) for value in rgb)
    return apply(to_d50(SRGB), (g, b, r))


def inks_to_xyz(cmyk: Sequence[float]) -> Triple:
    """Simple inks on slightly yellow paper: each takes away most of its opposite colour."""
    cyan, magenta, yellow, black = cmyk
    red = (1 - 0.85 * cyan) * (1 - 0.10 * magenta) * (1 - 0.02 * yellow)
    green = (1 - 0.25 * cyan) * (1 - 0.80 * magenta) * (1 - 0.06 * yellow)
    blue = (1 - 0.10 * cyan) * (1 - 0.45 * magenta) * (1 - 0.85 * yellow)
    rest = 1 - 0.97 * black
    return apply(to_d50(SRGB), (red * rest, green * rest, 0.97 * blue * rest))


def table_profile(
    tags: Mapping[bytes, bytes],
    *,
    space: bytes = b"RGB ",
    pcs: bytes = b"Lab ",
    version: int = 4,
    intent: int = 0,
    kind: bytes = b"mntr",
) -> bytes:
    return profile(tags, space=space, pcs=pcs, version=version, intent=intent, kind=kind, name="table")


def cmyk_profile(points: int = 7) -> bytes:
    """Inks, as a printer profile: both tables."""
    table = mft2(4, points, inks_to_xyz)
    return profile({b"A2B0": table, b"A2B1": table}, space=b"CMYK", pcs=b"Lab ", version=2, kind=b"prtr", name="inks")
