"""Forms of a PNG: every colour type, chunks that say the colours, where the orientation stands, animations."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from tests.pictures.forms import containers as c
from tests.pictures.forms import profiles as p
from tests.pictures.forms.grid import COLOURS, GREYS, SIZE, grid
from tests.pictures.forms.jpeg import Forms, grey_profiles, rgb_profiles

SRGB_CHUNK = c.chunk(b"sRGB", b"\0")


def plain(**options: object) -> bytes:
    return c.saved(grid(), "PNG", **options)


def rows(image: Image.Image) -> list[bytes]:
    data, stride = image.tobytes(), len(image.tobytes()) // image.height
    return [data[i * stride : (i + 1) * stride] for i in range(image.height)]


def packed(values: list[int], width: int, depth: int) -> list[bytes]:
    """Rows of samples of 1, 2, 4, 8 or 16 bits."""
    out = []
    for begin in range(0, len(values), width):
        if depth == 16:
            out.append(struct.pack(f">{width}H", *values[begin : begin + width]))
            continue
        bits = "".join(f"{value:0{depth}b}" for value in values[begin : begin + width])
        bits += "0" * (-len(bits) % 8)
        out.append(int(bits, 2).to_bytes(len(bits) // 8, "big"))
    return out


def spread(values: list[int]) -> list[int]:
    """One value a patch to one value a pixel."""
    image = Image.new("I", (8, 4))
    image.putdata(values)
    return list(image.resize(SIZE, Image.Resampling.NEAREST).get_flattened_data())


PALETTE = c.chunk(b"PLTE", b"".join(bytes(colour) for colour in COLOURS))


def indexed(before: bytes = b"", after: bytes = b"") -> bytes:
    return c.png(SIZE, 8, 3, packed(spread(list(range(32))), 64, 8), before=before + PALETTE + after)


def grey(depth: int, before: bytes = b"") -> bytes:
    most = 2**depth - 1
    return c.png(SIZE, depth, 0, packed(spread([value * most // 255 for value in GREYS]), 64, depth), before=before)


def deep_rgb(before: bytes = b"", low: int = 0x80) -> bytes:
    samples = [
        [(value << 8 | (low if 0 < value < 255 else value)) for value in pixel] for pixel in grid().get_flattened_data()
    ]
    flat = [value for pixel in samples for value in pixel]
    return c.png(SIZE, 16, 2, packed(flat, 64 * 3, 16), before=before)


def interlaced(before: bytes = b"") -> bytes:
    """Seven passes (PNG specification, 8.1)."""
    image, lines = grid(), list[bytes]()
    for left, top, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for y in range(top, image.height, down):
            lines.append(b"".join(bytes(image.getpixel((x, y))) for x in range(left, image.width, across)))  # type: ignore[arg-type]
    return c.png(SIZE, 8, 2, lines, before=before, interlaced=True)


def with_alpha(depth: int = 8, before: bytes = b"") -> bytes:
    alphas = [255, 255, 255, 255, 128, 64, 200, 0] * 4
    alpha = Image.new("L", (8, 4))
    alpha.putdata(alphas)
    image = grid().convert("RGBA")
    image.putalpha(alpha.resize(SIZE, Image.Resampling.NEAREST))
    if depth == 8:
        return c.png(SIZE, 8, 6, rows(image), before=before)
    flat = [value << 8 | value for pixel in image.get_flattened_data() for value in pixel]
    return c.png(SIZE, 16, 6, packed(flat, 64 * 4, 16), before=before)


def colours() -> Forms:
    base = plain()
    swapped, linear = p.matrix_profile(p.SWAPPED, p.SRGB_CURVE), p.matrix_profile(p.SRGB, p.gamma(1.0))
    i, g, h, k, s = c.iccp(swapped), c.gama, c.chrm, c.cicp, SRGB_CHUNK
    sets = {
        "srgb": s,
        "srgb_intent_3": c.chunk(b"sRGB", b"\3"),
        "srgb_gama10": s + g(1.0),
        "gama10_srgb": g(1.0) + s,
        "srgb_chrm": s + h(p.SWAPPED),
        "srgb_odd": c.chunk(b"sRGB", b"\x09"),
        "srgb_long": c.chunk(b"sRGB", b"\0\0"),
        "gama10": g(1.0),
        "gama18": g(1 / 1.8),
        "gama22": g(0.45455),
        "gama22_about": g(0.454),
        "gama_inverse": g(2.2),
        "gama26": g(1 / 2.6),
        "gama_zero": g(0),
        "gama_tiny": c.chunk(b"gAMA", b"\0\0\0\1"),
        "gama_huge": c.chunk(b"gAMA", b"\x7f\xff\xff\xff"),
        "gama_05": g(0.5),
        "gama_short": c.chunk(b"gAMA", b"\0\0\1"),
        "gama_twice": g(1.0) + g(0.45455),
        "gama_twice_other": g(0.45455) + g(1.0),
        "chrm": h(p.SWAPPED),
        "chrm_srgb_gama10": h(p.SRGB) + g(1.0),
        "chrm_p3_gama22": h(p.P3) + g(0.45455),
        "gama22_chrm_swapped": g(0.45455) + h(p.SWAPPED),
        "gama22_chrm_srgb": g(0.45455) + h(p.SRGB),
        "gama22_chrm_adobe": g(0.45470) + h(p.ADOBE),
        "gama10_chrm_2020": g(1.0) + h(p.BT2020),
        "chrm_zero_gama22": c.chunk(b"cHRM", b"\0" * 32) + g(0.45455),
        "chrm_prophoto_gama18": h(p.PROPHOTO) + g(1 / 1.8),
        "chrm_ntsc_gama22": h(p.NTSC) + g(0.45455),
        "chrm_zero_gama10": c.chunk(b"cHRM", b"\0" * 32) + g(1.0),
        "iccp": i,
        "iccp_srgb": i + s,
        "srgb_iccp": s + i,
        "iccp_gama10": i + g(1.0),
        "gama10_iccp": g(1.0) + i,
        "iccp_two": i + c.iccp(linear),
        "iccp_two_other": c.iccp(linear) + i,
        "iccp_of_inks_gama10": c.iccp(p.cmyk_profile(3)) + g(1.0),
        "iccp_of_grey_gama10": c.iccp(p.grey_profile(p.gamma(1.0))) + g(1.0),
        "iccp_broken_gama10": c.iccp(swapped[:200]) + g(1.0),
        "iccp_rubbish_gama10": c.chunk(b"iCCP", b"name\0\0rubbish") + g(1.0),
        "iccp_method_1": c.chunk(b"iCCP", b"icc\0\1" + zlib.compress(swapped)),
        "iccp_no_name": c.chunk(b"iCCP", b"\0\0" + zlib.compress(swapped)),
        "iccp_long_name": c.iccp(swapped, b"n" * 79),
        "iccp_longer_name": c.iccp(swapped, b"n" * 80),
        "iccp_broken_srgb": c.iccp(swapped[:200]) + s,
        "iccp_two_first_broken": c.iccp(swapped[:200]) + i,
        "cicp_srgb": k(1, 13),
        "cicp_srgb_iccp": k(1, 13) + i,
        "iccp_cicp_srgb": i + k(1, 13),
        "cicp_p3": k(12, 13),
        "cicp_dci_p3": k(11, 13),
        "cicp_2020": k(9, 13),
        "cicp_709": k(1, 1),
        "cicp_601": k(6, 6),
        "cicp_470bg": k(5, 5),
        "cicp_470m": k(4, 4),
        "cicp_gamma22": k(1, 4),
        "cicp_gamma28": k(1, 5),
        "cicp_240m": k(7, 7),
        "cicp_linear": k(1, 8),
        "cicp_log": k(1, 9),
        "cicp_log316": k(1, 10),
        "cicp_iec61966_2_4": k(1, 11),
        "cicp_1361": k(1, 12),
        "cicp_2020_10": k(9, 14),
        "cicp_2020_12": k(9, 15),
        "cicp_428": k(10, 17),
        "cicp_p3_gamma22": k(12, 4),
        "cicp_film": k(8, 13),
        "cicp_xyz": k(10, 8),
        "cicp_ebu": k(22, 13),
        "cicp_unknown": k(2, 2),
        "cicp_unknown_transfer": k(1, 2),
        "cicp_unknown_primaries": k(2, 13),
        "cicp_reserved": k(0, 0),
        "cicp_high": k(99, 13),
        "cicp_unknown_iccp": k(2, 2) + i,
        "cicp_matrix_1": k(1, 8, 1),
        "cicp_narrow": k(1, 8, 0, 0),
        "cicp_narrow_iccp": k(1, 8, 0, 0) + i,
        "cicp_matrix_iccp": k(1, 13, 1) + i,
        "cicp_full_2": k(1, 8, 0, 2),
        "cicp_short": c.chunk(b"cICP", b"\1\x08\0"),
        "cicp_long": c.chunk(b"cICP", b"\1\x08\0\1\0"),
        "cicp_two": k(1, 8) + k(1, 13),
        "cicp_srgb_gama10": k(1, 13) + g(1.0),
        "cicp_unknown_gama10": k(2, 2) + g(1.0),
        "cicp_narrow_gama10": k(1, 13, 0, 0) + g(1.0),
        "cicp_pq": k(9, 16),
        "cicp_pq_709": k(1, 16),
        "cicp_pq_p3": k(12, 16),
        "cicp_hlg": k(9, 18),
        "cicp_hlg_709": k(1, 18),
        "cicp_pq_clli_200": k(9, 16) + c.clli(200, 100),
        "cicp_pq_clli_400": k(9, 16) + c.clli(400, 100),
        "cicp_pq_clli_1000": k(9, 16) + c.clli(1000, 200),
        "cicp_pq_clli_4000": k(9, 16) + c.clli(4000, 200),
        "cicp_pq_clli_0": k(9, 16) + c.clli(0, 0),
        "cicp_pq_mdcv_400": k(9, 16) + c.mdcv(400),
        "cicp_pq_mdcv_1000": k(9, 16) + c.mdcv(1000),
        "cicp_pq_mdcv_4000_clli_300": k(9, 16) + c.mdcv(4000) + c.clli(300, 100),
        "cicp_hlg_clli_400": k(9, 18) + c.clli(400, 100),
        "cicp_pq_iccp": k(9, 16) + i,
    }
    forms = {f"png_{name}": c.with_chunks(base, content) for name, content in sets.items()}
    for name, content in {"iccp": i, "gama10": g(1.0), "cicp_linear": k(1, 8)}.items():
        forms[f"png_{name}_behind_pixels"] = c.with_chunks(base, after=content)
        forms[f"png_{name}_alpha"] = with_alpha(before=content)
        forms[f"png_{name}_deep"] = deep_rgb(content)
        forms[f"png_{name}_deep_alpha"] = with_alpha(16, content)
        forms[f"png_{name}_indexed"] = indexed(content)
        forms[f"png_{name}_indexed_behind_palette"] = indexed(after=content)
        forms[f"png_{name}_indexed_alpha"] = indexed(content, c.chunk(b"tRNS", bytes([255] * 8 + [128] * 8)))
        for depth in (1, 4, 8, 16):
            forms[f"png_{name}_grey{depth}"] = grey(depth, content)
    forms.update({f"png_icc_{name}": c.with_chunks(base, c.iccp(icc)) for name, icc in rgb_profiles().items()})
    forms.update({f"png_l_icc_{name}": grey(8, c.iccp(icc)) for name, icc in grey_profiles().items()})
    forms["png_l16_icc_grey18"] = grey(16, c.iccp(grey_profiles()["grey18"]))
    forms["png_interlaced_iccp"] = interlaced(i)
    forms["png_l_pq"] = grey(8, k(9, 16))
    forms["png_l_hlg"] = grey(8, k(9, 18))
    forms["png_l16_pq"] = grey(16, k(9, 16))
    la = Image.merge("LA", (grid(GREYS, "L"), grid([255, 128] * 16, "L")))
    forms["png_la_icc_grey18"] = c.png(SIZE, 8, 4, rows(la), before=c.iccp(grey_profiles()["grey18"]))
    forms["png_la_icc_p3"] = c.png(SIZE, 8, 4, rows(la), before=c.iccp(grey_profiles()["grey_p3"]))
    forms["png_la_gama10"] = c.png(SIZE, 8, 4, rows(la), before=g(1.0))
    forms["png_rgb_key_iccp"] = c.png(SIZE, 8, 2, rows(grid()), before=i + c.chunk(b"tRNS", b"\0\xff\0\0\0\0"))
    return forms


def kinds() -> Forms:
    key = c.chunk
    return {
        "png_plain": plain(),
        "png_interlaced": interlaced(),
        "png_deep": deep_rgb(),
        "png_deep_low_00": deep_rgb(low=0),
        "png_deep_low_ff": deep_rgb(low=0xFF),
        "png_alpha": with_alpha(),
        "png_alpha_deep": with_alpha(16),
        "png_indexed": indexed(),
        "png_indexed_alpha": indexed(after=key(b"tRNS", bytes([255] * 8 + [128] * 8 + [0] * 4))),
        "png_indexed_beyond": c.png(
            SIZE, 8, 3, packed(spread(list(range(32))), 64, 8), before=key(b"PLTE", b"".join(map(bytes, COLOURS[:29])))
        ),
        **{f"png_grey{depth}": grey(depth) for depth in (1, 2, 4, 8, 16)},
        **{
            f"png_grey{depth}_key": grey(
                depth, key(b"tRNS", struct.pack(">H", (GREYS[31 if depth == 1 else 20] * (2**depth - 1)) // 255))
            )
            for depth in (1, 2, 4, 8, 16)
        },
        "png_rgb_key": c.png(SIZE, 8, 2, rows(grid()), before=key(b"tRNS", b"\0\xff\0\0\0\0")),
        "png_rgb_key_high_bits": c.png(SIZE, 8, 2, rows(grid()), before=key(b"tRNS", b"\1\xff\1\0\1\0")),
        "png_deep_key": deep_rgb(key(b"tRNS", b"\xc8\x80\x50\x80\x28\x80")),
        "png_deep_key_near": deep_rgb(key(b"tRNS", b"\xc8\x81\x50\x80\x28\x80")),
        "png_trailing": plain() + b"tail" * 50,
        "png_indexed_4": c.png(
            SIZE,
            4,
            3,
            packed(spread([n % 16 for n in range(32)]), 64, 4),
            before=key(b"PLTE", b"".join(map(bytes, COLOURS[:16]))),
        ),
        "png_background": c.with_chunks(with_alpha(), key(b"bKGD", b"\0\xff\0\0\0\0")),
        "png_significant_bits": c.with_chunks(plain(), key(b"sBIT", b"\5\5\5")),
        "png_resolution": c.with_chunks(plain(), key(b"pHYs", struct.pack(">IIB", 5000, 2500, 1))),
    }


def turned() -> Forms:
    base = plain()
    e = c.exif
    raw = b"\nexif\n%8d\n" % len(b"Exif\0\0" + e(6)) + (b"Exif\0\0" + e(6)).hex().encode() + b"\n"
    sets = {
        **{f"exif_{n}": c.chunk(b"eXIf", e(n)) for n in range(10)},
        "exif_big_6": c.chunk(b"eXIf", e(6, order=">")),
        "exif_prefixed": c.chunk(b"eXIf", b"Exif\0\0" + e(6)),
        "exif_long": c.chunk(b"eXIf", e(6, kind=4)),
        "exif_count_2": c.chunk(b"eXIf", e(6, count=2)),
        "exif_twice": c.chunk(b"eXIf", e(6)) + c.chunk(b"eXIf", e(3)),
        "exif_broken": c.chunk(b"eXIf", b"rubbish"),
        "exif_empty": c.chunk(b"eXIf", b""),
        "exif_second_directory": c.chunk(b"eXIf", e(6, second=True)),
        "xmp": c.text_chunk(b"XML:com.adobe.xmp", c.XMP),
        "xmp_exif_3": c.text_chunk(b"XML:com.adobe.xmp", c.XMP) + c.chunk(b"eXIf", e(3)),
        "raw_exif_text": c.chunk(b"tEXt", b"Raw profile type exif\0" + raw),
        "raw_exif_ztxt": c.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)),
        "raw_app1_ztxt": c.chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(raw.replace(b"exif", b"app1"))),
        "exif_iccp": c.chunk(b"eXIf", e(6)) + c.iccp(p.matrix_profile(p.SWAPPED, p.SRGB_CURVE)),
    }
    forms = {f"png_{name}": c.with_chunks(base, content) for name, content in sets.items()}
    forms["png_exif_behind_pixels"] = c.with_chunks(base, after=c.chunk(b"eXIf", e(6)))
    forms["png_xmp_behind_pixels"] = c.with_chunks(base, after=c.text_chunk(b"XML:com.adobe.xmp", c.XMP))
    forms["png_exif_6_indexed"] = indexed(after=c.chunk(b"eXIf", e(6)))
    forms["png_exif_6_alpha"] = with_alpha(before=c.chunk(b"eXIf", e(6)))
    return forms


def frame(number: int, size: tuple[int, int], at: tuple[int, int] = (0, 0), dispose: int = 0, blend: int = 0) -> bytes:
    return c.chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *size, *at, 1, 10, dispose, blend))


def frame_data(number: int, image: Image.Image) -> bytes:
    return c.chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(b"".join(b"\0" + row for row in rows(image))))


def animated() -> Forms:
    still, first, second = grid(), grid(tuple(reversed(COLOURS))), grid(COLOURS[8:] + COLOURS[:8])
    control = c.chunk(b"acTL", struct.pack(">II", 2, 0))
    small = first.crop((0, 0, 32, 16))
    end = frame(0, SIZE) + frame_data(1, first) + frame(2, SIZE) + frame_data(3, second)

    def made(before: bytes, after: bytes, image: Image.Image = still, kind: int = 2) -> bytes:
        return c.png(SIZE, 8, kind, rows(image), before=before, after=after)

    rgba = still.convert("RGBA")
    half = Image.new("RGBA", SIZE, (200, 30, 30, 128))
    swapped = c.iccp(p.matrix_profile(p.SWAPPED, p.SRGB_CURVE))
    one_part = frame(0, (32, 16), (16, 8)) + frame_data(1, small) + frame(2, SIZE) + frame_data(3, second)
    data = frame_data(1, first)
    content = data[12:-4]
    split = c.chunk(b"fdAT", struct.pack(">I", 1) + content[:100]) + c.chunk(
        b"fdAT", struct.pack(">I", 2) + content[100:]
    )
    return {
        "apng_still_first": made(control + frame(0, SIZE), frame(1, SIZE) + frame_data(2, second)),
        "apng_still_apart": made(control, end),
        "apng_still_apart_partial": made(control, one_part),
        "apng_still_apart_split": made(control, frame(0, SIZE) + split + frame(3, SIZE) + frame_data(4, second)),
        "apng_still_apart_alpha": made(
            control, frame(0, SIZE) + frame_data(1, half) + frame(2, SIZE) + frame_data(3, rgba), rgba, 6
        ),
        "apng_still_apart_alpha_over": made(
            control, frame(0, SIZE, blend=1) + frame_data(1, half) + frame(2, SIZE) + frame_data(3, rgba), rgba, 6
        ),
        "apng_still_apart_previous": made(
            control, frame(0, SIZE, dispose=2) + data + frame(2, SIZE) + frame_data(3, second)
        ),
        "apng_still_apart_iccp": made(control + swapped, end),
        "apng_still_apart_exif": made(control + c.chunk(b"eXIf", c.exif(6)), end),
        "apng_still_apart_one_frame": made(c.chunk(b"acTL", struct.pack(">II", 1, 0)), frame(0, SIZE) + data),
        "apng_still_apart_indexed": c.png(
            SIZE,
            8,
            3,
            packed(spread(list(range(32))), 64, 8),
            before=control + PALETTE,
            after=frame(0, SIZE)
            + c.chunk(
                b"fdAT",
                struct.pack(">I", 1)
                + zlib.compress(b"".join(b"\0" + row for row in packed(spread(list(range(31, -1, -1))), 64, 8))),
            )
            + frame(2, SIZE)
            + c.chunk(
                b"fdAT", struct.pack(">I", 3) + zlib.compress(b"\0".join([b"", *packed(spread([5] * 32), 64, 8)]))
            ),
        ),
        "apng_control_zero_frames": made(c.chunk(b"acTL", struct.pack(">II", 0, 0)), b""),
        "apng_control_behind": made(b"", control + end),
        "apng_no_control": made(b"", end),
        "apng_one_frame": made(c.chunk(b"acTL", struct.pack(">II", 1, 0)) + frame(0, SIZE), b""),
    }


def forms() -> Forms:
    return {**kinds(), **colours(), **turned(), **animated()}
