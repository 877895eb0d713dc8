"""ICC profiles: which are usable, which of their parts apply, and small ones made from numbers (ICC.1:2022).

A profile is untrusted. None of its text is ever shown: it may hold instructions for a model.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_BYTES = 4 * 2**20  # the largest press profiles have 3 MB
_HEADER = 128
_MAX_TAGS = 100  # LittleCMS reads no more
_D50 = (0.9642, 1.0, 0.8249)
_SPACES = {b"RGB ": "RGB", b"GRAY": "grey", b"CMYK": "CMYK"}
_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
# LittleCMS prefers a D2B table and perceptual ones; a browser takes A2B0, else A2B1, whatever the intent in the header.
_TABLES = (b"A2B0", b"A2B1")
_UNSEEN = frozenset({b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1", b"D2B2", b"D2B3"})

Chromaticities = Sequence[tuple[float, float]]
"""CIE xy of red, green, blue and white."""

Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

# Chromatic adaptation as every profile stores it (ICC.1:2022, annex E).
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


class UnusableError(ValueError):
    """A profile that is broken, or of a kind that says nothing about pixels; the text is ours."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile that can be applied.

    Attributes:
        space: `RGB`, `grey` or `CMYK`.
        code_points: primaries and transfer of its `cicp` tag (ICC.1:2022, 9.2.17), which wins over its curves in browsers.
        data: its bytes, changed so that LittleCMS, with relative intent, uses the same tags as a browser.
    """

    space: str
    code_points: tuple[int, int] | None
    data: bytes = field(repr=False)


def parse(data: bytes) -> Profile:
    """Judge a profile as a browser does: by its header, its table of tags, and the tags that it needs.

    Raises:
        UnusableError: it is not usable.
    """
    if len(data) > MAX_BYTES:
        raise UnusableError(f"is above {MAX_BYTES:,} bytes")
    if len(data) < _HEADER + 4 or data[36:40] != b"acsp":
        raise UnusableError("is broken")
    size, count = int.from_bytes(data[:4], "big"), int.from_bytes(data[128:132], "big")
    if not _HEADER + 4 <= size <= len(data) or not 0 < count <= _MAX_TAGS or data[8] > 4 or not _is_d50(data[68:80]):
        raise UnusableError("is broken")
    tags: dict[bytes, tuple[int, int]] = {}
    for entry in range(_HEADER + 4, _HEADER + 4 + 12 * count, 12):
        if entry + 12 > size:
            raise UnusableError("is broken")
        name, begin, length = data[entry : entry + 4], *struct.unpack(">II", data[entry + 4 : entry + 12])
        if length < 4 or begin + length > size:
            raise UnusableError("is broken")
        tags.setdefault(name, (begin, length))
    space = _SPACES.get(data[16:20])
    if space is None or data[20:24] not in (b"XYZ ", b"Lab "):
        raise UnusableError("is of another kind than those for pictures")
    table = next((name for name in _TABLES if name in tags), None)
    if not _is_complete(space, data[20:24], table, tags):
        raise UnusableError("lacks what it needs")
    return Profile(space, _code_points(data, tags), _plain(data[:size], count, table))


def made(primaries: Chromaticities, curve: bytes) -> Profile:
    """An RGB profile from chromaticities and one curve, which is a `para` or `curv` element.

    Raises:
        UnusableError: no colours have these chromaticities.
    """
    matrix = to_d50(primaries)
    tags = [(b"wtpt", _xyz(_D50))]
    for index, letter in enumerate((b"r", b"g", b"b")):
        tags += [(letter + b"XYZ", _xyz([row[index] for row in matrix])), (letter + b"TRC", curve)]
    position = _HEADER + 4 + 12 * len(tags)
    table = body = b""
    for name, content in tags:
        table += name + struct.pack(">II", position + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI", position + len(body), 0x04400000) + b"mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    head += b"".join(map(_fixed, _D50)) + b"\0" * 48
    return Profile("RGB", None, head + struct.pack(">I", len(tags)) + table + body)


def parametric(kind: int, *values: float) -> bytes:
    """A `para` element (ICC.1:2022, 10.18)."""
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(map(_fixed, values))


def to_d50(primaries: Chromaticities) -> Matrix:
    """The matrix from linear RGB to XYZ under D50, with Bradford adaptation.

    Raises:
        UnusableError: no colours have these chromaticities.
    """
    points = [(x, y, 1 - x - y) for x, y in primaries]
    if any(not 0 <= value <= 1 for point in primaries for value in point) or points[3][1] <= 0:
        raise UnusableError("has impossible colours")
    base = _transposed(points[:3])
    white = [value / points[3][1] for value in points[3]]
    scale = product(inverse(base), white)
    full = _transposed([[value * scale[i] for value in points[i]] for i in range(3)])
    cones, wanted = product(_BRADFORD, white), product(_BRADFORD, _D50)
    if min(cones) <= 0:
        raise UnusableError("has impossible colours")
    adapted = [[_BRADFORD[i][k] * wanted[i] / cones[i] for k in range(3)] for i in range(3)]
    adaptation = [product(inverse(_BRADFORD), column) for column in zip(*adapted, strict=True)]
    return _transposed([product(_transposed(adaptation), column) for column in zip(*full, strict=True)])


def product(matrix: Matrix, vector: Sequence[float]) -> tuple[float, float, float]:
    """A matrix times a column."""
    x, y, z = vector
    one, two, three = matrix
    return (
        one[0] * x + one[1] * y + one[2] * z,
        two[0] * x + two[1] * y + two[2] * z,
        three[0] * x + three[1] * y + three[2] * z,
    )


def inverse(matrix: Matrix) -> Matrix:
    """The inverse of a matrix.

    Raises:
        UnusableError: it has none.
    """
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise UnusableError("has impossible colours")
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return _transposed([[row[column] / determinant for row in rows] for column in range(3)])


def _transposed(columns: Sequence[Sequence[float]]) -> Matrix:
    first, second, third = ((columns[0][i], columns[1][i], columns[2][i]) for i in range(3))
    return first, second, third


def _is_complete(space: str, connection: bytes, table: bytes | None, tags: dict[bytes, tuple[int, int]]) -> bool:
    if table is not None:
        return space != "grey"
    if space == "RGB":
        return connection == b"XYZ " and all(
            name in tags for one in (b"r", b"g", b"b") for name in (one + b"XYZ", one + b"TRC")
        )
    return space == "grey" and connection == b"XYZ " and b"kTRC" in tags


def _code_points(data: bytes, tags: dict[bytes, tuple[int, int]]) -> tuple[int, int] | None:
    begin, length = tags.get(b"cicp", (0, 0))
    if length < 12 or data[begin : begin + 4] != b"cicp":
        return None
    primaries, transfer, matrix, full = data[begin + 8 : begin + 12]
    return (primaries, transfer) if matrix == 0 and full == 1 else None


def _plain(data: bytes, count: int, table: bytes | None) -> bytes:
    """The profile with at most one table, named as that of relative intent, and of a class that LittleCMS applies."""
    out = bytearray(data)
    if data[12:16] not in _CLASSES:
        out[12:16] = b"mntr"
    for entry in range(_HEADER + 4, _HEADER + 4 + 12 * count, 12):
        name = data[entry : entry + 4]
        if name == table:
            out[entry : entry + 4] = b"A2B1"
            table = b""  # the first of its name
            if data[16:24] == b"RGB Lab ":
                _as_version_4(out, *struct.unpack(">II", data[entry + 4 : entry + 12]))
        elif name in _UNSEEN:
            out[entry : entry + 4] = struct.pack(">4s", b"x" + name[1:])
    return bytes(out)


def _as_version_4(out: bytearray, begin: int, length: int) -> None:
    """Read the Lab values of an `mft2` table as those of version 4, as browsers do: they end at 65,535 instead of 65,280.

    White comes out as (252, 254, 255). LittleCMS reads the older encoding, so the end of the table is scaled to that.
    """
    if length < 52 or out[begin : begin + 4] != b"mft2":
        return
    channels, outputs, points = out[begin + 8 : begin + 11]
    inputs, entries = struct.unpack(">HH", out[begin + 48 : begin + 52])
    at = begin + 52 + 2 * (inputs * channels + points**channels * outputs)
    count = entries * outputs
    if at + 2 * count > begin + length:
        return
    values = struct.unpack(f">{count}H", out[at : at + 2 * count])
    out[at : at + 2 * count] = struct.pack(f">{count}H", *(round(value * 65280 / 65535) for value in values))


def _is_d50(field_: bytes) -> bool:
    values = [value / 65536 for value in struct.unpack(">3i", field_)]
    return all(abs(value - wanted) < 0.01 for value, wanted in zip(values, _D50, strict=True))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", max(-(2**31), min(2**31 - 1, round(value * 65536))))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))
